package kafka

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

// suspicious has a broker asked whether it is there long before anything else ends a batch.
func suspicious(o *Options) {
	o.timing.doubt, o.timing.question = 300*time.Millisecond, 3*time.Second
	o.timing.attempt, o.timing.publish, o.timing.silence = time.Hour, time.Hour, time.Hour
	o.timing.dial, o.timing.connect = time.Hour, time.Hour
}

func TestABatchWhoseBrokerIsGoneIsGivenUpBeforeItsTime(t *testing.T) {
	t.Parallel()
	f := &faulty{t: t, dir: t.TempDir(), proxies: make(map[int]*faultproxy.Proxy)}
	f.start(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic))
	t.Cleanup(f.cluster.Close)
	s := open(t, f.cluster.ListenAddrs(), suspicious)
	requireStored(t, publish(t, s, events(1, 1)))

	f.each((*faultproxy.Proxy).Sever)
	results := publish(t, s, events(1, 1))
	requireKind(t, bridge.FailureRetry, results)
	require.ErrorContains(t, results[0], "does not on a new connection either")

	// Both hang while the cable is mended.
	again, check := make(chan []error, 1), make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	go func() { again <- s.Publish(ctx, events(1, 1)) }()
	go func() { check <- s.Check(ctx) }()
	require.Eventually(t, func() bool { return connections(s) >= 4 }, within, 5*time.Millisecond, "nothing is tried")
	f.each((*faultproxy.Proxy).Resume)
	require.NoError(t, <-check)
	requireStored(t, <-again)
}

// connections counts those that are open or being made.
func connections(s *Sink) int {
	s.connector.mu.Lock()
	defer s.connector.mu.Unlock()
	return len(s.connector.conns)
}

// With acks=all a broker may be waiting for others.
func TestABatchWhoseBrokerIsThereIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs(), suspicious, func(o *Options) { o.timing.attempt = 5 * time.Second })
	requireStored(t, publish(t, s, events(1, 1)))
	stop := silence(c, 0, 1)
	defer stop()
	began := time.Now()
	results := publish(t, s, events(1, 1))
	requireKind(t, bridge.FailureRetry, results)
	require.NotContains(t, results[0].Error(), "new connection")
	require.GreaterOrEqual(t, time.Since(began), s.timing.attempt)
}

// A broker that takes connections and says nothing holds up nobody who can reach another.
func TestABrokerThatHangsHoldsUpNoOther(t *testing.T) {
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hangs.Close() })
	c := seeded(t, 1)
	for range 4 { // the order is by chance
		s := open(t, []string{hangs.Addr().String(), c.ListenAddrs()[0]}, func(o *Options) {
			o.timing.connect, o.timing.dial, o.timing.silence = time.Hour, time.Hour, time.Hour
		})
		publishUntilStored(t, s, events(1, 1))
	}
}
