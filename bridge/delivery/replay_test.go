package delivery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// delivered is a fixture whose n webhooks, each of a key of its own, have reached the sink.
func delivered(t *testing.T, n int, change func(*Options)) *fixture {
	t.Helper()
	f := start(t, newScriptedSink(), change)
	for i := range n {
		f.accept(fmt.Sprintf("k%d", i), "a", "b")
	}
	f.awaitCursor(int64(n))
	f.sink.set(func() { f.sink.stored, f.sink.published, f.sink.batches = nil, 0, nil })
	return f
}

// acceptAt appends a webhook that was received at another time.
func (f *fixture) acceptAt(at time.Time, body string) {
	f.t.Helper()
	f.n++
	_, err := f.journal.Append(f.t.Context(), journal.Webhook{
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
	f := start(t, newScriptedSink(), nil)
	now := time.Now()
	payload := func(workflow, invocation string) string {
		return fmt.Sprintf(`{"workflow_name":%q,"invocation_id":%q,"fn_status":{"a":"success","b":"failure"}}`, workflow, invocation)
	}
	f.acceptAt(now.Add(-30*time.Minute), payload("billing", "k1"))
	f.acceptAt(now.Add(-20*time.Minute), payload("billing", "k2"))
	f.acceptAt(now.Add(-10*time.Minute), payload("mail", "k3"))
	f.acceptAt(now, `{"surprise":true}`)
	first := f.sink.await(t, count(7))
	f.awaitCursor(4)

	for name, tc := range map[string]struct {
		request  ReplayRequest
		webhooks int64
		want     []int // of the events as they were first published
	}{
		"everything":   {ReplayRequest{}, 4, []int{0, 1, 2, 3, 4, 5, 6}},
		"since":        {ReplayRequest{Since: now.Add(-20 * time.Minute)}, 3, []int{2, 3, 4, 5, 6}},
		"until":        {ReplayRequest{Until: now.Add(-20 * time.Minute)}, 1, []int{0, 1}},
		"a workflow":   {ReplayRequest{Events: bridge.Filter{Application: "billing"}}, 4, []int{0, 1, 2, 3}},
		"a type":       {ReplayRequest{Events: bridge.Filter{Type: first[0].Type}}, 4, []int{0, 2, 4}},
		"types":        {ReplayRequest{Events: bridge.Filter{Type: strings.TrimSuffix(first[6].Type, "ecognized") + "*"}}, 4, []int{6}},
		"any type":     {ReplayRequest{Events: bridge.Filter{Type: "*"}}, 4, []int{0, 1, 2, 3, 4, 5, 6}},
		"no such type": {ReplayRequest{Events: bridge.Filter{Type: "tensorlake"}}, 4, nil},
		"both":         {ReplayRequest{Since: now.Add(-25 * time.Minute), Until: now, Events: bridge.Filter{Application: "billing"}}, 2, []int{2, 3}},
		"nothing":      {ReplayRequest{Since: now.Add(time.Hour)}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f.sink.set(func() { f.sink.stored = nil })
			want := make([]string, len(tc.want))
			for i, n := range tc.want {
				want[i] = first[n].ID
			}
			n := int64(len(want))
			counted, err := CountReplay(t.Context(), f.journal, 4, tc.request, tensorlake.Options{}, bridge.Routes{})
			require.NoError(t, err)
			require.Equal(t, ReplayProgress{Webhooks: tc.webhooks, Read: tc.webhooks, Events: n}, counted)
			p, err := f.running.Replay(t.Context(), tc.request, nil)
			require.NoError(t, err)
			require.Equal(t, ReplayProgress{Webhooks: tc.webhooks, Read: tc.webhooks, Events: n, Acknowledged: n}, p)
			require.Equal(t, want, ids(f.sink.await(t, count(0))))
		})
	}
	c, err := f.journal.Cursor(t.Context(), "scripted")
	require.NoError(t, err)
	require.EqualValues(t, 4, c)
	_, err = f.running.Replay(t.Context(), ReplayRequest{Since: now, Until: now}, nil)
	require.ErrorContains(t, err, "the beginning of a replay must be before its end")
}

func TestAReplayOfNothingDeliveredPublishesNothing(t *testing.T) {
	sink := newScriptedSink()
	sink.fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	f := start(t, sink, nil)
	f.accept("k1", "a")
	f.awaitTries(1)
	p, err := f.running.Replay(t.Context(), ReplayRequest{}, nil)
	require.NoError(t, err)
	require.Zero(t, p, "what lies behind the cursor is on its way anyway")
	counted, err := CountReplay(t.Context(), f.journal, 0, ReplayRequest{}, tensorlake.Options{}, bridge.Routes{})
	require.NoError(t, err)
	require.Zero(t, counted)
}

func TestLiveEventsOvertakeAReplay(t *testing.T) {
	const webhooks = 500
	f := delivered(t, webhooks, nil)
	f.sink.set(func() { f.sink.hang = func(bridge.Event) bool { return true } })
	ended := make(chan error, 1)
	var progress []ReplayProgress
	go func() {
		_, err := f.running.Replay(t.Context(), ReplayRequest{}, func(p ReplayProgress) { progress = append(progress, p) })
		ended <- err
	}()
	f.awaitBatches(1)
	require.Zero(t, value(t, f.metrics, "fnbridge_sink_oldest_webhook_age_seconds"), "a replay is no backlog")
	f.accept("live", "a", "b")
	require.Eventually(t, func() bool { return value(t, f.metrics, "fnbridge_sink_oldest_webhook_age_seconds") > 0 },
		10*time.Second, time.Millisecond, "it has been read")
	f.sink.set(func() { f.sink.hang = nil })
	close(f.sink.release)
	require.NoError(t, <-ended)
	stored := f.sink.await(t, count(2*webhooks+2))
	require.Len(t, stored, 2*webhooks+2)
	f.sink.set(func() {
		first := f.sink.batches[0]
		require.LessOrEqual(t, first, guestEvents)
		require.Equal(t, []string{"live/a", "live/b"}, subjects(stored[first:first+2]), "only what was under way went first")
	})
	last := progress[len(progress)-1]
	require.Equal(t, ReplayProgress{Webhooks: webhooks, Read: webhooks, Events: 2 * webhooks, Acknowledged: 2 * webhooks}, last)
	f.awaitCursor(webhooks + 1)
	require.InDelta(t, 2*webhooks, counter(t, f.metrics, "fnbridge_sink_replayed_events_total", ""), 0)
}

func TestAReplayWaitsForADeadSinkAndCanBeCalledOff(t *testing.T) {
	f := delivered(t, 500, func(o *Options) { o.WindowEvents = 256 })
	f.sink.set(func() {
		f.sink.fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		p, err := f.running.Replay(ctx, ReplayRequest{}, nil)
		if p.Webhooks != 500 || p.Acknowledged != 0 || p.Events == 0 || p.Events > 32 {
			err = errors.Join(err, fmt.Errorf("unexpected progress: %+v", p))
		}
		ended <- err
	}()
	f.awaitTries(5)
	_, err := f.running.Replay(t.Context(), ReplayRequest{}, nil)
	require.ErrorIs(t, err, ErrReplayRunning)
	require.InDelta(t, 1, value(t, f.metrics, "fnbridge_sink_up"), 0, "a replay says nothing about live delivery")
	cancel()
	err = <-ended
	require.Equal(t, context.Canceled, err)

	f.sink.set(func() { f.sink.fail, f.sink.stored = nil, nil })
	f.accept("k1", "live") // of a key that the replay had under way
	f.awaitCursor(501)
	require.Equal(t, []string{"k1/live"}, subjects(f.sink.await(t, count(1))), "nothing is left of the replay")
	p, err := f.running.Replay(t.Context(), ReplayRequest{}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 1001, p.Acknowledged)
}

func TestAReplayThatIsCalledOffWaitsForTheAnswerToWhatIsUnderWay(t *testing.T) {
	f := delivered(t, 10, nil)
	f.sink.set(func() { f.sink.hang = func(bridge.Event) bool { return true } })
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		p   ReplayProgress
		err error
	}
	ended := make(chan result, 1)
	go func() {
		p, err := f.running.Replay(ctx, ReplayRequest{}, nil)
		ended <- result{p, err}
	}()
	f.awaitBatches(1)
	cancel()
	close(f.sink.release)
	r := <-ended
	require.ErrorIs(t, r.err, context.Canceled)
	require.EqualValues(t, len(f.sink.await(t, count(1))), r.p.Acknowledged)
}

func TestAStopEndsAReplay(t *testing.T) {
	f := delivered(t, 10, nil)
	f.sink.set(func() {
		f.sink.fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	})
	ended := make(chan error, 1)
	go func() {
		_, err := f.running.Replay(t.Context(), ReplayRequest{}, nil)
		ended <- err
	}()
	f.awaitTries(1)
	f.stop()
	require.ErrorIs(t, <-ended, ErrReplayStopped)
	_, err := f.running.Replay(t.Context(), ReplayRequest{}, nil)
	require.ErrorIs(t, err, ErrReplayStopped)
}

func TestReplayedEventsThatAreRejectedBecomeDeadLetters(t *testing.T) {
	f := delivered(t, 10, nil)
	rejecting(f.sink, func(e bridge.Event) bool { return e.Subject == "k3/b" })
	p, err := f.running.Replay(t.Context(), ReplayRequest{}, nil)
	require.NoError(t, err)
	require.Equal(t, ReplayProgress{Webhooks: 10, Read: 10, Events: 20, Acknowledged: 19, DeadLettered: 1}, p)
	letters := f.deadLetters(journal.DeadLetterFilter{})
	require.Len(t, letters, 1)
	require.EqualValues(t, 4, letters[0].WebhookSeq)
	require.Equal(t, 1, letters[0].Event.Origin.Index)
	require.Equal(t, "k3/b", letters[0].Event.Subject)
}

func TestAReplayEndsWhenWhatFailsIsGivenUp(t *testing.T) {
	f := delivered(t, 10, func(o *Options) { o.GiveUpAfter = 20 * time.Millisecond })
	f.sink.set(func() { f.sink.fail = func(bridge.Event) error { return bridge.Retry(errors.New("no quorum")) } })
	p, err := f.running.Replay(t.Context(), ReplayRequest{}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 20, p.DeadLettered)
	require.Len(t, f.deadLetters(journal.DeadLetterFilter{}), 20)
}
