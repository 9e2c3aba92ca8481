package nats_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestACableThatIsCutIsNoticedThoughNothingIsPublishedAndItsMendingToo(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	sink := open(t, options(t, "nats://"+proxy.Addr()))
	requirePublishes(t, sink, "before")
	proxy.Sever()
	require.Eventually(t, func() bool {
		err := sink.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), "was lost: nothing was heard for 5s")
	}, 8*time.Second, 20*time.Millisecond, "the sink does not notice")
	proxy.Resume()
	mended := time.Now()
	requirePublishes(t, sink, "after")
	require.Less(t, time.Since(mended), 5*time.Second)
}

// A server that takes connections and says nothing holds up nobody who can reach another.
func TestAServerThatHangsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hangs.Close() })
	srv := natsserver.Single(t)
	for range 4 { // the order is by chance
		began := time.Now()
		sink := open(t, options(t, "nats://"+hangs.Addr().String()+",nats://"+srv.Addr()))
		requirePublishes(t, sink, "one")
		require.Less(t, time.Since(began), 4*time.Second)
	}
}

// An address that is given twice fails twice.
func TestAnAddressThatIsGivenTwice(t *testing.T) {
	t.Parallel()
	sink := open(t, options(t, "nats://127.0.0.1:1,nats://127.0.0.1:1"))
	require.Eventually(t, func() bool {
		err := sink.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), "connection refused")
	}, bound, 20*time.Millisecond)
}

// A server that is back after a while is connected to at once, however long it was away.
func TestAServerThatIsBackIsConnectedTo(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "before")
	srv.Stop(t)
	away := time.NewTimer(6 * time.Second) // so that pauses that grow have grown
	<-away.C
	srv.Start(t)
	back := time.Now()
	requirePublishes(t, sink, "after")
	require.Less(t, time.Since(back), 4*time.Second)
}

// What passes by itself at first is for somebody to mend when it lasts. Being well begins anew, also while nothing is
// published.
func TestAStreamThatWasWellMeanwhileHasACleanSlate(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	o.AckTimeout = 300 * time.Millisecond
	sink := open(t, o)
	requirePublishes(t, sink, "before")
	config := *srv.Running().JetStreamConfig()
	config.StoreDir = strings.TrimSuffix(config.StoreDir, "/jetstream") // which the server adds
	var silentSince time.Time
	for range 2 {
		require.NoError(t, srv.Running().DisableJetStream())
		err := sink.Publish(t.Context(), sinktest.Events("silent", 1, 1))[0]
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
		if silentSince.IsZero() {
			silentSince = time.Now()
		}
		require.NoError(t, srv.Running().EnableJetStream(&config))
		require.Eventually(t, func() bool {
			return sink.Check(t.Context()) == nil && time.Since(silentSince) > 4*o.AckTimeout
		}, bound, 20*time.Millisecond)
	}
}
