package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// counter returns the value of a counter, with the result given as its label unless that is empty.
func counter(t *testing.T, g prometheus.Gatherer, name, result string) float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if result == "" || (l.GetName() == "result" && l.GetValue() == result) {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	require.FailNow(t, "no such metric", name)
	return 0
}

func (f *fixture) retry(filter journal.DeadLetterFilter) int64 {
	f.t.Helper()
	filter.Sink = "scripted"
	n, err := f.journal.RetryDeadLetters(f.t.Context(), filter)
	require.NoError(f.t, err)
	return n
}

// rejecting has the sink reject the events that which selects, and returns what makes it take them.
func rejecting(sink *scriptedSink, which func(e bridge.Event) bool) (mend func()) {
	sink.fail = func(e bridge.Event) error {
		if which(e) {
			return bridge.Reject(errors.New("too large for the broker"))
		}
		return nil
	}
	return func() { sink.set(func() { sink.fail = nil }) }
}

func TestARetriedDeadLetterReachesTheSinkAsTheEventThatItWas(t *testing.T) {
	sink := newScriptedSink()
	var rejected bridge.Event
	mend := rejecting(sink, func(e bridge.Event) bool {
		if e.Subject == "k1/b" {
			rejected = e
		}
		return e.Subject == "k1/b"
	})
	f := start(t, sink, nil)
	f.accept("k1", "a", "b", "c")
	f.awaitDeadLetters(1)
	mend()
	require.EqualValues(t, 1, f.retry(journal.DeadLetterFilter{}))
	stored := f.sink.await(t, count(3))
	require.True(t, rejected.Time.Equal(stored[2].Time))
	stored[2].Time = rejected.Time
	require.Equal(t, rejected, stored[2])
	f.awaitDeadLetters(0)
	f.stop()
	require.Len(t, f.sink.stored, 3)
	require.InDelta(t, 1, counter(t, f.metrics, "fnbridge_sink_retried_dead_letters_total", "acknowledged"), 0)
}

func TestARetriedDeadLetterThatIsRejectedAgainIsOneAgain(t *testing.T) {
	sink := newScriptedSink()
	rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	f.accept("k1", "a")
	f.awaitDeadLetters(1)
	for attempts := 2; attempts < 4; attempts++ {
		require.EqualValues(t, 1, f.retry(journal.DeadLetterFilter{}))
		require.Eventually(t, func() bool {
			l := f.deadLetters(journal.DeadLetterFilter{})
			return len(l) == 1 && l[0].Attempts == attempts && l[0].RetryAt.IsZero()
		}, 10*time.Second, time.Millisecond)
	}
	f.stop()
	require.Equal(t, 3, f.sink.published)
	require.InDelta(t, 2, counter(t, f.metrics, "fnbridge_sink_retried_dead_letters_total", "dead_lettered"), 0)
}

func TestARetriedDeadLetterIsGivenUpAgain(t *testing.T) {
	sink := newScriptedSink()
	rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, func(o *Options) { o.GiveUpAfter = 50 * time.Millisecond })
	f.accept("k1", "a")
	f.awaitDeadLetters(1)
	f.sink.set(func() { sink.fail = func(bridge.Event) error { return bridge.Retry(errors.New("no quorum")) } })
	f.retry(journal.DeadLetterFilter{})
	require.Eventually(t, func() bool {
		l := f.deadLetters(journal.DeadLetterFilter{})
		return len(l) == 1 && l[0].RetryAt.IsZero() && strings.HasPrefix(l[0].Reason, "given up after ") && l[0].Attempts > 1
	}, 10*time.Second, time.Millisecond)
}

func TestWhatWasAskedForBeforeAStartIsTriedAfterIt(t *testing.T) {
	sink := newScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	for i := range 100 { // more than a page
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	f.awaitDeadLetters(100)
	f.stop()
	mend()
	require.EqualValues(t, 100, f.retry(journal.DeadLetterFilter{}))
	f.run(nil)
	f.sink.await(t, count(100))
	f.awaitDeadLetters(0)
}

// Thousands of dead letters that still do not get through hold up neither live events nor the dead letters behind them.
func TestDeadLettersThatNeverGetThroughHoldUpNothing(t *testing.T) {
	sink := newScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &records{}}
	const refused, accepted = 300, 20
	for i := range refused {
		f.accept(fmt.Sprintf("no%d", i), "a")
	}
	for i := range accepted {
		f.accept(fmt.Sprintf("yes%d", i), "a")
	}
	f.run(nil)
	f.awaitDeadLetters(refused + accepted)
	f.stop()
	mend()
	f.sink.set(func() {
		sink.fail = func(e bridge.Event) error {
			if strings.HasPrefix(e.PartitionKey, "no") && e.Function == "a" {
				return bridge.Blocked(errors.New("no permission for this subject"))
			}
			return nil
		}
	})
	f.retry(journal.DeadLetterFilter{})
	f.run(func(o *Options) { o.WindowEvents, o.MaxBackoff = 64, 5*time.Millisecond }) // eight retried dead letters at a time
	f.sink.await(t, count(accepted))
	for i := range refused {
		f.accept(fmt.Sprintf("no%d", i), "live") // not even those of the same keys wait
	}
	f.sink.await(t, count(accepted+refused))
	f.awaitCursor(int64(f.n))
	require.Eventually(t, func() bool { return len(f.deadLetters(journal.DeadLetterFilter{Retrying: true})) == refused },
		10*time.Second, time.Millisecond, "the others are gone, these are still tried")
	require.InDelta(t, 1, value(t, f.metrics, "fnbridge_sink_up"), 0)
	require.Equal(t, 1, f.log.count("asked another try for do not get through"))
	mend()
	f.awaitDeadLetters(0)
	require.Eventually(t, func() bool { return f.log.count("is held up any more") == 1 }, 10*time.Second, time.Millisecond)
}

func TestRetriedDeadLettersDoNotWaitForTheEndOfLiveTraffic(t *testing.T) {
	sink := newScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	f.accept("letter", "a")
	f.awaitDeadLetters(1)
	f.stop()
	mend()
	f.retry(journal.DeadLetterFilter{})
	// Each live event that is stored brings another one: there is always one to send, until the dead letter came through.
	var came atomic.Bool
	more := make(chan struct{}, 1<<16)
	sink.fail = func(e bridge.Event) error {
		if e.PartitionKey == "letter" {
			came.Store(true)
			close(more)
		} else if !came.Load() {
			more <- struct{}{}
		}
		return nil
	}
	for i := range 500 {
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	f.run(func(o *Options) { o.BatchEvents = 4 })
	for range more {
		f.accept(fmt.Sprintf("k%d", f.n), "a")
	}
	require.True(t, came.Load())
	f.awaitDeadLetters(0)
}

func TestARetriedDeadLetterGoesBehindWhatItsKeyHasInTheLane(t *testing.T) {
	l := &loop{Dispatcher: &Dispatcher{}, partitions: map[int]*partition{}, keys: map[string]*keyLane{}}
	l.o.Sink = newScriptedSink()
	l.o.setDefaults()
	l.o.BatchEvents = 1
	guests := guestOptions(l.o)
	now := time.Unix(1_000_000, 0)
	event := func(c class, key string) *item {
		it := &item{class: c, webhook: &webhook{}, event: &bridge.Event{PartitionKey: key}}
		l.enqueue(it)
		return it
	}
	first, second := event(classLive, "k"), event(classLive, "k")
	letter := event(classRetried, "k")
	third := event(classLive, "k")
	other := event(classRetried, "o")
	p := l.partitions[0]
	p.turns = liveTurns
	for n, want := range []*item{other, first, second, letter, third} {
		c, batch, _ := p.pick(now, &l.o, &guests)
		require.Equal(t, []*item{want}, batch, n)
		require.Equal(t, want.class, c)
		p.turns = liveTurns // it is always their turn
		l.leave(want)
	}
	require.Empty(t, l.keys)
}

// brokenRemoval is a journal whose disk does not let dead letters be removed for a while.
type brokenRemoval struct {
	*journal.Journal
	failing atomic.Bool
	tries   atomic.Int64
}

func (b *brokenRemoval) RemoveDeadLetters(ctx context.Context, sink string, ids []int64) error {
	b.tries.Add(1)
	if b.failing.Load() {
		return errors.New("disk full")
	}
	return b.Journal.RemoveDeadLetters(ctx, sink, ids)
}

func TestADeadLetterThatCannotBeRemovedIsNotSentAgainForThat(t *testing.T) {
	sink := newScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &records{}}
	broken := &brokenRemoval{Journal: f.journal}
	broken.failing.Store(true)
	f.run(func(o *Options) { o.Journal = broken })
	f.accept("k1", "a")
	f.accept("k2", "a")
	f.awaitDeadLetters(2)
	mend()
	f.retry(journal.DeadLetterFilter{Limit: 1})
	require.Eventually(t, func() bool { return broken.tries.Load() > 0 }, 10*time.Second, time.Millisecond)
	f.retry(journal.DeadLetterFilter{}) // has all dead letters looked through once more
	require.Equal(t, []string{"k1/a", "k2/a"}, subjects(f.sink.await(t, count(2))))
	broken.failing.Store(false)
	f.awaitDeadLetters(0)
	f.stop()
	require.Len(t, f.sink.stored, 2)
	require.Equal(t, 1, f.log.count("cannot be removed"))
}

func TestADeadLetterOnItsWayIsNotTakenTwiceAndMayBeDropped(t *testing.T) {
	sink := newScriptedSink()
	sink.partitions = 2
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	f.accept("k1", "a")
	f.accept("k2", "a")
	f.accept("k4", "a")
	letters := f.awaitDeadLetters(3)
	slices.SortFunc(letters, func(a, b journal.DeadLetter) int { return int(a.WebhookSeq - b.WebhookSeq) }) // two partitions, either first
	mend()
	f.sink.set(func() { sink.batches, sink.hang = nil, func(e bridge.Event) bool { return e.PartitionKey == "k1" } })
	f.retry(journal.DeadLetterFilter{IDs: []int64{letters[0].ID}})
	f.awaitBatches(1)
	for n, l := range letters[1:] { // each has all dead letters looked through once more
		f.retry(journal.DeadLetterFilter{IDs: []int64{l.ID}})
		f.sink.await(t, count(n+1))
	}
	dropped, err := f.journal.DropDeadLetters(t.Context(), journal.DeadLetterFilter{IDs: []int64{letters[0].ID}})
	require.NoError(t, err)
	require.EqualValues(t, 1, dropped)
	close(sink.release)
	require.Equal(t, []string{"k2/a", "k4/a", "k1/a"}, subjects(f.sink.await(t, count(3))))
	f.awaitDeadLetters(0)
	f.stop()
	require.Equal(t, 6, f.sink.published)
}

// roundEnds is a journal that notes the last dead letter of the round through those to be tried again which has ended last.
type roundEnds struct {
	*journal.Journal
	last atomic.Int64
}

func (r *roundEnds) DeadLetters(ctx context.Context, f journal.DeadLetterFilter) ([]journal.DeadLetter, error) {
	page, err := r.Journal.DeadLetters(ctx, f)
	if f.Retrying && err == nil && len(page) == 0 {
		r.last.Store(f.AfterID)
	}
	return page, err
}

func TestADeadLetterDroppedOnItsWayIsNotTriedOn(t *testing.T) {
	sink := newScriptedSink()
	sink.partitions = 2
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &records{}}
	rounds := &roundEnds{Journal: f.journal}
	f.run(func(o *Options) { o.Journal = rounds })
	f.accept("k1", "a")
	f.accept("k2", "a")
	letters := f.awaitDeadLetters(2)
	slices.SortFunc(letters, func(a, b journal.DeadLetter) int { return int(a.WebhookSeq - b.WebhookSeq) })
	mend()
	isFirst := func(e bridge.Event) bool { return e.PartitionKey == "k1" }
	f.sink.set(func() {
		sink.fail = func(e bridge.Event) error {
			if isFirst(e) {
				return bridge.Retry(errors.New("no quorum"))
			}
			return nil
		}
	})
	f.retry(journal.DeadLetterFilter{IDs: []int64{letters[0].ID}})
	require.Eventually(t, func() bool { return f.log.count("asked another try for do not get through") == 1 }, 10*time.Second, time.Millisecond)
	f.sink.set(func() { sink.batches, sink.hang = nil, isFirst })
	f.awaitBatches(1)
	_, err := f.journal.DropDeadLetters(t.Context(), journal.DeadLetterFilter{IDs: []int64{letters[0].ID}})
	require.NoError(t, err)
	f.retry(journal.DeadLetterFilter{IDs: []int64{letters[1].ID}})
	f.sink.await(t, count(1))
	require.Eventually(t, func() bool { return rounds.last.Load() == letters[1].ID }, 10*time.Second, time.Millisecond)
	for n := range 5 { // enough for the loop to have taken its end in
		f.accept("k2", "a")
		f.sink.await(t, count(n+2))
	}
	close(sink.release)
	require.Eventually(t, func() bool { return f.log.count("is held up any more") == 1 }, 10*time.Second, time.Millisecond)
	f.stop()
	require.Len(t, f.sink.stored, 6)
	require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}))
}

func TestADroppedDeadLetterIsNotTriedOn(t *testing.T) {
	sink := newScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	f.accept("k1", "a")
	f.accept("k2", "a")
	letters := f.awaitDeadLetters(2)
	f.sink.set(func() { sink.fail = func(bridge.Event) error { return bridge.Retry(errors.New("no quorum")) } })
	f.retry(journal.DeadLetterFilter{})
	require.Eventually(t, func() bool { return f.log.count("asked another try for do not get through") == 1 }, 10*time.Second, time.Millisecond)
	for _, l := range letters {
		require.Zero(t, f.log.count("is held up any more"))
		_, err := f.journal.DropDeadLetters(t.Context(), journal.DeadLetterFilter{IDs: []int64{l.ID}})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return f.log.count("is held up any more") == 1 }, 10*time.Second, time.Millisecond)
	mend()
	f.accept("k3", "a")
	require.Equal(t, []string{"k3/a"}, subjects(f.sink.await(t, func(stored []bridge.Event) bool { return len(stored) > 0 })))
	f.stop()
	require.Len(t, f.sink.stored, 1)
	require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}))
}
