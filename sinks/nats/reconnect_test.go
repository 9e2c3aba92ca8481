package nats_test

import (
	"bufio"
	"io"
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
	}, bound, 20*time.Millisecond, "the sink does not notice")
	proxy.Resume()
	requirePublishes(t, sink, "after")
}

// A server that takes connections and says nothing holds up nobody who can reach another.
func TestAServerThatHangsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	hangs := faultproxy.New(t, srv.Addr())
	hangs.Stall()
	for range 4 { // the order is by chance
		sink := open(t, options(t, "nats://"+hangs.Addr()+",nats://"+srv.Addr()))
		requirePublishes(t, sink, "one")
	}
	open(t, options(t, "nats://"+hangs.Addr()))
	require.Eventually(t, func() bool { return hangs.Open() > 2 }, bound, time.Millisecond,
		"it begins no try beside one that hangs")
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

// A server that is back after a while is connected to at once, however long it was away: the pauses between tries do
// not grow without end.
func TestAServerThatIsBackIsConnectedTo(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	sink := open(t, options(t, "nats://"+proxy.Addr()))
	requirePublishes(t, sink, "before")
	srv.Stop(t)
	before := proxy.Accepted()
	require.Eventually(t, func() bool { return proxy.Accepted() > before+60 }, bound, 20*time.Millisecond)
	srv.Start(t)
	requirePublishes(t, sink, "after")
}

// What passes by itself at first is for somebody to mend when it lasts. Being well begins anew, also while nothing is
// published.
func TestAStreamThatWasWellMeanwhileHasACleanSlate(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	o.AckTimeout = 2 * time.Second
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

// Brokers log each login that they refuse, and lock out who tries too often. The gaps are wider than a second, which
// they were once, on a machine of any speed.
func TestWhatSomebodyHasToMendIsTriedSeldom(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	tries := make(chan time.Time, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tries <- time.Now()
			_, _ = io.WriteString(conn, `INFO {"server_id":"x","version":"2.11.0","headers":true,"auth_required":true}`+"\r\n")
			_, _ = bufio.NewReader(conn).ReadString('\n') // CONNECT
			_, _ = io.WriteString(conn, "-ERR 'Authorization Violation'\r\n")
			_ = conn.Close()
		}
	}()
	o := options(t, "nats://"+listener.Addr().String())
	m := mount(t, &o, map[string]string{"TOKEN": "one"})
	sink := open(t, o)
	requireBlockedWith(t, sink, "refuses the credentials")
	first := <-tries
	require.Greater(t, (<-tries).Sub(first), 3*time.Second)

	began := time.Now()
	m.write(t, "TOKEN", "two")
	m.files.Refresh()
	<-tries // at once, though another is due only in a while
	t.Logf("new credentials were tried after %s", time.Since(began))
}
