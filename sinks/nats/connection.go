package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/wire"
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

	version  atomic.Int64  // of the credentials and certificates: it grows with each change
	outdated chan struct{} // has one when they have changed
	retiring sync.WaitGroup
	renewal  wire.Renewal

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
	server string    // its URL, without the password
	name   string    // which the server's certificate must hold
	login  int64     // the version of the credentials and certificates that it was made with
	began  time.Time // before the server told what it takes
	closed chan struct{}
	// compared tells that the stream has been compared, in this session and as well as it can be, with what it had
	// acknowledged before: it may have been restored, or be another one.
	compared atomic.Bool

	mu sync.Mutex
	// blocked is what ends the session for a reason that a person has to mend.
	blocked error
	// watched are requests that end when the server denies a subject that begins so.
	watched map[*string]context.CancelCauseFunc
	// accountHidden tells that the account may not ask about itself.
	accountHidden atomic.Bool
	// letterStream is the stream that takes the dead letters, once it has been asked for; empty if that may not be asked.
	letterStream *string
}

func newConnection(o *Options, log *slog.Logger) *connection {
	c := &connection{
		o: o, log: log, changed: make(chan struct{}), outdated: make(chan struct{}, 1),
		acknowledged: func(*natsgo.Msg, *natsjs.PubAck) {},
		failed:       func(*natsgo.Msg, error) {},
		denied:       func(*session, string, error) {},
		lost:         func(*session, error) {},
	}
	o.Files.OnChange(func() {
		c.version.Add(1)
		select {
		case c.outdated <- struct{}{}:
		default: // it knows
		}
	})
	return c
}

// run connects, and connects again, until ctx ends.
func (c *connection) run(ctx context.Context) {
	defer c.retiring.Wait()
	defer c.set(nil, bridge.Retry(errClosed))
	for wait := time.Duration(0); ctx.Err() == nil; wait = jittered(wire.RetryMin) {
		for s := c.connect(ctx, nil, wait, c.noSession); s != nil; {
			s = c.use(ctx, s)
		}
	}
}

func (c *connection) noSession(err error) { c.set(nil, err) }

// use offers s until it has ended, or another one with newer credentials can take its place, which it returns.
func (c *connection) use(ctx context.Context, s *session) (next *session) {
	c.log.Debug("connected to NATS", "server", s.server, "server_version", s.nc.ConnectedServerVersion())
	c.set(s, nil)
	for ended := false; !ended; {
		if s.login != c.version.Load() {
			if next = c.replacement(ctx, s); next != nil {
				c.log.Info("connected to NATS anew, since credentials or certificates have changed", "server", s.server)
				c.retiring.Go(func() { c.retire(ctx, s) })
				return next
			}
		}
		select {
		case <-ctx.Done():
			ended = true
		case <-s.closed:
			ended = true
		case <-c.outdated:
		}
	}
	c.end(ctx, s)
	return nil
}

// replacement returns a session with the newest credentials and certificates, which the old one serves beside until
// there is one, and nil if the old one ends first.
func (c *connection) replacement(ctx context.Context, old *session) *session {
	defer c.renewal.Ended()
	return c.connect(ctx, old.closed, 0, func(err error) { c.renewal.Failed(c.log, err) })
}

// retire ends a session that another one has taken the place of, once every call that may use it has ended.
func (c *connection) retire(ctx context.Context, s *session) {
	timer := time.NewTimer(callTimeouts * c.o.AckTimeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.closed:
	case <-timer.C:
	}
	s.close()
	c.lost(s, bridge.Retry(errors.New("another connection to NATS has taken its place")))
	<-s.closed
}

// end ends a session, and says why there is none.
func (c *connection) end(ctx context.Context, s *session) {
	if others := s.nc.DiscoveredServers(); len(others) > 0 {
		c.mu.Lock()
		c.discovered, c.certified = append([]string{s.server}, others...), s.name
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
		err = c.o.classifyConnect(fmt.Errorf("the connection to NATS at %s was lost: %w", s.server, cause))
	}
	s.close()
	if ctx.Err() != nil {
		err = bridge.Retry(errClosed)
	}
	c.set(nil, err)
	c.lost(s, err)
	<-s.closed
	c.log.Debug("disconnected from NATS", "server", s.server, "error", err)
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

// target is a server to connect to.
type target struct {
	url  *url.URL
	name string // which it must prove to have if it speaks TLS
}

// targets returns the servers, those that were configured first, in an order by chance.
func (c *connection) targets() []target {
	var targets []target
	for _, u := range addresses(c.o.URL) {
		targets = append(targets, target{u, u.Hostname()})
	}
	rand.Shuffle(len(targets), func(i, j int) { //nolint:gosec // the order needs no secrecy
		targets[i], targets[j] = targets[j], targets[i]
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	user := targets[0].url.User
	for _, text := range c.discovered {
		u, err := url.Parse(text)
		if err != nil || slices.ContainsFunc(targets, func(known target) bool { return known.url.Host == u.Host }) {
			continue
		}
		name := u.Hostname()
		if net.ParseIP(name) != nil && net.ParseIP(c.certified) == nil {
			name = c.certified // servers tell of one another by address, and certificates hold names
		}
		u.User = user
		targets = append(targets, target{u, name})
	}
	return targets
}

// connect tries the servers by turns, after a first wait, until one takes a session, and returns nil only when ctx
// ends or over is closed. Tries begin anew soon after one that failed, at once when credentials have changed, and after
// a while beside one that hangs. A server where somebody has to mend something rests longer, and the others are tried
// as before. Whenever all servers have failed, it tells the error of the one that comes nearest to working.
func (c *connection) connect(
	ctx context.Context, over <-chan struct{}, first time.Duration, tell func(error),
) *session {
	type attempt struct {
		at      int
		login   int64 // the version of the credentials
		session *session
		err     error
	}
	targets := c.targets()
	ended := make(chan attempt)
	wires := make(map[int]*dialer)           // of what is under way, by the number of the try
	failed := make(map[int]error)            // by target
	rests := make([]time.Time, len(targets)) // until when it does
	var under sync.WaitGroup
	stop := make(chan struct{})
	defer under.Wait()
	defer func() {
		close(stop)
		for _, w := range wires {
			w.close()
		}
	}()
	pause := wire.RetryMin
	wait := time.NewTimer(first)
	defer wait.Stop()
	for number := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			return nil
		case <-wait.C:
			now := time.Now()
			for turns := 1; turns < len(targets) && now.Before(rests[number%len(targets)]); turns++ {
				number++
			}
			if rest := time.Until(slices.MinFunc(rests, time.Time.Compare)); rest > 0 {
				wait.Reset(rest)
				continue
			}
			at := number
			number++
			to, w := targets[at%len(targets)], newDialer(ctx)
			wires[at] = w
			login := c.version.Load()
			under.Go(func() {
				s, err := c.connectTo(to, w)
				select {
				case ended <- attempt{at, login, s, err}:
				case <-stop:
					if s != nil {
						s.close()
						<-s.closed
					}
				}
			})
			wait.Reset(jittered(wire.Beside))
		case a := <-ended:
			delete(wires, a.at)
			if a.session != nil {
				return a.session
			}
			at := a.at % len(targets)
			failed[at] = fmt.Errorf("connect to NATS at %s: %w", redact(targets[at].url), a.err)
			if bridge.KindOf(a.err) == bridge.FailureBlocked && a.login == c.version.Load() {
				rests[at] = time.Now().Add(wire.RetryBlocked)
			}
			if len(failed) == len(targets) {
				tell(nearest(failed))
			}
			if len(wires) == 0 {
				wait.Reset(jittered(pause))
				pause = min(2*pause, wire.RetryMax)
			}
		case <-c.outdated:
			clear(rests)
			wait.Reset(0)
			pause = wire.RetryMin
		}
	}
}

// jittered is a part of d by chance, at least half of it.
func jittered(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2) //nolint:gosec // jitter needs no secrecy
}

// nearest returns the error of the server that comes nearest to working: one that somebody has to mend, or else the
// first.
func nearest(failed map[int]error) error {
	for i := range len(failed) {
		if bridge.KindOf(failed[i]) == bridge.FailureBlocked {
			return bridge.Blocked(failed[i])
		}
	}
	return bridge.Retry(failed[0])
}

// connectTo tries one server, over w. Its error is classified.
func (c *connection) connectTo(to target, w *dialer) (*session, error) {
	u := to.url
	login := c.version.Load() // before the credentials are read
	options, err := c.options(u, to.name)
	if err != nil {
		return nil, bridge.Blocked(err)
	}
	s := &session{
		login:   login,
		server:  u.Redacted(), // the library forgets it with the connection
		wire:    w,
		name:    to.name,
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
		defer s.wire.close()
		switch cause := s.wire.cause(); {
		case s.wire.bare() && strings.HasPrefix(u.Scheme, "ws"):
			plain := map[string]string{"ws": "nats", "wss": "tls"}[u.Scheme]
			err = bridge.Blocked(fmt.Errorf("it speaks NATS, not WebSocket: write %s:// in %s, or give the WebSocket port",
				plain, c.o.Files.Variable("URL")))
		case cause != nil:
			err = cause // nats.go says "no servers available" instead
		case s.wire.silent() && !c.o.TLSFirst && !strings.HasPrefix(u.Scheme, "ws"):
			if cause := c.stranger(w.ctx, u.Host); cause != nil {
				err = cause
			}
		}
		return nil, c.o.classifyConnect(err)
	}
	s.nc = nc
	s.wire.watch()
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

// options are those of a connection that is made now. The error says which file cannot be used.
func (c *connection) options(u *url.URL, name string) ([]natsgo.Option, error) {
	o := c.o
	options := []natsgo.Option{
		natsgo.Name("fnbridge " + o.Name),
		natsgo.NoReconnect(),
		natsgo.ReconnectBufSize(-1),
		natsgo.SkipHostLookup(), // the dialler looks up, and its context ends that
		natsgo.Timeout(wire.Connect),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(math.MaxInt), // silence of any kind is what counts
		natsgo.FlusherTimeout(o.AckTimeout),
	}
	login := o.login.Get()
	if login == nil {
		return nil, fmt.Errorf("the credentials cannot be used: %w", o.login.Err())
	}
	options = append(options, login.option)
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
	ctx    context.Context //nolint:containedctx // natsgo.CustomDialer has no place for it
	cancel context.CancelFunc

	mu   sync.Mutex
	wire *wire.Conn
	conn *guard // of wire
	err  error
}

func newDialer(ctx context.Context) *dialer {
	d := &dialer{}
	d.ctx, d.cancel = context.WithCancel(ctx)
	return d
}

// Dial implements natsgo.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := wire.Dial(d.ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	if err != nil {
		return nil, err
	}
	d.wire = &wire.Conn{Conn: conn}
	d.conn = newGuard(d.wire)
	context.AfterFunc(d.ctx, func() { _ = conn.Close() })
	return d.conn, nil
}

// watch has the connection, which is made, end when the server falls silent.
func (d *dialer) watch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.wire.Watch() // it fails when the connection has ended, which shows
}

// close cuts the connection, and ends the making of it.
func (d *dialer) close() {
	d.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
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

// bare tells whether the server answered the handshake of TLS or of a WebSocket in NATS.
func (d *dialer) bare() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil && d.conn.bare.Load()
}

// silent tells whether there was a connection, and the server said nothing.
func (d *dialer) silent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil && !d.conn.heard.Load()
}
