package app_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/app"
)

// TestNamesOfControlCharactersStayInTheirPlaces reads what hostile names become at the broker.
func TestNamesOfControlCharactersStayInTheirPlaces(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	names := []string{
		`a.b.c`, `*`, `>`, `a b`, `tensorlake.>`, `$JS.API.STREAM.DELETE.TENSORLAKE`, `x\r\nNats-Msg-Id: forged\r\n\r\n`,
		`\u0000`, `\t`, `\u007f\u0085`,
		`\u2028\u2029`, `\ud800`, `\ufffe`, ``, `../../etc/passwd`, `{route}`, `%0d%0a`, "\u202e" + `gpj.exe`,
		`é`, strings.Repeat(`n`, 10_000),
	}
	want := 0
	for i, name := range names {
		body := fmt.Sprintf(`{"workflow_name":"%s","invocation_id":"%s","fn_status":{"%s":"%s"}}`, name, name, name, name)
		status, answer, err := r.post(fmt.Sprintf("msg_%d", i), body)
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, status, answer)
		want++
	}
	for _, m := range r.inStream(want) {
		tokens := strings.Split(m.Subject(), ".")
		require.Len(t, tokens, 5, m.Subject())
		require.Equal(t, []string{"tensorlake", "workflow"}, tokens[:2])
		for _, token := range tokens {
			require.NotEmpty(t, token)
			require.NotContains(t, []string{"*", ">"}, token)
			require.False(t, strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }), "%q", token)
		}
		require.Len(t, m.Headers().Values("Nats-Msg-Id"), 1)
		require.NotEqual(t, "forged", m.Headers().Get("Nats-Msg-Id"))
		for name, values := range m.Headers() {
			for _, value := range values {
				require.False(t, strings.ContainsFunc(name+value, func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 }),
					"%q: %q", name, value)
			}
		}
	}
}

// TestBodiesAroundTheLimit: every size near the limit, told by a length and in chunks.
func TestBodiesAroundTheLimit(t *testing.T) {
	const limit = 1 << 10
	r := start(t, t.TempDir(), map[string]string{"MAX_BODY": "1KiB"})
	for size := limit - 20; size <= limit+20; size++ {
		body := `{"a":"` + strings.Repeat("x", size-len(`{"a":""}`)) + `"}`
		for _, chunked := range []bool{false, true} {
			id := fmt.Sprintf("msg_%d_%t", size, chunked)
			q := wireRequest{headers: signedHeaders(id, body, fmt.Sprint(time.Now().Unix())), body: body}
			if chunked {
				q.headers, q.length, q.body = append(q.headers, "Transfer-Encoding: chunked"), "none", inChunks(body, 100)
			}
			status, answer, err := exchange(t, r.Addr().String(), q.text(), false)
			require.NoError(t, err, id)
			if size <= limit {
				require.Equal(t, http.StatusAccepted, status, "%s: %s", id, answer)
			} else {
				require.Equal(t, http.StatusRequestEntityTooLarge, status, "%s: %s", id, answer)
			}
		}
	}
}

// TestSlowSendersAreCut gives a bridge shorter waits, and sends slower than they allow. The times only have to be in
// the right order: headers, body, answer.
func TestSlowSendersAreCut(t *testing.T) {
	t.Parallel()
	ended := make(chan net.Addr, 100) // where the connections that the server has closed came from
	r := startPublic(t, map[string]string{"MAX_BODY": "64KiB"}, func(s *http.Server) {
		s.ReadHeaderTimeout, s.ReadTimeout = 3*time.Second, 3*time.Second
		s.WriteTimeout, s.IdleTimeout = 8*time.Second, 3*time.Second
		note := s.ConnState
		s.ConnState = func(c net.Conn, state http.ConnState) {
			note(c, state)
			if state == http.StateClosed {
				ended <- c.RemoteAddr()
			}
		}
	})
	address := r.Addr().String()
	headers := wireRequest{headers: signedHeaders("msg_slow", workflow,
		fmt.Sprint(time.Now().Unix())), length: "100"}.text()
	chunked := strings.Replace(headers, "Content-Length: 100", "Transfer-Encoding: chunked", 1)
	tests := map[string]struct {
		begin  string
		piece  string // sent again and again
		status int    // 0: it is cut without an answer
	}{
		"silence":              {"", "", 0},
		"half a request line":  {"POST /webho", "", http.StatusBadRequest},
		"headers in drops":     {"POST /webhooks/tensorlake HTTP/1.1\r\nX: ", "x", 0},
		"headers without end":  {"POST /webhooks/tensorlake HTTP/1.1\r\n", "X: y\r\n", 0},
		"idle after an answer": {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", http.StatusOK},
		"a body that stays":    {headers, "", http.StatusRequestTimeout},
		"a body in drops":      {strings.Replace(headers, "Length: 100", "Length: 60000", 1), " ", http.StatusRequestTimeout},
		"chunks in drops":      {chunked, "1\r\n \r\n", http.StatusRequestTimeout},
		"chunk size in drops":  {chunked, "0", http.StatusRequestTimeout},
	}
	answers := map[string]*slowSender{}
	var sending sync.WaitGroup
	for name, test := range tests { // all at once: each is a wait
		one := &slowSender{conn: dialBridge(t, address)}
		answers[name] = one
		_, err := io.WriteString(one.conn, test.begin)
		require.NoError(t, err)
		sending.Go(func() { one.run(test.piece) })
	}
	deaf := dialBridge(t, address)
	require.NoError(t, deaf.SetReadBuffer(1<<10))
	sending.Go(func() {
		for {
			if _, err := io.WriteString(deaf, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1000)); err != nil {
				return
			}
		}
	})
	for closed := ""; closed != deaf.LocalAddr().String(); {
		select {
		case address := <-ended:
			closed = address.String()
		case <-time.After(bound):
			require.FailNow(t, "the bridge goes on waiting for a reader that does not read")
		}
	}
	require.NoError(t, deaf.Close())
	sending.Wait()
	for name, test := range tests {
		one := answers[name]
		require.NotErrorIs(t, one.err, os.ErrDeadlineExceeded, "%s: the deadline of this test, long after the bridge's", name)
		if test.status == 0 {
			require.Empty(t, one.answer, name)
		} else {
			require.Contains(t, one.answer, fmt.Sprintf("HTTP/1.1 %d ", test.status), name)
		}
	}
	r.mustPost("msg_after", workflow, http.StatusAccepted)
	require.NotContains(t, r.log.String(), "panic")
}

// slowSender is a connection that sends a little now and then.
type slowSender struct {
	conn   net.Conn
	answer string
	err    error // of reading it, nil when the bridge has closed the connection in order
}

// run sends piece again and again, until the connection is closed.
func (s *slowSender) run(piece string) {
	stop := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			if _, err := io.WriteString(s.conn, piece); err != nil {
				return
			}
		}
	})
	answer, err := io.ReadAll(s.conn)
	close(stop)
	sending.Wait()
	_ = s.conn.Close()
	s.answer, s.err = string(answer), err
}

// startPublic is start with a change to the server of the public listener.
func startPublic(t *testing.T, changes map[string]string, change func(*http.Server)) *running {
	t.Helper()
	log := &logText{}
	a, err := app.New(t.Context(),
		app.Options{Config: load(t, environment(t.TempDir(), changes)), Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	change(app.PublicServer(a))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	r := &running{App: a, t: t, log: log, http: &http.Client{Transport: &http.Transport{}}, scheme: "http"}
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		r.http.CloseIdleConnections()
	})
	return r
}
