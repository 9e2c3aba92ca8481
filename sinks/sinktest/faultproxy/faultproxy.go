// Package faultproxy is a TCP proxy on loopback that tests make fail: it stalls, cuts and delays connections on
// their way to a server, or has the server far away.
package faultproxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Proxy passes bytes between its clients and one server. Its methods are safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	ctx      context.Context //nolint:containedctx // it is the proxy's lifetime, which ends dials and delays
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[*link]struct{}
	closed bool
	// accepted counts the connections of clients.
	accepted int
	// changed is closed, and replaced, whenever a fault changes, so that whoever waits looks again.
	changed chan struct{}
	// stalled stops both directions; allowance, unless negative, is how many bytes of answers still pass.
	stalled   bool
	allowance int
	// cutThen says that a connection that uses up the allowance is cut, and the fault is over.
	cutThen bool
	// severed throws away what is sent in either direction.
	severed bool
	delay   time.Duration
	// distance is how long a byte takes from one end to the other of connections that are made.
	distance time.Duration
	used     chan struct{}
}

type link struct {
	client, server net.Conn
	dead           bool // something of it was thrown away, so nothing of it passes any more
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// New starts a proxy to the server at target (host:port), which need not be up. It ends with the test.
func New(tb testing.TB, target string) *Proxy {
	tb.Helper()
	return At(tb, "127.0.0.1:0", target)
}

// At is New with the address (host:port) where clients connect to.
func At(tb testing.TB, address, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		listener: listener, target: target, ctx: ctx, cancel: cancel,
		conns: make(map[*link]struct{}), changed: make(chan struct{}), allowance: -1,
	}
	p.wg.Go(p.accept)
	tb.Cleanup(p.Close)
	return p
}

// Addr is where clients connect to: host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Stall lets nothing pass in either direction. Connections stay open, and new ones are accepted and hear nothing.
func (p *Proxy) Stall() { p.set(func() { p.stalled, p.allowance, p.cutThen = true, -1, false }) }

// StallAnswersAfter lets what clients send pass, and n more bytes of what servers answer. Connections stay open.
func (p *Proxy) StallAnswersAfter(n int) {
	p.set(func() { p.stalled, p.allowance, p.cutThen = false, n, false })
}

// CutAnswersAfter lets what clients send pass, and n more bytes of what servers answer, and then closes the
// connection that the last byte was for. After that it passes everything. The channel is closed with the cut.
func (p *Proxy) CutAnswersAfter(n int) <-chan struct{} {
	used := make(chan struct{})
	p.set(func() { p.stalled, p.allowance, p.cutThen, p.used = false, n, true, used })
	return used
}

// DelayAnswers holds back each piece of what servers answer for d. Nothing is lost.
func (p *Proxy) DelayAnswers(d time.Duration) { p.set(func() { p.delay = d }) }

// Distance has each byte take d each way on connections that are made from now on, and those take a round trip to be
// made, as everywhere: the client, which connects at once, hears nothing for so much longer. As much is under way at
// once as is sent. It stays until it is called again.
func (p *Proxy) Distance(d time.Duration) { p.set(func() { p.distance = d }) }

// Resume passes everything again, with what was held back first.
func (p *Proxy) Resume() {
	p.set(func() { p.stalled, p.allowance, p.cutThen, p.severed, p.delay = false, -1, false, false, 0 })
}

// Sever is a cable that is cut: what is sent in either direction is thrown away, and nobody hears of it. A connection
// that exists, or is made meanwhile, stays silent for ever, also after Resume. Those made after that are well.
func (p *Proxy) Sever() {
	p.set(func() {
		p.severed = true
		for l := range p.conns {
			l.dead = true
		}
	})
}

// Cut closes every connection. New ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		l.close()
	}
}

// Accepted is how many connections clients have made, whether the server was there or not.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Open is how many connections there are to the server.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

// Close closes every connection, and nobody listens any more.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	for l := range p.conns {
		l.close()
	}
	p.mu.Unlock()
	p.cancel()
	_ = p.listener.Close()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	p.accepted++
	distance := p.distance
	p.mu.Unlock()
	connected := time.Now().Add(2 * distance) // when the client would hear that it is
	if until(p.ctx, connected.Add(distance)) != nil {
		_ = client.Close()
		return
	}
	server, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server}
	defer l.close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.conns[l] = struct{}{}
	l.dead = p.severed
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, l)
		p.mu.Unlock()
	}()
	// gone ends the waits of both directions when either has failed.
	gone, end := context.WithCancel(p.ctx)
	defer end()
	var directions sync.WaitGroup
	requests, answers := io.Reader(client), io.Reader(server)
	if distance > 0 {
		requests = farAway(gone, &directions, client, distance, connected)
		answers = farAway(gone, &directions, server, distance, connected)
	}
	directions.Go(func() {
		defer end()
		defer l.close()
		p.pass(gone, l, server, requests, p.admitRequest)
	})
	directions.Go(func() {
		defer end()
		defer l.close()
		p.pass(gone, l, client, answers, p.admitAnswer)
	})
	directions.Wait()
}

// until waits for a moment, or returns why ctx ended before.
func until(ctx context.Context, moment time.Time) error {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// onTheWay is how many pieces are under way to one end at most, before whoever sends them is held up.
const onTheWay = 1 << 14

// distant reads what was sent at a distance.
type distant struct {
	ctx    context.Context //nolint:containedctx // io.Reader has no place for it
	pieces <-chan piece
	rest   []byte
	err    error
}

// piece is what was read at once, and when it arrives.
type piece struct {
	at    time.Time
	bytes []byte
	err   error
}

// farAway returns a reader of src that gets each byte so much later than it was sent, which was not before connected.
// Its goroutine, which is one of group, ends with src or with ctx.
func farAway(
	ctx context.Context, group *sync.WaitGroup, src io.Reader, distance time.Duration, connected time.Time,
) io.Reader {
	pieces := make(chan piece, onTheWay)
	group.Go(func() {
		buffer := make([]byte, 32<<10)
		for {
			n, err := src.Read(buffer)
			sent := time.Now()
			if sent.Before(connected) {
				sent = connected
			}
			select {
			case pieces <- piece{sent.Add(distance), bytes.Clone(buffer[:n]), err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	return &distant{ctx: ctx, pieces: pieces}
}

func (d *distant) Read(p []byte) (int, error) {
	for len(d.rest) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		select {
		case next := <-d.pieces:
			if err := until(d.ctx, next.at); err != nil {
				return 0, err
			}
			d.rest, d.err = next.bytes, next.err
		case <-d.ctx.Done():
			return 0, d.ctx.Err()
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// pass copies from src to dst. admit waits until at least one of the bytes may pass, and says how many may, and
// whether the connection is to be cut after them.
func (p *Proxy) pass(
	ctx context.Context, l *link, dst io.Writer, src io.Reader, admit func(context.Context, int) (int, bool, error),
) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := src.Read(buffer)
		p.mu.Lock()
		if l.dead && err == nil {
			n = 0
		}
		dead := l.dead
		p.mu.Unlock()
		if dead && err != nil {
			<-ctx.Done() // who has gone away cannot say so
			return
		}
		for rest := buffer[:n]; len(rest) > 0; {
			admitted, cut, waitErr := admit(ctx, len(rest))
			if waitErr != nil {
				return
			}
			if _, err := dst.Write(rest[:admitted]); err != nil || cut {
				return
			}
			rest = rest[admitted:]
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) admitRequest(ctx context.Context, n int) (int, bool, error) {
	for {
		p.mu.Lock()
		stalled, changed := p.stalled, p.changed
		p.mu.Unlock()
		if !stalled {
			return n, false, nil
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-changed:
		}
	}
}

func (p *Proxy) admitAnswer(ctx context.Context, n int) (int, bool, error) {
	for {
		p.mu.Lock()
		if p.delay > 0 {
			delay := time.NewTimer(p.delay)
			changed := p.changed
			p.mu.Unlock()
			select {
			case <-ctx.Done():
				delay.Stop()
				return 0, false, ctx.Err()
			case <-changed:
				delay.Stop()
				continue
			case <-delay.C:
				return n, false, nil
			}
		}
		switch {
		case p.stalled || (p.allowance == 0 && !p.cutThen):
		case p.allowance < 0:
			p.mu.Unlock()
			return n, false, nil
		default:
			n = min(n, p.allowance)
			p.allowance -= n
			cut := p.allowance == 0 && p.cutThen
			if cut {
				p.allowance, p.cutThen = -1, false
				close(p.used)
			}
			p.mu.Unlock()
			return n, cut, nil
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-changed:
		}
	}
}
