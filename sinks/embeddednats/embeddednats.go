// Package embeddednats runs nats-server with JetStream in this process, so that a bridge has a broker before anybody
// has configured one. Any NATS client can connect to it.
//
// It fsyncs every message before it acknowledges it: what it has acknowledged survives the end of the process and of
// the machine.
package embeddednats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// maxMemory bounds streams that clients keep in memory; the bridge's own are files.
	maxMemory = 256 << 20
	// maxPayload leaves room for a webhook of several times the default limit, and is the most that nats-server advises. The
	// configuration keeps bodies below it, so that an event with all of a body fits with its headers.
	maxPayload = 8 << 20
	// pollInterval is how often a server that starts is asked whether it is ready.
	pollInterval = 10 * time.Millisecond
	// reopenPause is the wait before the streams are opened anew, and again if that did not help.
	reopenPause = time.Second
	// reopenRoom is what the disk must take before that is worth it, in bytes.
	reopenRoom = 1 << 20
)

// Options of a server.
type Options struct {
	// Listen is the address for clients, host:port. Port 0 takes any that is free, and an empty host all interfaces.
	Listen string
	// Dir is where streams are stored. It is created if it is missing. No two servers may share it: the caller sees to that.
	Dir string
	// Logger gets what the server logs. It may be nil.
	Logger *slog.Logger
}

// ListenError says that the address to listen on cannot be used.
type ListenError struct {
	Address string
	Err     error
}

// Error says what to do about it.
func (e *ListenError) Error() string {
	return fmt.Sprintf("the embedded NATS server cannot listen on %s: %v; choose another address, or stop what uses it", e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// Server is a server that takes clients until Shutdown.
type Server struct {
	server *server.Server
	addr   net.Addr // which the server itself forgets at its end
	once   sync.Once
	// started is closed when everything has been started: what stops earlier would miss some of it.
	started chan struct{}
	ended   chan struct{}
	// endReopening ends the goroutine that opens streams anew, which closes reopened at its end.
	endReopening context.CancelFunc
	reopened     chan struct{}
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
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the embedded NATS server cannot use its directory: %w", err)
	}
	lines := newLogger(log)
	srv, err := server.NewServer(&server.Options{
		ServerName: "fnbridge",
		Host:       host,
		Port:       port,
		JetStream:  true,
		StoreDir:   o.Dir,
		// Without it a message is acknowledged before it is on the disk.
		SyncAlways: true,
		// The store is bounded by nats-server: it takes three quarters of what it has and the disk has free when it starts.
		JetStreamMaxMemory:     maxMemory,
		MaxPayload:             maxPayload,
		NoSigs:                 true,
		NoLog:                  true, // it only says that there is no log file
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("the embedded NATS server cannot be set up: %w", err)
	}
	srv.SetLoggerV2(lines, false, false, false)
	s := &Server{server: srv, started: make(chan struct{}), ended: make(chan struct{}), reopened: make(chan struct{})}
	reopening, endReopening := context.WithCancel(context.WithoutCancel(ctx))
	s.endReopening = endReopening
	go func() {
		defer close(s.started)
		srv.Start()
	}()
	go func() {
		defer close(s.reopened)
		s.reopen(reopening, o.Dir, lines)
	}()
	if err := s.ready(ctx, lines); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, errors.Join(err, s.Shutdown(stop))
	}
	s.addr = srv.Addr()
	return s, nil
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

// ready waits until clients can connect.
func (s *Server) ready(ctx context.Context, lines *logger) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("the embedded NATS server was not ready in time: %w", err)
		}
		// With a shorter wait, the server may find it over before it has looked even once.
		if s.server.ReadyForConnections(pollInterval) && s.server.JetStreamEnabled() {
			return nil
		}
		select {
		case <-ctx.Done():
		case reason := <-lines.fatal:
			return fmt.Errorf("the embedded NATS server cannot start: %s", reason)
		case <-tick.C:
		}
	}
}

// reopen opens the streams anew, without a word to clients, whenever one has met an error of the disk and the disk takes
// writes again: nats-server itself lets such a stream take nothing more until it is restarted. What was acknowledged is
// on the disk, and what was not is sent again by whoever sent it. So it does when all together may store no more and the disk
// has more room than when that was decided.
func (s *Server) reopen(ctx context.Context, dir string, lines *logger) {
	select {
	case <-ctx.Done():
		return
	case <-s.started:
	}
	config := s.server.JetStreamConfig()
	if config == nil {
		return // it has not started
	}
	config.StoreDir = dir // the server adds a directory of its own
	for {
		select {
		case <-ctx.Done():
			return
		case <-lines.stuck:
			lines.log.Warn("a disk error keeps the embedded NATS server from storing; it is tried again every second")
			if !s.reopenAfterError(ctx, config, lines) {
				return
			}
			lines.log.Info("the disk takes writes again, and the embedded NATS server stores")
		case <-lines.full:
			lines.log.Warn("the embedded NATS server stores no more: it leaves a quarter of the disk to others; make room on the disk, or remove messages",
				"max_bytes", config.MaxStore)
			if !s.reopenWithRoom(ctx, config, lines) {
				return
			}
			lines.log.Info("the embedded NATS server has room again", "max_bytes", config.MaxStore)
		}
	}
}

// reopenAfterError opens the streams anew once the disk takes writes, and tells whether it did before ctx ended.
func (s *Server) reopenAfterError(ctx context.Context, config *server.JetStreamConfig, lines *logger) bool {
	for {
		if !pause(ctx) {
			return false
		}
		if err := tryDisk(config.StoreDir); err != nil {
			lines.log.Debug("the disk takes no writes yet", "error", err)
			continue
		}
		// With the little that is free now, the server itself would find that it has stored too much already.
		if limit, _ := s.room(config.StoreDir); limit > config.MaxStore {
			config.MaxStore = limit
		}
		if err := s.openStreams(*config, lines); err != nil {
			lines.log.Debug("the streams cannot be opened yet", "error", err)
			continue
		}
		return true
	}
}

// reopenWithRoom opens the streams anew once they may store more than they have, unless messages were removed meanwhile. It
// tells whether there was room before ctx ended.
func (s *Server) reopenWithRoom(ctx context.Context, config *server.JetStreamConfig, lines *logger) bool {
	for {
		if !pause(ctx) {
			return false
		}
		select {
		case <-lines.stuck:
			return s.reopenAfterError(ctx, config, lines)
		default:
		}
		limit, used := s.room(config.StoreDir)
		if used+reopenRoom <= config.MaxStore {
			return true
		}
		if limit <= config.MaxStore || limit < used+reopenRoom {
			continue
		}
		config.MaxStore = limit
		return s.reopenAfterError(ctx, config, lines)
	}
}

// room returns how much the streams may store on the disk as it is now, by nats-server's own rule, and how much they have.
func (s *Server) room(dir string) (limit, used int64) {
	if info, err := s.server.Jsz(nil); err == nil {
		used = int64(min(info.Store, math.MaxInt64))
	}
	return (freeBytes(dir) + used) / 4 * 3, used
}

// pause waits before the disk is looked at again, and tells whether ctx goes on.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(reopenPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// tryDisk tells whether the disk under dir takes writes.
func tryDisk(dir string) error {
	file, err := os.CreateTemp(dir, "disk-check-")
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, reopenRoom))
	return errors.Join(err, file.Sync(), file.Close(), os.Remove(file.Name()))
}

// openStreams closes JetStream with all its streams, and opens it as config says.
func (s *Server) openStreams(config server.JetStreamConfig, lines *logger) error {
	if err := s.server.ShutdownJetStream(); err != nil {
		return err
	}
	if s.server.JetStreamConfig() != nil {
		return errors.New("JetStream is still being closed") // by the server itself, which does so after some errors
	}
	for _, said := range []chan struct{}{lines.stuck, lines.full} {
		select {
		case <-said: // of before, or by an error of closing
		default:
		}
	}
	return s.server.EnableJetStream(&config)
}

// Addr is the address that it listens on, with the port that it took.
func (s *Server) Addr() net.Addr { return s.addr }

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
			s.endReopening()
			<-s.started
			<-s.reopened
			s.server.Shutdown()
			s.server.WaitForShutdown()
		}()
	})
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the embedded NATS server has not stopped in time: %w", ctx.Err())
	}
}
