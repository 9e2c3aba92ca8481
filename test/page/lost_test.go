package page

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// gate is a way to a server that can be shut, so that connections break, or stopped, so that nothing comes any more.
type gate struct {
	listener net.Listener
	to       string
	ended    sync.WaitGroup

	mu    sync.Mutex
	shut  bool
	conns []net.Conn
	// goOn is closed while bytes pass.
	goOn chan struct{}
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	var listen net.ListenConfig
	listener, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gate{listener: listener, to: to, goOn: make(chan struct{})}
	close(g.goOn)
	g.ended.Go(g.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		g.shutIt(true)
		g.ended.Wait()
	})
	return g
}

func (g *gate) url(path string) string { return "http://" + g.listener.Addr().String() + path }

func (g *gate) accept() {
	for {
		from, err := g.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", g.to)
		if err != nil {
			_ = from.Close()
			continue
		}
		g.mu.Lock()
		g.conns = append(g.conns, from, to)
		if g.shut {
			_, _ = from.Close(), to.Close()
		}
		g.mu.Unlock()
		g.ended.Go(func() { g.pass(from, to) })
		g.ended.Go(func() { g.pass(to, from) })
	}
}

func (g *gate) pass(from, to net.Conn) {
	defer to.Close()
	for buffer := make([]byte, 32<<10); ; {
		n, err := from.Read(buffer)
		g.mu.Lock()
		goOn := g.goOn
		g.mu.Unlock()
		<-goOn
		if _, gone := to.Write(buffer[:n]); err != nil || gone != nil {
			return
		}
	}
}

// shutIt breaks all connections, and those that come, or opens the way again.
func (g *gate) shutIt(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
	select {
	case <-g.goOn:
	default:
		close(g.goOn)
	}
}

// stop lets nothing pass until shutIt.
func (g *gate) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.goOn = make(chan struct{})
}

func TestABridgeThatIsGoneDoesNotLookHealthy(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	b.send()
	g := newGate(t, b.OpsAddr().String())
	p := open(t, g.url("/"), 1280, 860)
	p.mu.Lock()
	p.cutOff = true
	p.mu.Unlock()
	p.has("#summary", "Taking webhooks")
	p.is(`document.title === "fnbridge"`)
	p.has("#live-rows", "req_1")

	looksGone := func() {
		t.Helper()
		p.has("#summary", "Not connected since ")
		p.has("#summary", "What is below is from then")
		p.is(`document.title === "■ fnbridge"`)
		p.is(`document.querySelector("#now.old .state[data-state=up]") !== null`)
		p.accessible()
	}
	g.shutIt(true)
	looksGone()
	p.click("#tab-letters")
	p.has("#letters-said", "Failed to fetch")
	p.click("#tab-live")
	p.click("#live-rows button.open")
	p.has("#detail", "Failed to fetch")
	p.click("#tab-letters")
	p.has("#letters-said", "Failed to fetch")
	g.shutIt(false)
	p.has("#summary", "Taking webhooks")
	p.is(`document.title === "fnbridge" && !document.querySelector("#now.old")`)
	p.has("#letters-said", "No dead letters.")
	p.has("#detail", "msg_00000001")

	// One that says nothing any more.
	g.stop()
	looksGone()
	g.shutIt(false)
	p.has("#summary", "Taking webhooks")
	request := b.send()
	p.has("#live-rows", request)
}

// inSight hides the tab's window, or shows it again.
func (b *browser) inSight(seen bool) {
	b.t.Helper()
	var window cdpbrowser.GetWindowForTargetResult
	b.do(func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
		window, err = cdp.Call(ctx, target, cdpbrowser.GetWindowForTarget, cdpbrowser.GetWindowForTargetParams{})
		return v, err
	})
	state := cdpbrowser.WindowStateMinimized
	if seen {
		state = cdpbrowser.WindowStateNormal
	}
	b.do(call(cdpbrowser.SetWindowBounds, cdpbrowser.SetWindowBoundsParams{
		WindowID: window.WindowID, Bounds: &cdpbrowser.Bounds{WindowState: state},
	}))
	b.is(fmt.Sprintf("document.hidden !== %t", seen))
}

// TestEightTabsAreAllServed has more tabs than a browser opens connections, of which one is seen at a time.
func TestEightTabsAreAllServed(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	tabs := []*browser{open(t, b.url("/"), 1280, 860)}
	for i := range 7 {
		tabs[i].inSight(false)
		tabs = append(tabs, tabs[0].another(b.url("/"), 1280, 860))
	}
	request := b.send()
	tabs[7].has("#live-rows", request)
	tabs[7].inSight(false)
	tabs[0].inSight(true)
	tabs[0].has("#live-rows", request)
	tabs[0].click("#live-rows button.open")
	tabs[0].has("#detail", "msg_00000001")
	request = b.send()
	tabs[0].has("#live-rows", request)

	// The title is seen where the page is not.
	b.audit.Stop(t)
	b.send()
	tabs[3].is(`document.hidden && document.title === "■ fnbridge"`)
}
