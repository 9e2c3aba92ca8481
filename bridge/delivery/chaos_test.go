package delivery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// movingSink changes how many partitions it has, as a topic can.
type movingSink struct {
	*scriptedSink
	partitions atomic.Int64
}

func (s *movingSink) Partition(e bridge.Event) int {
	n := s.partitions.Load()
	if n == 0 {
		return -1
	}
	return len(e.PartitionKey) * int(e.PartitionKey[len(e.PartitionKey)-1]) % int(n)
}

// Whatever fails, and however often delivery starts anew: every event is stored or a dead letter, and the events of a
// key are stored for the first time in the order of acceptance.
func TestWhateverFailsEveryEventArrivesInTheOrderOfItsKey(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			sink := &movingSink{scriptedSink: newScriptedSink()}
			f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink.scriptedSink, log: &records{}}
			const keys, webhooks = 20, 300
			var want []string
			for i := range webhooks {
				functions := make([]string, random.IntN(4))
				key := fmt.Sprintf("k%d", random.IntN(keys))
				for n := range functions {
					functions[n] = fmt.Sprintf("f%d_%d", i, n)
					want = append(want, key+"/"+functions[n])
				}
				f.accept(key, functions...)
			}
			broken := &brokenLetters{Journal: f.journal, fail: 5}
			// fail is called with the sink's lock held.
			outage := 0
			sink.fail = func(e bridge.Event) error {
				if outage--; outage > 0 {
					return bridge.Retry(errors.New("down"))
				}
				switch random.IntN(40) {
				case 0:
					outage = 1 + random.IntN(50)
					return bridge.Retry(errors.New("down"))
				case 1:
					return bridge.Blocked(errors.New("not permitted yet"))
				case 2:
					sink.partitions.Store(int64(random.IntN(6)))
				}
				if e.ID[0] == '0' {
					return bridge.Reject(errors.New("too large"))
				}
				return nil
			}
			options := func(o *Options) {
				o.Journal, o.Sink = broken, sink
				o.BatchEvents, o.ProbeEvents, o.WindowEvents, o.WindowWebhooks = 16, 4, 64, 40
				o.MinBackoff, o.MaxBackoff, o.BlockedBackoff = time.Microsecond, 2*time.Millisecond, time.Millisecond
			}
			for n := range 4 {
				f.run(options)
				f.sink.await(t, count(len(want)*(n+1)/6))
				f.stop()
			}
			f.run(options)
			f.awaitCursor(webhooks)
			f.stop()

			letters, err := f.journal.DeadLetters(t.Context(), journal.DeadLetterFilter{Limit: len(want)})
			require.NoError(t, err)
			dead := map[string]bool{}
			for _, l := range letters {
				require.False(t, dead[l.EventSubject], "a dead letter is there twice")
				dead[l.EventSubject] = true
			}
			var first []string // in the order of the first time
			seen := map[string]bool{}
			for _, e := range sink.stored {
				require.False(t, dead[e.Subject])
				if !seen[e.Subject] {
					seen[e.Subject] = true
					first = append(first, e.Subject)
				}
			}
			require.Equal(t, byKey(slices.DeleteFunc(want, func(s string) bool { return dead[s] })), byKey(first))
			require.NotEmpty(t, dead)
		})
	}
}

// byKey splits subjects by their keys, in the order given.
func byKey(subjects []string) map[string][]string {
	out := map[string][]string{}
	for _, s := range subjects {
		key := s[:slices.Index([]byte(s), '/')]
		out[key] = append(out[key], s)
	}
	return out
}
