package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// numbering is a scripted sink whose broker numbers what it stores.
type numbering struct {
	*deliverytest.ScriptedSink
	water *bridge.HighWater
	next  atomic.Int64
}

func newNumbering() *numbering {
	return &numbering{ScriptedSink: deliverytest.NewScriptedSink(), water: bridge.NewHighWater()}
}

func (s *numbering) HighWater() *bridge.HighWater { return s.water }

func (s *numbering) Publish(ctx context.Context, events []bridge.Event) []error {
	since := s.water.Since("log")
	errs := s.ScriptedSink.Publish(ctx, events)
	stored := int64(0)
	for _, err := range errs {
		if err == nil {
			stored++
		}
	}
	if stored > 0 {
		last := s.next.Add(stored)
		s.water.Acknowledged(since, last-stored+1, last)
	}
	return errs
}

// forget is what happens to a broker whose disk is replaced.
func (s *numbering) forget() {
	s.Set(func() { s.Stored = nil })
	s.next.Store(0)
}

func subjects(events []bridge.Event) map[string]bool {
	have := make(map[string]bool)
	for _, e := range events {
		have[e.Subject] = true
	}
	return have
}

// An event fails for so long that those behind it are published and lost meanwhile: no replay up to the cursor has
// them.
func TestWhatWasPublishedAheadOfTheCursorIsPublishedAgain(t *testing.T) {
	sink := newNumbering()
	mend := errors.New("not now")
	sink.Fail = func(e bridge.Event) error {
		if e.PartitionKey == "stuck" && mend != nil {
			return bridge.Retry(mend)
		}
		return nil
	}
	f := start(t, sink.ScriptedSink, func(o *Options) { o.Sink = sink })
	f.accept("first", "a")
	f.awaitCursor(1)
	f.accept("stuck", "a")
	f.accept("ahead", "a", "b")
	sink.Await(t, func(stored []bridge.Event) bool { return subjects(stored)["ahead/b"] })
	sink.forget()
	f.accept("after", "a") // whose number tells
	f.awaitMissing(func(m *journal.Missing) bool { return m != nil && m.Through == 1 })
	sink.Await(t, func(stored []bridge.Event) bool {
		have := subjects(stored)
		return have["ahead/a"] && have["ahead/b"] && have["after/a"]
	})
	f.replay(journal.Stream{Sink: "scripted"})
	f.awaitMissing(func(m *journal.Missing) bool { return m == nil })
	require.True(t, subjects(sink.Await(t, count(0)))["first/a"])
	sink.Set(func() { mend = nil })
	f.awaitCursor(4)
	require.True(t, subjects(sink.Await(t, count(0)))["stuck/a"])
}

// An event that reaches the sink is no dead letter any more, also if the live stream comes to it a second time.
func TestADeadLetterGoesWhenItsEventIsPublishedAgain(t *testing.T) {
	for name, again := range map[string]func(f *fixture, sink *numbering){
		"the broker went back": func(f *fixture, sink *numbering) {
			sink.forget()
			f.accept("after", "a")
			f.awaitMissing(func(m *journal.Missing) bool { return m != nil })
		},
		"a crash before that was saved": func(f *fixture, sink *numbering) {
			f.stop()
			require.NoError(f.t, f.journal.Move(f.t.Context(), []journal.Move{{
				Stream: journal.Stream{Kind: journal.Live, Sink: "scripted"}, Finished: []byte{},
			}}, nil))
			f.run(func(o *Options) { o.Sink = sink })
		},
	} {
		t.Run(name, func(t *testing.T) {
			sink := newNumbering()
			mended := false
			sink.Fail = func(e bridge.Event) error {
				switch {
				case e.PartitionKey == "stuck":
					return bridge.Retry(errors.New("not now"))
				case e.PartitionKey == "bad" && !mended:
					return bridge.Reject(errors.New("too large"))
				}
				return nil
			}
			f := start(t, sink.ScriptedSink, func(o *Options) { o.Sink = sink })
			f.accept("first", "a")
			f.awaitCursor(1)
			f.accept("stuck", "a")
			f.accept("bad", "a")
			f.accept("ahead", "a")
			f.awaitDeadLetters(1)
			sink.Await(t, func(stored []bridge.Event) bool { return subjects(stored)["ahead/a"] })
			sink.Set(func() { mended = true })
			again(f, sink)
			sink.Await(t, func(stored []bridge.Event) bool { return subjects(stored)["bad/a"] })
			f.awaitDeadLetters(0)
		})
	}
}

func (f *fixture) awaitMissing(wanted func(*journal.Missing) bool) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		s, err := f.journal.Status(f.t.Context())
		return err == nil && wanted(s.Sinks[0].Missing)
	}, bound, time.Millisecond)
}

// A crash between the two leaves it to be found again.
func TestABrokerThatWentBackIsFoundAgainUntilItIsNoted(t *testing.T) {
	sink := newNumbering()
	f := start(t, sink.ScriptedSink, func(o *Options) { o.Sink = sink })
	f.accept("first", "a", "b", "c")
	f.awaitCursor(1)
	f.stop()
	sink.forget()

	again := newNumbering()
	broken := &unnoted{Journal: f.journal}
	broken.broken.Store(true)
	f.sink = again.ScriptedSink
	f.run(func(o *Options) { o.Sink, o.Journal, o.ReplayMissing = again, broken, true })
	f.accept("second", "a")
	again.Await(t, count(1))
	require.Eventually(t, func() bool { return f.log.Count("that cannot be noted") == 1 },
		bound, time.Millisecond)
	f.accept("third", "a") // nothing is published until it is noted
	f.stop()
	require.Len(t, again.Await(t, count(0)), 1)

	last := newNumbering()
	last.next.Store(again.next.Load())
	f.sink = last.ScriptedSink
	f.run(func(o *Options) { o.Sink, o.ReplayMissing = last, true })
	last.Await(t, func(stored []bridge.Event) bool {
		have := subjects(stored)
		return have["first/a"] && have["first/b"] && have["first/c"] && have["third/a"]
	})
	f.awaitMissing(func(m *journal.Missing) bool { return m == nil })
	require.InDelta(t, 1, counter(t, f.metrics, "fnbridge_sink_went_back_total", ""), 0)
}

// What a start passes over, since it was finished before, may be gone as well. It is not missed when it is passed while
// the step back is being noted.
func TestWhatIsPassedOverWhileAStepBackIsNotedIsPublishedAgain(t *testing.T) {
	const webhooks = readWebhooks + 100
	sink := newNumbering()
	sink.Fail = func(e bridge.Event) error {
		if e.PartitionKey == "stuck" {
			return bridge.Retry(errors.New("not now"))
		}
		return nil
	}
	f := start(t, sink.ScriptedSink, func(o *Options) { o.Sink = sink })
	f.accept("stuck", "a")
	for n := range webhooks - 1 {
		f.accept(fmt.Sprint(n), "a")
	}
	sink.Await(t, count(webhooks-1))
	f.stop()

	again := newNumbering() // whose broker has nothing
	held := &heldBack{Journal: f.journal, noting: make(chan struct{})}
	f.sink = again.ScriptedSink
	held.passed = func() bool { return f.running.cursor.Load() == webhooks }
	f.run(func(o *Options) { o.Sink, o.Journal = again, held })
	again.Await(t, func(stored []bridge.Event) bool {
		have := subjects(stored)
		return have["stuck/a"] && have[fmt.Sprintf("%d/a", webhooks-2)]
	})
	f.awaitMissing(func(m *journal.Missing) bool { return m != nil && m.Through == readWebhooks })
}

// heldBack is a journal whose second page comes when a step back is about to be noted, which waits until it has passed.
type heldBack struct {
	Journal
	noting chan struct{}
	passed func() bool
}

func (h *heldBack) Waiting(
	ctx context.Context, sink string, after int64, maxCount int, maxBytes int64,
) ([]journal.Webhook, error) {
	if after >= readWebhooks {
		select {
		case <-h.noting:
		case <-ctx.Done():
		}
	}
	return h.Journal.Waiting(ctx, sink, after, maxCount, maxBytes)
}

func (h *heldBack) NoteMissing(
	ctx context.Context, sink string, found []bridge.WentBack, position bridge.Position, replay bool,
) (journal.Missing, error) {
	missing, err := h.Journal.NoteMissing(ctx, sink, found, position, replay)
	close(h.noting)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !h.passed() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return missing, ctx.Err()
		}
	}
	return missing, err
}

// unnoted is a journal that cannot note what is missing while it is broken.
type unnoted struct {
	Journal
	broken atomic.Bool
}

func (u *unnoted) NoteMissing(
	ctx context.Context, sink string, found []bridge.WentBack, position bridge.Position, replay bool,
) (journal.Missing, error) {
	if u.broken.Load() {
		return journal.Missing{}, errors.New("no space left on device")
	}
	return u.Journal.NoteMissing(ctx, sink, found, position, replay)
}
