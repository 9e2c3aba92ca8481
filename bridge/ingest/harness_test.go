package ingest_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/problem"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret      = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjU"
	otherSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrscChlQ"

	// bound is for whatever the machine may be slow to do.
	bound = time.Minute

	workflowPayload = `{"workflow_name":"w","invocation_id":"i","fn_status":{"a":"success","b":"failure"}}`
)

// memory is a Store that keeps webhooks by id and body. A test can put a function in its way.
type memory struct {
	mu       sync.Mutex
	webhooks []bridge.Webhook
	inTheWay func(ctx context.Context, w bridge.Webhook) error
}

func (m *memory) Append(ctx context.Context, w bridge.Webhook) (bridge.Acceptance, error) {
	if m.inTheWay != nil {
		if err := m.inTheWay(ctx, w); err != nil {
			return 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	accepted := bridge.Stored
	for _, o := range m.webhooks {
		switch {
		case o.ID == w.ID && bytes.Equal(o.Body, w.Body):
			return bridge.Duplicate, nil
		case o.ID == w.ID:
			accepted = bridge.StoredReusedID
		}
	}
	m.webhooks = append(m.webhooks, w)
	return accepted, nil
}

func (m *memory) stored() []bridge.Webhook {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.webhooks)
}

// logged collects log lines.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

// at returns the lines of that level or above.
func (l *logged) at(level slog.Level) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, line := range l.lines {
		var of slog.Level
		_, rest, _ := strings.Cut(line, "level=")
		word, _, _ := strings.Cut(rest, " ")
		if err := of.UnmarshalText([]byte(word)); err != nil || of >= level {
			found = append(found, line)
		}
	}
	return found
}

// endpoint is the handler on a real server, with what a test looks at.
type endpoint struct {
	handler  *ingest.Handler
	server   *httptest.Server
	store    *memory
	log      *logged
	registry *prometheus.Registry
}

type setup struct {
	options ingest.Options
	server  func(*http.Server)
	unsigned,
	tls bool
	connections int                  // at most; 0: many
	state       func(http.ConnState) // told after the listener was
	inTheWay    func(ctx context.Context, w bridge.Webhook) error
}

func start(t *testing.T, s setup) *endpoint {
	t.Helper()
	e := &endpoint{store: &memory{inTheWay: s.inTheWay}, log: &logged{}, registry: prometheus.NewRegistry()}
	logger := slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := s.options
	o.Store, o.Logger, o.Registerer = e.store, logger, e.registry
	o.StoreTimeout = cmp.Or(o.StoreTimeout, 2*bound)
	if !s.unsigned && o.Verifier == nil {
		verifier, err := tensorlake.NewVerifier([]string{secret}, 5*time.Minute)
		require.NoError(t, err)
		o.Verifier = func() *tensorlake.Verifier { return verifier }
	}
	var err error
	e.handler, err = ingest.New(o)
	require.NoError(t, err)
	e.server = httptest.NewUnstartedServer(nil)
	e.server.Config = ingest.NewServer(e.handler, logger)
	// What a test sends comes in time, however busy the machine is; TestServerLimits has the real times.
	e.server.Config.ReadHeaderTimeout, e.server.Config.ReadTimeout = 2*bound, 2*bound
	e.server.Config.WriteTimeout = 2 * bound
	if s.server != nil {
		s.server(e.server.Config)
	}
	e.server.Listener = ingest.LimitConnections(e.server.Listener, orMany(s.connections), e.server.Config, logger)
	note := e.server.Config.ConnState
	e.server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		note(c, state)
		if s.state != nil {
			s.state(state)
		}
	}
	if s.tls {
		e.server.StartTLS()
	} else {
		e.server.Start()
	}
	t.Cleanup(e.server.Close)
	return e
}

func orMany(n int) int {
	if n == 0 {
		return 10_000
	}
	return n
}

// gathered returns the value of a metric, and 0 when it is not there. label is "name=value" or "".
func (e *endpoint) gathered(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := e.registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
				return l.GetName()+"="+l.GetValue() == label
			}) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

func (e *endpoint) result(t *testing.T, label string) float64 {
	t.Helper()
	return e.gathered(t, "fnbridge_webhooks_total", "result="+label)
}

// dial opens a connection that ends with the test, and on which nothing waits for long.
func (e *endpoint) dial(t *testing.T) *connection {
	t.Helper()
	return dial(t, e.server.Listener.Addr())
}

func dial(t *testing.T, address net.Addr) *connection {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address.String())
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(bound)))
	t.Cleanup(func() { _ = conn.Close() })
	return &connection{TCPConn: conn.(*net.TCPConn), reader: bufio.NewReader(conn)}
}

// connection is one TCP connection to the server, for requests that no client would send.
type connection struct {
	*net.TCPConn

	reader *bufio.Reader
}

func (c *connection) send(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
}

// answer is a response that has been read whole.
type answer struct {
	status int
	header http.Header
	close  bool
	body   string
}

func (c *connection) receive(t *testing.T, method string) answer {
	t.Helper()
	response, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return answer{response.StatusCode, response.Header, response.Close, string(body)}
}

// ended requires that the server closes the connection without sending more.
func (c *connection) ended(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(c.reader)
	require.NoError(t, err)
	require.Empty(t, string(rest))
}

// request is one HTTP/1.1 request as it goes over the wire.
type request struct {
	method, path string // POST to the endpoint when empty
	// header is sent in the order of its names. Nil values take out what is there by default; Content-Length is the
	// body's unless it is named here.
	header http.Header
	body   string
}

// signed returns a request that the official Svix library signed.
func signed(tb testing.TB, family, id, body string, at time.Time) request {
	tb.Helper()
	webhook, err := svix.NewWebhook(secret)
	require.NoError(tb, err)
	signature, err := webhook.Sign(id, at, []byte(body))
	require.NoError(tb, err)
	return request{body: body, header: http.Header{
		family + "-Id":        {id},
		family + "-Timestamp": {fmt.Sprint(at.Unix())},
		family + "-Signature": {signature},
	}}
}

// with returns r with a header set to values; none take it out.
func (r request) with(name string, values ...string) request {
	r.header = maps.Clone(r.header)
	if r.header == nil {
		r.header = http.Header{}
	}
	r.header[name] = values
	return r
}

func (r request) to(method, path string) request {
	r.method, r.path = method, path
	return r
}

// chunked sends the body in chunks of n bytes.
func (r request) chunked(n int) request {
	r = r.with("Transfer-Encoding", "chunked").with("Content-Length")
	var b strings.Builder
	for part := range slices.Chunk([]byte(r.body), n) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
	}
	b.WriteString("0\r\n\r\n")
	r.body = b.String()
	return r
}

// head returns everything ahead of the body.
func (r request) head() string {
	header := http.Header{
		"Host": {"fnbridge.test"}, "Content-Type": {"application/json"}, "Content-Length": {fmt.Sprint(len(r.body))},
	}
	maps.Copy(header, r.header)
	var b strings.Builder
	method, path := r.method, r.path
	if method == "" {
		method = http.MethodPost
	}
	if path == "" {
		path = ingest.Path
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, path)
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// do sends one request on a connection of its own.
func (e *endpoint) do(t *testing.T, r request) answer {
	t.Helper()
	c := e.dial(t)
	// The server may answer and close before it has taken the whole body.
	_, _ = io.WriteString(c, r.head()+r.body)
	defer c.Close()
	return c.receive(t, r.method)
}

// requireProblem checks that a is a problem of that status whose detail has the text in it.
func requireProblem(t *testing.T, a answer, status int, detail string) {
	t.Helper()
	require.Equal(t, status, a.status, a.body)
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
	decoder := json.NewDecoder(bytes.NewReader([]byte(a.body)))
	decoder.DisallowUnknownFields()
	var p problem.Problem
	require.NoError(t, decoder.Decode(&p), a.body)
	require.Equal(t, problem.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: p.Detail,
	}, p)
	require.Contains(t, p.Detail, detail)
}
