package ingest_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/ingest"
)

// limited serves e's handler on a listener with at most so many connections. A value comes out of idle when the server
// has noted that a connection is.
func limited(t *testing.T, e *endpoint, most int, withTLS bool) (address net.Addr, idle chan struct{}) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := ingest.NewServer(e.handler, nil)
	l := ingest.LimitConnections(listener, most, server, slog.New(slog.NewTextHandler(e.log, nil)))
	idle = make(chan struct{}, 100)
	note := server.ConnState
	server.ConnState = func(c net.Conn, state http.ConnState) {
		note(c, state)
		if state == http.StateIdle {
			idle <- struct{}{}
		}
	}
	served := make(chan error, 1)
	if withTLS {
		server.TLSConfig = e.server.TLS.Clone()
		go func() { served <- server.ServeTLS(l, "", "") }()
	} else {
		go func() { served <- server.Serve(l) }()
	}
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return listener.Addr(), idle
}

// becomeIdle has a request answered.
func (c *connection) becomeIdle(t *testing.T, idle <-chan struct{}) *connection {
	t.Helper()
	c.send(t, request{}.to("GET", "/").head())
	require.False(t, c.receive(t, "").close)
	<-idle
	return c
}

// requireGone requires that the server has closed the connection, in whatever way.
func (c *connection) requireGone(t *testing.T) {
	t.Helper()
	n, err := c.reader.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	require.NotErrorIs(t, err, net.ErrClosed)
	timeout, ok := err.(net.Error) //nolint:errorlint // what net returns is not wrapped
	require.False(t, ok && timeout.Timeout(), "it is open still")
}

func TestConnectionsThatWaitMakeRoom(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]func(t *testing.T, c *connection, idle <-chan struct{}){
		"silent": func(*testing.T, *connection, <-chan struct{}) {},
		"in the midst of head": func(t *testing.T, c *connection, _ <-chan struct{}) {
			c.send(t, "POST /webhooks/tensorlake HTTP/1.1\r\nX-Slow: ")
		},
		"idle": func(t *testing.T, c *connection, idle <-chan struct{}) { c.becomeIdle(t, idle) },
		"idle, and half a head": func(t *testing.T, c *connection, idle <-chan struct{}) {
			c.becomeIdle(t, idle).send(t, "POST /webhooks/tensorlake HTTP/1.1\r\nX-Slow: ")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{})
			address, idle := limited(t, e, 2, false)
			oldest, older := dial(t, address), dial(t, address)
			waits(t, oldest, idle)
			waits(t, older, idle)
			c := dial(t, address).becomeIdle(t, idle)
			oldest.requireGone(t)
			dial(t, address).becomeIdle(t, idle)
			older.requireGone(t)
			r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
			c.send(t, r.head()+r.body)
			require.Equal(t, http.StatusAccepted, c.receive(t, "").status, "those that came later stay")
			require.Len(t, e.log.at(slog.LevelWarn), 1, "one line a minute")
			require.Contains(t, e.log.at(slog.LevelWarn)[0], "connections=2")
		})
	}
}

func TestConnectionsWithARequestStay(t *testing.T) {
	t.Parallel()
	g := newGate()
	e := start(t, setup{inTheWay: g.pass})
	address, _ := limited(t, e, 1, false)
	busy := dial(t, address)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	busy.send(t, r.head()+r.body)
	<-g.arrived
	next := dial(t, address)
	next.send(t, request{}.to("GET", "/").head())
	require.NoError(t, next.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := next.reader.Peek(1)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "it waits")
	close(g.open)
	require.Equal(t, http.StatusAccepted, busy.receive(t, "").status)
	require.NoError(t, next.SetReadDeadline(time.Now().Add(20*time.Second)))
	require.Equal(t, http.StatusNotFound, next.receive(t, "").status, "the first one is idle now, and goes")
	busy.requireGone(t)
}

func TestTheServerClosesWhileAConnectionWaitsForItsPlace(t *testing.T) {
	t.Parallel()
	g := newGate()
	e := start(t, setup{inTheWay: g.pass})
	address, _ := limited(t, e, 1, false) // its clean-up closes the server
	busy := dial(t, address)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	busy.send(t, r.head()+r.body)
	<-g.arrived
	t.Cleanup(func() { close(g.open) })
	next := dial(t, address)
	next.send(t, request{}.to("GET", "/").head())
}

func TestConnectionsOverTLSMakeRoom(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tls: true})
	address, _ := limited(t, e, 1, true)
	transport := e.server.Client().Transport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	ask := func() (protocol string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address.String()+"/", http.NoBody)
		require.NoError(t, err)
		response, err := transport.RoundTrip(r)
		require.NoError(t, err)
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		return response.Proto
	}
	require.Equal(t, "HTTP/2.0", ask()) // and stays open
	silent := dial(t, address)          // takes its place
	transport.CloseIdleConnections()
	require.Equal(t, "HTTP/2.0", ask())
	silent.requireGone(t)
}

func TestSlowBodiesGiveUpTheirPlaces(t *testing.T) {
	t.Parallel()
	for name, chunked := range map[string]bool{"with a length": false, "in chunks": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			e := start(t, setup{options: ingest.Options{MaxInFlight: 2, Now: c.now}})
			var slow []*connection
			for i := range 2 {
				r := signed(t, "Svix", fmt.Sprintf("slow_%d", i), workflowPayload, time.Now())
				if chunked {
					r = r.chunked(7)
				}
				one := e.dial(t)
				one.send(t, r.head()+r.body[:20])
				require.Eventually(t, func() bool { return e.gathered(t, "fnbridge_webhooks_in_flight", "") == float64(i+1) },
					10*time.Second, time.Millisecond)
				slow = append(slow, one)
				c.advance(300 * time.Millisecond)
			}
			r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
			requireProblem(t, e.do(t, r), http.StatusServiceUnavailable, "2 webhooks are being taken")

			c.advance(400 * time.Millisecond) // the first has had its second
			require.Equal(t, http.StatusAccepted, e.do(t, r).status)
			a := slow[0].receive(t, "")
			requireProblem(t, a, http.StatusServiceUnavailable, "came so slowly")
			require.Equal(t, "1", a.header.Get("Retry-After"))
			require.True(t, a.close)
			slow[0].ended(t)

			again := signed(t, "Svix", "slow_1", workflowPayload, time.Now())
			if chunked {
				again = again.chunked(7)
			}
			slow[1].send(t, again.body[20:])
			require.Equal(t, http.StatusAccepted, slow[1].receive(t, "").status, "the other one is taken")
			require.Eventually(t, func() bool { return e.gathered(t, "fnbridge_webhooks_in_flight", "") == 0 }, 10*time.Second, time.Millisecond)
			require.InDelta(t, 2, e.result(t, "overloaded"), 0)
		})
	}
}

func TestSlowBodiesOverHTTP2GiveUpTheirPlaces(t *testing.T) {
	t.Parallel()
	c := newClock()
	e := start(t, setup{tls: true, options: ingest.Options{MaxInFlight: 1, Now: c.now}})
	post := func(r request, body io.Reader) (int, error) {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.server.URL+ingest.Path, body)
		if err != nil {
			return 0, err
		}
		q.Header = r.header.Clone()
		q.Header.Set("Content-Type", "application/json")
		response, err := e.server.Client().Do(q)
		if err != nil {
			return 0, err
		}
		_ = response.Body.Close()
		return response.StatusCode, nil
	}
	body, more := io.Pipe()
	type result struct {
		status int
		err    error
	}
	slow := make(chan result, 1)
	halting := signed(t, "Svix", "slow", workflowPayload, time.Now())
	go func() {
		status, err := post(halting, body)
		slow <- result{status, err}
	}()
	_, err := io.WriteString(more, workflowPayload[:20])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return e.gathered(t, "fnbridge_webhooks_in_flight", "") == 1 }, 10*time.Second, time.Millisecond)
	c.move()
	status, err := post(signed(t, "Svix", "msg_1", workflowPayload, time.Now()), strings.NewReader(workflowPayload))
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, status)
	r := <-slow
	require.NoError(t, r.err)
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.NoError(t, more.Close())
}

// TestBodiesHaveSoMuchMemory: 64 MiB for all of them, when four of the largest take less. Here each has 1 MiB and a byte that
// never comes.
func TestBodiesHaveSoMuchMemory(t *testing.T) {
	t.Parallel()
	c := newClock()
	e := start(t, setup{options: ingest.Options{MaxInFlight: 1000, Now: c.now}})
	most := strings.Repeat(" ", 1<<20-1)
	var slow []*connection
	add := func() { // a body whose buffer has 1 MiB
		one := e.dial(t)
		one.send(t, request{}.with("Content-Length", fmt.Sprint(1<<20)).head()+most)
		slow = append(slow, one)
		require.Eventually(t, func() bool { return e.handler.BodyBytes() == int64(len(slow))<<20 }, 20*time.Second, time.Millisecond)
	}
	for range 63 {
		add()
	}
	large := signed(t, "Svix", "msg_1", pad(1<<20), time.Now())
	require.Equal(t, http.StatusAccepted, e.do(t, large).status)
	require.Eventually(t, func() bool { return e.handler.BodyBytes() == 63<<20 }, 20*time.Second, time.Millisecond, "its own is free again")
	add()
	requireProblem(t, e.do(t, large), http.StatusServiceUnavailable, "fill the memory")

	c.move()
	require.Equal(t, http.StatusOK, e.do(t, large).status)
	requireProblem(t, slow[0].receive(t, ""), http.StatusServiceUnavailable, "came so slowly")
	require.InDelta(t, 63, e.gathered(t, "fnbridge_webhooks_in_flight", ""), 0)
}
