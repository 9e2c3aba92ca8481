package nats_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// disk is one that does what a test says.
type disk struct {
	failures atomic.Int64
	sync     func(ctx context.Context, failures int64) error
}

func (d *disk) SyncFailures() int64 { return d.failures.Load() }

func (d *disk) Sync(ctx context.Context, failures int64) error { return d.sync(ctx, failures) }

// What the server has acknowledged, and its disk does not have, counts for nothing.
func TestNothingCountsBeforeTheDiskHasIt(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	var fails atomic.Bool
	var syncs atomic.Int64
	began, goOn := make(chan struct{}), make(chan struct{})
	d := &disk{}
	d.sync = func(context.Context, int64) error {
		if syncs.Add(1) == 1 {
			close(began)
			<-goOn
			return nil
		}
		if fails.Load() {
			d.failures.Add(1)
			return errors.New("the disk is broken")
		}
		return nil
	}
	o.Sync = d
	sink := open(t, o)
	batch := []bridge.Event{sinktest.Event("a", 0, "a"), sinktest.Event("b", 0, "b"), sinktest.Event("c", 0, "c")}
	stored := func() uint64 { return storedIn(t, srv.URL(), o.Stream) }

	done := make(chan []error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- sink.Publish(ctx, batch) }()
	<-began
	require.EqualValues(t, 3, stored())
	require.Empty(t, sink.HighWater().Position())
	cancel() // a call that ends meanwhile knows of nothing
	for _, err := range <-done {
		require.ErrorContains(t, err, "not acknowledged yet")
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err))
	}
	close(goOn)

	fails.Store(true)
	for _, err := range sink.Publish(t.Context(), batch) {
		require.ErrorContains(t, err, "the disk is broken")
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err))
	}
	require.EqualValues(t, 3, stored(), "the server knew the events")

	fails.Store(false)
	before := syncs.Load()
	for _, err := range sink.Publish(t.Context(), batch) {
		require.NoError(t, err)
	}
	require.EqualValues(t, 6, stored(), "what a failed sync may have thrown away is written again")
	require.Equal(t, before+1, syncs.Load(), "one sync is for all")
	require.EqualValues(t, 6, sink.HighWater().Position()["stream TENSORLAKE"].Last)
}

// Each try of a disk that is slow is a repeat, and stores nothing again.
func TestASyncThatTakesTooLongStoresNothingAgain(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	o.DeadLetter = "letters"
	slow := true
	o.Sync = &disk{sync: func(context.Context, int64) error {
		if slow {
			return context.DeadlineExceeded
		}
		return nil
	}}
	sink := open(t, o)
	events := sinktest.Events("slow", 3, 3)
	for range 3 {
		for _, err := range sink.Publish(t.Context(), events) {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	}
	slow = false
	for _, err := range sink.Publish(t.Context(), events) {
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, storedIn(t, srv.URL(), o.Stream))
}

// What was sent before a sync failed is lost with it, whoever heard of the failure; dead letters too.
func TestACallIsToldOfEachFailureSinceItBegan(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	o.DeadLetter = "letters"
	another := false
	d := &disk{}
	d.sync = func(_ context.Context, failures int64) error {
		if another {
			d.failures.Add(1)
			another = false
		}
		if d.failures.Load() != failures {
			return errors.New("another sync failed")
		}
		return nil
	}
	o.Sync = d
	sink := open(t, o)
	events := sinktest.Events("events", 3, 3)
	letters := []bridge.DeadLetter{{Event: sinktest.Events("letter", 1, 1)[0], Reason: "a reason", Attempts: 1}}
	publish := func() []error {
		return append(sink.Publish(t.Context(), events), sink.PublishDeadLetters(t.Context(), letters)...)
	}
	d.failures.Add(1) // before anything was sent
	for _, err := range publish() {
		require.NoError(t, err)
	}
	require.EqualValues(t, 4, storedIn(t, srv.URL(), o.Stream))
	another = true
	for _, err := range sink.Publish(t.Context(), events) {
		require.ErrorContains(t, err, "another sync failed")
	}
	for _, err := range publish() {
		require.NoError(t, err)
	}
	require.EqualValues(t, 8, storedIn(t, srv.URL(), o.Stream), "all may have been thrown away")
}

func storedIn(t *testing.T, url, stream string) uint64 {
	t.Helper()
	s, err := natsserver.JetStream(t, natsserver.Connect(t, url)).Stream(t.Context(), stream)
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}
