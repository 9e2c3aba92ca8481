package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
	"github.com/fnbridge/fnbridge/bridge/delivery/insist"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// movingSink changes how many partitions it has, as a topic can.
type movingSink struct {
	*deliverytest.ScriptedSink
	partitions atomic.Int64
}

func (s *movingSink) Partition(e bridge.Event) int {
	n := s.partitions.Load()
	if n == 0 {
		return -1
	}
	return len(e.PartitionKey) * int(e.PartitionKey[len(e.PartitionKey)-1]) % int(n)
}

func (s *movingSink) PartitionCount() int { return int(s.partitions.Load()) }
func (s *movingSink) Leader(int) int      { return 0 }

// deadLetterJournal remembers which events ever were dead letters.
type deadLetterJournal struct {
	*brokenLetters
	mu           sync.Mutex
	deadLettered map[string]bool
}

func (j *deadLetterJournal) AddDeadLetters(ctx context.Context, letters []journal.DeadLetter) error {
	j.mu.Lock()
	for i := range letters {
		j.deadLettered[letters[i].Event.Subject] = true
	}
	j.mu.Unlock()
	return j.brokenLetters.AddDeadLetters(ctx, letters)
}

// Whatever fails, and however often delivery starts anew, while dead letters are tried again and everything is replayed
// over and over: every event is stored or a dead letter, and the events of a key that were never dead letters are
// stored for the first time in the order of acceptance.
func TestWhateverFailsEveryEventArrivesInTheOrderOfItsKey(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			sink := &movingSink{ScriptedSink: deliverytest.NewScriptedSink()}
			f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink.ScriptedSink, log: &deliverytest.Records{}}
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
			recording := &deadLetterJournal{
				brokenLetters: &brokenLetters{Journal: f.journal, fail: 5}, deadLettered: map[string]bool{},
			}
			// fail is called with the sink's lock held.
			outage, mended := 0, false
			sink.Fail = func(e bridge.Event) error {
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
				switch {
				case mended:
				case e.ID[0] == '0':
					return bridge.Reject(errors.New("too large"))
				case e.PartitionKey == "k7":
					return bridge.Blocked(errors.New("not permitted"))
				}
				return nil
			}
			options := func(o *Options) {
				o.Journal, o.Sink = recording, sink
				o.BatchEvents, o.ProbeEvents, o.WindowEvents, o.WindowWebhooks = 16, 4, 64, 40
				o.MinBackoff, o.MaxBackoff, o.BlockedBackoff = time.Microsecond, 2*time.Millisecond, time.Millisecond
				o.GiveUpAfter = 30 * time.Millisecond
			}
			// meddle asks for everything that an operator can ask for, again and again.
			meddle := func() (stop func()) {
				var all sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				all.Go(func() {
					for ctx.Err() == nil {
						s, err := f.journal.AddReplay(ctx, journal.Stream{Sink: "scripted"})
						insist.Wait(ctx, 5*time.Millisecond)
						if err == nil && s.ID%2 == 0 {
							_, _ = f.journal.CancelReplay(ctx, s.ID)
						}
					}
				})
				all.Go(func() {
					for ctx.Err() == nil {
						if _, err := f.journal.RetryDeadLetters(ctx, journal.DeadLetterFilter{}); err == nil {
							insist.Wait(ctx, time.Millisecond)
						}
					}
				})
				return func() { cancel(); all.Wait() }
			}
			for n := range 4 {
				f.run(options)
				stop := meddle()
				f.sink.Await(t, func(stored []bridge.Event) bool { return len(deliverytest.Firsts(stored)) >= len(want)*(n+1)/8 })
				if n%2 == 0 {
					stop()
					f.stop()
				} else {
					f.stop()
					stop()
				}
			}
			f.run(options)
			stop := meddle()
			f.awaitCursor(webhooks)
			stop()
			f.stop()

			letters := f.deadLetters(journal.DeadLetterFilter{Limit: len(want)})
			dead := map[string]bool{}
			for _, l := range letters {
				require.False(t, dead[l.Event.Subject], "a dead letter is there twice")
				dead[l.Event.Subject] = true
			}
			first := deliverytest.Firsts(sink.Stored)
			for _, s := range want {
				require.True(t, dead[s] || slices.Contains(first, s), "%s is lost", s)
			}
			require.NotEmpty(t, dead)
			never := func(subjects []string) map[string][]string {
				return deliverytest.ByKey(slices.DeleteFunc(slices.Clone(subjects), func(s string) bool {
					return recording.deadLettered[s]
				}))
			}
			require.NotEmpty(t, never(want))
			require.Equal(t, never(want), never(first))

			sink.Set(func() { mended = true })
			f.run(func(o *Options) { options(o); o.GiveUpAfter = 0 })
			require.Eventually(t, func() bool { // what fails once more, while others do not, has to be asked for again
				f.retry(journal.DeadLetterFilter{})
				return len(f.deadLetters(journal.DeadLetterFilter{})) == 0
			}, bound, 5*time.Millisecond)
			f.stop()
			first = deliverytest.Firsts(sink.Stored)
			slices.Sort(first)
			slices.Sort(want)
			require.Equal(t, want, first)
		})
	}
}
