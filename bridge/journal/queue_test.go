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

func TestAMoveThatMayWaitIsTakenWithTheNextRequest(t *testing.T) {
	const after = 100 * time.Millisecond
	for name, c := range map[string]struct {
		comes func(q *queue, hurry chan struct{}) // after a tenth of a second
		waits time.Duration
		batch int
	}{
		"nothing comes":               {func(*queue, chan struct{}) {}, patience, 1},
		"a webhook comes":             {func(q *queue, _ chan struct{}) { q.put(newRequest(kindAppend)) }, after, 2},
		"it is to hurry":              {func(_ *queue, hurry chan struct{}) { close(hurry) }, after, 1},
		"the journal is closed":       {func(q *queue, _ chan struct{}) { q.close() }, after, 1},
		"another that may wait":       {func(q *queue, _ chan struct{}) { q.put(&request{patient: true}) }, patience, 2},
		"the writer looks for itself": {func(q *queue, _ chan struct{}) { q.nudge() }, patience, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := &Journal{queue: newQueue()}
				r, hurry := newRequest(kindMove), make(chan struct{})
				r.patient, r.hurry = true, hurry
				done := make(chan error)
				go func() { done <- j.submit(t.Context(), r) }()
				go func() {
					<-time.After(after)
					c.comes(j.queue, hurry)
				}()
				began := time.Now()
				var batch []*request
				for len(batch) == 0 {
					<-j.queue.wake
					batch, _ = j.queue.take(nil)
				}
				require.Equal(t, c.waits, time.Since(began))
				require.Len(t, batch, c.batch)
				require.Same(t, r, batch[0])
				require.Zero(t, j.queue.urgent)
				r.answer()
				require.NoError(t, <-done)
			})
		})
	}
}
