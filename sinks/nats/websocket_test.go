package nats_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// Accounts of one operator are reached through a WebSocket as through any other connection, each with a stream of its
// own that may have the same name, also after the server was away.
func TestAccountsBehindAWebSocket(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	for scheme, websocket := range map[string]server.WebsocketOpts{
		"ws":  {NoTLS: true},
		"wss": {TLSConfig: ca.ServerTLS(t, false)},
	} {
		t.Run(scheme, func(t *testing.T) {
			tls := "not used"
			if scheme == "wss" {
				tls = "certificate until "
			}
			operator := natsserver.NewOperator(t)
			srv := natsserver.Single(t, operator.Configure, func(o *server.Options) {
				o.Websocket = websocket
				o.Websocket.Host, o.Websocket.Port, o.Websocket.HandshakeTimeout = "127.0.0.1", natsserver.Port(t), bound
			})

			type account struct {
				name    string
				options nats.Options
				sink    *nats.Sink
			}
			accounts := []*account{{name: "orders"}, {name: "billing"}}
			for _, a := range accounts {
				a.options = options(t, srv.Running().WebsocketURL())
				a.options.CredsFile = operator.Account(t).Creds(t, time.Hour)
				if scheme == "wss" {
					a.options.TLSCAFile = ca.CAFile
				}
				a.sink = open(t, a.options)
				requirePublishes(t, a.sink, a.name)
				for _, step := range a.sink.Examine(t.Context(), bridge.Largest{Bytes: 1 << 20}) {
					require.NoError(t, step.Err, step.Name)
					if step.Name == "TLS" {
						require.Contains(t, step.Detail, tls, "what check says of it")
					}
				}
			}
			stranger := accounts[0].options
			stranger.CredsFile = natsserver.NewOperator(t).Account(t).Creds(t, time.Hour)
			requireBlocked(t, open(t, stranger), "refuses the credentials")

			srv.Stop(t)
			for _, a := range accounts {
				failure := a.sink.Publish(t.Context(), sinktest.Events(a.name+"-away", 1, 1))[0]
				require.Equal(t, bridge.FailureRetry, bridge.KindOf(failure), "%v", failure)
			}
			srv.Start(t)
			for _, a := range accounts {
				requirePublishes(t, a.sink, a.name+"-again")
				tail := startTail(t, a.options, bridge.TailStart{All: true})
				require.Equal(t, a.name+"-0", tail.next(t).Event.ID)
				require.Equal(t, a.name+"-again-0", tail.next(t).Event.ID)
				require.Len(t, natsserver.Records(t, srv.URL(), "TENSORLAKE", natsgo.UserCredentials(a.options.CredsFile)), 2)
			}
		})
	}
}

func TestAWebSocketURLThatLeadsToNATS(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	for scheme, plain := range map[string]string{"ws": "nats", "wss": "tls"} {
		sink := open(t, options(t, scheme+"://"+srv.Addr()))
		requireBlockedWith(t, sink, "it speaks NATS, not WebSocket: write "+plain+":// in URL, or give the WebSocket port")
		require.NotContains(t, sink.Check(t.Context()).Error(), "server_id")
	}
}

// frame is all of a binary message of a WebSocket.
func frame(content string) string { return frameOf(0x82, content) }

func frameOf(first byte, content string) string {
	header := binary.BigEndian.AppendUint64([]byte{first, 127}, uint64(len(content)))
	switch {
	case len(content) < 126:
		header = []byte{first, byte(len(content))}
	case len(content) < 1<<16:
		header = binary.BigEndian.AppendUint16([]byte{first, 126}, uint16(len(content)))
	}
	return string(header) + content
}

// takeWebSocket answers the handshake of a client.
func takeWebSocket(conn net.Conn) (*bufio.Reader, error) {
	in := bufio.NewReader(conn)
	request, err := http.ReadRequest(in)
	if err != nil {
		return nil, err
	}
	accept := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(accept[:])+"\r\n\r\n")
	return in, err
}

// webSocketLiar is a liar that takes a WebSocket, and says this behind the handshake.
func webSocketLiar(t *testing.T, says, more string) string {
	t.Helper()
	return "ws://" + serveAll(t, func(conn net.Conn) {
		if _, err := takeWebSocket(conn); err != nil {
			_ = conn.Close()
			return
		}
		serveLies(conn, says, more)
	})
}

func TestWhatIsNoWebSocketEndsTheConnection(t *testing.T) {
	block := strings.Repeat("x", 64<<10)
	for name, tt := range map[string]struct {
		says, more string
		kind       bridge.FailureKind
		want       string
	}{
		"headers without an end": {
			"HTTP/1.1 101 Switching Protocols\r\n", "X-A: " + block + "\r\n", bridge.FailureBlocked,
			"does not begin within 65536 bytes of headers",
		},
		"a header without an end": {
			"HTTP/1.1 200 OK\r\nX-A: ", block, bridge.FailureBlocked, "within 65536 bytes of headers",
		},
		"a body without an end": {"HTTP/1.1 200 OK\r\n\r\n", block, bridge.FailureRetry, "invalid websocket connection"},
		"another protocol":      {"SSH-2.0-x\r\n", "", bridge.FailureBlocked, "which is no WebSocket; check the address"},
	} {
		t.Run(name, func(t *testing.T) { requireDisbelieved(t, "ws://"+liar(t, tt.says, tt.more), tt.kind, tt.want) })
	}
	for name, begins := range map[string]string{
		"a mask":                  "\x82\x85",
		"compression":             "\xc2\x05",
		"a kind that is unknown":  "\x83\x05",
		"a part of a ping":        "\x09\x05",
		"a ping that is too long": "\x89\x7e",
	} {
		t.Run(name, func(t *testing.T) {
			requireDisbelieved(t, webSocketLiar(t, frame(loggedIn)+begins, block), bridge.FailureRetry,
				"a frame of its WebSocket begins with")
		})
	}
	t.Run("a frame of 2^64-1 bytes", func(t *testing.T) {
		claim := "\x82\x7f" + strings.Repeat("\xff", 8)
		requireDisbelieved(t, webSocketLiar(t, claim+loggedIn+"-ERR ", block), bridge.FailureRetry, "does not end within")
	})
}

// A server's ping is answered, and its end is heard, also in the middle of a line.
func TestFramesOfControlAreHandedOnAtOnce(t *testing.T) {
	answered := make(chan byte, 1)
	url := "ws://" + serveAll(t, func(conn net.Conn) {
		defer conn.Close()
		in, err := takeWebSocket(conn)
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, frame(loggedIn)+frameOf(0x02, "PI")+frameOf(0x89, "still there?"))
		for {
			header := make([]byte, 2)
			if _, err := io.ReadFull(in, header); err != nil {
				return
			}
			size := int64(header[1] & 0x7f)
			if size == 126 {
				long := make([]byte, 2)
				if _, err := io.ReadFull(in, long); err != nil {
					return
				}
				size = int64(binary.BigEndian.Uint16(long))
			}
			if _, err := io.CopyN(io.Discard, in, size+4); err != nil { // and its mask
				return
			}
			if header[0] == 0x8a {
				break
			}
		}
		answered <- 1
		_, _ = io.WriteString(conn, frameOf(0x80, "NG\r\n")+frameOf(0x88, "\x03\xe8"))
		_, _ = io.Copy(io.Discard, in)
	})
	nc, err := natsgo.Connect(url, natsgo.SetCustomDialer(dialFunc(func() net.Conn {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "ws://"))
		require.NoError(t, err)
		return nats.Guard(conn)
	})), natsgo.NoReconnect(), natsgo.Timeout(bound))
	require.NoError(t, err)
	defer nc.Close()
	select {
	case <-answered:
	case <-time.After(bound):
		require.Fail(t, "no pong")
	}
	require.Eventually(t, nc.IsClosed, bound, 5*time.Millisecond, "its end is not heard")
}

const accepted = "HTTP/1.1 101 Switching Protocols\r\n\r\n"

// FuzzWebSocketGuard has what a server says come in frames of any size, with others between: what is handed on is what
// is handed on without.
func FuzzWebSocketGuard(f *testing.F) {
	f.Add([]byte(info+"PING\r\nMSG a 1 2\r\nxx\r\nHMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n"), uint8(3), uint8(2), uint8(5))
	f.Add([]byte(info+"MSG a 1 9223372036854775807\r\nxx"), uint8(64), uint8(1), uint8(200))
	f.Add([]byte("INFO x\r\nMSG a 1 9\r\nxx\r\n"), uint8(1), uint8(200), uint8(1))
	f.Fuzz(func(t *testing.T, said []byte, sent, asked, size uint8) {
		var wire strings.Builder
		wire.WriteString(accepted)
		for part := range slices.Chunk(said, int(size)+1) {
			wire.WriteString(frameOf(0x00, string(part)) + frameOf(0x89, string(part[:min(len(part), 125)])) + frameOf(0x00, ""))
		}
		plain := nats.Guard(&pieces{rest: said, size: len(said) + 1})
		all, plainErr := io.ReadAll(plain)
		g := nats.WebSocketGuard(&pieces{rest: []byte(wire.String()), size: int(sent) + 1})
		got, err := readIn(g, int(asked)+1)
		require.Equal(t, string(all), unframed(t, got))
		if plainErr != nil {
			require.EqualError(t, err, plainErr.Error())
		}
	})
}

// readIn reads pieces of a size, at most, until an error.
func readIn(r io.Reader, size int) ([]byte, error) {
	var got []byte
	buf := make([]byte, size)
	for {
		n, err := r.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			return got, err
		}
	}
}

// unframed returns what is in the frames behind the handshake, all of which are whole.
func unframed(t *testing.T, got []byte) string {
	t.Helper()
	require.True(t, bytes.HasPrefix(got, []byte(accepted)), "%q", got)
	var content []byte
	for rest := got[len(accepted):]; len(rest) > 0; {
		require.GreaterOrEqual(t, len(rest), 2)
		first, size := rest[0], int(rest[1])
		rest = rest[2:]
		if size == 126 {
			require.GreaterOrEqual(t, len(rest), 2)
			size, rest = int(binary.BigEndian.Uint16(rest)), rest[2:]
		}
		require.GreaterOrEqual(t, len(rest), size)
		if first == 0x82 {
			content = append(content, rest[:size]...)
		}
		rest = rest[size:]
	}
	return string(content)
}

// FuzzWebSocketServer has servers say anything in place of frames. It breaks when the client library panics at it.
func FuzzWebSocketServer(f *testing.F) {
	for _, said := range []string{
		frame("PING\r\n"), frame("MSG a 1 9223372036854775807\r\nxx"), frame("MSG a 1 100000000000\r\n"),
		frameOf(0x02, "PI") + frameOf(0x89, "x") + frameOf(0x80, "NG\r\n"), frameOf(0x88, "\x03\xe8bye"),
		"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffMSG a 1 2\r\nxx\r\n", frameOf(0xc2, "\x00"), "\x82\x80",
	} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		client, srv := net.Pipe()
		subscribed, ended, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			defer srv.Close()
			in, err := takeWebSocket(srv)
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, in) }()
			_, _ = io.WriteString(srv, frame(loggedIn))
			<-subscribed
			_, _ = srv.Write(said)
		}()
		nc, err := natsgo.Connect("ws://fuzz:80",
			natsgo.SetCustomDialer(dialFunc(func() net.Conn { return nats.Guard(client) })),
			natsgo.NoReconnect(), natsgo.SkipHostLookup(), natsgo.Timeout(bound),
			natsgo.ClosedHandler(func(*natsgo.Conn) { close(closed) }))
		require.NoError(t, err)
		sub, err := nc.SubscribeSync("_INBOX.>")
		require.NoError(t, err)
		close(subscribed)
		<-ended
		<-closed
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for err == nil {
			_, err = sub.NextMsgWithContext(ctx)
		}
	})
}
