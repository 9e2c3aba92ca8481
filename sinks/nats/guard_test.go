package nats_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

const (
	info     = `INFO {"server_id":"x","version":"2.15.2","headers":true,"max_payload":1048576}` + "\r\n"
	loggedIn = info + "PONG\r\n"
)

// liar is a server that says this to whoever connects. It goes on with more, if that is not empty, for as long as
// somebody listens.
func liar(t *testing.T, says, more string) string {
	t.Helper()
	return serveAll(t, func(conn net.Conn) { serveLies(conn, says, more) })
}

// serveAll has serve end each connection before it takes the next, and returns where.
func serveAll(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		<-done
	})
	return listener.Addr().String()
}

// serveLies ends when the client does.
func serveLies(conn net.Conn, says, more string) {
	defer conn.Close()
	if _, err := io.WriteString(conn, says); err != nil {
		return
	}
	for more != "" {
		if _, err := io.WriteString(conn, more); err != nil {
			return
		}
	}
	_, _ = io.Copy(io.Discard, conn)
}

func TestWhatIsNotNATSEndsTheConnection(t *testing.T) {
	block := strings.Repeat("x", 64<<10)
	tests := map[string]struct {
		says, more string
		kind       bridge.FailureKind
		want       string
	}{
		"INFO without an end": {
			`INFO {"server_id":"`, block, bridge.FailureBlocked, "does not end within 1048576 bytes",
		},
		"an error without an end": {loggedIn + "-ERR '", block, bridge.FailureRetry, "does not end within 1048576 bytes"},
		"a message of 10^11 bytes": {
			loggedIn + "MSG a 1 100000000000\r\n", block, bridge.FailureRetry, `a message has "100000000000" bytes`,
		},
		"a message of 2^63-1 bytes": {
			loggedIn + "MSG a 1 9223372036854775807\r\nxx", "", bridge.FailureRetry, `a message has "9223372036854775807" bytes`,
		},
		"headers of 2^63-1 bytes": {
			loggedIn + "HMSG a 1 9223372036854775807 12\r\nxx", "", bridge.FailureRetry,
			`has "9223372036854775807" bytes of headers`,
		},
		"more headers than message": {
			loggedIn + "HMSG a 1 13 12\r\n", "", bridge.FailureRetry, `of 12 bytes has "13" bytes of headers`,
		},
		"a message that goes on": {loggedIn + "MSG a 1 2\r\nxxMSG", "", bridge.FailureRetry, "behind its end"},
		"a size in two lines":    {loggedIn + "MSG a 1 2\r9\n", "", bridge.FailureRetry, "which is not NATS"},
		"HTTP": {
			"HTTP/1.1 408 Request Timeout\r\n\r\n", "", bridge.FailureBlocked, "it answers HTTP, not NATS",
		},
		"another greeting": {
			"220 mail.example.com ESMTP\r\n", "", bridge.FailureBlocked,
			`it answers "220 mail.example.com ESMTP", which is not NATS`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			address := liar(t, tt.says, tt.more)
			requireDisbelieved(t, "nats://"+address, tt.kind, tt.want)
		})
		t.Run(name+" in a WebSocket", func(t *testing.T) {
			more := tt.more
			if more != "" {
				more = frame(more)
			}
			requireDisbelieved(t, webSocketLiar(t, frame(tt.says), more), tt.kind, tt.want)
		})
	}
}

// requireDisbelieved waits until Check says want of the server, which has cost no memory.
func requireDisbelieved(t *testing.T, url string, kind bridge.FailureKind, want string) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sink := open(t, options(t, url))
	var err error
	require.Eventually(t, func() bool {
		err = sink.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), want)
	}, bound, 5*time.Millisecond, "%v", &err)
	require.Equal(t, kind, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, url)
	runtime.ReadMemStats(&after)
	require.Less(t, after.Sys, before.Sys+64<<20, "it took what was claimed")
}

func TestAServerThatSaysNothingIsAskedWhatItSpeaks(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	https := httptest.NewTLSServer(http.NotFoundHandler())
	defer https.Close()
	for want, address := range map[string]string{
		"it answers HTTP, not NATS": plain.Listener.Addr().String(),
		"it speaks HTTPS, not NATS": https.Listener.Addr().String(),
	} {
		t.Run(want, func(t *testing.T) {
			sink := open(t, options(t, "nats://"+address))
			requireBlockedWith(t, sink, want)
		})
	}
}

// requireBlockedWith waits until Check says want, and that somebody has to mend it.
func requireBlockedWith(t *testing.T, sink *nats.Sink, want string) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		err = sink.Check(t.Context())
		return bridge.KindOf(err) == bridge.FailureBlocked
	}, bound, 20*time.Millisecond, "%v", &err)
	require.ErrorContains(t, err, want)
}

func TestAServerThatBeginsWithTLS(t *testing.T) {
	ca := testcert.New(t)
	first := natsserver.Single(t, func(o *server.Options) {
		o.TLSConfig, o.TLSTimeout, o.TLSHandshakeFirst = ca.ServerTLS(t, false), 1, true
	})
	for _, scheme := range []string{"nats://", "tls://"} {
		o := options(t, scheme+first.Addr())
		o.TLSCAFile = ca.CAFile
		requireBlocked(t, open(t, o), "set TLS_FIRST=true")
	}
	o := options(t, "nats://"+first.Addr())
	o.TLSCAFile, o.TLSFirst = ca.CAFile, true
	requirePublishes(t, open(t, o), "first")

	o.TLSCAFile = testcert.New(t).CAFile
	requireBlocked(t, open(t, o), "certificate")

	usual := natsserver.Single(t, func(o *server.Options) { o.TLSConfig = ca.ServerTLS(t, false) })
	o = options(t, "nats://"+usual.Addr())
	o.TLSCAFile, o.TLSFirst = ca.CAFile, true
	requireBlocked(t, open(t, o), "leave TLS_FIRST out")
}

func TestWebSocket(t *testing.T) {
	srv := natsserver.Single(t, func(o *server.Options) {
		o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoTLS: true}
	})
	requirePublishes(t, open(t, options(t, "ws://"+srv.Running().WebsocketURL()[len("ws://"):])), "websocket")
}

// FuzzServer has servers say anything. It breaks when the client library panics at it, behind the guard, or when
// what is said makes it ask for more memory than a message has.
func FuzzServer(f *testing.F) {
	for _, said := range []string{
		"PING\r\n", "+OK\r\n", "-ERR 'Unknown Protocol Operation'\r\n", info,
		"MSG _INBOX.a 1 2\r\nxx\r\n", "MSG _INBOX.a 1 reply 0\r\n\r\nPING\r\n",
		"HMSG _INBOX.a 1 12 14\r\nNATS/1.0\r\n\r\nxx\r\n", "HMSG _INBOX.a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
		"MSG a 1 9223372036854775807\r\nxx", "MSG a 1 100000000000\r\n", "HMSG a 1 99 12\r\n", "MSG a 1 2\r9\n",
		"INFO \nMSG a 1 6\r\n\nMSG a 1 9223372036854775807\r\n", "-ERR \r\nINFO {}\n", "HTTP/1.1 400 Bad Request\r\n",
	} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		client, srv := net.Pipe()
		subscribed, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			defer srv.Close()
			// What the client says is of no interest, but it must not wait to say it.
			go func() { _, _ = io.Copy(io.Discard, srv) }()
			_, _ = io.WriteString(srv, loggedIn)
			<-subscribed
			_, _ = srv.Write(said)
		}()
		closed := make(chan struct{})
		nc, err := natsgo.Connect("nats://fuzz:4222",
			natsgo.SetCustomDialer(dialFunc(func() net.Conn { return nats.Guard(client) })),
			natsgo.NoReconnect(), natsgo.SkipHostLookup(), natsgo.Timeout(bound),
			natsgo.ClosedHandler(func(*natsgo.Conn) { close(closed) }))
		require.NoError(t, err)
		sub, err := nc.SubscribeSync("_INBOX.>")
		require.NoError(t, err)
		close(subscribed)
		<-ended
		<-closed // the server has ended, and the client read all of it
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for err == nil {
			_, err = sub.NextMsgWithContext(ctx)
		}
	})
}

type dialFunc func() net.Conn

func (f dialFunc) Dial(_, _ string) (net.Conn, error) { return f(), nil }

// FuzzGuard splits what a server says, and what the client asks for, in any way: what is handed on is the beginning
// of it, and all of it when nothing is wrong.
func FuzzGuard(f *testing.F) {
	f.Add([]byte(info+"PING\r\nMSG a 1 2\r\nxx\r\nHMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n+OK\r\n"), uint8(3), uint8(2))
	f.Add([]byte(info+"-ERR 'x'\r\nMSG a 1 0\r\n\r\n"), uint8(64), uint8(1))
	f.Add([]byte("INFO x\r\nMSG a 1 9\r\nxx\r\n"), uint8(1), uint8(200))
	f.Fuzz(func(t *testing.T, said []byte, sent, asked uint8) {
		g := nats.Guard(&pieces{rest: said, size: int(sent) + 1})
		var got []byte
		buf := make([]byte, int(asked)+1)
		var err error
		for err == nil {
			var n int
			n, err = g.Read(buf)
			require.LessOrEqual(t, n, len(buf))
			got = append(got, buf[:n]...)
		}
		require.True(t, bytes.HasPrefix(said, got), "%q became %q", said, got)
		whole := nats.Guard(&pieces{rest: said, size: len(said) + 1})
		all, wholeErr := io.ReadAll(whole)
		require.Equal(t, string(all), string(got), "it depends on how it comes")
		if wholeErr != nil {
			require.Equal(t, wholeErr.Error(), err.Error())
		}
	})
}

// pieces is a connection whose server sends what it says in pieces of a size.
type pieces struct {
	net.Conn
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(len(p.rest), p.size)])
	p.rest = p.rest[n:]
	return n, nil
}
