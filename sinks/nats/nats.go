// Package nats is the sink that publishes to a NATS JetStream stream.
//
// The sink owns its reconnecting: nats.go's own loop gives up on some errors, and hides the cause of others. Nothing
// that a server says ends the trying. When credentials or certificates have changed, a new connection is made with
// them, and takes the place of the old one once it has been accepted.
//
// Of each partition key the events of one webhook are in flight at a time, a summary after the others, and the next
// webhook's go out after their acknowledgement; that is what keeps the order of a key when an event has to be sent
// again. Different keys share the connection without waiting for one another. Every message carries a Nats-Msg-Id made
// of its webhook, its place there and its subject, so that a stream drops what is sent again within its window for
// duplicates, and nothing else.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
)

// Options of a sink, and of Tail. What Settings.Check refuses is not to be given here.
type Options struct {
	// Name is the sink's name, for errors and logs.
	Name string
	// URL is the server's address, or several separated by commas: nats:// or tls://, ws:// or wss://. It may hold a
	// user and a password, or a token as the user.
	URL string

	// Embedded tells that the server is of this process. Its stream follows the options when they change.
	Embedded bool
	// Sync has what the server acknowledges be on its disk. Nothing counts before that. Nil: the server's acknowledgement
	// is enough.
	Sync bridge.Syncer

	// At most one of these ways to authenticate, beside the URL, is set.
	CredsFile      string
	Token          string
	User, Password string
	NKeyFile       string // a seed
	// LoginVariable is what people call the way to authenticate, if it is not of the sink's own settings.
	LoginVariable string

	// TLSCAFile is a PEM file of the authorities to trust instead of the system's. TLSCertFile and TLSKeyFile are a
	// client's certificate; both or neither. Any of them makes TLS a must.
	TLSCAFile, TLSCertFile, TLSKeyFile string
	// TLSFirst begins with the TLS handshake, as servers with handshake_first want it. It makes TLS a must too.
	TLSFirst bool

	// APIPrefix begins the subjects of JetStream's API; empty means $JS.API. JetStream behind a leaf node has
	// another, by its domain, and so can one that is imported from another account.
	APIPrefix string

	// Stream is the stream to publish to.
	Stream string
	// CreateStream lets the sink create the stream when it is missing. One that exists is used as it is.
	CreateStream bool
	// Replicas, MaxAge and DedupeWindow are what a created stream gets. Zero means 1 replica, no limit of age, and the
	// server's window. A window longer than MaxAge is cut to it, since servers refuse it.
	Replicas             int
	MaxAge, DedupeWindow time.Duration
	// MaxBytes is how much a created stream keeps, the newest first; 0: no limit. A stream of an Embedded server gets it
	// also when it exists.
	MaxBytes int64
	// SharesVolume tells that a bridge bounds the stream to its share of the volume, which a command beside it does not
	// know: its size is as it was asked for.
	SharesVolume bool

	// Subject makes the subject of an event. See ValidateSubject.
	Subject bridge.Template
	Format  cloudevents.Format

	// DeadLetter is the subject that dead letters are published on, and empty for none. See ValidateDeadLetter. A stream
	// that is created takes it as well, unless another stream does.
	DeadLetter string

	// AckTimeout is how long to wait for the acknowledgement of an event, and for any other answer. Zero means 5 s.
	AckTimeout time.Duration
	// Files are those of the credentials and of TLS, which may change. Nil: they do not.
	Files *reload.Part
	// Logger may be nil. It hears of connections, of the creation of the stream, and once of what is odd about one that
	// exists, or of a dead-letter subject that no stream takes.
	Logger *slog.Logger

	tls   *tlsfiles.Files
	login *reload.Value[*login]
}

// maxInFlight is how many events of all calls together wait for their acknowledgement.
const maxInFlight = 1024

// Sink publishes to one stream. It is a bridge.DeadLetterPublisher.
type Sink struct {
	o      Options
	filter string // the wildcard that covers every subject of the template
	log    *slog.Logger
	conn   *connection
	stream *stream
	slots  chan struct{} // a slot for each event in flight
	trial  chan struct{} // has room for the one who takes all of them

	suspects   suspects
	duplicates atomic.Int64
	water      *bridge.HighWater

	mu      sync.Mutex
	flights map[*natsgo.Msg]*flight
	closed  bool

	ctx    context.Context //nolint:containedctx // the sink's lifetime: it ends what Close has to end
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var (
	_ bridge.DeadLetterPublisher = (*Sink)(nil)
	_ bridge.Deduper             = (*Sink)(nil)
	_ bridge.Positioned          = (*Sink)(nil)
	_ bridge.Warner              = (*Sink)(nil)
	_ bridge.Storing             = (*Sink)(nil)
)

// Duplicates implements bridge.Deduper.
func (s *Sink) Duplicates() int64 { return s.duplicates.Load() }

// HighWater implements bridge.Positioned.
func (s *Sink) HighWater() *bridge.HighWater { return s.water }

// errClosed is what a sink says after Close.
var errClosed = errors.New("the sink is closed")

// New makes a sink and starts connecting in the background. It does not need the server: its error is one of the
// options. The sink must be closed.
func New(o Options) (*Sink, error) {
	o, err := o.validated()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sink{
		o: o, filter: streamSubject(o.Subject), log: o.Logger.With("sink", o.Name),
		slots:   make(chan struct{}, maxInFlight),
		trial:   make(chan struct{}, 1),
		flights: make(map[*natsgo.Msg]*flight),
		water:   bridge.NewHighWater(),
		ctx:     ctx, cancel: cancel,
	}
	s.stream = newStream(&s.o, s.filter, s.water, s.log)
	s.conn = newConnection(&s.o, s.log)
	s.conn.acknowledged = func(msg *natsgo.Msg, ack *natsjs.PubAck) { s.land(msg, ack, nil) }
	s.conn.failed = func(msg *natsgo.Msg, err error) { s.land(msg, nil, err) }
	s.conn.denied = s.denied
	s.conn.lost = s.lost
	s.wg.Go(func() { s.conn.run(ctx) })
	s.wg.Go(func() { s.prepareEarly(ctx) })
	return s, nil
}

// validated returns o with defaults, or says what is wrong with it.
func (o Options) validated() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.AckTimeout == 0 {
		o.AckTimeout = defaultAckTimeout
	}
	if o.APIPrefix == "" {
		o.APIPrefix = "$JS.API"
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.MaxAge > 0 && o.DedupeWindow > o.MaxAge {
		o.DedupeWindow = o.MaxAge
	}
	var problems []error
	if err := new(URLs).Decode(o.URL); err != nil {
		problems = append(problems, err)
	}
	var err error
	if o.tls, err = tlsfiles.Open(tlsfiles.Names{
		CA: o.TLSCAFile, Cert: o.TLSCertFile, Key: o.TLSKeyFile,
	}, o.Files, o.Logger.With("sink", o.Name)); err != nil {
		problems = append(problems, err)
	}
	// Without credentials that can be used the sink is blocked, and webhooks are taken all the same.
	o.login, _ = openLogin(&o)
	if err := checkStream(o.Stream); err != nil {
		problems = append(problems, err)
	}
	if err := ValidateSubject(o.Subject); err != nil {
		problems = append(problems, fmt.Errorf("subject: %w", err))
	} else if o.DeadLetter != "" {
		if err := ValidateDeadLetter(o.DeadLetter, o.Subject); err != nil {
			problems = append(problems, fmt.Errorf("dead-letter subject: %w", err))
		}
	}
	return o, errors.Join(problems...)
}

// Name returns the sink's name.
func (s *Sink) Name() string { return s.o.Name }

// Check tells whether the sink could publish now: it is connected, and the stream is there and has a quorum. It
// creates the stream if it may. Where JetStream's API shows no such stream, or nothing answered what was published
// last, the stream itself is asked, and stores nothing. With an account that may not look at streams, a connection is
// all that it can find out.
func (s *Sink) Check(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return bridge.Retry(errClosed)
	}
	err := s.ask(ctx, func(ctx context.Context, session *session) error { return s.stream.inspect(ctx, session, true) })
	_, hearsay := errors.AsType[*hearsayError](err)
	subject := s.stream.unanswered()
	switch {
	case !hearsay && (err != nil || subject == ""):
		return err
	case subject == "":
		subject = s.anySubject()
	}
	answer := s.ask(ctx, func(ctx context.Context, session *session) error {
		return s.question(ctx, session, subject, s.o.Stream)
	})
	switch api, _ := errors.AsType[*natsjs.APIError](answer); {
	case isYes(answer):
		s.stream.answered()
		return nil
	case err != nil:
		return err
	case api != nil:
		return s.classifyAnswer(subject, 0, api)
	default:
		return s.stream.noAnswer(subject)
	}
}

// ask has question ask the server, within the timeout for an answer.
func (s *Sink) ask(ctx context.Context, question func(context.Context, *session) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.AckTimeout)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel) //nolint:contextcheck // the sink's end ends the call
	defer stop()
	session, err := s.conn.session(ctx)
	if err != nil {
		return err
	}
	return question(ctx, session)
}

// Close ends every connection and goroutine of the sink. Calls of Publish that are under way end at once; what they
// have not heard of is left for another try. Its error says that ctx ended before everything had ended.
func (s *Sink) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close sink %s: some of its connections have not ended: %w", s.o.Name, ctx.Err())
	}
}

// spawn runs f in a goroutine that Close waits for, and returns false after Close.
func (s *Sink) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// prepareEarly creates the stream, if that is wanted, as soon as there is a connection, so that consumers find it
// before the first event, and then looks at it until ctx ends. What fails is tried again by Publish.
func (s *Sink) prepareEarly(ctx context.Context) {
	for {
		session, err := s.conn.session(ctx)
		if err == nil {
			inspect, cancel := context.WithTimeout(ctx, s.o.AckTimeout)
			if s.stream.inspect(inspect, session, false) == nil {
				s.warnOfDeadLetters(inspect, session)
			}
			cancel()
			s.watchStream(ctx)
			return
		}
		if s.conn.wait(ctx) != nil {
			return
		}
	}
}
