package nats_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

func TestSlowServerBoundsACall(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	o := options(t, "nats://"+proxy.Addr())
	o.AckTimeout = 3 * time.Second
	sink := open(t, o)
	requirePublishes(t, sink, "warm")
	proxy.DelayAnswers(100 * time.Millisecond) // one acknowledgement a time, since there is one key
	events := sinktest.Events("slow", 1000, 1)
	began := time.Now()
	results := sink.Publish(t.Context(), events)
	require.Less(t, time.Since(began), bound, "it has sent all of them")
	require.NoError(t, results[0])
	last := results[len(results)-1]
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(last), "%v", last)
	require.ErrorContains(t, last, "has not taken all of 1000 events")
	failed := false
	for _, err := range results {
		require.False(t, failed && err == nil, "an event was acknowledged behind one that was not")
		failed = err != nil
	}
}

func TestSilentConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	o := options(t, "nats://"+proxy.Addr())
	o.AckTimeout = ackTimeout
	sink := open(t, o)
	requirePublishes(t, sink, "warm")
	before := connectionIDs(t, srv)
	proxy.StallAnswersAfter(0)
	err := sink.Publish(t.Context(), sinktest.Events("silent", 1, 1))[0]
	require.ErrorContains(t, err, "has not acknowledged")
	require.Eventually(t, func() bool {
		now := connectionIDs(t, srv)
		return len(now) > 0 && now[len(now)-1] > before[len(before)-1]
	}, bound, 20*time.Millisecond, "the sink keeps a connection that answers nothing")
}

func connectionIDs(t *testing.T, srv *natsserver.Server) []uint64 {
	t.Helper()
	connections, err := srv.Running().Connz(&server.ConnzOptions{Sort: server.ByCid})
	require.NoError(t, err)
	var ids []uint64
	for _, c := range connections.Conns {
		ids = append(ids, c.Cid)
	}
	return ids
}

// A connection whose buffers are full blocks whoever writes to it.
func TestConnectionThatTakesNothing(t *testing.T) {
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	sink := newSink(t, options(t, "nats://"+proxy.Addr()))
	requirePublishes(t, sink, "warm")
	large := bytes.Repeat([]byte("1"), 500_000)
	events := sinktest.Events("large", 60, 60)
	for i := range events {
		events[i].Data = large
	}
	proxy.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for _, err := range sink.Publish(ctx, events) {
		require.ErrorIs(t, err, context.DeadlineExceeded, "it waits for the connection")
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	}
	closing, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	require.NoError(t, sink.Close(closing))
}

// A server tells its limit when a client connects, and not when a reload changes it.
func TestALimitThatTheServerRaisedCounts(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	o.AckTimeout = 500 * time.Millisecond
	sink := open(t, o)
	requirePublishes(t, sink, "warm")
	large := sinktest.Events("large", 3, 1)
	large[1].Data = bytes.Repeat([]byte("1"), 2<<20)
	var results []error
	rejected := func() bool {
		results = sink.Publish(t.Context(), large)
		return bridge.KindOf(results[1]) == bridge.FailureReject
	}
	require.Eventually(t, func() bool { return rejected() && results[2] == nil }, bound, 100*time.Millisecond,
		"a reject holds back nothing")
	require.ErrorContains(t, results[1], "max_payload")

	srv.Reload(t, func(o *server.Options) { o.MaxPayload = 4 << 20 })
	require.Eventually(t, func() bool {
		results = sink.Publish(t.Context(), large)
		return results[1] == nil
	}, bound, 100*time.Millisecond, "the sink goes by the limit that the server had")

	large[1].Data = bytes.Repeat([]byte("1"), 5<<20)
	require.Eventually(t, rejected, bound, 100*time.Millisecond, "what is too large for the new limit is rejected as well")
	require.Eventually(t, func() bool {
		before := connectionIDs(t, srv)
		return rejected() && slices.Equal(before, connectionIDs(t, srv))
	}, bound, 100*time.Millisecond, "a fresh limit is asked for again")
}

func TestOtherServersOfTheClusterAreFound(t *testing.T) {
	cluster := natsserver.Cluster(t, 3)
	o := options(t, cluster[0].URL())
	o.Replicas = 3
	sink := open(t, o)
	requirePublishes(t, sink, "first")
	cluster[0].Stop(t)
	requirePublishes(t, sink, "second")
}

// Servers tell of one another by address, while their certificates hold a name.
func TestOtherServersOfTheClusterAreFoundWithTLS(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	certFile, keyFile := ca.Issue(t, "named", "localhost")
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	cluster := natsserver.Cluster(t, 3, func(o *server.Options) {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	})
	o := options(t, strings.Replace(cluster[0].URL(), "nats://127.0.0.1", "tls://localhost", 1))
	o.Replicas, o.TLSCAFile = 3, ca.CAFile
	sink := open(t, o)
	requirePublishes(t, sink, "first")
	cluster[0].Stop(t)
	requirePublishes(t, sink, "second")
}
