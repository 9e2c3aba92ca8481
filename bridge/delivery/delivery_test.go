package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
	"github.com/fnbridge/fnbridge/bridge/delivery/insist"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bound = deliverytest.Bound

// fixture is a real journal and a running dispatcher on it.
type fixture struct {
	t       *testing.T
	journal *journal.Journal
	sink    *deliverytest.ScriptedSink
	log     *deliverytest.Records
	metrics *prometheus.Registry
	running *Dispatcher
	stop    func()
	n       int
}

func openJournal(t *testing.T, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{
		Dir: dir, MaxBytes: 1 << 30, Retention: time.Hour, Sinks: []string{"scripted"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close(context.WithoutCancel(t.Context()))) })
	return j
}

func start(t *testing.T, sink *deliverytest.ScriptedSink, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	f.run(change)
	return f
}

// run starts a dispatcher on the fixture's journal; stop ends it, as often as it is called.
func (f *fixture) run(change func(*Options)) {
	f.t.Helper()
	f.metrics = prometheus.NewRegistry()
	o := Options{
		Journal: f.journal, Sink: f.sink, Logger: slog.New(f.log), Registerer: f.metrics,
		MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, BlockedBackoff: 10 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	d, err := New(o)
	require.NoError(f.t, err)
	f.running = d
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	publish, abandon := context.WithCancel(context.WithoutCancel(ctx))
	go func() { ended <- d.Run(ctx, publish) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(f.t, <-ended)
		abandon()
	})
	f.t.Cleanup(func() {
		if f.t.Failed() {
			abandon() // a sink that hangs must not hide why
		}
		f.stop()
	})
}

// accept appends a workflow webhook with the functions given, under an invocation that is also its partition key.
func (f *fixture) accept(invocation string, functions ...string) {
	f.t.Helper()
	status := make([]string, len(functions))
	for i, fn := range functions {
		status[i] = fmt.Sprintf("%q:%q", fn, "success")
	}
	f.acceptBody(fmt.Sprintf(`{"workflow_name":"w","invocation_id":%q,"fn_status":{%s}}`,
		invocation, strings.Join(status, ",")))
}

func (f *fixture) acceptBody(body string) {
	f.t.Helper()
	f.n++
	now := time.Now()
	accepted, err := f.journal.Append(f.t.Context(), bridge.Webhook{
		ID: fmt.Sprintf("msg_%d", f.n), Timestamp: now, ReceivedAt: now, Body: []byte(body),
	})
	require.NoError(f.t, err)
	require.Equal(f.t, bridge.Stored, accepted)
}

func (f *fixture) awaitCursor(seq int64) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		c, err := f.journal.Cursor(f.t.Context(), "scripted")
		return err == nil && c == seq
	}, bound, time.Millisecond)
}

func count(n int) func([]bridge.Event) bool {
	return func(stored []bridge.Event) bool { return len(stored) >= n }
}

func TestEveryEventReachesTheSinkAndTheCursorFollows(t *testing.T) {
	f := start(t, deliverytest.NewScriptedSink(), nil)
	f.accept("k1", "a", "b")
	f.accept("k2", "a")
	f.acceptBody(`{"workflow_name":"w","invocation_id":"k3","fn_status":{}}`)
	f.acceptBody(`{"surprise":true}`)
	stored := f.sink.Await(t, count(4))
	require.Equal(t, []string{"k1/a", "k1/b", "k2/a", ""}, deliverytest.Subjects(stored))
	require.Equal(t, "tensorlake.unrecognized", stored[3].Type)
	f.awaitCursor(4)
}

func TestOnlyFailedEventsAreSentAgainAndTheirKeyWaits(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	tries := 0
	sink.Fail = func(e bridge.Event) error {
		if e.Subject == "k1/b" && tries < 3 {
			tries++
			return bridge.Retry(errors.New("not now"))
		}
		return nil
	}
	f := start(t, sink, nil)
	f.accept("k1", "a", "b", "c")
	f.accept("k2", "a")
	f.accept("k1", "d")
	stored := f.sink.Await(t, count(5))
	f.awaitCursor(3)
	f.stop()
	require.Len(t, stored, 5, "an acknowledged event is not sent again")
	var k1 []string
	for _, s := range deliverytest.Subjects(stored) {
		if strings.HasPrefix(s, "k1/") {
			k1 = append(k1, s)
		}
	}
	require.Equal(t, []string{"k1/a", "k1/b", "k1/c", "k1/d"}, k1)
}

func TestTheCursorStaysBehindWhatIsNotAcknowledged(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(e bridge.Event) error {
		if e.PartitionKey == "k2" {
			return bridge.Retry(errors.New("never"))
		}
		return nil
	}
	f := start(t, sink, nil)
	f.accept("k1", "a")
	f.accept("k2", "a")
	f.accept("k3", "a")
	f.sink.Await(t, count(2))
	f.awaitCursor(1)
	f.stop()
	c, err := f.journal.Cursor(t.Context(), "scripted")
	require.NoError(t, err)
	require.EqualValues(t, 1, c)

	// The next start sends the event that failed, and not the one that had passed it.
	f.sink.Set(func() { f.sink.Fail = nil })
	f.run(nil)
	f.awaitCursor(3)
	require.Equal(t, []string{"k1/a", "k3/a", "k2/a"}, deliverytest.Subjects(f.sink.Await(t, count(3))))
}

func TestARejectedEventBecomesADeadLetterAndTheRestGoesOn(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(e bridge.Event) error {
		if e.Subject == "k1/b" {
			return bridge.Reject(errors.New("too large for the broker"))
		}
		return nil
	}
	f := start(t, sink, nil)
	f.accept("k1", "a", "b", "c")
	require.Equal(t, []string{"k1/a", "k1/c"}, deliverytest.Subjects(f.sink.Await(t, count(2))))
	f.awaitCursor(1)
	letters, err := f.journal.DeadLetters(t.Context(), journal.DeadLetterFilter{Sink: "scripted"})
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, "k1/b", letters[0].Event.Subject)
	require.Equal(t, "too large for the broker", letters[0].Reason)
	require.Equal(t, 1, letters[0].Attempts)
	require.JSONEq(t, `{"workflow_name":"w","invocation_id":"k1","function":"b","status":"success","functions_total":3}`,
		string(letters[0].Event.Data))
}

func TestVeryManyRejectedEventsAreSaidInFewLines(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(bridge.Event) error { return bridge.Reject(errors.New("too large for the broker")) }
	f := start(t, sink, func(o *Options) { o.BatchEvents = 1 })
	f.accept("k1", "a", "b", "c", "d", "e", "f", "g", "h")
	f.awaitCursor(1)
	require.Equal(t, 1, f.log.Count("events rejected"))
	f.stop()
	require.Equal(t, 2, f.log.Count("rejected"), "the rest is said at the end")
	s, err := f.journal.Status(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 8, s.Sinks[0].DeadLetters)
}

// brokenLetters is a journal whose disk takes no dead letters for a while.
type brokenLetters struct {
	*journal.Journal
	mu   sync.Mutex
	fail int
}

func (b *brokenLetters) AddDeadLetters(ctx context.Context, letters []journal.DeadLetter) error {
	b.mu.Lock()
	b.fail--
	failing := b.fail >= 0
	b.mu.Unlock()
	if failing {
		return errors.New("disk full")
	}
	return b.Journal.AddDeadLetters(ctx, letters)
}

func TestTheCursorWaitsForTheDeadLetterToBeStored(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(bridge.Event) error { return bridge.Reject(errors.New("never")) }
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	broken := &brokenLetters{Journal: f.journal, fail: 3}
	f.run(func(o *Options) { o.Journal = broken })
	f.accept("k1", "a")
	f.awaitCursor(1)
	letters, err := f.journal.DeadLetters(t.Context(), journal.DeadLetterFilter{Sink: "scripted"})
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, 4, letters[0].Attempts)
	require.Equal(t, 1, f.log.Count("events rejected"))
}

// slowLetters is a journal that takes no dead letters until release.
type slowLetters struct {
	*journal.Journal
	asked, release chan struct{}
}

func (s *slowLetters) AddDeadLetters(ctx context.Context, letters []journal.DeadLetter) error {
	close(s.asked)
	select {
	case <-s.release:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Journal.AddDeadLetters(ctx, letters)
}

func TestADeadLetterHoldsUpNoOtherLaneOfItsCall(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions, sink.OneBroker = 2, true
	sink.Fail = func(e bridge.Event) error {
		if e.Subject == "k0/a" {
			return bridge.Reject(errors.New("never"))
		}
		return nil
	}
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	slow := &slowLetters{Journal: f.journal, asked: make(chan struct{}), release: make(chan struct{})}
	f.accept("k0", "a", "b")
	f.accept("k1", "a")
	f.run(func(o *Options) { o.Journal = slow })
	<-slow.asked
	f.sink.Set(func() { require.Equal(t, []int{3}, sink.Batches, "all in one call") })
	f.accept("k0", "c")
	f.accept("k1", "b")
	require.Equal(t, "k1/b", f.sink.Await(t, count(3))[2].Subject)
	close(slow.release)
	require.Equal(t, "k0/c", f.sink.Await(t, count(4))[3].Subject, "its own lane waits")
	f.awaitCursor(4)
	f.awaitDeadLetters(1)
}

// brokenReads is a journal that cannot be read for a while.
type brokenReads struct {
	*journal.Journal
	failing atomic.Bool
	tries   atomic.Int64
}

func (b *brokenReads) Waiting(
	ctx context.Context, sink string, after int64, maxCount int, maxBytes int64,
) ([]journal.Webhook, error) {
	if b.failing.Load() {
		b.tries.Add(1)
		return nil, errors.New("input/output error")
	}
	return b.Journal.Waiting(ctx, sink, after, maxCount, maxBytes)
}

func TestAJournalThatCannotBeReadIsTriedAgain(t *testing.T) {
	f := &fixture{
		t: t, journal: openJournal(t, t.TempDir()), sink: deliverytest.NewScriptedSink(), log: &deliverytest.Records{},
	}
	broken := &brokenReads{Journal: f.journal}
	broken.failing.Store(true)
	began := time.Now()
	f.run(func(o *Options) { o.Journal = broken })
	for i := range 50 {
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	require.Eventually(t, func() bool { return broken.tries.Load() > 1 }, bound, time.Millisecond)
	require.LessOrEqual(t, broken.tries.Load(), int64(time.Since(began)/insist.Pause)+1,
		"what is accepted meanwhile does not hurry it")
	broken.failing.Store(false)
	f.awaitCursor(50)
	require.Equal(t, 1, f.log.Count("cannot be read"))
	require.Equal(t, 1, f.log.Count("can be read again"))
}

// brokenFinished is a journal that cannot tell for a while what is finished beyond the cursor.
type brokenFinished struct {
	*journal.Journal
	failing atomic.Bool
}

func (b *brokenFinished) Finished(ctx context.Context, sink string) ([]byte, error) {
	if b.failing.Load() {
		return nil, errors.New("input/output error")
	}
	return b.Journal.Finished(ctx, sink)
}

func TestAStartWaitsUntilTheJournalTellsWhatIsFinished(t *testing.T) {
	f := &fixture{
		t: t, journal: openJournal(t, t.TempDir()), sink: deliverytest.NewScriptedSink(), log: &deliverytest.Records{},
	}
	broken := &brokenFinished{Journal: f.journal}
	broken.failing.Store(true)
	f.accept("k1", "a")
	unread := func(lines int) {
		f.run(func(o *Options) { o.Journal = broken })
		require.Eventually(t, func() bool { return f.log.Count("cannot be read") == lines }, bound, time.Millisecond)
	}
	unread(1)
	f.stop() // is no failure
	unread(2)
	broken.failing.Store(false)
	f.awaitCursor(1)
}

// brokenCursor is a journal whose disk takes no cursors.
type brokenCursor struct {
	*journal.Journal
	failing atomic.Bool
}

func (b *brokenCursor) Move(ctx context.Context, moves []journal.Move, state *journal.SinkState) error {
	if b.failing.Load() {
		return errors.New("disk full")
	}
	return b.Journal.Move(ctx, moves, state)
}

func (b *brokenCursor) MoveLazily(ctx context.Context, moves []journal.Move, hurry <-chan struct{}) error {
	if b.failing.Load() {
		return errors.New("disk full")
	}
	return b.Journal.MoveLazily(ctx, moves, hurry)
}

func TestDeliveryGoesOnWhileTheCursorCannotBeWritten(t *testing.T) {
	f := &fixture{
		t: t, journal: openJournal(t, t.TempDir()), sink: deliverytest.NewScriptedSink(), log: &deliverytest.Records{},
	}
	broken := &brokenCursor{Journal: f.journal}
	broken.failing.Store(true)
	f.run(func(o *Options) { o.Journal = broken })
	for i := range 50 {
		f.accept(fmt.Sprintf("k%d", i), "a")
		f.sink.Await(t, count(i+1))
	}
	require.Eventually(t, func() bool { return f.log.Count("the journal cannot be written") == 1 },
		bound, time.Millisecond)
	c, err := f.journal.Cursor(t.Context(), "scripted")
	require.NoError(t, err)
	require.Zero(t, c)
	broken.failing.Store(false)
	f.awaitCursor(50)
}

func TestADeadPartitionHoldsUpNoOther(t *testing.T) {
	for _, fault := range []string{"fails", "hangs"} {
		t.Run(fault, func(t *testing.T) {
			sink := deliverytest.NewScriptedSink()
			sink.Partitions = 4
			dead := func(e bridge.Event) bool { return sink.Partition(e) == 1 }
			if fault == "fails" {
				sink.Fail = func(e bridge.Event) error {
					if dead(e) {
						return bridge.Retry(errors.New("no leader"))
					}
					return nil
				}
			} else {
				sink.Hang = dead
			}
			f := start(t, sink, nil)
			for i := range 200 {
				f.accept(fmt.Sprintf("k%d", i), "a", "b")
			}
			stored := f.sink.Await(t, count(300))
			require.False(t, slices.ContainsFunc(stored, dead))

			f.sink.Set(func() {
				sink.Fail, sink.Hang = nil, nil
				close(sink.Release)
			})
			f.awaitCursor(200)
			seen := map[string]string{}
			for _, e := range f.sink.Await(t, count(400)) {
				if e.Function == "b" {
					require.Equal(t, "a", seen[e.PartitionKey], "the functions of %s are out of order", e.PartitionKey)
				}
				seen[e.PartitionKey] = e.Function
			}
			require.Len(t, seen, 200)
		})
	}
}

func TestAPayloadLargerThanTheWindowPassesThroughIt(t *testing.T) {
	f := start(t, deliverytest.NewScriptedSink(), func(o *Options) { o.WindowEvents = 10; o.BatchEvents = 4 })
	functions := make([]string, 1000)
	for i := range functions {
		functions[i] = fmt.Sprintf("f%04d", i)
	}
	f.accept("k1", functions...)
	stored := f.sink.Await(t, count(1000))
	require.True(t, slices.IsSortedFunc(stored,
		func(a, b bridge.Event) int { return strings.Compare(a.Function, b.Function) }))
	f.awaitCursor(1)
	f.sink.Set(func() {
		require.LessOrEqual(t, slices.Max(f.sink.Batches), 4)
	})
}

func TestADownSinkIsSaidOnceAndAskedWithSmallBatches(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	down := errors.New("connection refused")
	sink.Fail = func(bridge.Event) error { return bridge.Retry(down) }
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	for i := range 100 {
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	f.run(func(o *Options) { o.ProbeEvents = 3 })
	require.Eventually(t, func() (ok bool) {
		f.sink.Set(func() { ok = len(f.sink.Batches) > 10 })
		return ok
	}, bound, time.Millisecond)
	require.Equal(t, 1, f.log.Count("sink is down"))
	require.Zero(t, f.log.Count("sink is back"))
	require.InDelta(t, 0, value(t, f.metrics, "fnbridge_sink_up"), 0)
	require.InDelta(t, 100, value(t, f.metrics, "fnbridge_sink_backlog_webhooks"), 0)
	require.Positive(t, value(t, f.metrics, "fnbridge_sink_oldest_webhook_age_seconds"))
	f.sink.Set(func() { sink.Fail = nil })
	f.sink.Await(t, count(100))
	f.awaitCursor(100)
	require.Eventually(t, func() bool { return f.log.Count("sink is back") == 1 }, bound, time.Millisecond)
	f.stop()
	require.Equal(t, 1, f.log.Count("sink is down"))
	require.Equal(t, 1, f.log.Count("sink is back"))
	require.Equal(t, 1, f.log.Count("waited_webhooks=100"), "the line says what waited")
	require.InDelta(t, 1, value(t, f.metrics, "fnbridge_sink_up"), 0)
	require.InDelta(t, 0, value(t, f.metrics, "fnbridge_sink_backlog_webhooks"), 0)
	require.InDelta(t, 0, value(t, f.metrics, "fnbridge_sink_oldest_webhook_age_seconds"), 0)
	for _, n := range f.sink.Batches[1:10] {
		require.LessOrEqual(t, n, 3)
	}
}

func TestABlockedSinkIsSaidLoudlyOnceAndRecovers(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(bridge.Event) error { return bridge.Blocked(errors.New("no permission to publish")) }
	f := start(t, sink, nil)
	f.accept("k1", "a")
	require.Eventually(t, func() (ok bool) {
		f.sink.Set(func() { ok = len(f.sink.Batches) > 5 })
		return ok
	}, bound, time.Millisecond)
	require.Equal(t, 1, f.log.Count("sink is blocked"))
	require.Eventually(t, func() bool {
		s, err := f.journal.Status(t.Context())
		return err == nil && len(s.Sinks) == 1 && s.Sinks[0].State.State == "blocked" &&
			s.Sinks[0].State.LastError == "no permission to publish"
	}, bound, time.Millisecond)
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(1)
}

func TestAnIdleSinkIsCheckedAndItsTroubleShown(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Unwell = errors.New("connection refused")
	f := start(t, sink, func(o *Options) { o.CheckInterval = time.Millisecond })
	require.Eventually(t, func() bool { return f.log.Count("sink is down") == 1 }, bound, time.Millisecond)
	f.sink.Set(func() { sink.Unwell = nil })
	require.Eventually(t, func() bool { return f.log.Count("sink is back") == 1 }, bound, time.Millisecond)
}

func TestAStopWaitsForTheBatchUnderWay(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Hang = func(bridge.Event) bool { return true }
	f := start(t, sink, nil)
	f.accept("k1", "a")
	require.Eventually(t, func() (ok bool) {
		f.sink.Set(func() { ok = len(f.sink.Batches) == 1 })
		return ok
	}, bound, time.Millisecond)
	stopped := make(chan struct{})
	go func() { f.stop(); close(stopped) }()
	close(sink.Release)
	<-stopped
	c, err := f.journal.Cursor(t.Context(), "scripted")
	require.NoError(t, err)
	require.EqualValues(t, 1, c, "the acknowledgement of the last batch counts")
}

func TestAStopInterruptsTheWaitBetweenTries(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("down")) }
	f := start(t, sink, func(o *Options) { o.MinBackoff, o.MaxBackoff = time.Hour, time.Hour })
	f.accept("k1", "a")
	require.Eventually(t, func() (ok bool) {
		f.sink.Set(func() { ok = len(f.sink.Batches) == 1 })
		return ok
	}, bound, time.Millisecond)
	f.stop()
}

func TestASinkThatAnswersTooFewResultsLosesNothing(t *testing.T) {
	sink := &shortSink{ScriptedSink: deliverytest.NewScriptedSink(), short: 3}
	j := openJournal(t, t.TempDir())
	f := &fixture{t: t, journal: j, sink: sink.ScriptedSink, log: &deliverytest.Records{}}
	f.run(func(o *Options) { o.Sink = sink })
	f.accept("k1", "a", "b")
	f.awaitCursor(1)
	require.Equal(t, []string{"k1/a", "k1/b"}, deliverytest.Subjects(f.sink.Await(t, count(2))))
}

// shortSink forgets results a few times.
type shortSink struct {
	*deliverytest.ScriptedSink
	short int
}

func (s *shortSink) Publish(ctx context.Context, events []bridge.Event) []error {
	if s.short--; s.short >= 0 {
		return nil
	}
	return s.ScriptedSink.Publish(ctx, events)
}

func value(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	require.FailNow(t, "no such metric", name)
	return 0
}
