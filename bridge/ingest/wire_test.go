package ingest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/ingest"
)

// A server that waits less than the real one, so that a test need not. What the test itself has to do in time
// gets longer waits, since the machine may be busy.
func shortHeaders(s *http.Server) { s.ReadHeaderTimeout = 2 * time.Second }
func shortIdle(s *http.Server)    { s.IdleTimeout = 100 * time.Millisecond }
func shortBody(s *http.Server)    { s.ReadTimeout = 2 * time.Second }

func TestServerLimits(t *testing.T) {
	t.Parallel()
	s := ingest.NewServer(http.NotFoundHandler(), nil)
	require.Equal(t, 5*time.Second, s.ReadHeaderTimeout)
	require.Equal(t, 20*time.Second, s.ReadTimeout)
	require.Equal(t, 30*time.Second, s.WriteTimeout)
	require.Greater(t, s.IdleTimeout, 600*time.Second, "longer than any load balancer's")
	require.False(t, s.Protocols.HTTP2())
}

func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	c := start(t, setup{server: shortHeaders}).dial(t)
	c.send(t, "POST /webhooks/tensorlake HTTP/1.1\r\nHost: fnbridge.test\r\nX-Slow: ")
	c.ended(t)
}

func TestSilentConnection(t *testing.T) {
	t.Parallel()
	start(t, setup{server: shortHeaders}).dial(t).ended(t)
}

func TestIdleConnection(t *testing.T) {
	t.Parallel()
	c := start(t, setup{server: shortIdle}).dial(t)
	c.send(t, request{}.to("GET", "/").head())
	require.False(t, c.receive(t, "").close)
	c.ended(t)
}

func TestSlowBody(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]request{
		"with a length": signed(t, "Svix", "msg_1", workflowPayload, time.Now()),
		"in chunks":     signed(t, "Svix", "msg_1", workflowPayload, time.Now()).chunked(7),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{server: shortBody})
			c := e.dial(t)
			c.send(t, r.head()+r.body[:20])
			a := c.receive(t, "")
			requireProblem(t, a, http.StatusRequestTimeout, "did not come in time")
			require.True(t, a.close)
			c.ended(t)
			require.InDelta(t, 1, e.result(t, "incomplete"), 0)
			require.Empty(t, e.log.at(slog.LevelInfo))
		})
	}
}

func TestBodyEndsEarly(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		request request
		detail  string
	}{
		"with a length": {
			signed(t, "Svix", "msg_1", workflowPayload, time.Now()), fmt.Sprintf("after 20 of %d bytes", len(workflowPayload)),
		},
		"in chunks": {signed(t, "Svix", "msg_1", workflowPayload, time.Now()).chunked(7), "send whole chunks"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{})
			c := e.dial(t)
			c.send(t, test.request.head()+test.request.body[:20])
			require.NoError(t, c.CloseWrite())
			a := c.receive(t, "")
			requireProblem(t, a, http.StatusBadRequest, test.detail)
			require.True(t, a.close)
			require.InDelta(t, 1, e.result(t, "incomplete"), 0)
			require.Empty(t, e.log.at(slog.LevelInfo))
			require.Empty(t, e.store.stored())
		})
	}
}

func TestEndlessChunks(t *testing.T) {
	t.Parallel()
	e := start(t, setup{options: ingest.Options{MaxBody: 64 << 10}})
	c := e.dial(t)
	c.send(t, request{}.chunked(1).head())
	wrote := make(chan int64, 1)
	go func() { // ends when the server closes the connection, or the test does
		chunk := "1000\r\n" + strings.Repeat(" ", 0x1000) + "\r\n"
		var n int64
		for {
			more, err := io.WriteString(c, chunk)
			if n += int64(more); err != nil {
				wrote <- n
				return
			}
		}
	}()
	a := c.receive(t, "")
	requireProblem(t, a, http.StatusRequestEntityTooLarge, "at most 65536 bytes")
	require.True(t, a.close)
	require.Less(t, <-wrote, int64(64<<20), "what the kernel buffers, and no more")
	require.InDelta(t, 1, e.result(t, "too_large"), 0)
}

func TestHeadersHave8KiB(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	for filler, status := range map[int]int{
		7 << 10: http.StatusAccepted, 8 << 10: http.StatusRequestHeaderFieldsTooLarge,
	} {
		r := signed(t, "Svix", "msg_1", workflowPayload, time.Now()).with("X-Large", strings.Repeat("x", filler))
		a := e.do(t, r)
		require.Equal(t, status, a.status)
		require.Equal(t, status != http.StatusAccepted, a.close)
	}
}

// TestAnAnswerBeforeTheBodyEndsTheConnection: whoever holds a body back is not waited for.
func TestAnAnswerBeforeTheBodyEndsTheConnection(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	for name, r := range map[string]request{
		"404":       request{}.to("POST", "/x"),
		"404, GET":  request{}.to("GET", "/x"),
		"405":       request{}.to("PUT", ingest.Path),
		"415":       request{}.with("Content-Type", "text/plain"),
		"health":    request{}.to("GET", "/livez"),
		"in chunks": request{}.to("POST", "/x").with("Transfer-Encoding", "chunked"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := r.with("Content-Length", "200000")
			c := e.dial(t)
			c.send(t, r.head())
			a := c.receive(t, "")
			require.True(t, a.close)
			c.ended(t) // the server would wait for the body for longer than the connection does
		})
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now()).with("Expect", "100-continue")
	c := e.dial(t)
	c.send(t, r.head())
	require.Equal(t, http.StatusContinue, c.receive(t, "").status)
	c.send(t, r.body)
	require.Equal(t, http.StatusAccepted, c.receive(t, "").status)

	c = e.dial(t)
	c.send(t, r.with("Content-Type", "text/plain").head())
	a := c.receive(t, "")
	requireProblem(t, a, http.StatusUnsupportedMediaType, "text/plain")
	require.True(t, a.close, "the body that was held back must not be read as a request")
	require.NoError(t, c.CloseWrite())
	c.ended(t)
}

func TestPipelining(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	first := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	second := signed(t, "Webhook", "msg_2", `{"a":1}`, time.Now()).chunked(3)
	third := request{body: "{}"}
	c := e.dial(t)
	c.send(t, first.head()+first.body+second.head()+second.body+third.head()+third.body)
	require.JSONEq(t, `{"webhook_id":"msg_1","events":2}`, c.receive(t, "").body)
	require.JSONEq(t, `{"webhook_id":"msg_2","events":1}`, c.receive(t, "").body)
	requireProblem(t, c.receive(t, ""), http.StatusUnauthorized, "")
}

// TestSmuggling sends requests whose end two readers could see in different places. Each must be refused, and the
// connection be closed: what follows is never read as a request of its own.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	hidden := signed(t, "Svix", "hidden", workflowPayload, time.Now())
	good := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	tests := map[string]string{
		"two lengths":            good.with("Content-Length", "5", "90").head(),
		"two lengths in one":     good.with("Content-Length", "5, 90").head(),
		"a signed length":        good.with("Content-Length", "+5").head(),
		"a negative length":      good.with("Content-Length", "-5").head(),
		"a length in hex":        good.with("Content-Length", "0x5").head(),
		"chunked twice":          good.with("Content-Length").with("Transfer-Encoding", "chunked, chunked").head(),
		"two transfer encodings": good.with("Content-Length").with("Transfer-Encoding", "chunked", "identity").head(),
		"another encoding":       good.with("Transfer-Encoding", "xchunked").head(),
		"a vertical tab":         good.with("Transfer-Encoding", "\vchunked").head(),
		"space before the colon": strings.Replace(good.head(), "Content-Length:", "Content-Length :", 1),
		"two hosts":              good.with("Host", "a", "b").head(),
		"no host":                good.with("Host").head(),
		"a bare CR":              strings.Replace(good.head(), "Host: ", "Host: a\rb", 1),
		"a NUL":                  strings.Replace(good.head(), "Host: ", "X: \x00\r\nHost: ", 1),
		"a line without a colon": strings.Replace(good.head(), "Host: ", "chunked\r\nHost: ", 1),
		"HTTP/1.1 as HTTP/9":     strings.Replace(good.head(), "HTTP/1.1", "HTTP/9.9", 1),
		"a chunk with a sign":    good.chunked(1).head() + "+5\r\n",
		"a chunk beyond 64 bits": good.chunked(1).head() + "10000000000000005\r\n",
		"a chunk not ended":      good.chunked(1).head() + "1\r\n{0\r\n\r\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{})
			c := e.dial(t)
			c.send(t, text+hidden.head()+hidden.body)
			a := c.receive(t, "")
			require.GreaterOrEqual(t, a.status, 400)
			require.Less(t, a.status, 600)
			require.True(t, a.close)
			c.ended(t)
			require.Empty(t, e.store.stored())
		})
	}
}

// TestLengthBesideChunks: RFC 9112, section 6.3 lets a server go by the chunks when there is a length too. That both
// readers agree is what the signature proves: it covers the body that was read.
func TestLengthBesideChunks(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now()).chunked(7).with("Content-Length", "5")
	a := e.do(t, r)
	require.Equal(t, http.StatusAccepted, a.status)
	require.Len(t, e.store.stored()[0].Body, len(workflowPayload), "the chunks")
}

func TestSenderLeavesWhileSending(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	c := e.dial(t)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	c.send(t, r.head()+r.body[:5])
	require.Eventually(t, func() bool { return e.gathered(t, "fnbridge_webhooks_in_flight", "") == 1 },
		bound, time.Millisecond)
	require.NoError(t, c.SetLinger(0)) // a reset, not an orderly end
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return e.result(t, "incomplete") == 1 }, bound, time.Millisecond)
	require.Empty(t, e.log.at(slog.LevelInfo))
}

func TestSenderLeavesWhileStoring(t *testing.T) {
	t.Parallel()
	g := newGate()
	requests := make(chan context.Context, 1)
	answered := make(chan struct{})
	e := start(t, setup{inTheWay: g.pass, server: func(s *http.Server) {
		handler := s.Handler
		s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(answered)
			requests <- r.Context()
			handler.ServeHTTP(w, r)
		})
	}})
	c := e.dial(t)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	c.send(t, r.head()+r.body)
	require.Equal(t, "msg_1", <-g.arrived)
	require.NoError(t, c.SetLinger(0))
	require.NoError(t, c.Close())
	<-(<-requests).Done() // the server knows that the sender is gone
	close(g.open)
	<-answered
	require.Len(t, e.store.stored(), 1, "what was received whole is worth storing")
	require.InDelta(t, 1, e.result(t, "accepted"), 0)
	require.Empty(t, e.log.at(slog.LevelInfo))
}

func TestServerMessagesGoToTheLog(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tls: true})
	c := e.dial(t)
	c.send(t, "this is no TLS, level=ERROR msg=forged\n\n")
	_, _ = io.Copy(io.Discard, c.reader)
	require.Eventually(t, func() bool { return len(e.log.at(slog.LevelWarn)) == 1 }, bound, time.Millisecond)
	require.Contains(t, e.log.at(slog.LevelWarn)[0], "TLS handshake error")
}

// TestAConnectionHoldsOneRequest: a client that offers HTTP/2 beside HTTP/1.1 gets the latter.
func TestAConnectionHoldsOneRequest(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tls: true})
	pool := x509.NewCertPool()
	pool.AddCert(e.server.Certificate())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	sent, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		e.server.URL+ingest.Path, strings.NewReader(r.body))
	require.NoError(t, err)
	sent.Header = r.header.Clone()
	sent.Header.Set("Content-Type", "application/json")
	response, err := transport.RoundTrip(sent)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusAccepted, response.StatusCode)
	require.Equal(t, "HTTP/1.1", response.Proto)
}
