// Package faultproxy is a TCP proxy on loopback that tests make fail: it stalls, cuts and delays connections on
// their way to a server.
package faultproxy

import (
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
	// changed is closed, and replaced, whenever a fault changes, so that whoever waits looks again.
	changed chan struct{}
	// stalled stops both directions; allowance, unless negative, is how many bytes of answers still pass.
	stalled   bool
	allowance int
	// cutThen says that a connection that uses up the allowance is cut, and the fault is over.
	cutThen bool
	delay   time.Duration
	used    chan struct{}
}

type link struct{ client, server net.Conn }

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// New starts a proxy to the server at target (host:port), which need not be up. It ends with the test.
func New(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		listener: listener, target: target, ctx: ctx, cancel: cancel,
		conns: make(map[*link]struct{}), changed: make(chan struct{}), allowance: -1,
	}
	p.wg.Go(p.accept)
	tb.Cleanup(p.close)
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

// Resume passes everything again, with what was held back first.
func (p *Proxy) Resume() {
	p.set(func() { p.stalled, p.allowance, p.cutThen, p.delay = false, -1, false, 0 })
}

// Cut closes every connection. New ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		l.close()
	}
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) close() {
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
	directions.Go(func() {
		defer end()
		defer l.close()
		p.pass(gone, server, client, p.admitRequest)
	})
	directions.Go(func() {
		defer end()
		defer l.close()
		p.pass(gone, client, server, p.admitAnswer)
	})
	directions.Wait()
}

// pass copies from src to dst. admit waits until at least one of the bytes may pass, and says how many may, and
// whether the connection is to be cut after them.
func (p *Proxy) pass(
	ctx context.Context, dst io.Writer, src io.Reader, admit func(context.Context, int) (int, bool, error),
) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := src.Read(buffer)
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
