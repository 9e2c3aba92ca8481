package embeddednats

import (
	"context"
	"errors"
	"expvar"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// monitor is where nats-server's monitoring is reached. The server's own listener takes connections without a bound.
type monitor struct {
	listener net.Listener
	http     *http.Server
}

// listenMonitor returns nil if no monitoring is wanted. Its error is a *ListenError.
func listenMonitor(ctx context.Context, o Options) (*monitor, error) {
	if o.Monitor == "" {
		return nil, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Monitor)
	if err != nil {
		return nil, &ListenError{Address: o.Monitor, Monitor: true, Err: err}
	}
	return &monitor{listener, &http.Server{ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}}, nil
}

// serve answers with what srv, which has started, says of itself, until close.
func (m *monitor) serve(srv *server.Server, limit func(net.Listener, *http.Server) net.Listener, log *slog.Logger) {
	mux := http.NewServeMux()
	for path, handle := range map[string]http.HandlerFunc{
		server.RootPath:         srv.HandleRoot,
		server.VarzPath:         srv.HandleVarz,
		server.ConnzPath:        srv.HandleConnz,
		server.RoutezPath:       srv.HandleRoutez,
		server.GatewayzPath:     srv.HandleGatewayz,
		server.LeafzPath:        srv.HandleLeafz,
		server.SubszPath:        srv.HandleSubsz,
		"/subscriptionsz":       srv.HandleSubsz,
		server.StackszPath:      srv.HandleStacksz,
		server.AccountzPath:     srv.HandleAccountz,
		server.AccountStatzPath: srv.HandleAccountStatz,
		server.JszPath:          srv.HandleJsz,
		server.HealthzPath:      srv.HandleHealthz,
		server.IPQueuesPath:     srv.HandleIPQueuesz,
		server.RaftzPath:        srv.HandleRaftz,
		server.ExpvarzPath:      expvar.Handler().ServeHTTP,
	} {
		mux.HandleFunc(path, handle)
	}
	m.http.Handler = mux
	m.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	listener := m.listener
	if limit != nil {
		listener = limit(listener, m.http)
	}
	if err := m.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the embedded NATS server's monitoring has ended", "error", err)
	}
}

// close may be called on nil, and before serve, which then ends at once.
func (m *monitor) close() error {
	if m == nil {
		return nil
	}
	err := errors.Join(m.http.Close(), m.listener.Close())
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
