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

// clock is the real time, and as far ahead of it as a test says.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// awaitTries waits for n more batches.
func (f *fixture) awaitTries(n int) {
	f.t.Helper()
	f.sink.Set(func() { n += len(f.sink.Batches) })
	f.awaitBatches(n)
}

// awaitBatches waits until there were n in all.
func (f *fixture) awaitBatches(n int) {
	f.t.Helper()
	require.Eventually(f.t, func() (ok bool) {
		f.sink.Set(func() { ok = len(f.sink.Batches) >= n })
		return ok
	}, bound, time.Millisecond)
}

func (f *fixture) state() journal.SinkState {
	f.t.Helper()
	s, err := f.journal.Status(f.t.Context())
	require.NoError(f.t, err)
	require.Len(f.t, s.Sinks, 1)
	return s.Sinks[0].State
}

func TestASinkWhosePartitionsAreAllDownIsSaidOnce(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 4
	sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	for i := range 4 {
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	f.run(nil)
	f.awaitTries(100)
	require.LessOrEqual(t, f.log.Count("sink takes only part"), 1)
	require.Equal(t, 1, f.log.Count("sink is down"))
	require.Zero(t, f.log.Count("sink is back"))
	require.Eventually(t, func() bool { return f.state().State == "down" }, bound, time.Millisecond)
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(4)
	require.Eventually(t, func() bool { return f.log.Count("sink is back") == 1 }, bound, time.Millisecond)
}

func TestADeadPartitionIsSaidOnceWhateverTheOthersDo(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 4
	sink.Fail = func(e bridge.Event) error {
		if sink.Partition(e) == 1 {
			return bridge.Retry(errors.New("no leader"))
		}
		return nil
	}
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	f.accept("k1", "a")
	f.run(nil)
	for i := range 40 {
		f.accept(fmt.Sprintf("k%d", 4*i), "a") // the others work and are idle in turn
		f.sink.Await(t, count(i+1))
		f.awaitTries(1)
	}
	require.LessOrEqual(t, f.log.Count("sink is down"), 1)
	require.Equal(t, 1, f.log.Count("sink takes only part"))
	require.Zero(t, f.log.Count("sink is back"))
	require.Eventually(t, func() bool { return f.state().State == "degraded" }, bound, time.Millisecond)
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(41)
	require.Eventually(t, func() bool { return f.log.Count("sink is back") == 1 }, bound, time.Millisecond)
}

func TestTheTimeOfTheLastErrorIsThatOfTheLastTry(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
	var c clock
	f := start(t, sink, func(o *Options) { o.Now = c.now })
	f.accept("k1", "a")
	require.Eventually(t, func() bool { return f.state().LastError == "connection refused" },
		bound, time.Millisecond)
	c.ahead.Store(int64(time.Hour))
	require.Eventually(t, func() bool { return time.Until(f.state().LastErrorAt) > 50*time.Minute },
		bound, time.Millisecond)
	require.Less(t, time.Until(f.state().Since), time.Minute, "the state is as old as it was")
}

func TestACheckThatAStopCutsShortSaysNothing(t *testing.T) {
	sink := &hangingCheck{ScriptedSink: deliverytest.NewScriptedSink(), began: make(chan struct{})}
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink.ScriptedSink, log: &deliverytest.Records{}}
	f.run(func(o *Options) { o.Sink, o.CheckInterval = sink, time.Millisecond })
	<-sink.began
	require.Equal(t, 1, f.log.Count("sink is down"))
	f.stop()
	require.Zero(t, f.log.Count("sink is back"))
	require.InDelta(t, 0, value(t, f.metrics, "fnbridge_sink_up"), 0)
}

// hangingCheck fails the first check, and has the second one wait until it is given up.
type hangingCheck struct {
	*deliverytest.ScriptedSink
	checks int
	began  chan struct{}
}

func (s *hangingCheck) Check(ctx context.Context) error {
	if s.checks++; s.checks == 1 {
		return errors.New("connection refused")
	}
	close(s.began)
	<-ctx.Done()
	return ctx.Err()
}

// What is held does not wait for its time when the sink is back. A backoff is for what a sink that is well refuses.
func TestTheReturnOfASinkIsWhatHeldEventsWaitFor(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	gone := bridge.Retry(errors.New("connection refused"))
	sink.Fail, sink.Unwell = func(bridge.Event) error { return gone }, gone
	f := start(t, sink, func(o *Options) {
		o.MinBackoff, o.MaxBackoff, o.CheckInterval, o.ReturnInterval = time.Hour, time.Hour, time.Hour, time.Millisecond
	})
	for i := range 100 {
		f.accept(fmt.Sprintf("k%d", i), "a")
	}
	f.awaitBatches(1)
	require.Eventually(t, func() bool { return f.state().State == "down" }, bound, time.Millisecond)
	f.sink.Set(func() { sink.Fail, sink.Unwell = nil, nil })
	f.awaitCursor(100)
	f.sink.Set(func() { require.LessOrEqual(t, f.sink.Batches[1], 16, "a small batch asks first") })
}
