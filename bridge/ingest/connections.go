package ingest

import (
	"container/list"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// fullLineEvery is how often the log says that all connections are in use.
const fullLineEvery = time.Minute

// LimitConnections returns a listener for server that has at most most connections open at once; most must be more
// than 0. Without it a stranger's connections can use up the file descriptors of the process.
//
// When all are in use, the connection that has waited longest is closed for a new one. What it waits for may be its
// first request, the rest of a request's headers, or its next request. So connections that are opened and left cannot
// keep out a sender. A new one waits only while every connection has a request that is being answered. The server's
// timeouts bound that.
//
// It sets server.ConnState, so it is called before server starts, and l must be served by server alone. logger, which
// may be nil, gets a line a minute while connections are closed for others.
func LimitConnections(l net.Listener, most int, server *http.Server, logger *slog.Logger) net.Listener {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	limited := &limitedListener{Listener: l, most: most, logger: logger}
	limited.room.L = &limited.mu
	server.ConnState = limited.note
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
	waiting  list.List // of *limitedConn: those without a request, longest first
	closed   bool
	lastLine time.Time
}

// limitedConn is one of them. What is in it beside the connection belongs to the listener's mu.
type limitedConn struct {
	net.Conn

	listener *limitedListener
	waits    *list.Element // in listener.waiting, nil while there is a request
	gone     bool          // it is not counted any more
}

// Accept waits for a connection, and then until it is among the most that are allowed.
func (l *limitedListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &limitedConn{Conn: accepted, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.open >= l.most && !l.closed {
		if !l.closeOne() {
			l.room.Wait()
		}
	}
	if l.closed {
		_ = accepted.Close()
		return nil, net.ErrClosed
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
	l.open--
	if c.waits != nil {
		l.waiting.Remove(c.waits)
		c.waits = nil
	}
	l.room.Signal()
}

// Close lets go of whoever waits in Accept, too.
func (l *limitedListener) Close() error {
	l.mu.Lock()
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	return l.Listener.Close()
}

// note is the server's ConnState. A connection is active from the end of a request's headers to the end of the answer.
func (l *limitedListener) note(conn net.Conn, state http.ConnState) {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = over.NetConn()
	}
	c, ok := conn.(*limitedConn)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.gone:
	case state == http.StateActive && c.waits != nil:
		l.waiting.Remove(c.waits)
		c.waits = nil
	case state == http.StateIdle && c.waits == nil:
		c.waits = l.waiting.PushBack(c)
		l.room.Signal()
	}
}

// Close ends the connection and makes room for another.
func (c *limitedConn) Close() error {
	c.listener.mu.Lock()
	c.listener.forget(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
