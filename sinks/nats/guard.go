package nats

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/wire"
)

const (
	// maxLine is more than a line of the protocol has: subjects, an error, or what a server tells of a large cluster.
	maxLine = 1 << 20
	// maxClaim is more than a message has: nats-server takes no max_payload above its max_pending, by default 64 MiB. What
	// this server takes now is no bound: a stream may hold messages from before that was lowered.
	maxClaim = 64 << 20
)

// guard stands between a connection and the client library, which believes every length that it reads: it would keep a
// line without end, make room for whatever a message claims to have, and panic at 2^63-1 in a goroutine that nobody can
// save. The guard hands on what is NATS, a checked line at a time, and ends with an error at anything else, also within
// a WebSocket. It does not look into TLS, where the server has proven who it is.
//
// Read and Write may be called concurrently, each by one goroutine at a time.
type guard struct {
	net.Conn
	in    *bufio.Reader
	wrote atomic.Bool
	raw   atomic.Bool // what follows is TLS
	web   atomic.Bool // what follows is HTTP, and then NATS in the frames of a WebSocket
	heard atomic.Bool // the server has said something
	bare  atomic.Bool // and that was NATS, where a handshake was begun
	// refused is why nothing more is handed on; nil while all is well.
	refused atomic.Pointer[error]

	// Of Read: what is to be handed on before the next line. It has been checked but for the end of a message.
	line    []byte
	payload int
	ending  bool
	greeted bool   // INFO has come
	begun   []byte // a line that has not ended

	// Of Read, for a WebSocket.
	frames *frames // where in reads from; nil until the answer to the handshake has come
	framed []byte  // what is to be handed on before anything else
	buf    []byte  // where framed is
}

func newGuard(conn net.Conn) *guard {
	return &guard{Conn: conn, in: bufio.NewReaderSize(conn, 32<<10)}
}

// Write tells by the first bytes whether NATS follows, or the handshake of TLS or of a WebSocket.
func (g *guard) Write(p []byte) (int, error) {
	if g.wrote.CompareAndSwap(false, true) {
		g.web.Store(bytes.HasPrefix(p, []byte("GET ")))
		g.raw.Store(!g.web.Load() && !bytes.HasPrefix(p, []byte("CONNECT ")))
	}
	return g.Conn.Write(p)
}

// Read waits for a whole line, or for some of a message. Beside that it hands on what has come already.
func (g *guard) Read(p []byte) (int, error) {
	if g.web.Load() {
		return g.readWebSocket(p)
	}
	return g.read(p)
}

func (g *guard) read(p []byte) (int, error) {
	if refused := g.refused.Load(); refused != nil {
		return 0, *refused
	}
	n := 0
	for n < len(p) {
		switch {
		case len(g.line) > 0:
			m := copy(p[n:], g.line)
			n, g.line = n+m, g.line[m:]
			continue
		case n > 0 && !g.ready():
			return n, nil
		case g.raw.Load():
			if !g.heard.Load() {
				said, _ := g.in.Peek(len(greeting)) // Read has its error
				g.bare.Store(string(said) == greeting)
				g.heard.Store(len(said) > 0)
			}
			m, err := g.in.Read(p[n:])
			return n + m, err
		case g.payload > 0:
			m, err := g.in.Read(p[n:min(len(p), n+g.payload)])
			n, g.payload = n+m, g.payload-m
			if err != nil {
				return n, err
			}
			continue
		}
		next := g.next
		if g.ending {
			next = g.end
		}
		if err := next(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// ready tells whether more can be handed on without waiting for the server.
func (g *guard) ready() bool {
	come, _ := g.in.Peek(g.in.Buffered())
	switch {
	case g.raw.Load(), g.payload > 0:
		return len(come) > 0
	case g.ending:
		return len(come) >= len(lineEnd)
	default:
		return bytes.IndexByte(come, '\n') >= 0
	}
}

const (
	lineEnd  = "\r\n"
	greeting = "INFO " // begins what a NATS server says first, which it does unasked
)

// end reads the end of a message.
func (g *guard) end() error {
	end, err := g.in.Peek(len(lineEnd))
	if err != nil {
		return err
	}
	if string(end) != lineEnd {
		return g.refuse(fmt.Errorf("a message of it goes on with %s behind its end", quoted(end)))
	}
	g.line, g.ending = end, false // it stays where it is until the next is read
	_, err = g.in.Discard(len(end))
	return err
}

// next reads and checks a line. One that it could not read to its end goes on with the next call.
func (g *guard) next() error {
	line, err := g.in.ReadSlice('\n')
	if len(line) > 0 {
		g.heard.Store(true)
	}
	for errors.Is(err, bufio.ErrBufferFull) && len(g.begun)+len(line) <= maxLine {
		g.begun = append(g.begun, line...)
		line, err = g.in.ReadSlice('\n')
	}
	if err != nil || len(g.begun) > 0 {
		g.begun = append(g.begun, line...)
		line = g.begun
	}
	if len(line) > maxLine {
		return g.refuse(fmt.Errorf("a line of it does not end within %d bytes; it begins with %s", maxLine, quoted(line)))
	}
	if err != nil {
		return err
	}
	g.begun = nil
	size, err := g.check(line)
	if err != nil {
		return g.refuse(err)
	}
	g.line, g.greeted = line, true
	if size >= 0 {
		g.payload, g.ending = size, true
	}
	return nil
}

// check returns the size of the message that comes behind line, and -1 when none does.
func (g *guard) check(line []byte) (int, error) {
	text := bytes.TrimSuffix(line, []byte("\n"))
	text = bytes.TrimSuffix(text, []byte("\r"))
	verb, rest, _ := bytes.Cut(text, []byte(" "))
	switch {
	case !g.greeted && bytes.HasPrefix(text, []byte("HTTP/")):
		return 0, errHTTP
	case !g.greeted && string(verb) != "INFO":
		return 0, fmt.Errorf("it answers %s, which is not NATS; "+
			"check the address and its port (NATS servers have 4222, unless told another)", quoted(text))
	case bytes.ContainsAny(rest, "\r\n"):
	case string(verb) == "PING", string(verb) == "PONG", string(verb) == "+OK":
		if len(rest) == 0 {
			return -1, nil
		}
	case string(verb) == "INFO", string(verb) == "-ERR":
		if len(bytes.TrimLeft(rest, " \t")) > 0 {
			return -1, nil
		}
	case string(verb) == "MSG", string(verb) == "HMSG":
		return sizeOf(text, string(verb) == "HMSG", rest)
	}
	return 0, fmt.Errorf("it says %s, which is not NATS", quoted(text))
}

var errHTTP = errors.New("it answers HTTP, not NATS; " +
	"check the address and its port (NATS servers have 4222, unless told another)")

// sizeOf returns what follows the line text of a message that has these arguments: subject, subscription, perhaps
// where to reply, the size of the headers if it has any, and that of all.
func sizeOf(text []byte, headers bool, arguments []byte) (int, error) {
	fields := bytes.FieldsFunc(arguments, func(r rune) bool { return r == ' ' || r == '\t' })
	numbers := 1
	if headers {
		numbers = 2
	}
	if len(fields) != 2+numbers && len(fields) != 3+numbers {
		return 0, fmt.Errorf("it says %s, which is not NATS", quoted(text))
	}
	if _, ok := number(fields[1]); !ok {
		return 0, fmt.Errorf("it says %s, and %s is not the number of a subscription", quoted(text), quoted(fields[1]))
	}
	last := fields[len(fields)-1]
	size, ok := number(last)
	if !ok || size > maxClaim {
		return 0, fmt.Errorf("it claims that a message has %s bytes, and none has more than %d", quoted(last), maxClaim)
	}
	if headers {
		if h, ok := number(fields[len(fields)-2]); !ok || h > size {
			return 0, fmt.Errorf("it claims that a message of %d bytes has %s bytes of headers",
				size, quoted(fields[len(fields)-2]))
		}
	}
	return size, nil
}

// number reads digits, and not more of them than an int holds for sure.
func number(digits []byte) (int, bool) {
	const most = 18
	if len(digits) == 0 || len(digits) > most ||
		bytes.ContainsFunc(digits, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	n, err := strconv.Atoi(string(digits))
	return n, err == nil
}

// quoted shows the beginning of what a server says.
func quoted(said []byte) string {
	const most = 48
	if len(said) > most {
		return strconv.QuoteToASCII(string(said[:most])) + "…"
	}
	return strconv.QuoteToASCII(string(said))
}

// refuse ends the reading. What has never been NATS is for a person to mend.
func (g *guard) refuse(err error) error {
	if g.greeted {
		err = bridge.Retry(fmt.Errorf("the connection is closed, since the server is not to be believed: %w", err))
	} else {
		err = bridge.Blocked(err)
	}
	g.refused.Store(&err)
	return err
}

// stranger says what a server that takes connections and says nothing, as no NATS server does, speaks instead. It
// returns nil when that cannot be told.
func (c *connection) stranger(ctx context.Context, address string) error {
	switch wire.Speaks(ctx, address) {
	case "HTTP":
		return bridge.Blocked(errHTTP)
	case "HTTPS":
		return bridge.Blocked(errors.New("it speaks HTTPS, not NATS; " +
			"check the address and its port (NATS servers have 4222, unless told another)"))
	case "TLS":
		return bridge.Blocked(fmt.Errorf("it says nothing before a TLS handshake: "+
			"set %s=true if it is a NATS server with handshake_first, else check the address and its port",
			c.o.Files.Variable("TLS_FIRST")))
	default:
		return nil
	}
}
