package sinktest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// slack is what a loaded machine may add to a bound.
	slack = 20 * time.Second
	// soon is how long a Publish or a Check may take after its context has ended, on a loaded machine.
	soon = 10 * time.Second
)

// Run tests a sink against a broker: a subtest for each thing that bridge.Sink promises. setup is called for each
// of them, and returns a place that holds nothing and a server without faults. What it starts it ends with t.Cleanup.
//
// Subtests run one after another, and other tests may run beside them. Each checks that the sink leaves no goroutine
// behind.
func Run(t *testing.T, setup func(t *testing.T) Broker) {
	t.Helper()
	type test struct {
		name string
		run  func(t *testing.T, b *Broker)
		// needs tells whether the broker can do what it takes.
		needs func(f Faults) bool
		fault string
		// letters says that the test is about dead letters.
		letters bool
	}
	always := func(Faults) bool { return true }
	tests := []test{
		{name: "acknowledged is stored", run: testAcknowledgedIsStored, needs: always},
		{name: "nothing to publish", run: testNothing, needs: always},
		{name: "large batch", run: testLargeBatch, needs: always},
		{name: "a reject is alone", run: testRejectIsAlone, needs: always},
		{name: "concurrent calls", run: testConcurrentCalls, needs: always},
		{name: "hostile names", run: testHostileNames, needs: always},
		{name: "close", run: testClose, needs: always},
		{name: "close under load", run: testCloseUnderLoad, needs: always},
		{name: "a context that has ended", run: testEndedContext, needs: always},
		{name: "check", run: testCheck, needs: always},
		{name: "dead letters", run: testDeadLetters, needs: always, letters: true},
		{name: "a dead letter that is too large", run: testDeadLetterTooLarge, needs: always, letters: true},
		{name: "dead letters when nobody waits for them", run: testDeadLettersCalls, needs: always, letters: true},
		{
			name: "dead letters without a server", run: testDeadLettersWithoutServer, fault: "stop and start", letters: true,
			needs: func(f Faults) bool { return f.Stop != nil && f.Start != nil },
		},
		{
			name: "unreachable at first", run: testUnreachableAtFirst, fault: "start after its clients",
			needs: func(f Faults) bool { return f.Unreachable && f.Stop != nil && f.Start != nil },
		},
		{
			name: "check without a server", run: testCheckWithoutServer, fault: "stop and start",
			needs: func(f Faults) bool { return f.Stop != nil && f.Start != nil },
		},
		{
			name: "server vanishes", run: testServerVanishes, fault: "stop and start",
			needs: func(f Faults) bool { return f.Stop != nil && f.Start != nil },
		},
		{
			name: "server falls silent", run: testServerFallsSilent, fault: "stall",
			needs: func(f Faults) bool { return f.Stall != nil && f.Resume != nil },
		},
		{
			name: "server falls silent within an answer", run: testServerFallsSilentWithinAnswer,
			fault: "stall within an answer",
			needs: func(f Faults) bool { return f.StallMidResponse != nil && f.Resume != nil },
		},
		{
			name: "context ends while the server is silent", run: testContextEnds, fault: "stall",
			needs: func(f Faults) bool { return f.Stall != nil && f.Resume != nil },
		},
		{
			name: "close while the server is silent", run: testCloseWhileSilent, fault: "stall",
			needs: func(f Faults) bool { return f.Stall != nil && f.Resume != nil },
		},
		{
			name: "connections drop", run: testConnectionsDrop, fault: "drop connections",
			needs: func(f Faults) bool { return f.DropConnections != nil },
		},
		{
			name: "connection is cut within an answer", run: testCutWithinAnswer, fault: "cut within an answer",
			needs: func(f Faults) bool { return f.CutMidResponse != nil },
		},
		{
			name: "leader changes", run: testLeaderChanges, fault: "change its leader",
			needs: func(f Faults) bool { return f.ChangeLeader != nil },
		},
		{
			name: "stored but answered too late", run: testAnsweredLate, fault: "answer late",
			needs: func(f Faults) bool { return f.AnswerLate != nil },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := setup(t)
			b.setDefaults()
			if !tt.needs(b.Faults) {
				t.Skipf("Not played: this broker cannot %s in tests.", tt.fault)
			}
			if tt.letters && b.DeadLetters == nil {
				t.Skip("Not played: this sink publishes no dead letters.")
			}
			tt.run(t, &b)
		})
	}
}

// open returns a sink that is closed, and then has left no goroutine behind, when the test ends.
func open(t *testing.T, b *Broker) bridge.Sink {
	t.Helper()
	w, _ := watch(t, b.NewSink)
	closeInTheEnd(t, w)
	return w
}

// openForLetters is open for a sink with a place for dead letters.
func openForLetters(t *testing.T, b *Broker) bridge.DeadLetterPublisher {
	t.Helper()
	w, letters := watch(t, b.DeadLetters.NewSink)
	closeInTheEnd(t, w)
	return watchedForLetters{w, letters}
}

func closeInTheEnd(t *testing.T, w watched) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			_ = closeSink(w)
			return
		}
		require.NoError(t, closeSink(w))
		w.requireNoGoroutines(t)
		if p, ok := w.Sink.(bridge.Positioned); ok {
			require.Empty(t, p.HighWater().Found(), "no fault of the suite has a broker lose what it acknowledged")
		}
	})
}

func closeSink(sink bridge.Sink) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return sink.Close(ctx)
}

// publishAll publishes until all is through, and returns what was rejected.
func publishAll(t *testing.T, b *Broker, sink bridge.Sink, events []bridge.Event) map[string]error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), b.RecoverBound)
	defer cancel()
	p := &publisher{sink: sink, batch: max(len(events), 1)}
	require.NoError(t, p.run(ctx, events))
	return p.rejected
}

func testAcknowledgedIsStored(t *testing.T, b *Broker) {
	sink := open(t, b)
	require.NotEmpty(t, sink.Name())
	events := Events("stored", 100, 10)
	require.Empty(t, publishAll(t, b, sink, events))
	requireExactlyOnce(t, events, b.Stored(t))
}

func testNothing(t *testing.T, b *Broker) {
	sink := open(t, b)
	require.Empty(t, sink.Publish(t.Context(), nil))
	require.Empty(t, sink.Publish(t.Context(), []bridge.Event{}))
	require.Empty(t, b.Stored(t))
}

func testLargeBatch(t *testing.T, b *Broker) {
	sink := open(t, b)
	events := Events("large", 2500, 700)
	for i := range 50 { // one key with more than its share
		events[i*50].PartitionKey = "large-common"
	}
	require.Empty(t, publishAll(t, b, sink, events))
	requireAtLeastOnce(t, events, b.Stored(t))
}

func testRejectIsAlone(t *testing.T, b *Broker) {
	sink := open(t, b)
	events := Events("reject", 30, 3)
	require.Empty(t, publishAll(t, b, sink, events[:3]), "the sink is warm")
	tooLarge := map[string]bool{}
	for _, i := range []int{10, 11, 29} {
		events[i].Data = jsonOfSize(b.TooLarge)
		tooLarge[events[i].ID] = true
	}
	rejected := publishAll(t, b, sink, events[3:])
	require.Len(t, rejected, len(tooLarge))
	for id, err := range rejected {
		require.True(t, tooLarge[id], "%s was rejected: %v", id, err)
		require.NotContains(t, err.Error(), "xxxxxxxx", "the error repeats the data")
	}
	var kept []bridge.Event
	for _, e := range events {
		if !tooLarge[e.ID] {
			kept = append(kept, e)
		}
	}
	requireAtLeastOnce(t, kept, b.Stored(t))

	require.Len(t, publishAll(t, b, sink, events[10:11]), 1, "by itself")
}

func jsonOfSize(size int) []byte {
	data := bytes.Repeat([]byte("x"), size)
	copy(data, `{"text":"`)
	copy(data[size-2:], `"}`)
	return data
}

func testConcurrentCalls(t *testing.T, b *Broker) {
	sink := open(t, b)
	const callers, calls = 8, 5
	var (
		all      []bridge.Event
		wg       sync.WaitGroup
		failures = make(chan error, callers)
	)
	ctx, cancel := context.WithTimeout(t.Context(), b.RecoverBound)
	defer cancel()
	for caller := range callers {
		events := Events(fmt.Sprintf("caller%d", caller), calls*20, 4)
		all = append(all, events...)
		wg.Go(func() {
			p := &publisher{sink: sink, batch: 20}
			if err := p.run(ctx, events); err != nil {
				failures <- err
			}
		})
	}
	wg.Wait()
	close(failures)
	require.NoError(t, <-failures)
	requireAtLeastOnce(t, all, b.Stored(t))
}

func testHostileNames(t *testing.T, b *Broker) {
	sink := open(t, b)
	events := HostileEvents()
	// Two of one key, so that order is looked at.
	events = append(events, Event("hostile-last", 0, "nul\x00nul"))
	require.Empty(t, publishAll(t, b, sink, events))
	requireAtLeastOnce(t, events, b.Stored(t))
}

func testClose(t *testing.T, b *Broker) {
	sink, _ := watch(t, b.NewSink)
	events := Events("close", 50, 5)
	require.Empty(t, publishAll(t, b, sink, events))
	require.NoError(t, closeSink(sink))
	sink.requireNoGoroutines(t)
	requireAtLeastOnce(t, events, b.Stored(t))

	began := time.Now()
	results := sink.Publish(t.Context(), events)
	require.Less(t, time.Since(began), soon, "Publish after Close waits")
	require.Len(t, results, len(events))
	for _, err := range results {
		require.Error(t, err, "Publish after Close")
		require.NotEqual(t, bridge.FailureReject, bridge.KindOf(err), "%v", err)
	}
	require.Error(t, sink.Check(t.Context()), "Check after Close")

	unused, _ := watch(t, b.NewSink)
	require.NoError(t, closeSink(unused), "a sink that was never used")
	unused.requireNoGoroutines(t)
}

func testCloseUnderLoad(t *testing.T, b *Broker) {
	sink, _ := watch(t, b.NewSink)
	p := &publisher{sink: sink, batch: 10, attempts: make(chan attempt, 10_000)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.run(ctx, Events("underload", 20_000, 7))
	}()
	for range 3 {
		select {
		case <-p.attempts:
		case <-time.After(b.RecoverBound):
			require.FailNow(t, "nothing was published")
		}
	}
	require.NoError(t, closeSink(sink))
	cancel()
	select {
	case <-done:
	case <-time.After(b.PublishBound + slack):
		require.FailNow(t, "Publish hangs after Close")
	}
	sink.requireNoGoroutines(t)
	// More may be stored than was acknowledged.
	stored := make(map[string]bool)
	for _, r := range b.Stored(t) {
		stored[r.Event.ID] = true
	}
	sent := p.sent()
	require.NotEmpty(t, sent)
	for _, e := range sent {
		require.True(t, stored[e.ID], "%s was acknowledged and is not stored", e.ID)
	}
}

func testEndedContext(t *testing.T, b *Broker) {
	sink := open(t, b)
	events := Events("ended", 20, 4)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	results := sink.Publish(ctx, events)
	require.Less(t, time.Since(began), soon)
	require.Len(t, results, len(events))
	for _, err := range results {
		if err != nil {
			require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
		}
	}
	require.Empty(t, publishAll(t, b, sink, events), "another call goes through")
	requireAtLeastOnce(t, events, b.Stored(t))
}

func testCheck(t *testing.T, b *Broker) {
	sink := open(t, b)
	requireCheck(t, b, sink)
	require.Empty(t, b.Stored(t), "Check publishes nothing")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	_ = sink.Check(ctx)
	require.Less(t, time.Since(began), soon)
}

// requireCheck waits until Check is satisfied.
func requireCheck(t *testing.T, b *Broker, sink bridge.Sink) {
	t.Helper()
	var last error
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), b.PublishBound)
		defer cancel()
		last = sink.Check(ctx)
		return last == nil
	}, b.RecoverBound, retryPause, "Check still fails")
	require.NoError(t, last)
}

// requireCheckFails returns what Check says once it has noticed.
func requireCheckFails(t *testing.T, b *Broker, sink bridge.Sink) error {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), b.PublishBound)
		defer cancel()
		err = sink.Check(ctx)
		return err != nil
	}, b.RecoverBound, retryPause, "Check finds nothing wrong")
	return err
}

func testCheckWithoutServer(t *testing.T, b *Broker) {
	sink := open(t, b)
	requireCheck(t, b, sink)
	b.Faults.Stop(t)
	err := requireCheckFails(t, b, sink)
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	b.Faults.Start(t)
	requireCheck(t, b, sink)
}

func testUnreachableAtFirst(t *testing.T, b *Broker) {
	b.Faults.Stop(t)
	sink := open(t, b)
	err := requireCheckFails(t, b, sink)
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	l := publishInBackground(t, b, sink, "first")
	err = l.untilFailure(t)
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	b.Faults.Start(t)
	l.finish(t)
}

func testServerVanishes(t *testing.T, b *Broker) {
	sink := open(t, b)
	l := publishInBackground(t, b, sink, "vanishes")
	for range 2 {
		l.untilAcknowledged(t)
		b.Faults.Stop(t)
		err := l.untilFailure(t)
		require.NotEqual(t, bridge.FailureReject, bridge.KindOf(err), "%v", err)
		b.Faults.Start(t)
	}
	l.finish(t)
}

func testServerFallsSilent(t *testing.T, b *Broker) {
	sink := open(t, b)
	l := publishInBackground(t, b, sink, "silent")
	l.untilAcknowledged(t)
	b.Faults.Stall(t)
	err := l.untilFailure(t)
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	b.Faults.Resume(t)
	l.finish(t)
}

func testServerFallsSilentWithinAnswer(t *testing.T, b *Broker) {
	sink := open(t, b)
	l := publishInBackground(t, b, sink, "withinanswer")
	l.untilAcknowledged(t)
	b.Faults.StallMidResponse(t)
	err := l.untilFailure(t)
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	b.Faults.Resume(t)
	l.finish(t)
}

func testContextEnds(t *testing.T, b *Broker) {
	sink := open(t, b)
	events := Events("contextends", 60, 6)
	require.Empty(t, publishAll(t, b, sink, events[:20]))
	b.Faults.Stall(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	results := sink.Publish(ctx, events[20:])
	require.Less(t, time.Since(began), 100*time.Millisecond+soon)
	require.Len(t, results, 40)
	for _, err := range results {
		require.Error(t, err)
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	}
	began = time.Now()
	require.Error(t, sink.Check(ctx))
	require.Less(t, time.Since(began), soon)
	b.Faults.Resume(t)
	require.Empty(t, publishAll(t, b, sink, events[20:]))
	requireAtLeastOnce(t, events, b.Stored(t))
}

func testCloseWhileSilent(t *testing.T, b *Broker) {
	sink, _ := watch(t, b.NewSink)
	events := Events("closesilent", 60, 6)
	require.Empty(t, publishAll(t, b, sink, events[:20]))
	b.Faults.Stall(t)
	done := make(chan []error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		done <- sink.Publish(context.Background(), events[20:])
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_ = sink.Close(ctx) // its error is free to say that what was under way is unknown
	require.Less(t, time.Since(began), time.Second+soon, "Close does not keep to its context")
	select {
	case results := <-done:
		require.Len(t, results, 40)
	case <-time.After(b.PublishBound + slack):
		require.FailNow(t, "Publish hangs after Close")
	}
	b.Faults.Resume(t)
	sink.requireNoGoroutines(t)
}

func testConnectionsDrop(t *testing.T, b *Broker) {
	sink := open(t, b)
	l := publishInBackground(t, b, sink, "drop")
	for range 5 {
		l.untilAcknowledged(t)
		b.Faults.DropConnections(t)
		l.forget(t)
	}
	l.finish(t)
}

func testCutWithinAnswer(t *testing.T, b *Broker) {
	sink := open(t, b)
	l := publishInBackground(t, b, sink, "cut")
	for range 3 {
		l.untilAcknowledged(t)
		b.Faults.CutMidResponse(t)
		l.forget(t)
	}
	l.finish(t)
}

func testLeaderChanges(t *testing.T, b *Broker) {
	sink := open(t, b)
	l := publishInBackground(t, b, sink, "leader")
	for range 2 {
		l.untilAcknowledged(t)
		b.Faults.ChangeLeader(t)
		l.forget(t)
	}
	l.finish(t)
}

func testAnsweredLate(t *testing.T, b *Broker) {
	sink := open(t, b)
	l := publishInBackground(t, b, sink, "late")
	l.untilAcknowledged(t)
	b.Faults.AnswerLate(t)
	err := l.untilFailure(t)
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	if b.Faults.AnswerInTime != nil {
		b.Faults.AnswerInTime(t)
	}
	l.finish(t)
}
