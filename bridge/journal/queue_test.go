package journal

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheWriterWaitsForMoreButNotForLong(t *testing.T) {
	const atMost = 2 * time.Millisecond
	for name, c := range map[string]struct {
		comes  int // requests, one each tenth of a millisecond
		closes bool
		waits  time.Duration
	}{
		"enough are there already": {0, false, 0},
		"enough come in time":      {3, false, 300 * time.Microsecond},
		"more come than enough":    {9, false, 300 * time.Microsecond},
		"too few come":             {2, false, atMost},
		"the journal is closed":    {1, true, 100 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue()
				enough := 4
				if c.comes == 0 {
					enough = 1
				}
				q.put(newRequest(kindAppend))
				go func() {
					for range c.comes {
						<-time.After(100 * time.Microsecond)
						q.put(newRequest(kindAppend))
					}
					if c.closes {
						q.close()
					}
				}()
				began := time.Now()
				q.gather(enough, atMost)
				require.Equal(t, c.waits, time.Since(began))
				synctest.Wait()
				require.Zero(t, q.enough, "nobody waits for them any more")
				<-time.After(time.Millisecond) // the rest comes
				batch, _ := q.take(nil)
				require.Len(t, batch, c.comes+1)
			})
		})
	}
}
