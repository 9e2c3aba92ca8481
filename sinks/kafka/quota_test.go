package kafka

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAThrottleTimeThatNoQuotaAsksForIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var quotas quotas
		quota := quotas.of(1)
		for range 2 { // the second answer says it again
			quota.hold(math.MaxInt32 * time.Millisecond)
			began := time.Now()
			done, err := quota.await(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, time.Minute, time.Since(began))
			done()
			require.False(t, quotas.holds(1))
		}
	})
}
