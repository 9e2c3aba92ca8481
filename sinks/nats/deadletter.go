package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// DeadLetterAddress returns the subject of the dead letters, and nothing when there is none.
func (s *Sink) DeadLetterAddress() string { return s.o.DeadLetter }

// PublishDeadLetters implements bridge.DeadLetterPublisher. It acknowledges, bounds and classifies as Publish does, and
// takes at most twice as long. Whichever stream takes the subject may store the letters, and its acknowledgements
// count; those of any stream, if the account may not ask which that is. It drops one that is published again, with as
// many attempts, within its window for duplicates.
//
// A letter that is refused with its data is published without. It may then be stored behind later ones of its key.
func (s *Sink) PublishDeadLetters(ctx context.Context, letters []bridge.DeadLetter) []error {
	if s.o.DeadLetter == "" {
		return same(len(letters), bridge.Blocked(errors.New("no dead-letter subject is configured")))
	}
	return bridge.PublishLetters(letters, func(letters []bridge.DeadLetter, withData bool) []error {
		events := make([]bridge.Event, len(letters))
		for i, l := range letters {
			events[i] = l.Event
		}
		return s.publish(ctx, publication{
			events:  events,
			prepare: s.prepareLetters,
			message: func(i int, session *session, failures int64) (*natsgo.Msg, int, error) {
				return s.letter(letters[i], session, failures, withData)
			},
			letters: true,
		})
	})
}

// prepareLetters returns a session and the stream that takes the letters, if that may be asked. That the events' stream
// is not right is no obstacle, since another may take the letters; but if it takes them too, it may have to be created.
func (s *Sink) prepareLetters(ctx context.Context) (*session, string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.AckTimeout)
	defer cancel()
	session, err := s.conn.session(ctx)
	if err != nil {
		return nil, "", err
	}
	_ = s.stream.inspect(ctx, session, false)
	if s.stream.takes(s.o.DeadLetter) {
		return session, s.o.Stream, nil
	}
	session.mu.Lock()
	known := session.letterStream
	session.mu.Unlock()
	if known != nil {
		return session, *known, nil
	}
	name, err := s.findLetterStream(ctx, session)
	if err != nil {
		return nil, "", err
	}
	session.mu.Lock()
	session.letterStream = &name
	session.mu.Unlock()
	return session, name, nil
}

// forgetLetterStream has the next call look again which stream takes the dead letters: it may be another by now.
func (s *Sink) forgetLetterStream(session *session) {
	s.stream.tookUntilNow(s.o.DeadLetter)
	session.mu.Lock()
	session.letterStream = nil
	session.mu.Unlock()
}

// letter makes the message for l. Its error is classified.
func (s *Sink) letter(
	l bridge.DeadLetter, session *session, failures int64, withData bool,
) (*natsgo.Msg, int, error) {
	headers, body, err := s.o.Format.EncodeDeadLetter(l, cloudevents.NATSPrefix, subjectOf(s.o.Subject, l.Event), withData)
	if err != nil {
		return nil, 0, bridge.Reject(fmt.Errorf("write the dead letter: %w", err))
	}
	headers = withID(headers, s.letterID(l), failures)
	return sized(&natsgo.Msg{Subject: s.o.DeadLetter, Data: body, Header: newHeader(headers)}, headers, session)
}

// letterID returns the Nats-Msg-Id of a dead letter: the same when it is published again after a crash, another when
// the event has been tried anew, and another than that of the event or of another sink's letter.
func (s *Sink) letterID(l bridge.DeadLetter) string {
	return l.Event.Origin.DedupeID(s.o.DeadLetter + " " + s.o.Name + " " + strconv.Itoa(l.Attempts))
}

// CheckDeadLetters tells whether dead letters could be published now: nil also without a subject for them, or when the
// account may not ask. Its error is classified. Events are published whatever it says.
func (s *Sink) CheckDeadLetters(ctx context.Context) error {
	if s.o.DeadLetter == "" {
		return nil
	}
	if s.ctx.Err() != nil {
		return bridge.Retry(errClosed)
	}
	return s.ask(ctx, s.inspectDeadLetters)
}

// inspectDeadLetters also has the warnings follow the stream that takes the letters, if it is not that of the events:
// with FNBRIDGE_ACK=sinks a letter is nowhere else.
func (s *Sink) inspectDeadLetters(ctx context.Context, session *session) error {
	name, err := s.findLetterStream(ctx, session)
	if err != nil || name == "" {
		return err
	}
	var found []bridge.Warning
	if name != s.o.Stream {
		ctx, done := session.watch(ctx, s.o.APIPrefix+".STREAM.INFO."+name)
		defer done()
		stream, err := session.js.Stream(ctx, name)
		if err != nil {
			return nil // letters can be published all the same
		}
		for _, w := range losses(stream.CachedInfo().Config) {
			found = append(found, bridge.Warning{
				Key: "dead_letter_" + w.Key, Text: fmt.Sprintf("dead letters go to stream %s: %s", name, w.Text),
			})
		}
	}
	s.stream.warn(ofLetters, "the stream of the dead letters may lose some", found...)
	return nil
}

// findLetterStream asks which stream takes the dead letters, and returns nothing when the account may not ask. Its
// error is classified.
func (s *Sink) findLetterStream(ctx context.Context, session *session) (string, error) {
	ctx, done := session.watch(ctx, s.o.APIPrefix+".STREAM.NAMES")
	defer done()
	name, err := session.js.StreamNameBySubject(ctx, s.o.DeadLetter)
	cause := context.Cause(ctx)
	switch {
	case err == nil:
		return name, nil
	case cause != nil && bridge.KindOf(cause) == bridge.FailureBlocked: // it may not ask
		return "", nil
	case errors.Is(err, natsgo.ErrNoResponders), errors.Is(err, natsjs.ErrJetStreamNotEnabled),
		errors.Is(err, natsjs.ErrJetStreamNotEnabledForAccount):
		return "", nil // nobody can be asked, and what is published may be taken all the same
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return "", s.noStreamForLetters()
	default:
		return "", s.o.classifyRequest(ctx, "look up the stream of "+s.o.DeadLetter, err)
	}
}

// warnOfDeadLetters tells the log of a subject for dead letters that no stream takes.
func (s *Sink) warnOfDeadLetters(ctx context.Context, session *session) {
	if s.o.DeadLetter == "" {
		return
	}
	if err := s.inspectDeadLetters(ctx, session); bridge.KindOf(err) == bridge.FailureBlocked {
		s.stream.warn(ofLetters, "dead letters cannot be published now",
			bridge.Warning{Key: "dead_letters", Text: err.Error()})
	}
}

func (s *Sink) noStreamForLetters() error {
	return bridge.Blocked(fmt.Errorf("no stream takes the dead-letter subject %s; "+
		"add it to the subjects of stream %s, or create a stream for it, or change %s",
		s.o.DeadLetter, s.o.Stream, s.o.Files.Variable("DEAD_LETTER")))
}

// variableOf names, for errors, what was set to have subject.
func (s *Sink) variableOf(subject string) string {
	if s.takesDeadLetters(subject) {
		return s.o.Files.Variable("DEAD_LETTER")
	}
	return s.o.Files.Variable("SUBJECT")
}

// streamVariable names, for errors, what was set to have the stream that takes what is published to subject.
func (s *Sink) streamVariable(subject string) string {
	if s.takesDeadLetters(subject) {
		return s.o.Files.Variable("DEAD_LETTER")
	}
	return s.o.Files.Variable("STREAM")
}

// takesDeadLetters tells whether subject is that of the dead letters. No event has it: see ValidateDeadLetter.
func (s *Sink) takesDeadLetters(subject string) bool {
	return s.o.DeadLetter != "" && subject == s.o.DeadLetter
}

// streamOf names, for errors, the stream that takes what is published to subject.
func (s *Sink) streamOf(subject string) string {
	if s.takesDeadLetters(subject) {
		return "the stream of " + subject
	}
	return "stream " + s.o.Stream
}

// noAnswer returns what it means that no stream takes what is published to subject.
func (s *Sink) noAnswer(subject string) error {
	if !s.takesDeadLetters(subject) {
		return s.stream.noAnswer(subject)
	}
	if s.stream.tookUntilNow(subject) {
		return bridge.Retry(fmt.Errorf("no stream answers for the dead-letter subject %s; "+
			"stream %s may be without a leader for now",
			subject, s.o.Stream))
	}
	return s.noStreamForLetters()
}

// tookUntilNow tells whether the stream, when it was looked at last, took what is published to subject. If so it is
// looked at again before anything else is published.
func (m *stream) tookUntilNow(subject string) bool {
	took := m.takes(subject)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = m.ready && !took
	return took
}

// takes tells whether the stream, when it was looked at last, took what is published to subject.
func (m *stream) takes(subject string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.info != nil && slices.ContainsFunc(m.info.Config.Subjects, func(s string) bool { return covers(s, subject) })
}
