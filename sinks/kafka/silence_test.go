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

// suspicious are times after which a sink that is silent long enough for that is asked, in a test.
func suspicious(o *Options) {
	o.timing = timing{doubt: 300 * time.Millisecond, question: time.Second}
}

func TestABatchWhoseBrokerIsGoneIsGivenUpBeforeItsTime(t *testing.T) {
	f := &faulty{t: t, dir: t.TempDir(), proxies: make(map[int]*faultproxy.Proxy)}
	f.start(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic))
	t.Cleanup(f.cluster.Close)
	s := open(t, f.cluster.ListenAddrs(), suspicious)
	requireStored(t, publish(t, s, events(1, 1)))

	f.each((*faultproxy.Proxy).Sever)
	began := time.Now()
	results := publish(t, s, events(1, 1))
	requireKind(t, bridge.FailureRetry, results)
	require.ErrorContains(t, results[0], "does not on a new connection either")
	require.Less(t, time.Since(began), 4*time.Second, "the limit of a request is 10 s")

	// Both hang while the cable is mended.
	again, check := make(chan []error, 1), make(chan error, 1)
	go func() { again <- s.Publish(context.Background(), events(1, 1)) }()
	go func() { check <- s.Check(context.Background()) }()
	require.Eventually(t, func() bool { return connections(s) >= 4 }, within, 5*time.Millisecond, "nothing is tried")
	f.each((*faultproxy.Proxy).Resume)
	mended := time.Now()
	require.NoError(t, <-check)
	requireStored(t, <-again)
	require.Less(t, time.Since(mended), 5*time.Second)
}

// connections counts those that are open or being made.
func connections(s *Sink) int {
	s.connector.mu.Lock()
	defer s.connector.mu.Unlock()
	return len(s.connector.conns)
}

// With acks=all a broker may be waiting for others.
func TestABatchWhoseBrokerIsThereIsWaitedFor(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs(), suspicious, func(o *Options) { o.timing.attempt = 3 * time.Second })
	requireStored(t, publish(t, s, events(1, 1)))
	stop := silence(c, 0, 1)
	defer stop()
	began := time.Now()
	results := publish(t, s, events(1, 1))
	requireKind(t, bridge.FailureRetry, results)
	require.NotContains(t, results[0].Error(), "new connection")
	require.GreaterOrEqual(t, time.Since(began), 3*time.Second)
}

// A broker that takes connections and says nothing holds up nobody who can reach another.
func TestABrokerThatHangsHoldsUpNoOther(t *testing.T) {
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hangs.Close() })
	c := seeded(t, 1)
	for range 4 { // the order is by chance
		began := time.Now()
		s := open(t, []string{hangs.Addr().String(), c.ListenAddrs()[0]}, func(o *Options) { o.timing = timing{} })
		publishUntilStored(t, s, events(1, 1))
		require.Less(t, time.Since(began), s.timing.connect)
	}
}
