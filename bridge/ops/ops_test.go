package ops_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge/ops"
	"github.com/fnbridge/fnbridge/bridge/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type answer struct {
	status int
	header http.Header
	body   string
}

func serve(t *testing.T, o ops.Options) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.Config = ops.NewServer(ops.New(o), nil)
	server.Start()
	t.Cleanup(server.Close)
	return server
}

func ask(t *testing.T, s *httptest.Server, method, path string, header http.Header) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
	require.NoError(t, err)
	if header != nil {
		r.Header = header
	}
	response, err := s.Client().Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{response.StatusCode, response.Header, string(body)}
}

func requireProblem(t *testing.T, a answer, status int, detail string) {
	t.Helper()
	require.Equal(t, status, a.status)
	require.Equal(t, problem.ContentType, a.header.Get("Content-Type"))
	var p problem.Problem
	require.NoError(t, json.Unmarshal([]byte(a.body), &p))
	require.Equal(t, problem.New(status, p.Detail), p)
	require.Contains(t, p.Detail, detail)
}

func TestPaths(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	require.NoError(t, ops.RegisterBuildInfo(registry, "1.2.3", "abc"))
	s := serve(t, ops.Options{Registry: registry})
	for path, want := range map[string]string{
		"/livez":      "ok",
		"/readyz":     "ok",
		"/readyz?x=1": "ok",
		"/":           "/livez\n/readyz\n/metrics\n",
	} {
		a := ask(t, s, http.MethodGet, path, nil)
		require.Equal(t, http.StatusOK, a.status, path)
		require.Equal(t, want, a.body, path)
		require.Equal(t, "text/plain; charset=utf-8", a.header.Get("Content-Type"))
		require.Equal(t, "no-store", a.header.Get("Cache-Control"))

		a = ask(t, s, http.MethodHead, path, nil)
		require.Equal(t, http.StatusOK, a.status, path)
		require.Empty(t, a.body)
	}
	for _, path := range []string{"/livez/", "/metrics/x", "/healthz", "//livez", "/debug/pprof/", "/favicon.ico"} {
		requireProblem(t, ask(t, s, http.MethodGet, path, nil), http.StatusNotFound, "/readyz")
		requireProblem(t, ask(t, s, http.MethodPost, path, nil), http.StatusNotFound, "/readyz")
	}
	for _, path := range []string{"/", "/livez", "/readyz", "/metrics"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "BREW"} {
			a := ask(t, s, method, path, nil)
			requireProblem(t, a, http.StatusMethodNotAllowed, "GET or HEAD")
			require.Equal(t, "GET, HEAD", a.header.Get("Allow"))
		}
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	var (
		mu    sync.Mutex
		cause error
		log   bytes.Buffer
	)
	set := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		cause = err
	}
	s := serve(t, ops.Options{
		Ready: func(ctx context.Context) error {
			deadline, ok := ctx.Deadline()
			if !ok || time.Until(deadline) > 5*time.Second {
				return errors.New("the check is not bounded")
			}
			mu.Lock()
			defer mu.Unlock()
			return cause
		},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.Equal(t, http.StatusOK, ask(t, s, http.MethodGet, "/readyz", nil).status)
	require.Empty(t, log.String())

	set(errors.New("the journal is\nfull"))
	for range 3 {
		requireProblem(t, ask(t, s, http.MethodGet, "/readyz", nil), http.StatusServiceUnavailable, "the journal is\nfull")
	}
	require.Equal(t, http.StatusServiceUnavailable, ask(t, s, http.MethodHead, "/readyz", nil).status)
	require.Equal(t, http.StatusOK, ask(t, s, http.MethodGet, "/livez", nil).status)
	require.Equal(t, 1, strings.Count(log.String(), "\n"), "said once: %s", log.String())
	require.Contains(t, log.String(), "level=WARN")
	require.Contains(t, log.String(), "path=/readyz")

	set(nil)
	require.Equal(t, "ok", ask(t, s, http.MethodGet, "/readyz", nil).body)
	require.Equal(t, 2, strings.Count(log.String(), "\n"), log.String())
	require.Contains(t, log.String(), "passes again")
}

func TestWhoeverLeavesChangesNothing(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	ctx, leave := context.WithCancel(t.Context())
	h := ops.New(ops.Options{
		Ready: func(ctx context.Context) error {
			leave()
			<-ctx.Done()
			return ctx.Err()
		},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil)
	require.NoError(t, err)
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Empty(t, log.String())
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	require.NoError(t, ops.RegisterBuildInfo(registry, "1.2.3", "abc"))
	s := serve(t, ops.Options{Registry: registry})
	want := `fnbridge_build_info{goversion="` + runtime.Version() + `",revision="abc",version="1.2.3"} 1`

	a := ask(t, s, http.MethodGet, "/metrics", nil)
	require.Equal(t, http.StatusOK, a.status)
	require.Contains(t, a.header.Get("Content-Type"), "text/plain")
	require.Contains(t, a.body, want)
	a = ask(t, s, http.MethodGet, "/metrics", http.Header{"Accept": {"application/openmetrics-text; version=1.0.0"}})
	require.Contains(t, a.header.Get("Content-Type"), "application/openmetrics-text")
	require.Contains(t, a.body, want+".0\n# EOF")

	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.ErrorContains(t, ops.RegisterBuildInfo(registry, "1.2.3", "abc"), "fnbridge_build_info")
}

// half is a Gatherer with one collector that fails.
type half struct{ prometheus.Gatherer }

func (h half) Gather() ([]*dto.MetricFamily, error) {
	families, _ := h.Gatherer.Gather()
	return families, errors.New("disk\ngone")
}

func TestOneBrokenCollectorDoesNotHideTheRest(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	require.NoError(t, ops.RegisterBuildInfo(registry, "1.2.3", "abc"))
	var log bytes.Buffer
	s := serve(t, ops.Options{Registry: half{registry}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	a := ask(t, s, http.MethodGet, "/metrics", nil)
	require.Equal(t, http.StatusOK, a.status)
	require.Contains(t, a.body, "fnbridge_build_info{")
	require.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
	require.Contains(t, log.String(), `disk\ngone`)
}

func TestServerLimits(t *testing.T) {
	t.Parallel()
	s := ops.NewServer(http.NotFoundHandler(), nil)
	require.Equal(t, 5*time.Second, s.ReadHeaderTimeout)
	require.Equal(t, 10*time.Second, s.ReadTimeout)
	require.Equal(t, 30*time.Second, s.WriteTimeout)
	require.Equal(t, 60*time.Second, s.IdleTimeout)
	require.Equal(t, 4<<10, s.MaxHeaderBytes)
}
