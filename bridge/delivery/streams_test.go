package delivery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
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

func (f *fixture) replay(s journal.Stream) journal.Stream {
	f.t.Helper()
	s.Sink = "scripted"
	added, err := f.journal.AddReplay(f.t.Context(), s)
	require.NoError(f.t, err)
	return added
}

// stream returns the stream of that number as it is now.
func (f *fixture) stream(id int64) journal.Stream {
	f.t.Helper()
	all, err := f.journal.AllStreams(f.t.Context())
	require.NoError(f.t, err)
	for _, s := range all {
		if s.ID == id {
			return s
		}
	}
	require.FailNow(f.t, "no such stream")
	return journal.Stream{}
}

// ended waits for the end of a stream, and returns it.
func (f *fixture) ended(s journal.Stream) journal.Stream {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.stream(s.ID).End != "" }, bound, time.Millisecond)
	return f.stream(s.ID)
}

// rejecting has the sink reject the events that which selects, and returns what makes it take them.
func rejecting(sink *deliverytest.ScriptedSink, which func(e bridge.Event) bool) (mend func()) {
	sink.Set(func() {
		sink.Fail = func(e bridge.Event) error {
			if which(e) {
				return bridge.Reject(errors.New("too large for the broker"))
			}
			return nil
		}
	})
	return func() { sink.Set(func() { sink.Fail = nil }) }
}

// delivered is a fixture whose n webhooks, each of a key of its own and with two events, have reached the sink.
func delivered(t *testing.T, n int, change func(*Options)) *fixture {
	t.Helper()
	f := start(t, deliverytest.NewScriptedSink(), change)
	for i := range n {
		f.accept(fmt.Sprintf("k%d", i), "a", "b")
	}
	f.awaitCursor(int64(n))
	f.sink.Set(func() { f.sink.Stored, f.sink.Published, f.sink.Batches = nil, 0, nil })
	return f
}

// acceptAt appends a webhook that was received at another time.
func (f *fixture) acceptAt(at time.Time, body string) {
	f.t.Helper()
	f.n++
	_, err := f.journal.Append(f.t.Context(), bridge.Webhook{
		ID: fmt.Sprintf("msg_%d", f.n), Timestamp: at, ReceivedAt: at, Body: []byte(body),
	})
	require.NoError(f.t, err)
}

func ids(events []bridge.Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

func TestAReplayPublishesWhatItIsAskedForUnderTheSameIDs(t *testing.T) {
	f := start(t, deliverytest.NewScriptedSink(), nil)
	now := time.Now()
	payload := func(workflow, invocation string) string {
		return fmt.Sprintf(`{"workflow_name":%q,"invocation_id":%q,"fn_status":{"a":"success","b":"failure"}}`,
			workflow, invocation)
	}
	f.acceptAt(now.Add(-30*time.Minute), payload("billing", "k1"))
	f.acceptAt(now.Add(-20*time.Minute), payload("billing", "k2"))
	f.acceptAt(now.Add(-10*time.Minute), payload("mail", "k3"))
	f.acceptAt(now, `{"surprise":true}`)
	first := f.sink.Await(t, count(7))
	f.awaitCursor(4)

	for name, tc := range map[string]struct {
		request journal.Stream
		want    []int // of the events as they were first published
	}{
		"everything": {journal.Stream{}, []int{0, 1, 2, 3, 4, 5, 6}},
		"since":      {journal.Stream{Since: now.Add(-20 * time.Minute)}, []int{2, 3, 4, 5, 6}},
		"until":      {journal.Stream{Until: now.Add(-20 * time.Minute)}, []int{0, 1}},
		"a workflow": {journal.Stream{Events: bridge.Filter{Application: "billing"}}, []int{0, 1, 2, 3}},
		"a type":     {journal.Stream{Events: bridge.Filter{Type: first[0].Type}}, []int{0, 2, 4}},
		"types": {
			journal.Stream{Events: bridge.Filter{Type: strings.TrimSuffix(first[6].Type, "ecognized") + "*"}}, []int{6},
		},
		"no such type": {journal.Stream{Events: bridge.Filter{Type: "tensorlake"}}, nil},
		"both": {
			journal.Stream{Since: now.Add(-25 * time.Minute), Until: now, Events: bridge.Filter{Application: "billing"}},
			[]int{2, 3},
		},
		"nothing": {journal.Stream{Since: now.Add(time.Hour)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f.sink.Set(func() { f.sink.Stored = nil })
			want := make([]string, len(tc.want))
			for i, n := range tc.want {
				want[i] = first[n].ID
			}
			s := f.ended(f.replay(tc.request))
			stored := f.sink.Await(t, count(0))
			require.Equal(t, want, ids(stored))
			for _, e := range stored {
				require.Equal(t, s.ID, e.Origin.Replay, "a broker must not take it for a repeat")
			}
			n := int64(len(want))
			require.Equal(t, []int64{n, n, 0}, []int64{s.Taken, s.Acknowledged, s.DeadLettered})
			require.Equal(t, journal.StreamDone, s.End)
			require.Equal(t, s.Through, s.Cursor)
		})
	}
	c, err := f.journal.Cursor(t.Context(), "scripted")
	require.NoError(t, err)
	require.EqualValues(t, 4, c)
}

func TestAReplayEndsWhereTheSinkStoodWhenItWasAskedFor(t *testing.T) {
	f := delivered(t, 3, nil)
	f.sink.Set(func() {
		f.sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	})
	f.accept("waiting", "a")
	f.awaitTries(1)
	s := f.replay(journal.Stream{})
	require.EqualValues(t, 3, s.Through)
	f.sink.Set(func() { f.sink.Fail = nil })
	require.EqualValues(t, 6, f.ended(s).Acknowledged)
	f.awaitCursor(4)
	require.Len(t, f.sink.Await(t, count(7)), 7, "what was on its way anyway went out once")
}

func TestAReplaySurvivesAStopAndGoesOnWhereItStood(t *testing.T) {
	const webhooks = 300
	f := delivered(t, webhooks, func(o *Options) { o.WindowEvents = 64 }) // eight events of a replay at a time
	gone := func(e bridge.Event) error {
		if n, _ := strconv.Atoi(e.PartitionKey[1:]); n >= 200 {
			return bridge.Retry(errors.New("connection refused"))
		}
		return nil
	}
	f.sink.Set(func() { f.sink.Fail = gone })
	s := f.replay(journal.Stream{})
	f.sink.Await(t, count(2*200))
	f.stop()
	require.Empty(t, f.stream(s.ID).End)
	stood := f.stream(s.ID).Cursor
	require.InDelta(t, 200, stood, 1) // of a webhook whose events have all been taken, that may not be known yet
	f.sink.Set(func() { f.sink.Fail, f.sink.Stored = nil, nil })
	f.run(nil)
	require.Equal(t, journal.StreamDone, f.ended(s).End)
	require.Equal(t, fmt.Sprintf("k%d/a", stood), f.sink.Await(t, count(200))[0].Subject)
}

func TestReplaysAskedForWithoutABridgeAreMadeInTurn(t *testing.T) {
	f := delivered(t, 20, nil)
	f.stop()
	first := f.replay(journal.Stream{})
	second := f.replay(journal.Stream{Events: bridge.Filter{Type: "*success"}})
	f.run(nil)
	require.EqualValues(t, 40, f.ended(first).Acknowledged)
	require.EqualValues(t, 0, f.ended(second).Acknowledged)
}

func TestLiveEventsAndAReplayShareTheSink(t *testing.T) {
	const webhooks = 500
	f := delivered(t, webhooks, func(o *Options) { o.WindowEvents = 256 })
	f.sink.Set(func() { f.sink.Hang = func(bridge.Event) bool { return true } })
	s := f.replay(journal.Stream{})
	f.awaitBatches(1)
	require.Zero(t, value(t, f.metrics, "fnbridge_sink_oldest_webhook_age_seconds"), "a replay is no backlog")
	f.accept("live", "a", "b")
	require.Eventually(t, func() bool { return value(t, f.metrics, "fnbridge_sink_oldest_webhook_age_seconds") > 0 },
		bound, time.Millisecond, "it has been read")
	f.sink.Set(func() { f.sink.Hang = nil })
	close(f.sink.Release)
	require.EqualValues(t, 2*webhooks, f.ended(s).Acknowledged)
	stored := deliverytest.Subjects(f.sink.Await(t, count(2*webhooks+2)))
	f.sink.Set(func() {
		ahead := f.sink.Batches[0] + 256/besideShare
		require.Contains(t, stored[:ahead+2], "live/b", "no more goes first than the part of the window that a replay has")
	})
	f.awaitCursor(webhooks + 1)
	require.InDelta(t, 2*webhooks, counter(t, f.metrics, "fnbridge_sink_replayed_events_total", ""), 0)
}

func TestAReplayThatWaitsForADeadSinkCanBeCancelled(t *testing.T) {
	f := delivered(t, 500, func(o *Options) { o.WindowEvents = 256 })
	f.sink.Set(func() {
		f.sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	})
	s := f.replay(journal.Stream{})
	f.awaitTries(5)
	require.InDelta(t, 1, value(t, f.metrics, "fnbridge_sink_up"), 0, "a replay says nothing about live delivery")
	cancelled, err := f.journal.CancelReplay(t.Context(), s.ID)
	require.NoError(t, err)
	require.True(t, cancelled)
	cancelled, err = f.journal.CancelReplay(t.Context(), s.ID)
	require.NoError(t, err)
	require.False(t, cancelled, "it has ended")

	next := f.replay(journal.Stream{Until: time.Now().Add(-time.Hour)}) // of nothing
	require.Equal(t, journal.StreamDone, f.ended(next).End, "nothing is left of the one before")
	f.sink.Set(func() { f.sink.Fail, f.sink.Stored = nil, nil })
	f.accept("k1", "live") // of a key that the replay had under way
	f.awaitCursor(501)
	require.Equal(t, []string{"k1/live"}, deliverytest.Subjects(f.sink.Await(t, count(1))))
	require.Equal(t, journal.StreamCancelled, f.stream(s.ID).End)
	require.Zero(t, f.stream(s.ID).Acknowledged)
}

func TestAReplayIsNoFasterThanItMayBe(t *testing.T) {
	f := delivered(t, 20, nil)
	began := time.Now()
	s := f.ended(f.replay(journal.Stream{Rate: 100}))
	require.EqualValues(t, 40, s.Acknowledged)
	require.GreaterOrEqual(t, time.Since(began), 390*time.Millisecond)
}

func TestReplayedEventsThatAreRejectedBecomeDeadLetters(t *testing.T) {
	f := delivered(t, 10, nil)
	mend := rejecting(f.sink, func(e bridge.Event) bool { return e.Subject == "k3/b" })
	s := f.ended(f.replay(journal.Stream{}))
	require.Equal(t, []int64{20, 19, 1}, []int64{s.Taken, s.Acknowledged, s.DeadLettered})
	letters := f.deadLetters(journal.DeadLetterFilter{})
	require.Len(t, letters, 1)
	require.EqualValues(t, 4, letters[0].WebhookSeq)
	require.Equal(t, 1, letters[0].Event.Origin.Index)
	require.Equal(t, "k3/b", letters[0].Event.Subject)

	mend()
	require.EqualValues(t, 20, f.ended(f.replay(journal.Stream{})).Acknowledged)
	require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}),
		"an event that reaches its sink is no dead letter any more")
}

func TestAReplayEndsWhenWhatFailsIsGivenUp(t *testing.T) {
	f := delivered(t, 10, func(o *Options) { o.GiveUpAfter = 20 * time.Millisecond })
	f.sink.Set(func() { f.sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("no quorum")) } })
	require.EqualValues(t, 20, f.ended(f.replay(journal.Stream{})).DeadLettered)
	require.Len(t, f.deadLetters(journal.DeadLetterFilter{}), 20)
}

// While a sink takes what else there is, or a check says that it would, an event that is not live and fails again is
// the trouble itself. It must hold up nothing live.
func TestWhatFailsByItselfBesideLiveEventsIsADeadLetter(t *testing.T) {
	forbidden := func(e bridge.Event) error {
		if e.PartitionKey == "k3" {
			return bridge.Blocked(errors.New("no permission for this subject"))
		}
		return nil
	}
	t.Run("others get through", func(t *testing.T) {
		f := delivered(t, 10, nil)
		f.sink.Set(func() { f.sink.Fail = forbidden })
		s := f.replay(journal.Stream{})
		require.Eventually(t, func() bool { // live events show that the sink is well
			f.accept(fmt.Sprintf("live%d", f.n), "a")
			return f.stream(s.ID).End != ""
		}, bound, 5*time.Millisecond)
		require.EqualValues(t, 2, f.stream(s.ID).DeadLettered)
		letters := f.deadLetters(journal.DeadLetterFilter{})
		require.Len(t, letters, 2)
		require.Equal(t, "no permission for this subject", letters[0].Reason)
	})
	t.Run("the sink is idle", func(t *testing.T) {
		f := delivered(t, 10, func(o *Options) { o.CheckInterval = 5 * time.Millisecond })
		f.sink.Set(func() { f.sink.Fail = forbidden })
		require.EqualValues(t, 2, f.ended(f.replay(journal.Stream{Events: bridge.Filter{Type: "*"}})).DeadLettered)
		require.Eventually(t, func() bool { return f.state().State == "up" }, bound, time.Millisecond)
		require.Zero(t, f.log.Count("sink is down"))
	})
	t.Run("the sink is down", func(t *testing.T) {
		f := delivered(t, 2, func(o *Options) { o.CheckInterval = 5 * time.Millisecond })
		f.sink.Set(func() {
			f.sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
			f.sink.Unwell = errors.New("connection refused")
		})
		s := f.replay(journal.Stream{})
		f.awaitTries(20)
		require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}))
		f.sink.Set(func() { f.sink.Fail, f.sink.Unwell = nil, nil })
		require.EqualValues(t, 4, f.ended(s).Acknowledged)
	})
}

// slowCheck passes its first check when it is told to, and none that begins later.
type slowCheck struct {
	*deliverytest.ScriptedSink
	checks      int
	began, pass chan struct{}
}

func (s *slowCheck) Check(ctx context.Context) error {
	if s.checks++; s.checks > 1 {
		return errors.New("connection refused")
	}
	close(s.began)
	select {
	case <-s.pass:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A check shows how the sink was when it began: what has failed since then may have met a sink that is down.
func TestACheckThatBeganBeforeAnEventFailedSaysNothingOfIt(t *testing.T) {
	f := delivered(t, 1, nil)
	f.stop()
	f.sink.Set(func() {
		f.sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	})
	sink := &slowCheck{ScriptedSink: f.sink, began: make(chan struct{}), pass: make(chan struct{})}
	f.run(func(o *Options) { o.Sink, o.CheckInterval = sink, time.Millisecond })
	<-sink.began
	s := f.replay(journal.Stream{})
	f.awaitTries(2)
	close(sink.pass)
	f.awaitTries(20)
	require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}))
	f.sink.Set(func() { f.sink.Fail = nil })
	require.EqualValues(t, 2, f.ended(s).Acknowledged)
}

func TestARetriedDeadLetterReachesTheSinkAsTheEventThatItWas(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
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
	stored := f.sink.Await(t, count(3))
	require.True(t, rejected.Time.Equal(stored[2].Time))
	stored[2].Time = rejected.Time
	require.Equal(t, rejected, stored[2])
	f.awaitDeadLetters(0)
	f.stop()
	require.Len(t, f.sink.Stored, 3)
	require.InDelta(t, 1, counter(t, f.metrics, "fnbridge_sink_retried_dead_letters_total", "acknowledged"), 0)
}

func TestARetriedDeadLetterThatIsRejectedAgainIsOneAgain(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	f.accept("k1", "a")
	f.awaitDeadLetters(1)
	for attempts := 2; attempts < 4; attempts++ {
		require.Eventually(t, func() bool { return f.retry(journal.DeadLetterFilter{}) == 1 },
			bound, time.Millisecond)
		require.Eventually(t, func() bool {
			l := f.deadLetters(journal.DeadLetterFilter{})
			return len(l) == 1 && l[0].Attempts == attempts && l[0].RetryAt.IsZero()
		}, bound, time.Millisecond)
	}
	f.stop()
	require.Equal(t, 3, f.sink.Published)
	require.InDelta(t, 2, counter(t, f.metrics, "fnbridge_sink_retried_dead_letters_total", "dead_lettered"), 0)
}

func TestWhatWasAskedForBeforeAStartIsTriedAfterIt(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	for i := range 100 { // more than a page
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	f.awaitDeadLetters(100)
	f.stop()
	mend()
	require.EqualValues(t, 100, f.retry(journal.DeadLetterFilter{}))
	require.Zero(t, f.retry(journal.DeadLetterFilter{}), "another try was asked for already")
	f.run(nil)
	f.sink.Await(t, count(100))
	f.awaitDeadLetters(0)
}

// A request may come at any moment of a retry that is under way, and before a letter that it asks for has had its end.
func TestNoRequestForARetryIsMissed(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	const letters = 40
	for i := range letters {
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	all := f.awaitDeadLetters(letters)
	mend()
	for _, l := range all {
		require.EqualValues(t, 1, f.retry(journal.DeadLetterFilter{IDs: []int64{l.ID}}))
	}
	f.awaitDeadLetters(0)
	f.stop()
	require.Len(t, f.sink.Stored, letters)
}

func TestADroppedDeadLetterIsNotTriedOn(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, nil)
	f.accept("k1", "a")
	f.accept("k2", "a")
	f.awaitDeadLetters(2)
	f.sink.Set(func() { sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("no quorum")) } })
	f.retry(journal.DeadLetterFilter{})
	f.awaitTries(3)
	dropped, err := f.journal.DropDeadLetters(t.Context(), journal.DeadLetterFilter{})
	require.NoError(t, err)
	require.EqualValues(t, 2, dropped)
	require.Eventually(t, func() bool {
		open, err := f.journal.Streams(t.Context())
		return err == nil && len(open) == 0
	}, bound, time.Millisecond, "the retry has nothing left to do")
	mend()
	f.accept("k3", "a")
	require.Equal(t, []string{"k3/a"}, deliverytest.Subjects(f.sink.Await(t, count(1))))
	f.stop()
	require.Len(t, f.sink.Stored, 1)
	require.Empty(t, f.deadLetters(journal.DeadLetterFilter{}))
}

// Hundreds of dead letters that still do not get through hold up neither live events nor the dead letters behind them.
func TestDeadLettersThatNeverGetThroughHoldUpNothing(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
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
	f.sink.Set(func() {
		sink.Fail = func(e bridge.Event) error {
			if strings.HasPrefix(e.PartitionKey, "no") && e.Function == "a" {
				return bridge.Blocked(errors.New("no permission for this subject"))
			}
			return nil
		}
	})
	f.retry(journal.DeadLetterFilter{})
	f.run(func(o *Options) {
		o.WindowEvents, o.MaxBackoff, o.CheckInterval = 64, 5*time.Millisecond, 5*time.Millisecond
	})
	for i := range refused {
		f.accept(fmt.Sprintf("no%d", i), "live") // not even those of the same keys wait for long
	}
	f.awaitCursor(int64(f.n))
	f.awaitDeadLetters(refused)
	require.Eventually(t, func() bool {
		open, err := f.journal.Streams(t.Context())
		return err == nil && len(open) == 0
	}, bound, time.Millisecond)
	letters := f.deadLetters(journal.DeadLetterFilter{})
	require.Greater(t, letters[0].Attempts, 1)
	require.Eventually(t, func() bool { return value(t, f.metrics, "fnbridge_sink_up") == 1 },
		bound, time.Millisecond)
}

func TestADeadLetterThatCannotBeRemovedIsNotSentAgainForThat(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	broken := &brokenCursor{Journal: f.journal}
	f.run(func(o *Options) { o.Journal = broken })
	f.accept("k1", "a")
	f.accept("k2", "a")
	letters := f.awaitDeadLetters(2)
	f.awaitCursor(2)
	mend()
	broken.failing.Store(true)
	f.retry(journal.DeadLetterFilter{IDs: []int64{letters[0].ID}})
	f.sink.Await(t, count(1))
	f.retry(journal.DeadLetterFilter{IDs: []int64{letters[1].ID}})
	require.Eventually(t, func() bool { return f.log.Count("the journal cannot be written") == 1 },
		bound, time.Millisecond)
	broken.failing.Store(false)
	f.awaitDeadLetters(0)
	f.stop()
	require.Equal(t, []string{"k1/a", "k2/a"}, deliverytest.Subjects(f.sink.Stored))
}

// A dead letter that fails once more beside live events that fail says why, as they do.
func TestWhatFailsAgainBesideLiveEventsThatFailIsADeadLetter(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	mend := rejecting(sink, func(bridge.Event) bool { return true })
	f := start(t, sink, func(o *Options) { o.CheckInterval = time.Millisecond })
	f.accept("letter", "a")
	f.awaitDeadLetters(1)
	mend()
	f.sink.Set(func() { sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("no quorum")) } })
	f.retry(journal.DeadLetterFilter{})
	f.awaitTries(1)
	for i := range 20 { // live events fail in the same batches
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	require.Eventually(t, func() bool {
		l := f.deadLetters(journal.DeadLetterFilter{})
		return l[0].Attempts > 1 && l[0].RetryAt.IsZero()
	}, bound, time.Millisecond)
	require.Equal(t, "no quorum", f.deadLetters(journal.DeadLetterFilter{})[0].Reason)
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(21)
}
