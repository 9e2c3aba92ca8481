// Package ops is the operations listener: liveness, readiness and metrics for everyone who reaches it, and the page
// with its /api/ for whoever may see payloads. It only reads.
package ops

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fnbridge/fnbridge/bridge/problem"
)

const (
	// readyTimeout bounds one readiness check, whoever asks.
	readyTimeout = 5 * time.Second
	// maxScrapes is how many /metrics requests are answered at once: gathering is the one dear thing here.
	maxScrapes = 8
	// scrapeTimeout bounds one of them. It is under the server's write timeout, so that the answer still gets out.
	scrapeTimeout = 20 * time.Second
)

// Options are the parts that the handler asks. The zero value is a process that is always ready and has no metrics.
type Options struct {
	// Registry is what /metrics shows.
	Registry prometheus.Gatherer
	// Ready returns nil when the process can do its work, else the cause, which /readyz shows as it
	// stands: keep secrets out of it. It is called concurrently, once for each request, with a
	// context that ends after 5 s or when the request does. Nil: always ready.
	Ready func(ctx context.Context) error
	// Page answers / and all that is under /api/ and /page/, to whom Access lets. Nil: / lists the other addresses.
	Page   http.Handler
	Access Access
	// Logger gets one line when the answer of /readyz changes. Nil: none.
	Logger *slog.Logger
}

// New returns the handler of the operations listener. It is safe for concurrent use.
//
//   - GET /livez: 200 "ok"
//   - GET /readyz: 200 "ok", or 503 with the cause
//   - GET /metrics: Prometheus text or OpenMetrics, as the request prefers
//   - GET /, /page/… and /api/…: the Page, for whom Access lets; others are answered 401 or 403
//
// HEAD works as GET does. Whatever else is asked is answered 404 or 405. Errors are RFC 9457 problems.
func New(o Options) http.Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Ready == nil {
		o.Ready = func(context.Context) error { return nil }
	}
	ready := &probe{check: o.Ready, logger: o.Logger}
	metrics := promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{
		ErrorLog:            metricsLog{o.Logger},
		ErrorHandling:       promhttp.ContinueOnError, // one broken collector must not hide the rest
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
		EnableOpenMetrics:   true,
	})
	paths := map[string]http.Handler{
		"/livez":   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeText(w, "ok") }),
		"/readyz":  ready,
		"/metrics": metrics,
	}
	page := o.Access.guard(o.Page)
	if o.Page == nil {
		page = nil
		paths["/"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			writeText(w, "/livez\n/readyz\n/metrics\n")
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A map and not http.ServeMux, whose own answers (redirects, 404, 405) are no problems.
		handler := paths[r.URL.Path]
		if page != nil && isPage(r.URL.Path) {
			handler = page
		}
		if handler == nil {
			problem.New(http.StatusNotFound, "There is nothing at this path; ask for /livez, /readyz or /metrics.").Write(w)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			problem.New(http.StatusMethodNotAllowed, "This listener can only be read; use GET or HEAD.").Write(w)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// isPage tells whether the Page answers at this path.
func isPage(path string) bool {
	return path == "/" || strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/page/")
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, text) // an error here is a reader that is gone
}

// probe answers whether a check passes, and logs when that changes.
type probe struct {
	check  func(context.Context) error
	logger *slog.Logger

	mu      sync.Mutex
	failing bool
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	err := p.check(ctx)
	if r.Context().Err() != nil {
		return // whoever asked has left; the error, if any, is about that
	}
	p.note(err)
	if err != nil {
		problem.New(http.StatusServiceUnavailable, err.Error()).Write(w)
		return
	}
	writeText(w, "ok")
}

func (p *probe) note(err error) {
	p.mu.Lock()
	changed := p.failing != (err != nil)
	p.failing = err != nil
	p.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		p.logger.Warn("health check fails", slog.String("path", "/readyz"), slog.Any("error", err))
	default:
		p.logger.Info("health check passes again", slog.String("path", "/readyz"))
	}
}

// metricsLog takes what promhttp says about collectors that fail.
type metricsLog struct{ logger *slog.Logger }

// Println implements promhttp.Logger.
func (l metricsLog) Println(v ...any) {
	l.logger.Error("metrics could not be gathered", slog.String("error", fmt.Sprint(v...)))
}
