package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// connectTimeout is for dialling, and again for the handshakes.
	connectTimeout = 5 * time.Second
	// pingInterval, twice missed, is how soon an idle connection that has died is noticed.
	pingInterval = 10 * time.Second
	// Between two rounds over all servers.
	minReconnectPause = 50 * time.Millisecond
	maxReconnectPause = 3 * time.Second
	// kickPause is the least time between two reconnects because a server does not acknowledge.
	kickPause = 10 * time.Second
)

// connection keeps a session with one of the servers. Its callbacks are set before run, and must not block.
type connection struct {
	o   *Options
	log *slog.Logger

	acknowledged func(msg *natsgo.Msg, ack *natsjs.PubAck)
	failed       func(msg *natsgo.Msg, err error)
	// denied hears that the server refuses to take what is published to subject. lost hears of the end of a session.
	denied func(s *session, subject string, err error)
	lost   func(s *session, err error)

	mu         sync.Mutex
	current    *session
	err        error         // why there is no session; nil before the first try has ended
	changed    chan struct{} // closed and replaced whenever current or err changes
	discovered []string      // the last session's server, and those that it told of
	certified  string        // the name that the last session's server had to prove
	kickedAt   time.Time
}

// session is one connection to one server. It is never mended: a new one takes its place.
type session struct {
	nc     *natsgo.Conn
	js     natsjs.JetStream
	wire   *dialer
	name   string    // which the server's certificate must hold
	began  time.Time // before the server told what it takes
	closed chan struct{}

	mu sync.Mutex
	// blocked is what ends the session for a reason that a person has to mend.
	blocked error
	// watched are requests that end when the server denies a subject that begins so.
	watched map[*string]context.CancelCauseFunc
	// letterStream is the stream that takes the dead letters, once it has been asked for; empty if that may not be asked.
	letterStream *string
}

func newConnection(o *Options, log *slog.Logger) *connection {
	return &connection{
		o: o, log: log, changed: make(chan struct{}),
		acknowledged: func(*natsgo.Msg, *natsjs.PubAck) {},
		failed:       func(*natsgo.Msg, error) {},
		denied:       func(*session, string, error) {},
		lost:         func(*session, error) {},
	}
}

// run connects, and connects again, until ctx ends.
func (c *connection) run(ctx context.Context) {
	defer c.set(nil, bridge.Retry(errClosed))
	pause := minReconnectPause
	for ctx.Err() == nil {
		s, err := c.connect(ctx)
		if err == nil {
			pause = minReconnectPause
			err = c.use(ctx, s)
		}
		if ctx.Err() != nil {
			return
		}
		c.set(nil, err)
		wait := time.NewTimer(pause/2 + rand.N(pause/2)) //nolint:gosec // jitter needs no secrecy
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		pause = min(2*pause, maxReconnectPause)
	}
}

// use offers s until it has ended, and returns why it has.
func (c *connection) use(ctx context.Context, s *session) error {
	server := s.nc.ConnectedUrlRedacted()
	c.log.Debug("connected to NATS", "server", server, "server_version", s.nc.ConnectedServerVersion())
	c.set(s, nil)
	select {
	case <-ctx.Done():
	case <-s.closed:
	}
	if others := s.nc.DiscoveredServers(); len(others) > 0 {
		c.mu.Lock()
		c.discovered, c.certified = append([]string{server}, others...), s.name
		c.mu.Unlock()
	}
	s.mu.Lock()
	err := s.blocked
	s.mu.Unlock()
	if err == nil {
		cause := s.wire.cause()
		if cause == nil {
			cause = s.nc.LastError()
		}
		if cause == nil {
			cause = errors.New("closed")
		}
		err = classifyConnect(fmt.Errorf("the connection to NATS at %s was lost: %w", server, cause))
	}
	s.close()
	if ctx.Err() != nil {
		err = bridge.Retry(errClosed)
	}
	c.set(nil, err)
	c.lost(s, err)
	<-s.closed
	c.log.Debug("disconnected from NATS", "server", server, "error", err)
	return err
}

// close ends the session, even while its connection takes nothing.
func (s *session) close() {
	s.wire.close()
	s.nc.Close()
}

func (c *connection) set(s *session, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.err = s, err
	close(c.changed)
	c.changed = make(chan struct{})
}

// session returns the session that there is now, or why there is none, classified. Only before the first try to
// connect has ended does it wait.
func (c *connection) session(ctx context.Context) (*session, error) {
	for {
		c.mu.Lock()
		s, err, changed := c.current, c.err, c.changed
		c.mu.Unlock()
		switch {
		case s != nil:
			return s, nil
		case err != nil:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, bridge.Retry(fmt.Errorf("still connecting to NATS at %s: %w", c.servers(), ctx.Err()))
		case <-changed:
		}
	}
}

// wait returns when there is another session, or another reason for none.
func (c *connection) wait(ctx context.Context) error {
	c.mu.Lock()
	changed := c.changed
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
		return nil
	}
}

// kick ends a session whose server does not acknowledge anything, unless it has just done so: the connection may be
// half open, and another server may do better.
func (c *connection) kick(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != s || time.Since(c.kickedAt) < kickPause {
		return
	}
	c.kickedAt = time.Now()
	c.log.Debug("reconnecting to NATS, since the server acknowledges nothing")
	s.wire.close()
}

// renew ends a session and returns the one that takes its place, or why there is none when ctx ends.
func (c *connection) renew(ctx context.Context, old *session) (*session, error) {
	old.wire.close()
	for {
		c.mu.Lock()
		s, err, changed := c.current, c.err, c.changed
		c.mu.Unlock()
		if s != nil && s != old {
			return s, nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = bridge.Retry(fmt.Errorf("connecting to NATS at %s again: %w", c.servers(), ctx.Err()))
			}
			return nil, err
		case <-changed:
		}
	}
}

// servers returns the configured addresses, without passwords.
func (c *connection) servers() string {
	urls := addresses(c.o.URL)
	texts := make([]string, len(urls))
	for i, u := range urls {
		texts[i] = redact(u)
	}
	return strings.Join(texts, ",")
}

func redact(u *url.URL) string { return u.Scheme + "://" + u.Host }

// connect tries each server once. The error is that of the server that comes nearest to working.
func (c *connection) connect(ctx context.Context) (*session, error) {
	urls := addresses(c.o.URL)
	rand.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] }) //nolint:gosec // the order needs no secrecy
	configured := len(urls)
	c.mu.Lock()
	for _, text := range c.discovered {
		u, err := url.Parse(text)
		if err != nil || slices.ContainsFunc(urls, func(known *url.URL) bool { return known.Host == u.Host }) {
			continue
		}
		u.User = urls[0].User
		urls = append(urls, u)
	}
	certified := c.certified
	c.mu.Unlock()
	var retry, blocked []error
	for i, u := range urls {
		name := u.Hostname()
		if i >= configured && net.ParseIP(name) != nil && net.ParseIP(certified) == nil {
			name = certified // servers tell of one another by address, and certificates hold names
		}
		s, err := c.connectTo(ctx, u, name)
		if err == nil {
			return s, nil
		}
		err = fmt.Errorf("connect to NATS at %s: %w", redact(u), err)
		if bridge.KindOf(err) == bridge.FailureBlocked {
			blocked = append(blocked, err)
		} else {
			retry = append(retry, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(blocked) > 0 {
		return nil, bridge.Blocked(blocked[0])
	}
	return nil, bridge.Retry(retry[0])
}

// connectTo tries one server, which must prove that it has the name if it speaks TLS. Its error is classified.
func (c *connection) connectTo(ctx context.Context, u *url.URL, name string) (*session, error) {
	options, err := c.options(u, name)
	if err != nil {
		return nil, bridge.Blocked(err)
	}
	s := &session{
		wire:    &dialer{ctx: ctx},
		name:    name,
		began:   time.Now(),
		closed:  make(chan struct{}),
		watched: make(map[*string]context.CancelCauseFunc),
	}
	options = append(options,
		natsgo.SetCustomDialer(s.wire),
		natsgo.ClosedHandler(func(*natsgo.Conn) { close(s.closed) }),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) { c.serverError(s, err) }),
	)
	nc, err := natsgo.Connect(u.String(), options...)
	if err != nil {
		s.wire.close()
		switch cause := s.wire.cause(); {
		case cause != nil:
			err = cause // nats.go says "no servers available" instead
		case s.wire.silent() && !c.o.TLSFirst && !strings.HasPrefix(u.Scheme, "ws"):
			if cause := whatElse(ctx, u.Host); cause != nil {
				err = cause
			}
		}
		return nil, classifyConnect(err)
	}
	s.nc = nc
	s.js, err = natsjs.NewWithAPIPrefix(nc, c.o.APIPrefix,
		natsjs.WithPublishAsyncTimeout(c.o.AckTimeout),
		// The sink's own limit is lower. This one only bounds what calls have left behind that ended early.
		natsjs.WithPublishAsyncMaxPending(16*maxInFlight),
		natsjs.WithPublishAsyncAckHandler(func(_ natsjs.JetStream, msg *natsgo.Msg, ack *natsjs.PubAck) {
			c.acknowledged(msg, ack)
		}),
		// The library calls this one with a lock held: it must not call back.
		natsjs.WithPublishAsyncErrHandler(func(_ natsjs.JetStream, msg *natsgo.Msg, err error) { c.failed(msg, err) }),
		natsjs.WithDefaultTimeout(c.o.AckTimeout),
	)
	if err != nil {
		s.close()
		<-s.closed
		return nil, bridge.Blocked(err)
	}
	return s, nil
}

// options reads whatever files there are. The error names the file.
func (c *connection) options(u *url.URL, name string) ([]natsgo.Option, error) {
	o := c.o
	options := []natsgo.Option{
		natsgo.Name("fnbridge " + o.Name),
		natsgo.NoReconnect(),
		natsgo.ReconnectBufSize(-1),
		natsgo.SkipHostLookup(), // the dialler looks up, and its context ends that
		natsgo.Timeout(connectTimeout),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(2),
		natsgo.FlusherTimeout(o.AckTimeout),
	}
	switch {
	case o.CredsFile != "":
		if _, err := os.ReadFile(o.CredsFile); err != nil {
			return nil, fmt.Errorf("read the credentials file: %w", err)
		}
		options = append(options, natsgo.UserCredentials(o.CredsFile))
	case o.NKeyFile != "":
		option, err := natsgo.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the NKey file %s: %w", o.NKeyFile, err)
		}
		options = append(options, option)
	case o.Token != "":
		options = append(options, natsgo.Token(o.Token))
	case o.User != "":
		options = append(options, natsgo.UserInfo(o.User, o.Password))
	}
	if !o.TLSFirst && o.TLSCAFile == "" && o.TLSCertFile == "" && u.Scheme != "tls" && u.Scheme != "wss" {
		return options, nil
	}
	config := o.tls.Client()
	config.ServerName = name
	if o.TLSFirst {
		options = append(options, natsgo.TLSHandshakeFirst())
	}
	return append(options, natsgo.Secure(config)), nil
}

// permission finds what a server denies in its message.
var permission = regexp.MustCompile(`(?i)permissions violation for (publish|publish with reply|subscription)(?: to| of)? ("(?:[^"\\]|\\.)*")`)

// serverError hears what a server says outside of answers. It is the only place where a denied permission appears.
func (c *connection) serverError(s *session, err error) {
	if !errors.Is(err, natsgo.ErrPermissionViolation) {
		c.log.Debug("nats.go reported an error", "error", err)
		return
	}
	denied := bridge.Blocked(fmt.Errorf("the account lacks a permission: %w", err))
	match := permission.FindStringSubmatch(err.Error())
	var subject string
	if match != nil {
		if subject, err = strconv.Unquote(match[2]); err != nil {
			match = nil
		}
	}
	if match == nil || !strings.EqualFold(match[1], "publish") {
		// Without its inbox a client hears no answer at all.
		s.mu.Lock()
		s.blocked = denied
		s.mu.Unlock()
		s.wire.close()
		return
	}
	s.mu.Lock()
	for prefix, cancel := range s.watched {
		if strings.HasPrefix(subject, *prefix) {
			cancel(denied)
		}
	}
	s.mu.Unlock()
	c.denied(s, subject, denied)
}

// watch returns a context that ends when the server denies a request whose subject begins with prefix, with the
// denial as its cause.
func (s *session) watch(ctx context.Context, prefix string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.watched[&prefix] = cancel
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		delete(s.watched, &prefix)
		s.mu.Unlock()
		cancel(nil)
	}
}

// dialer dials for one session and can cut its connection at any time, whatever locks the library holds.
type dialer struct {
	ctx context.Context //nolint:containedctx // natsgo.CustomDialer has no place for it

	mu     sync.Mutex
	conn   *guard
	stop   func() bool
	err    error
	closed bool
}

// Dial implements natsgo.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(d.ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	if err != nil {
		return nil, err
	}
	if d.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	d.conn = newGuard(conn)
	d.stop = context.AfterFunc(d.ctx, func() { _ = conn.Close() })
	return d.conn, nil
}

// close cuts the connection.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.conn != nil {
		d.stop()
		_ = d.conn.Close()
	}
}

// cause returns why the connection could not be made, or why what came over it was refused, and nil if neither was so.
func (d *dialer) cause() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		if refused := d.conn.refused.Load(); refused != nil {
			return *refused
		}
	}
	return d.err
}

// silent tells whether there was a connection, and the server said nothing.
func (d *dialer) silent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil && !d.conn.heard.Load()
}
