// Package embeddednats runs nats-server with JetStream in this process, so that a bridge has a broker before anybody
// has configured one. Any NATS client can connect to it.
//
// What it has acknowledged survives the end of the process. The end of the machine survives what it had acknowledged
// before a call of Server.Sync, which is for as many messages as there are; where a sync of the file system does not
// tell whether it failed, the server fsyncs each message before it acknowledges it.
package embeddednats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
	"github.com/fnbridge/fnbridge/bridge/volume"
)

const (
	// maxMemory bounds streams that clients keep in memory; the bridge's own are files.
	maxMemory = 256 << 20
	// maxPayload leaves room for a webhook of several times the default limit, and is the most that nats-server advises.
	// The configuration keeps bodies below it, so that an event with all of a body fits with its headers.
	maxPayload = 8 << 20
	// pollInterval is how often a server that starts is asked whether it is ready.
	pollInterval = 10 * time.Millisecond
)

// Options of a server.
type Options struct {
	// Listen is the address for clients, host:port. Port 0 takes any that is free, and an empty host all interfaces.
	Listen string
	// Token is what clients have to give; empty: nothing. See Server.OwnToken and Server.SetToken.
	Token string
	// MaxClients is how many clients may be connected at once; 0: as many as nats-server takes (65,536).
	MaxClients int
	// Monitor is the address of nats-server's own monitoring, as Listen is; empty: none. It asks for nothing.
	Monitor string
	// LimitMonitor bounds the connections of server, which monitoring listens with; nil: nothing does.
	LimitMonitor func(l net.Listener, server *http.Server) net.Listener
	// Dir is where streams are stored. It is created if it is missing. No two servers may share it: the caller sees to
	// that.
	Dir string
	// Logger gets what the server logs. It may be nil.
	Logger *slog.Logger
}

// ListenError says that the address to listen on cannot be used.
type ListenError struct {
	Address string
	// Monitor tells that it is the one for monitoring.
	Monitor bool
	Err     error
}

// Error says what to do about it.
func (e *ListenError) Error() string {
	return fmt.Sprintf("the embedded NATS server cannot listen on %s: %v; "+
		"choose another address, or stop what uses it", e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// Server is a server that takes clients until Shutdown. It is a bridge.Syncer.
type Server struct {
	server  *server.Server
	options *server.Options // that it was started with
	tokens  *tokens         // nil: nothing is asked
	addr    net.Addr        // which the server itself forgets at its end
	monitor *monitor        // nil: there is none
	once    sync.Once
	ended   chan struct{}
	endErr  error // once ended is closed
	// running are the start, since a stop before its end would miss some of it, and what end ends: keepStoring, and the
	// syncer.
	running sync.WaitGroup
	end     context.CancelFunc
	// opening is held while streams are opened anew, or may be.
	opening sync.Mutex
	syncer  *syncer // nil: each message is synced before it is acknowledged
}

// Start starts a server and returns when it takes clients and JetStream is ready. ctx bounds the start only. An
// address that cannot be used gives a *ListenError.
func Start(ctx context.Context, o Options) (*Server, error) {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	host, port, err := resolve(ctx, o.Listen)
	if err != nil {
		return nil, &ListenError{Address: o.Listen, Err: err}
	}
	if err := cmp.Or(os.MkdirAll(o.Dir, 0o700), ownfile.Check(o.Dir)); err != nil {
		return nil, fmt.Errorf("the embedded NATS server cannot use its directory: %w", err)
	}
	syncer, err := openSyncer(o.Dir, log)
	if err != nil {
		return nil, fmt.Errorf("the embedded NATS server cannot use its directory: %w", err)
	}
	forgetCached(o.Dir)
	lines := newLogger(log)
	options := &server.Options{
		ServerName:             "fnbridge",
		Host:                   host,
		Port:                   port,
		MaxConn:                o.MaxClients,
		JetStream:              true,
		StoreDir:               o.Dir,
		SyncAlways:             syncer == nil,
		JetStreamMaxStore:      maxStore(o.Dir),
		JetStreamMaxMemory:     maxMemory,
		MaxPayload:             maxPayload,
		NoSigs:                 true,
		NoLog:                  true, // it only says that there is no log file
		DisableJetStreamBanner: true,
	}
	var tokens *tokens
	if o.Token != "" {
		tokens = newTokens(o.Token)
		options.CustomClientAuthentication = tokens
	}
	monitor, err := listenMonitor(ctx, o)
	if err != nil {
		return nil, errors.Join(err, syncer.close())
	}
	srv, err := server.NewServer(options.Clone()) // it writes to them
	if err != nil {
		return nil, fmt.Errorf("the embedded NATS server cannot be set up: %w",
			errors.Join(err, syncer.close(), monitor.close()))
	}
	srv.SetLoggerV2(lines, false, false, false)
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{
		server: srv, options: options, tokens: tokens, ended: make(chan struct{}), end: end, syncer: syncer,
		monitor: monitor,
	}
	if syncer != nil {
		s.running.Go(func() { syncer.run(running) })
	}
	s.running.Go(srv.Start)
	jetStream, err := s.ready(ctx, lines)
	if err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, errors.Join(err, s.Shutdown(stop))
	}
	s.addr = srv.Addr()
	jetStream.StoreDir = o.Dir // the server adds a directory of its own
	s.running.Go(func() { s.keepStoring(running, *jetStream, lines.log) })
	if monitor != nil {
		s.running.Go(func() { monitor.serve(srv, o.LimitMonitor, lines.log) })
	}
	return s, nil
}

// maxStore is what all streams together may take: a quarter of the disk under dir is left to others. nats-server would
// reckon with what is free when it starts, and find on a full disk that it has stored too much already. 0: it does
// that.
func maxStore(dir string) int64 {
	space, _ := volume.Of(dir)
	return space.Size / 4 * 3
}

// resolve splits the address, and finds out whether it can be listened on: the server itself only logs that it cannot.
func resolve(ctx context.Context, address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if port, err = strconv.Atoi(text); err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("the port %q is not a number from 0 to 65535", text)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return "", 0, err
	}
	if err := listener.Close(); err != nil {
		return "", 0, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// ready waits until clients can connect, and returns what JetStream was started with.
func (s *Server) ready(ctx context.Context, lines *logger) (*server.JetStreamConfig, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("the embedded NATS server was not ready in time: %w", err)
		}
		// With a shorter wait, the server may find it over before it has looked even once.
		if config := s.server.JetStreamConfig(); config != nil &&
			s.server.ReadyForConnections(pollInterval) && s.server.JetStreamEnabled() {
			return config, nil
		}
		select {
		case <-ctx.Done():
		case reason := <-lines.fatal:
			return nil, fmt.Errorf("the embedded NATS server cannot start: %s", reason)
		case <-tick.C:
		}
	}
}

// Addr is the address that it listens on, with the port that it took.
func (s *Server) Addr() net.Addr { return s.addr }

// MonitorAddr is where monitoring is, with the port that it took; nil: nowhere.
func (s *Server) MonitorAddr() net.Addr {
	if s.monitor == nil {
		return nil
	}
	return s.monitor.listener.Addr()
}

// ClientURL is what a client on this machine connects to.
func (s *Server) ClientURL() string {
	address, ok := s.addr.(*net.TCPAddr)
	if !ok {
		return s.server.ClientURL()
	}
	host := address.IP
	if host.IsUnspecified() {
		host = net.IPv4(127, 0, 0, 1)
	}
	return "nats://" + net.JoinHostPort(host.String(), strconv.Itoa(address.Port))
}

// Shutdown ends the server and waits until everything of it has ended, or ctx. It may be called more than once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		go func() {
			defer close(s.ended)
			s.end()
			monitorErr := s.monitor.close()
			s.running.Wait()
			s.server.Shutdown()
			s.server.WaitForShutdown()
			s.endErr = errors.Join(monitorErr, s.syncer.close())
		}()
	})
	select {
	case <-s.ended:
		return s.endErr
	case <-ctx.Done():
		return fmt.Errorf("the embedded NATS server has not stopped in time: %w", ctx.Err())
	}
}
