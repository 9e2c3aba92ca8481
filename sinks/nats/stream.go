package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// inspectPause is the least time between two looks at a stream that is not right.
	inspectPause = 500 * time.Millisecond
	// patience is how long a stream may give no answer before that is called blocked: elections take seconds.
	patience = 15 * time.Second
)

// stream is what the sink knows of its stream. It is looked at once, and again after it gave no answer.
type stream struct {
	o      *Options
	filter string
	log    *slog.Logger

	// looking has room for the one who asks the server.
	looking chan struct{}

	mu       sync.Mutex
	ready    bool
	lookedAt time.Time
	err      error              // of the last look
	info     *natsjs.StreamInfo // nil until the first look that found it
	silentAt time.Time          // since when there is no answer; zero while there is
	warned   bool
}

func newStream(o *Options, filter string, log *slog.Logger) *stream {
	return &stream{o: o, filter: filter, log: log, looking: make(chan struct{}, 1)}
}

// inspect returns nil when the stream can be published to, as far as can be seen, creating it if that is wanted. With
// fresh it looks even if the last look found nothing wrong. Its error is classified.
func (m *stream) inspect(ctx context.Context, s *session, fresh bool) error {
	if !fresh && m.isReady() {
		return nil
	}
	select {
	case m.looking <- struct{}{}:
		defer func() { <-m.looking }()
	case <-ctx.Done():
		return bridge.Retry(fmt.Errorf("wait for stream %s to be looked up: %w", m.o.Stream, ctx.Err()))
	}
	m.mu.Lock()
	ready, err, recent := m.ready, m.err, time.Since(m.lookedAt) < inspectPause
	m.mu.Unlock()
	if !fresh && (ready || (err != nil && recent)) {
		return err
	}
	info, err := m.look(ctx, s)
	if ctx.Err() != nil && err != nil && bridge.KindOf(err) == bridge.FailureRetry {
		return err // the caller's time was up, which says nothing about the stream
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready, m.err, m.lookedAt = err == nil, err, time.Now()
	if info != nil {
		m.info = info
	}
	return err
}

func (m *stream) isReady() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

// look asks the server. Without a permission to ask, the stream is taken to be right, and info is nil.
func (m *stream) look(ctx context.Context, s *session) (*natsjs.StreamInfo, error) {
	info, err := m.find(ctx, s)
	if _, denied := errors.AsType[*deniedError](err); denied {
		m.warnOnce("the account may not look at streams: whether this one fits is not known", "error", err)
		return nil, nil
	}
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		if !m.o.CreateStream {
			return nil, bridge.Blocked(fmt.Errorf("stream %s does not exist; create it, or allow it to be created", m.o.Stream))
		}
		info, err = m.create(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	if err := m.fits(info.Config); err != nil {
		return nil, err
	}
	m.warnOfDifferences(info.Config)
	return info, nil
}

// deniedError says that the account may not ask.
type deniedError struct{ err error }

func (e *deniedError) Error() string { return e.err.Error() }
func (e *deniedError) Unwrap() error { return e.err }

// find asks for the stream. Its error is classified, or natsjs.ErrStreamNotFound, or a deniedError.
func (m *stream) find(ctx context.Context, s *session) (*natsjs.StreamInfo, error) {
	ctx, done := s.watch(ctx, m.o.APIPrefix+".STREAM.INFO."+m.o.Stream)
	defer done()
	stream, err := s.js.Stream(ctx, m.o.Stream)
	switch {
	case err == nil:
		return stream.CachedInfo(), nil
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return nil, natsjs.ErrStreamNotFound
	case context.Cause(ctx) != nil && bridge.KindOf(context.Cause(ctx)) == bridge.FailureBlocked:
		return nil, &deniedError{context.Cause(ctx)}
	case errors.Is(err, natsgo.ErrNoResponders), errors.Is(err, natsjs.ErrJetStreamNotEnabled):
		// Nobody answers, which also is how a server looks that is starting.
		err = errors.New("JetStream does not answer; is it enabled, and does its cluster have a leader?")
		return nil, m.silence(fmt.Errorf("look up stream %s: %w", m.o.Stream, err))
	default:
		return nil, classifyRequest(ctx, "look up stream "+m.o.Stream, err)
	}
}

func (m *stream) create(ctx context.Context, s *session) (*natsjs.StreamInfo, error) {
	ctx, done := s.watch(ctx, m.o.APIPrefix+".STREAM.CREATE."+m.o.Stream)
	defer done()
	config := natsjs.StreamConfig{
		Name:        m.o.Stream,
		Description: "Events of Tensorlake webhooks, published by fnbridge",
		Subjects:    []string{m.filter},
		Storage:     natsjs.FileStorage,
		Retention:   natsjs.LimitsPolicy,
		// Should a limit be set later, the oldest events make room, as they do when they reach the maximum age.
		Discard:    natsjs.DiscardOld,
		MaxAge:     m.o.MaxAge,
		Duplicates: m.o.DedupeWindow,
		Replicas:   m.o.Replicas,
	}
	if m.o.DeadLetter != "" {
		config.Subjects = append(config.Subjects, m.o.DeadLetter)
	}
	created, err := s.js.CreateStream(ctx, config)
	if api, ok := errors.AsType[*natsjs.APIError](err); ok && api.ErrorCode == codeSubjectsOverlap && m.o.DeadLetter != "" {
		// The dead letters may have a stream of their own.
		config.Subjects = []string{m.filter}
		created, err = s.js.CreateStream(ctx, config)
	}
	if errors.Is(err, natsjs.ErrStreamNameAlreadyInUse) {
		return m.find(ctx, s) // another bridge was quicker
	}
	if err != nil {
		return nil, classifyRequest(ctx, fmt.Sprintf("create stream %s for %s", m.o.Stream, m.filter), err)
	}
	m.log.Info("created the stream", "stream", m.o.Stream, "subjects", strings.Join(config.Subjects, " "),
		"replicas", m.o.Replicas, "max_age", m.o.MaxAge.String(), "dedupe_window", m.o.DedupeWindow.String())
	return created.CachedInfo(), nil
}

// fits tells whether events can be stored in a stream of this configuration and be known to be stored.
func (m *stream) fits(c natsjs.StreamConfig) error {
	switch {
	case !slices.ContainsFunc(c.Subjects, func(subject string) bool { return overlap(subject, m.filter) }):
		return bridge.Blocked(fmt.Errorf("stream %s takes the subjects [%s], and events go to %s; change the subject, the stream's name or its subjects",
			m.o.Stream, strings.Join(c.Subjects, " "), m.filter))
	case c.Sealed:
		return bridge.Blocked(fmt.Errorf("stream %s is sealed and takes nothing; publish to another", m.o.Stream))
	case c.NoAck:
		return bridge.Blocked(fmt.Errorf("stream %s is configured to acknowledge nothing (no_ack), so nobody can know what it stored; publish to another",
			m.o.Stream))
	default:
		return nil
	}
}

func (m *stream) warnOfDifferences(c natsjs.StreamConfig) {
	var differences []string
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	if !slices.ContainsFunc(c.Subjects, func(subject string) bool { return covers(subject, m.filter) }) {
		differ("it takes the subjects [%s], which may not be all of %s", strings.Join(c.Subjects, " "), m.filter)
	}
	if m.o.CreateStream {
		if c.MaxAge != m.o.MaxAge {
			differ("its maximum age is %s, not %s", c.MaxAge, m.o.MaxAge)
		}
		if c.Replicas != m.o.Replicas {
			differ("it has %d replicas, not %d", c.Replicas, m.o.Replicas)
		}
	}
	if m.o.DedupeWindow > 0 && c.Duplicates < m.o.DedupeWindow {
		differ("its window for duplicates is %s, not %s", c.Duplicates, m.o.DedupeWindow)
	}
	if c.Storage != natsjs.FileStorage {
		differ("it is kept in memory, so a restart of the servers loses what it acknowledged")
	}
	if c.Retention != natsjs.LimitsPolicy {
		differ("its retention is %s, so events go once they are consumed, or when nobody is interested", c.Retention)
	}
	if len(differences) > 0 {
		m.warnOnce("the stream exists and is used as it is, although it differs from the configuration",
			"differences", strings.Join(differences, "; "))
	}
}

func (m *stream) warnOnce(message string, args ...any) {
	m.mu.Lock()
	warned := m.warned
	m.warned = true
	m.mu.Unlock()
	if !warned {
		m.log.With("stream", m.o.Stream).Warn(message, args...) //nolint:sloglint // both messages are constants of this file
	}
}

// answered notes an acknowledgement.
func (m *stream) answered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silentAt = time.Time{}
}

// noAnswer notes that no stream takes what is published to subject, and returns what that means.
func (m *stream) noAnswer(subject string) error {
	m.mu.Lock()
	m.ready = false
	info := m.info
	m.mu.Unlock()
	if info != nil && !slices.ContainsFunc(info.Config.Subjects, func(s string) bool { return covers(s, subject) }) {
		return bridge.Blocked(fmt.Errorf("stream %s takes the subjects [%s], which do not cover %s; change the subject or the stream's subjects",
			m.o.Stream, strings.Join(info.Config.Subjects, " "), subject))
	}
	return m.silence(fmt.Errorf("no stream answers for the subject %s; stream %s may be missing, or without a leader for now", subject, m.o.Stream))
}

// silence marks err as passing at first, and as something to mend when it lasts.
func (m *stream) silence(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silentAt.IsZero() {
		m.silentAt = time.Now()
	}
	if time.Since(m.silentAt) > patience {
		return bridge.Blocked(err)
	}
	return bridge.Retry(err)
}

// messageLimit is for an error: what the stream's limit is, if that is known.
func (m *stream) messageLimit() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.info == nil || m.info.Config.MaxMsgSize <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%d, headers included)", m.info.Config.MaxMsgSize)
}

// covers tells whether every subject that b stands for is one that a stands for. Both may have wildcards.
func covers(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, token := range as {
		if token == ">" {
			return len(bs) > i
		}
		if i >= len(bs) || bs[i] == ">" || (token != "*" && token != bs[i]) {
			return false
		}
	}
	return len(as) == len(bs)
}

// overlap tells whether there is a subject that both stand for.
func overlap(a, b string) bool { return bridge.Overlap(strings.Split(a, "."), strings.Split(b, ".")) }
