package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// addressSink has an address for dead letters, and fails there as a test tells it to.
type addressSink struct {
	*scriptedSink
	failLetter func(bridge.DeadLetter) error
	tries      int
	letters    []bridge.DeadLetter
	lettersMu  sync.Mutex
}

func (s *addressSink) DeadLetterAddress() string { return "dead-letters" }

func (s *addressSink) PublishDeadLetters(_ context.Context, letters []bridge.DeadLetter) []error {
	s.lettersMu.Lock()
	defer s.lettersMu.Unlock()
	s.tries++
	errs := make([]error, len(letters))
	for i, l := range letters {
		if s.failLetter != nil {
			errs[i] = s.failLetter(l)
		}
		if errs[i] == nil {
			s.letters = append(s.letters, l)
		}
	}
	return errs
}

func (s *addressSink) setLetters(f func()) {
	s.lettersMu.Lock()
	defer s.lettersMu.Unlock()
	f()
}

func newAddressSink() *addressSink { return &addressSink{scriptedSink: newScriptedSink()} }

func (f *fixture) awaitPublished(n int) []journal.DeadLetter {
	f.t.Helper()
	var letters []journal.DeadLetter
	require.Eventually(f.t, func() bool {
		letters = f.deadLetters(journal.DeadLetterFilter{})
		published := 0
		for i := range letters {
			if !letters[i].PublishedAt.IsZero() {
				published++
			}
		}
		return published == n
	}, 20*time.Second, time.Millisecond)
	return letters
}

func TestDeadLettersGoToTheirAddressOnce(t *testing.T) {
	sink := newAddressSink()
	rejecting(sink.scriptedSink, func(bridge.Event) bool { return true })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink.scriptedSink, log: &records{}}
	const before, after = 100, 20
	for i := range before {
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	f.run(nil) // when there was no address yet
	f.awaitDeadLetters(before)
	f.stop()
	f.run(func(o *Options) { o.Sink = sink })
	for i := range after {
		f.accept(fmt.Sprintf("l%d", i), "a")
	}
	f.awaitPublished(before + after)
	f.stop()
	f.run(func(o *Options) { o.Sink = sink })
	f.accept("last", "a")
	f.awaitPublished(before + after + 1)
	f.stop()
	require.Len(t, sink.letters, before+after+1)
	first := sink.letters[0]
	require.Equal(t, "k0/a", first.Event.Subject)
	require.NotEmpty(t, first.Event.Data)
	require.Equal(t, "too large for the broker", first.Reason)
	require.Equal(t, 1, first.Attempts)
	require.InDelta(t, 1, counter(t, f.metrics, "fnbridge_sink_dead_letters_published_total", "published"), 0)
}

func TestADeadLetterAddressInTroubleHoldsUpNothing(t *testing.T) {
	sink := newAddressSink()
	rejecting(sink.scriptedSink, func(e bridge.Event) bool { return e.Function == "bad" })
	sink.failLetter = func(bridge.DeadLetter) error { return bridge.Blocked(errors.New("no stream captures dead-letters")) }
	f := start(t, sink.scriptedSink, func(o *Options) { o.Sink = sink })
	for i := range 50 {
		f.accept(fmt.Sprintf("k%d", i), "bad", "good")
	}
	f.sink.await(t, count(50))
	f.awaitCursor(50)
	require.Eventually(t, func() bool {
		return counter(t, f.metrics, "fnbridge_sink_dead_letters_published_total", "retried") > 50
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, f.log.count("cannot be published to the sink's dead-letter address"))
	require.InDelta(t, 1, value(t, f.metrics, "fnbridge_sink_up"), 0)
	sink.setLetters(func() { sink.failLetter = nil })
	f.awaitPublished(50)
	require.Eventually(t, func() bool { return f.log.count("dead-letter address again") == 1 }, 10*time.Second, time.Millisecond)
	f.stop()
	require.Len(t, sink.letters, 50)
	require.Equal(t, 1, f.log.count("cannot be published to the sink's dead-letter address"))
}

func TestADeadLetterThatItsAddressRejectsIsLeftAloneUntilItComesBack(t *testing.T) {
	sink := newAddressSink()
	rejecting(sink.scriptedSink, func(bridge.Event) bool { return true })
	tries := 0
	sink.failLetter = func(l bridge.DeadLetter) error {
		if l.Event.PartitionKey == "k1" {
			tries++
			return bridge.Reject(errors.New("a header is too large"))
		}
		return nil
	}
	f := start(t, sink.scriptedSink, func(o *Options) { o.Sink = sink })
	f.accept("k1", "a")
	f.accept("k2", "a")
	letters := f.awaitPublished(1)
	require.True(t, letters[0].PublishedAt.IsZero())
	f.accept("k3", "a")
	f.awaitPublished(2)
	sink.setLetters(func() { require.Equal(t, 1, tries) })
	require.Equal(t, 1, f.log.count("was rejected at the sink's dead-letter address"))

	f.retry(journal.DeadLetterFilter{IDs: []int64{letters[0].ID}})
	require.Eventually(t, func() bool {
		return counter(t, f.metrics, "fnbridge_sink_dead_letters_published_total", "rejected") == 2
	}, 10*time.Second, time.Millisecond, "it came back from another try at the sink")
	require.Len(t, f.deadLetters(journal.DeadLetterFilter{}), 3)
}

func TestDeadLettersThatNeverReachTheirAddressHoldUpNoOther(t *testing.T) {
	sink := newAddressSink()
	rejecting(sink.scriptedSink, func(bridge.Event) bool { return true })
	sink.failLetter = func(l bridge.DeadLetter) error {
		if l.Event.Function == "stuck" {
			return bridge.Retry(errors.New("unknown server error"))
		}
		return nil
	}
	f := start(t, sink.scriptedSink, func(o *Options) { o.Sink = sink })
	for i := range 3 * letterPage {
		f.accept(fmt.Sprintf("k%d", i), "stuck")
	}
	f.accept("last", "good")
	f.awaitPublished(1)
	sink.setLetters(func() { sink.failLetter = nil })
	f.awaitPublished(3*letterPage + 1)
}

func TestADeadLetterThatComesBackWhileItIsPublishedIsPublishedAsItIsThen(t *testing.T) {
	sink := newAddressSink()
	rejecting(sink.scriptedSink, func(bridge.Event) bool { return true })
	publishing, cameBack := make(chan struct{}), make(chan struct{})
	sink.failLetter = func(l bridge.DeadLetter) error {
		if l.Attempts == 1 {
			close(publishing)
			<-cameBack
		}
		return nil
	}
	f := start(t, sink.scriptedSink, func(o *Options) { o.Sink = sink })
	f.accept("k1", "a")
	<-publishing
	f.retry(journal.DeadLetterFilter{})
	require.Eventually(t, func() bool { return f.deadLetters(journal.DeadLetterFilter{})[0].Attempts == 2 }, 10*time.Second, time.Millisecond)
	close(cameBack)
	f.awaitPublished(1)
	f.stop()
	require.Len(t, sink.letters, 2)
	require.Equal(t, 2, sink.letters[1].Attempts)
}

// forgetful is a journal that cannot note what was published.
type forgetful struct {
	*journal.Journal
	tries atomic.Int64
}

func (j *forgetful) DeadLettersPublished(context.Context, []journal.DeadLetter) error {
	j.tries.Add(1)
	return errors.New("disk full")
}

func TestADeadLetterIsPublishedAgainAfterACrashButNotBefore(t *testing.T) {
	sink := newAddressSink()
	rejecting(sink.scriptedSink, func(bridge.Event) bool { return true })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink.scriptedSink, log: &records{}}
	j := &forgetful{Journal: f.journal}
	f.run(func(o *Options) { o.Sink, o.Journal = sink, j })
	f.accept("k1", "a")
	require.Eventually(t, func() bool { return j.tries.Load() > 1 }, 10*time.Second, time.Millisecond)
	f.stop()
	require.Len(t, sink.letters, 1)
	f.run(func(o *Options) { o.Sink = sink })
	f.awaitPublished(1)
	f.stop()
	require.Len(t, sink.letters, 2)
}
