package ingest

import (
	"container/list"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// fullLineEvery is how often the log says that all connections are in use.
const fullLineEvery = time.Minute

// LimitConnections returns a listener for server that has at most most connections open at once; most must be more
// than 0. Every request has an owner here that can cut it: the connection that it came on.
//
// A connection waits for its peer from the start until a request's body is there, and again once there is an answer:
// for headers, for a body, for a reader of the answer, for the next request. When all are in use, the one that has
// waited longest is closed for a new one. So whoever holds a connection and sends nothing keeps nobody out, and a
// request that is there never waits for one that is not. A new connection waits only while every other has a request
// that is being worked on, which the handler bounds.
//
// An answer that is given before the whole body was read ends the connection: nobody waits for the rest.
//
// It sets server.ConnState and ConnContext, and wraps its Handler, so it is called before server starts, and l must be
// served by server alone. server must not speak HTTP/2, where a connection holds many requests. logger, which may be
// nil, gets a line a minute while connections are closed for others.
func LimitConnections(l net.Listener, most int, server *http.Server, logger *slog.Logger) net.Listener {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	limited := &limitedListener{Listener: l, most: most, logger: logger}
	limited.room.L = &limited.mu
	server.ConnState = limited.note
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, ours(conn))
	}
	server.Handler = owned(server.Handler)
	return limited
}

// limitedListener counts the connections that it has accepted.
type limitedListener struct {
	net.Listener

	most   int
	logger *slog.Logger

	mu       sync.Mutex
	room     sync.Cond // a connection has ended or begun to wait, or the listener is closed
	open     int
	waiting  list.List // of *limitedConn: those that wait for their peer, longest first
	closed   bool
	last     []net.Conn // that nobody had accepted when it was closed
	lastLine time.Time
}

// limitedConn is one of them. What is in it beside the connection belongs to the listener's mu.
type limitedConn struct {
	net.Conn

	listener *limitedListener
	waits    *list.Element // in listener.waiting, nil while a request is worked on
	answers  *time.Timer   // at whose end it waits for the reader of an answer; nil before the first
	until    time.Time     // when that end is, zero while it has no answer
	gone     bool          // it is not counted any more
}

// connectionKey is where the context of a request has its *limitedConn.
type connectionKey struct{}

// ours returns the connection that the listener has accepted, nil if it was another's.
func ours(conn net.Conn) *limitedConn {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = over.NetConn()
	}
	c, _ := conn.(*limitedConn)
	return c
}

// Accept waits for a connection, and then until it is among the most that are allowed.
func (l *limitedListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && len(l.last) > 0 {
		accepted, err, l.last = l.last[0], nil, l.last[1:]
	}
	if err != nil {
		return nil, err
	}
	c := &limitedConn{Conn: accepted, listener: l}
	for l.open >= l.most && !l.closed {
		if !l.closeOne() {
			l.room.Wait()
		}
	}
	l.open++
	c.waits = l.waiting.PushBack(c)
	return c, nil
}

// closeOne closes the connection that has waited longest, and tells whether there was one. The caller holds mu.
func (l *limitedListener) closeOne() bool {
	oldest := l.waiting.Front()
	if oldest == nil {
		return false
	}
	c, _ := oldest.Value.(*limitedConn)
	l.forget(c)
	_ = c.Conn.Close()
	if now := time.Now(); now.Sub(l.lastLine) >= fullLineEvery {
		l.lastLine = now
		l.logger.Warn("all connections are in use: those that have waited longest are closed for new ones",
			slog.Int("connections", l.most), slog.String("listener", l.Addr().String()))
	}
	return true
}

// forget takes c out of the count. The caller holds mu.
func (l *limitedListener) forget(c *limitedConn) {
	if c.gone {
		return
	}
	c.gone = true
	c.stopAnswer()
	l.open--
	if c.waits != nil {
		l.waiting.Remove(c.waits)
		c.waits = nil
	}
	l.room.Signal()
}

// Close lets go of whoever waits in Accept, too. Accept then returns the connections that have come before, since a
// request may be there.
func (l *limitedListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.Listener.Close()
	}
	l.closed = true
	l.room.Broadcast()
	last, err := lastConnections(l.Listener)
	l.last = last
	return err
}

// note is the server's ConnState. What a peer has done lets its connection wait anew.
func (l *limitedListener) note(conn net.Conn, state http.ConnState) {
	if c := ours(conn); c != nil && (state == http.StateActive || state == http.StateIdle) {
		c.wait()
	}
}

// wait says that c waits for its peer from now on.
func (c *limitedConn) wait() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.waitsNow()
}

// waitsNow is wait. The caller holds mu.
func (c *limitedConn) waitsNow() {
	l := c.listener
	c.stopAnswer()
	switch {
	case c.gone:
	case c.waits != nil:
		l.waiting.MoveToBack(c.waits)
	default:
		c.waits = l.waiting.PushBack(c)
		l.room.Signal()
	}
}

// work says that c has a request that is there, body and all. It is not closed for another until it waits again.
func (c *limitedConn) work() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.stopAnswer()
	if c.waits != nil {
		c.listener.waiting.Remove(c.waits)
		c.waits = nil
	}
}

// answer says that c has an answer from now on. It has a moment to get out before c waits for its reader.
func (c *limitedConn) answer() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.gone || c.waits != nil {
		return
	}
	c.until = time.Now().Add(lingering)
	if c.answers == nil {
		c.answers = time.AfterFunc(lingering, c.answerIsOut)
	} else {
		c.answers.Reset(lingering)
	}
}

// answerIsOut has c wait for the reader of its answer, unless another request has begun.
func (c *limitedConn) answerIsOut() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if !c.until.IsZero() && !time.Now().Before(c.until) {
		c.waitsNow()
	}
}

// stopAnswer ends the moment that an answer has. The caller holds mu.
func (c *limitedConn) stopAnswer() {
	if !c.until.IsZero() {
		c.answers.Stop()
		c.until = time.Time{}
	}
}

// CloseWrite lets the server end its side first, so that an answer is not overtaken by the reset of what was not read.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close ends the connection and makes room for another.
func (c *limitedConn) Close() error {
	c.listener.mu.Lock()
	c.listener.forget(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// lingering is how long an answer has to get out. Meanwhile what is left of a body is read and forgotten, so that a
// sender that reads only once it has sent everything gets to read.
const lingering = 500 * time.Millisecond

// owned has the connection of each request follow what becomes of the request.
func owned(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connectionKey{}).(*limitedConn)
		if c == nil {
			next.ServeHTTP(w, r)
			return
		}
		a := &ownedAnswer{ResponseWriter: w, conn: c}
		if r.Body == http.NoBody {
			a.received()
		} else {
			body := r.Body
			r = r.WithContext(r.Context()) // a copy: the server goes by its own
			r.Body = &ownedBody{ReadCloser: body, answer: a}
		}
		next.ServeHTTP(a, r)
		if !a.whole {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingering))
		}
	})
}

// ownedBody tells when the body has been read whole.
type ownedBody struct {
	io.ReadCloser

	answer *ownedAnswer
}

func (b *ownedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) && !b.answer.whole {
		b.answer.received()
	}
	return n, err
}

// ownedAnswer tells when there is an answer that waits for its reader.
type ownedAnswer struct {
	http.ResponseWriter

	conn            *limitedConn
	whole, answered bool
}

func (a *ownedAnswer) received() {
	a.whole = true
	a.conn.work()
}

func (a *ownedAnswer) WriteHeader(status int) {
	a.answer()
	a.ResponseWriter.WriteHeader(status)
}

func (a *ownedAnswer) Write(p []byte) (int, error) {
	a.answer()
	return a.ResponseWriter.Write(p)
}

func (a *ownedAnswer) answer() {
	if a.answered {
		return
	}
	a.answered = true
	if !a.whole {
		a.Header().Set("Connection", "close")
	}
	a.conn.answer()
}

// Unwrap is for http.ResponseController.
func (a *ownedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
