package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
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
	water  *bridge.HighWater
	log    *slog.Logger

	// looking has room for the one who asks the server.
	looking chan struct{}
	// lettersElsewhere tells whoever looks that another stream takes the dead letters.
	lettersElsewhere bool

	mu       sync.Mutex
	ready    bool // the last look found nothing wrong, or something has been acknowledged since
	lookedAt time.Time
	err      error              // of the last look; nil once something has been acknowledged
	info     *natsjs.StreamInfo // nil until the first look that found it
	silentAt time.Time          // since when there is no answer; zero while there is
	silentOn string             // the subject of what was published without an answer; empty when only the API gave none
	warnings map[concern][]bridge.Warning
	warned   map[string]struct{} // the keys of what the log has been told
	growth   bridge.Growth       // of the stream
	tier     natsjs.Tier         // what its account uses and may use, as far as that is known
	storage  *bridge.Storage     // nil while no limit is known
}

// unusableError says that nothing is to be published, since the stream could not acknowledge or store it.
type unusableError struct{ err error }

func (e *unusableError) Error() string { return e.err.Error() }
func (e *unusableError) Unwrap() error { return e.err }

// hearsayError is what the API says, or that it says nothing, where the stream itself may say otherwise.
type hearsayError struct{ err error }

func (e *hearsayError) Error() string { return e.err.Error() }
func (e *hearsayError) Unwrap() error { return e.err }

func newStream(o *Options, filter string, water *bridge.HighWater, log *slog.Logger) *stream {
	return &stream{
		o: o, filter: filter, water: water, log: log,
		looking: make(chan struct{}, 1), warned: make(map[string]struct{}),
		warnings: make(map[concern][]bridge.Warning),
	}
}

// inspect returns nil when the stream can be published to, as far as can be seen, creating it if that is wanted. With
// fresh it looks even if the last look found nothing wrong. Its error is classified.
func (m *stream) inspect(ctx context.Context, s *session, fresh bool) error {
	if !fresh && m.isReady(s) {
		return nil
	}
	select {
	case m.looking <- struct{}{}:
		defer func() { <-m.looking }()
	case <-ctx.Done():
		return bridge.Retry(fmt.Errorf("wait for stream %s to be looked up: %w", m.o.Stream, ctx.Err()))
	}
	ready := m.isReady(s)
	m.mu.Lock()
	err, recent := m.err, time.Since(m.lookedAt) < inspectPause
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

// isReady tells whether the stream can be published to in s without a look.
func (m *stream) isReady(s *session) bool {
	known := m.water.Since(logName(m.o.Stream)).Known()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready && (s.compared.Load() || !known)
}

// look asks the server. Without a permission to ask, the stream is taken to be right, and info is nil.
func (m *stream) look(ctx context.Context, s *session) (*natsjs.StreamInfo, error) {
	before := m.water.Since(logName(m.o.Stream))
	defer func() {
		// A caller that goes away ends the look, and not the need of it. An API that gives no answer in time is not waited
		// for again.
		if !errors.Is(ctx.Err(), context.Canceled) {
			s.compared.Store(before.Known())
		}
	}()
	info, err := m.find(ctx, s)
	if _, denied := errors.AsType[*deniedError](err); denied {
		m.warn(ofSettings, "the account may not look at streams: whether this one fits is not known",
			bridge.Warning{Key: "stream_unseen", Text: err.Error() + "; let it ask for STREAM.INFO"})
		return nil, nil
	}
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		if !m.o.CreateStream {
			return nil, &hearsayError{bridge.Blocked(fmt.Errorf(
				"stream %s does not exist; create it, correct %s, or set %s to true",
				m.o.Stream, m.o.Files.Variable("STREAM"), m.o.Files.Variable("CREATE_STREAM")))}
		}
		info, err = m.create(ctx, s)
	}
	if err != nil {
		return nil, &hearsayError{err}
	}
	if info, err = m.follow(ctx, s, info); err != nil {
		m.noteEnd(before, info) // it is the bridge's own stream, whatever its settings
		return info, err
	}
	if err := m.fits(info.Config); err != nil {
		return info, err
	}
	m.examine(info)
	err = quorum(info)
	if err == nil {
		m.noteEnd(before, info)
	}
	return info, err
}

// logName is what people know a stream's numbers by.
func logName(stream string) string { return "stream " + stream }

// confirmEnd is for how long the servers of a cluster have to say the same of a stream's end. One that was cut off from
// the others no longer answers by then.
const confirmEnd = 15 * time.Second

// noteEnd notes where the stream ends, as it was asked since before. What the API says may be about another stream than
// the one that is published to, unless the server is of this process.
func (m *stream) noteEnd(before bridge.Since, info *natsjs.StreamInfo) {
	e := bridge.Evidence{Certain: m.o.Embedded}
	if info.Cluster != nil && len(info.Cluster.Replicas) > 0 {
		e.Confirm = confirmEnd
	}
	end := bridge.Mark{
		Last:    int64(info.State.LastSeq), //nolint:gosec // no stream has that many
		Created: info.Created.UnixNano(),
	}
	if !info.State.LastTime.IsZero() {
		end.At = info.State.LastTime.UnixNano()
	}
	m.water.Ends(before, end, e)
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
		return nil, m.o.classifyRequest(ctx, "look up stream "+m.o.Stream, err)
	}
}

func (m *stream) create(ctx context.Context, s *session) (*natsjs.StreamInfo, error) {
	ctx, done := s.watch(ctx, m.o.APIPrefix+".STREAM.CREATE."+m.o.Stream)
	defer done()
	created, err := m.withLetters(natsjs.StreamConfig{
		Name:        m.o.Stream,
		Description: "Events of Tensorlake webhooks, published by fnbridge",
		Storage:     natsjs.FileStorage,
		Retention:   natsjs.LimitsPolicy,
		// Within the limits the oldest events make room.
		Discard:    natsjs.DiscardOld,
		MaxAge:     m.o.MaxAge,
		MaxBytes:   cmp.Or(m.o.MaxBytes, -1),
		Duplicates: m.o.DedupeWindow,
		Replicas:   m.o.Replicas,
	}, func(config natsjs.StreamConfig) (natsjs.Stream, error) { return s.js.CreateStream(ctx, config) })
	if errors.Is(err, natsjs.ErrStreamNameAlreadyInUse) {
		return m.find(ctx, s) // another bridge was quicker
	}
	if err != nil {
		return nil, m.o.classifyRequest(ctx, fmt.Sprintf("create stream %s for %s", m.o.Stream, m.filter), err)
	}
	info := created.CachedInfo()
	m.log.Info("created the stream", "stream", m.o.Stream, "subjects", strings.Join(info.Config.Subjects, " "),
		"replicas", m.o.Replicas, "max_age", m.o.MaxAge.String(), "dedupe_window", m.o.DedupeWindow.String())
	return info, nil
}

// withLetters has apply take config with the subjects of the events and of the dead letters, or without the latter if
// they have a stream of their own.
func (m *stream) withLetters(
	config natsjs.StreamConfig, apply func(natsjs.StreamConfig) (natsjs.Stream, error),
) (natsjs.Stream, error) {
	config.Subjects = m.subjects()
	stream, err := apply(config)
	if api, ok := errors.AsType[*natsjs.APIError](err); ok &&
		api.ErrorCode == codeSubjectsOverlap && len(config.Subjects) > 1 {
		m.lettersElsewhere = true
		config.Subjects = m.subjects()
		stream, err = apply(config)
	}
	return stream, err
}

// subjects are those that the stream is to take.
func (m *stream) subjects() []string {
	if m.o.DeadLetter == "" || m.lettersElsewhere {
		return []string{m.filter}
	}
	return []string{m.filter, m.o.DeadLetter}
}

// follow has a stream on the server of this process, for which nobody has another tool, take the settings that would
// have created it. One that is not to be created gets its bound alone: the bridge answers for the volume.
func (m *stream) follow(ctx context.Context, s *session, info *natsjs.StreamInfo) (*natsjs.StreamInfo, error) {
	if !m.o.Embedded {
		return info, nil
	}
	config := info.Config
	var changes []string
	change := func(what string, before, after any) {
		changes = append(changes, fmt.Sprintf("%s %v, before %v", what, after, before))
	}
	if m.o.MaxBytes != 0 && config.MaxBytes != m.o.MaxBytes {
		change("max_bytes", config.MaxBytes, m.o.MaxBytes)
		config.MaxBytes, config.Discard = m.o.MaxBytes, natsjs.DiscardOld
	}
	apply := func(config natsjs.StreamConfig) (natsjs.Stream, error) { return s.js.UpdateStream(ctx, config) }
	if m.o.CreateStream {
		if config.MaxAge != m.o.MaxAge {
			change("max_age", config.MaxAge, m.o.MaxAge)
			config.MaxAge = m.o.MaxAge
		}
		if m.o.DedupeWindow > 0 && config.Duplicates != m.o.DedupeWindow {
			change("dedupe_window", config.Duplicates, m.o.DedupeWindow)
			config.Duplicates = m.o.DedupeWindow
		}
		if !slices.Equal(config.Subjects, m.subjects()) {
			change("subjects", config.Subjects, m.subjects())
			update := apply
			apply = func(config natsjs.StreamConfig) (natsjs.Stream, error) { return m.withLetters(config, update) }
		}
	}
	if len(changes) == 0 {
		return info, nil
	}
	ctx, done := s.watch(ctx, m.o.APIPrefix+".STREAM.UPDATE."+m.o.Stream)
	defer done()
	updated, err := apply(config)
	if err != nil {
		return info, &hearsayError{m.o.classifyRequest(ctx, "have stream "+m.o.Stream+" follow its settings", err)}
	}
	if now := updated.CachedInfo(); !reflect.DeepEqual(now.Config, info.Config) {
		m.log.Info("the stream of the embedded server follows its settings; what is beyond its limits goes, the oldest first",
			"stream", m.o.Stream, "changes", strings.Join(changes, "; "))
	}
	return updated.CachedInfo(), nil
}

// fits tells whether events can be stored in a stream of this configuration and be known to be stored.
func (m *stream) fits(c natsjs.StreamConfig) error {
	unusable := func(why string) error {
		return &unusableError{bridge.Blocked(fmt.Errorf("stream %s %s; publish to another (%s)",
			m.o.Stream, why, m.o.Files.Variable("STREAM")))}
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
			"stream %s is a mirror of %s and takes only what that does; publish to %s (%s)",
			m.o.Stream, c.Mirror.Name, c.Mirror.Name, m.o.Files.Variable("STREAM")))}
	case !slices.ContainsFunc(c.Subjects, func(subject string) bool { return overlap(subject, m.filter) }):
		return &hearsayError{bridge.Blocked(fmt.Errorf(
			"stream %s takes the subjects [%s], and events go to %s; "+
				"change the subject (%s), the stream's name (%s) or its subjects",
			m.o.Stream, strings.Join(c.Subjects, " "), m.filter,
			m.o.Files.Variable("SUBJECT"), m.o.Files.Variable("STREAM")))}
	default:
		return nil
	}
}

// answered notes an acknowledgement, or what is as good. It outweighs whatever the API said before.
func (m *stream) answered() {
	m.mu.Lock()
	said := m.err
	m.ready, m.err, m.silentAt, m.silentOn = true, nil, time.Time{}, ""
	m.mu.Unlock()
	if _, hearsay := errors.AsType[*hearsayError](said); hearsay {
		m.warn(ofSettings, "the stream takes what is published, although JetStream's API says otherwise: "+
			"nothing is known of its settings",
			bridge.Warning{Key: "stream_api", Text: said.Error() + "; say where its API is with " +
				m.o.Files.Variable("JS_DOMAIN") + " or " + m.o.Files.Variable("JS_API_PREFIX")})
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
			"change the subject (%s) or the stream's subjects",
			m.o.Stream, strings.Join(info.Config.Subjects, " "), subject, m.o.Files.Variable("SUBJECT")))
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
