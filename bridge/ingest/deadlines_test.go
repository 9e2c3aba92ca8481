package ingest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEveryWebhookHasTheWholeTimeForStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const within = 10 * time.Second
		d := deadlines{within: within}
		first := d.context()
		for range 100 {
			ctx := d.context()
			require.NoError(t, ctx.Err())
			deadline, _ := ctx.Deadline()
			require.GreaterOrEqual(t, time.Until(deadline), within)
			require.LessOrEqual(t, time.Until(deadline), within+within/deadlineShares)
			time.Sleep(99 * time.Millisecond) //nolint:forbidigo // time is synctest's
		}
		time.Sleep(within / 2) //nolint:forbidigo // time is synctest's
		<-first.Done()
		require.NoError(t, d.context().Err())
		time.Sleep(2 * within) //nolint:forbidigo // time is synctest's: no timer is left
	})
}
