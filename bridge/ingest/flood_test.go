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

// limited starts a server with at most so many connections. A value comes out of idle when the server has noted that a
// connection is.
func limited(t *testing.T, s setup, most int) (e *endpoint, idle chan struct{}) {
	t.Helper()
	idle = make(chan struct{}, 100)
	s.connections = most
	s.state = func(state http.ConnState) {
		if state == http.StateIdle {
			idle <- struct{}{}
		}
	}
	return start(t, s), idle
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
	const answered = "a body that nobody waits for"
	for name, waits := range map[string]func(t *testing.T, c *connection, idle <-chan struct{}){
		"silent": func(*testing.T, *connection, <-chan struct{}) {},
		"in the midst of head": func(t *testing.T, c *connection, _ <-chan struct{}) {
			c.send(t, "POST /webhooks/tensorlake HTTP/1.1\r\nX-Slow: ")
		},
		"idle": func(t *testing.T, c *connection, idle <-chan struct{}) { c.becomeIdle(t, idle) },
		"a body to come": func(t *testing.T, c *connection, _ <-chan struct{}) {
			r := signed(t, "Svix", "msg_slow", workflowPayload, time.Now()).with("Expect", "100-continue")
			c.send(t, r.head())
			require.Equal(t, http.StatusContinue, c.receive(t, "").status, "the body is being read")
			c.send(t, r.body[:5])
		},
		answered: func(t *testing.T, c *connection, _ <-chan struct{}) {
			c.send(t, request{}.to("GET", "/x").with("Content-Length", "200000").head())
			require.True(t, c.receive(t, "").close)
		},
		"idle, and half a head": func(t *testing.T, c *connection, idle <-chan struct{}) {
			c.becomeIdle(t, idle).send(t, "POST /webhooks/tensorlake HTTP/1.1\r\nX-Slow: ")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, idle := limited(t, setup{}, 2)
			oldest, older := e.dial(t), e.dial(t)
			waits(t, oldest, idle)
			waits(t, older, idle)
			c := e.dial(t).becomeIdle(t, idle)
			oldest.requireGone(t)
			e.dial(t).becomeIdle(t, idle)
			older.requireGone(t)
			r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
			c.send(t, r.head()+r.body)
			require.Equal(t, http.StatusAccepted, c.receive(t, "").status, "those that came later stay")
			if name == answered { // the old ones may have ended by themselves
				return
			}
			require.Len(t, e.log.at(slog.LevelWarn), 1, "one line a minute")
			require.Contains(t, e.log.at(slog.LevelWarn)[0], "connections=2")
		})
	}
}

func TestConnectionsWithARequestStay(t *testing.T) {
	t.Parallel()
	g := newGate()
	e, _ := limited(t, setup{inTheWay: g.pass}, 1)
	busy := e.dial(t)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	busy.send(t, r.head()+r.body)
	<-g.arrived
	next := e.dial(t)
	next.send(t, request{}.to("GET", "/").head())
	require.NoError(t, next.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := next.reader.Peek(1)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "it waits")
	close(g.open)
	require.Equal(t, http.StatusAccepted, busy.receive(t, "").status)
	require.NoError(t, next.SetReadDeadline(time.Now().Add(bound)))
	require.Equal(t, http.StatusOK, next.receive(t, "").status, "the first one is idle now, and goes")
	busy.requireGone(t)
}

func TestTheServerClosesWhileAConnectionWaitsForItsPlace(t *testing.T) {
	t.Parallel()
	g := newGate()
	e, _ := limited(t, setup{inTheWay: g.pass}, 1) // its clean-up closes the server
	busy := e.dial(t)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	busy.send(t, r.head()+r.body)
	<-g.arrived
	t.Cleanup(func() { close(g.open) })
	next := e.dial(t)
	next.send(t, request{}.to("GET", "/").head())
}

func TestConnectionsOverTLSMakeRoom(t *testing.T) {
	t.Parallel()
	e, _ := limited(t, setup{tls: true}, 1)
	transport := e.server.Client().Transport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	ask := func() (protocol string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.server.URL+"/", http.NoBody)
		require.NoError(t, err)
		response, err := transport.RoundTrip(r)
		require.NoError(t, err)
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		return response.Proto
	}
	require.Equal(t, "HTTP/1.1", ask()) // and stays open
	silent := e.dial(t)                 // takes its place
	transport.CloseIdleConnections()
	require.Equal(t, "HTTP/1.1", ask())
	silent.requireGone(t)
}

// TestBodiesHaveSoMuchMemory: when it is in use, the body that has not grown for longest gives way at once, however
// young it is. Only for memory that whole webhooks have is there a wait.
func TestBodiesHaveSoMuchMemory(t *testing.T) {
	t.Parallel()
	for name, chunked := range map[string]bool{"with a length": false, "in chunks": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate()
			e := start(t, setup{options: ingest.Options{MaxInFlight: 1000, BodyMemory: 4 << 20}, inTheWay: g.pass})
			whole := signed(t, "Svix", "whole", pad(1<<20), time.Now())
			c := e.dial(t)
			c.send(t, whole.head()+whole.body)
			require.Equal(t, "whole", <-g.arrived)
			require.Equal(t, int64(1<<20), e.handler.BodyBytes())

			var slow []*connection
			for i := range 3 { // each has 1 MiB, and a byte that never comes
				one := e.dial(t)
				r := request{}.with("Content-Length", fmt.Sprint(1<<20))
				text := strings.Repeat(" ", 1<<20-1)
				if chunked {
					r, text = request{}.chunked(1), "fffff\r\n"+text
				}
				one.send(t, r.head()+text)
				slow = append(slow, one)
				require.Eventually(t, func() bool { return e.handler.BodyBytes() == int64(i+2)<<20 },
					bound, time.Millisecond)
			}
			next := signed(t, "Svix", "next", pad(1<<20), time.Now())
			n := e.dial(t)
			n.send(t, next.head()+next.body)
			require.Equal(t, "next", <-g.arrived)
			a := slow[0].receive(t, "")
			requireProblem(t, a, http.StatusServiceUnavailable, "came so slowly")
			require.Equal(t, "1", a.header.Get("Retry-After"))
			require.True(t, a.close)
			slow[0].ended(t)
			require.InDelta(t, 1, e.result(t, "overloaded"), 0)
			require.Equal(t, int64(4<<20), e.handler.BodyBytes())

			for _, id := range []string{"third", "fourth"} {
				r := signed(t, "Svix", id, pad(1<<20), time.Now())
				e.dial(t).send(t, r.head()+r.body)
				require.Equal(t, id, <-g.arrived)
			}
			requireProblem(t, e.do(t, signed(t, "Svix", "fifth", pad(1<<20), time.Now())),
				http.StatusServiceUnavailable, "fill the memory")
			e.handler.SetPatience(bound) // the next one is there when there is room
			last := signed(t, "Svix", "last", pad(1<<20), time.Now())
			l := e.dial(t)
			l.send(t, last.head()+last.body)
			require.Eventually(t, func() bool { return e.handler.WaitsForMemory() }, bound, time.Millisecond)
			close(g.open)
			require.Equal(t, http.StatusAccepted, l.receive(t, "").status)
			require.Equal(t, http.StatusAccepted, c.receive(t, "").status)
		})
	}
}
