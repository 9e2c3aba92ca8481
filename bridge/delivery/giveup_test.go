package delivery

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// deadLetters returns those of the fixture's sink.
func (f *fixture) deadLetters(filter journal.DeadLetterFilter) []journal.DeadLetter {
	f.t.Helper()
	filter.Sink = "scripted"
	letters, err := f.journal.DeadLetters(f.t.Context(), filter)
	require.NoError(f.t, err)
	return letters
}

func (f *fixture) awaitDeadLetters(n int) []journal.DeadLetter {
	f.t.Helper()
	var letters []journal.DeadLetter
	require.Eventually(f.t, func() bool {
		letters = f.deadLetters(journal.DeadLetterFilter{})
		return len(letters) == n
	}, bound, time.Millisecond)
	return letters
}

func TestAnEventThatFailsForTooLongIsGivenUpWhenItsTimeHasCome(t *testing.T) {
	t.Parallel()
	const giveUpAfter = 5 * time.Second // long enough for the second event to be there
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(e bridge.Event) error {
		if e.PartitionKey == "k1" {
			return bridge.Retry(errors.New("no quorum"))
		}
		return nil
	}
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	f.accept("k0", "a") // the lane is not down: it knows what is behind what
	f.accept("k1", "a")
	began := time.Now()
	f.run(func(o *Options) {
		// Giving up must not wait for the next try.
		o.MinBackoff, o.MaxBackoff, o.GiveUpAfter = time.Hour, time.Hour, giveUpAfter
	})
	f.awaitBatches(1)
	f.accept("k1", "b") // has no try of its own
	letters := f.awaitDeadLetters(2)
	require.GreaterOrEqual(t, time.Since(began), giveUpAfter)
	require.Equal(t, "k1/a", letters[0].Event.Subject)
	require.Equal(t, 1, letters[0].Attempts)
	require.Regexp(t, `^given up after [0-9.]+m?s and 1 try: no quorum$`, letters[0].Reason)
	require.Equal(t, "k1/b", letters[1].Event.Subject)
	require.Equal(t, 0, letters[1].Attempts)
	require.Regexp(t,
		`^given up after [0-9.]+m?s without a try, held behind an earlier event of its key: no quorum$`, letters[1].Reason)
	f.awaitCursor(3)
	f.accept("k2", "a")
	require.Equal(t, []string{"k0/a", "k2/a"}, deliverytest.Subjects(f.sink.Await(t, count(2))))
	f.awaitCursor(4)
	require.InDelta(t, 2, counter(t, f.metrics, "fnbridge_sink_given_up_events_total", ""), 0)
	require.Equal(t, 1, f.log.Count("events that were given up are in the dead letters"))
}

func TestWhatIsGivenUpSaysHowOftenItWasTried(t *testing.T) {
	t.Parallel()
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(bridge.Event) error { return bridge.Blocked(errors.New("not permitted")) }
	f := start(t, sink, func(o *Options) {
		o.MaxBackoff, o.GiveUpAfter = 2*time.Millisecond, 3*time.Second
	})
	f.accept("k1", "a")
	letter := f.awaitDeadLetters(1)[0]
	require.Greater(t, letter.Attempts, 1)
	require.Contains(t, letter.Reason, fmt.Sprintf(" and %d tries: not permitted", letter.Attempts))
	f.awaitCursor(1)
}

// Whoever sets the clock of the machine neither gives events up nor keeps them from being tried again.
func TestAStepOfTheClockGivesNothingUp(t *testing.T) {
	for _, step := range []time.Duration{25 * time.Hour, -25 * time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			sink := deliverytest.NewScriptedSink()
			sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
			var c clock
			f := start(t, sink, func(o *Options) { o.Now, o.GiveUpAfter = c.now, time.Hour })
			f.accept("k1", "a")
			f.awaitTries(3)
			c.ahead.Store(int64(step))
			f.awaitTries(10)
			f.sink.Set(func() { sink.Fail = nil })
			f.awaitCursor(1)
			require.Equal(t, []string{"k1/a"}, deliverytest.Subjects(f.sink.Await(t, count(1))))
			require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}))
		})
	}
}

func TestWhatCannotBecomeADeadLetterIsTriedOn(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	broken := &brokenLetters{Journal: f.journal, fail: 1 << 20}
	f.run(func(o *Options) { o.Journal, o.GiveUpAfter = broken, 10*time.Millisecond })
	f.accept("k1", "a", "b")
	f.accept("k1", "c")
	require.Eventually(t, func() bool {
		broken.mu.Lock()
		defer broken.mu.Unlock()
		return broken.fail < 1<<20
	}, bound, time.Millisecond)
	f.awaitTries(2)
	f.sink.Set(func() { sink.Fail = nil })
	require.Equal(t, []string{"k1/a", "k1/b", "k1/c"}, deliverytest.Subjects(f.sink.Await(t, count(3))))
	f.awaitCursor(2)
	require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}))
}
