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
	// patienceTimeouts, times Options.AckTimeout, is how long a stream may give no answer before that is called blocked:
	// elections take seconds.
	patienceTimeouts = 3
)

// stream is what the sink knows of its stream. It is looked at once, and again after it gave no answer.
//
// What JetStream's API says is a hint. It may be out of reach where publishing is not (the subject is imported from
// another account, or the stream is behind a leaf node), and it may speak of another stream than the one that the
// subject leads to. So what is published is sent whatever it says, but for an unusableError, and the acknowledgement
// decides.
type stream struct {
	o      *Options
	filter string
	log    *slog.Logger

	// looking has room for the one who asks the server.
	looking chan struct{}

	mu       sync.Mutex
	ready    bool // the last look found nothing wrong, or something has been acknowledged since
	lookedAt time.Time
	err      error               // of the last look; nil once something has been acknowledged
	info     *natsjs.StreamInfo  // nil until the first look that found it
	silentAt time.Time           // since when there is no answer; zero while there is
	silentOn string              // the subject of what was published without an answer; empty when only the API gave none
	warned   map[string]struct{} // what the log has been told
}

// unusableError says that nothing is to be published, since the stream could not acknowledge or store it.
type unusableError struct{ err error }

func (e *unusableError) Error() string { return e.err.Error() }
func (e *unusableError) Unwrap() error { return e.err }

// hearsayError is what the API says, or that it says nothing, where the stream itself may say otherwise.
type hearsayError struct{ err error }

func (e *hearsayError) Error() string { return e.err.Error() }
func (e *hearsayError) Unwrap() error { return e.err }

func newStream(o *Options, filter string, log *slog.Logger) *stream {
	return &stream{o: o, filter: filter, log: log, looking: make(chan struct{}, 1), warned: make(map[string]struct{})}
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
	if err == nil && m.silentOn == "" {
		m.silentAt = time.Time{}
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
			return nil, &hearsayError{bridge.Blocked(fmt.Errorf(
				"stream %s does not exist; create it, or allow it to be created", m.o.Stream))}
		}
		info, err = m.create(ctx, s)
	}
	if err != nil {
		return nil, &hearsayError{err}
	}
	if err := m.fits(info.Config); err != nil {
		return info, err
	}
	m.warnOfDifferences(info.Config)
	return info, quorum(info)
}

// quorum tells whether enough of the stream's servers are there to agree on what is stored. One that has just lost
// the others answers on as if nothing had happened, until it notices.
func quorum(info *natsjs.StreamInfo) error {
	if info.Cluster == nil {
		return nil
	}
	there := 0
	if info.Cluster.Leader != "" {
		there = 1
	}
	var away []string
	for _, server := range info.Cluster.Replicas {
		if server.Offline {
			away = append(away, server.Name)
		} else {
			there++
		}
	}
	all := there + len(away)
	needed := all/2 + 1
	switch {
	case there < needed:
		return bridge.Retry(fmt.Errorf("stream %s has no quorum: %d of its %d servers are there (offline: %s), "+
			"and %d are needed; start the others",
			info.Config.Name, there, all, strings.Join(away, ", "), needed))
	case info.Cluster.Leader == "":
		return bridge.Retry(fmt.Errorf("stream %s has no leader now: %d of its %d servers are there, "+
			"%d are needed, and they elect one",
			info.Config.Name, there, all, needed))
	default:
		return nil
	}
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
	if api, ok := errors.AsType[*natsjs.APIError](err); ok &&
		api.ErrorCode == codeSubjectsOverlap && m.o.DeadLetter != "" {
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
	unusable := func(why string) error {
		return &unusableError{bridge.Blocked(fmt.Errorf("stream %s %s; publish to another", m.o.Stream, why))}
	}
	switch {
	case c.NoAck:
		return unusable("is configured to acknowledge nothing (no_ack), so nobody can know what it stored")
	case c.Sealed:
		return unusable("is sealed and takes nothing")
	case c.AllowMsgCounter:
		return unusable("keeps counters (allow_msg_counter) and takes nothing else")
	case c.Mirror != nil:
		return &hearsayError{bridge.Blocked(fmt.Errorf(
			"stream %s is a mirror of %s and takes only what that does; publish to %s",
			m.o.Stream, c.Mirror.Name, c.Mirror.Name))}
	case !slices.ContainsFunc(c.Subjects, func(subject string) bool { return overlap(subject, m.filter) }):
		return &hearsayError{bridge.Blocked(fmt.Errorf(
			"stream %s takes the subjects [%s], and events go to %s; "+
				"change the subject, the stream's name or its subjects",
			m.o.Stream, strings.Join(c.Subjects, " "), m.filter))}
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
	differences = append(differences, losses(c)...)
	if len(differences) > 0 {
		m.warnOnce("the stream exists and is used as it is, although it differs from the configuration",
			"differences", strings.Join(differences, "; "))
	}
}

// losses says which settings of a stream lose what it has acknowledged.
func losses(c natsjs.StreamConfig) []string {
	var losses []string
	lose := func(format string, args ...any) { losses = append(losses, fmt.Sprintf(format, args...)) }
	if c.Storage != natsjs.FileStorage {
		lose("it is kept in memory, so a restart of the servers loses what it acknowledged")
	}
	if c.PersistMode == natsjs.AsyncPersistMode {
		lose("it acknowledges before it has written (persist_mode async), " +
			"so a crash of the server loses what it acknowledged")
	}
	switch c.Retention {
	case natsjs.LimitsPolicy:
	case natsjs.InterestPolicy:
		lose("its retention is %s: it drops at once what no consumer is interested in, "+
			"and the rest when all have taken it", c.Retention)
	case natsjs.WorkQueuePolicy:
		lose("its retention is %s, so events go once they are consumed", c.Retention)
	}
	if c.Discard == natsjs.DiscardOld {
		until := "for good"
		if c.MaxAge > 0 {
			until = "for " + c.MaxAge.String()
		}
		for _, limit := range []struct {
			n    int64
			what string
		}{{c.MaxMsgs, "messages"}, {c.MaxBytes, "bytes"}, {c.MaxMsgsPerSubject, "messages of a subject"}} {
			if limit.n > 0 {
				lose("it drops the oldest when it has more than %d %s, so they may not stay %s", limit.n, limit.what, until)
			}
		}
	}
	return losses
}

func (m *stream) warnOnce(message string, args ...any) {
	m.mu.Lock()
	_, warned := m.warned[message]
	m.warned[message] = struct{}{}
	m.mu.Unlock()
	if !warned {
		m.log.With("stream", m.o.Stream).Warn(message, args...) //nolint:sloglint // all messages are constants of this file
	}
}

// answered notes an acknowledgement, or what is as good. It outweighs whatever the API said before.
func (m *stream) answered() {
	m.mu.Lock()
	said := m.err
	m.ready, m.err, m.silentAt, m.silentOn = true, nil, time.Time{}, ""
	m.mu.Unlock()
	if _, hearsay := errors.AsType[*hearsayError](said); hearsay {
		m.warnOnce("the stream takes what is published, although JetStream's API says otherwise: "+
			"nothing is known of its settings",
			"error", said)
	}
}

// doubted returns err with what is wrong with the stream, if the last look found something. The next call of Publish
// looks again.
func (m *stream) doubted(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = false
	if m.err != nil {
		return fmt.Errorf("%s: %w", err.Error(), m.err) // whose mark counts
	}
	return err
}

// noAnswer notes that no stream takes what is published to subject, and returns what that means.
func (m *stream) noAnswer(subject string) error {
	m.mu.Lock()
	m.ready = false
	info, found := m.info, m.err
	m.mu.Unlock()
	_, hearsay := errors.AsType[*hearsayError](found)
	switch {
	case found != nil && (!hearsay || bridge.KindOf(found) == bridge.FailureBlocked):
		return found
	case found == nil && info != nil &&
		!slices.ContainsFunc(info.Config.Subjects, func(s string) bool { return covers(s, subject) }):
		return bridge.Blocked(fmt.Errorf("stream %s takes the subjects [%s], which do not cover %s; "+
			"change the subject or the stream's subjects",
			m.o.Stream, strings.Join(info.Config.Subjects, " "), subject))
	case found == nil:
		found = fmt.Errorf("no stream answers for the subject %s; "+
			"stream %s may be missing, or without a leader for now", subject, m.o.Stream)
	}
	m.mu.Lock()
	m.silentOn = subject
	m.mu.Unlock()
	return m.silence(found)
}

// unanswered returns the subject of something that was published and not answered, unless something has been since.
func (m *stream) unanswered() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.silentOn
}

// silence marks err as passing at first, and as something to mend when it lasts.
func (m *stream) silence(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silentAt.IsZero() {
		m.silentAt = time.Now()
	}
	if time.Since(m.silentAt) > patienceTimeouts*m.o.AckTimeout {
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
