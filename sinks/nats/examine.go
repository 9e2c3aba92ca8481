package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/wire"
)

var _ bridge.Examined = (*Sink)(nil)

// Examine implements bridge.Examined. The stream is asked with an empty message that no stream stores: see question.
func (s *Sink) Examine(ctx context.Context, largest bridge.Largest) []bridge.Step {
	var hosts []string
	for _, u := range addresses(s.o.URL) {
		host := u.Host
		if u.Port() == "" {
			host += map[string]string{"ws": ":80", "wss": ":443"}[u.Scheme] // the others have one
		}
		hosts = append(hosts, host)
	}
	steps := wire.Examine(ctx, hosts)
	if last := steps[len(steps)-1]; last.Err != nil {
		return steps
	}
	session, err := s.conn.session(ctx)
	if err != nil {
		name := "connection to the server"
		switch {
		case isCertificateError(err):
			name = "TLS"
		case bridge.KindOf(err) == bridge.FailureBlocked:
			name = "authentication"
		}
		return append(steps, bridge.Step{Name: name, Err: err})
	}
	if state, err := session.nc.TLSConnectionState(); err == nil {
		steps = append(steps, wire.Certificate(state, time.Now()))
	} else {
		steps = append(steps, bridge.Step{Name: "TLS", Detail: "not used", Skipped: true})
	}
	login := "accepted"
	if !session.nc.AuthRequired() {
		login = "the server asks for none"
	}
	steps = append(steps, bridge.Step{
		Name: "authentication", Detail: login + ", NATS " + session.nc.ConnectedServerVersion(),
	})
	stream, clock := s.examineStream(ctx, session, largest)
	steps = append(steps, clock)
	_, hearsay := errors.AsType[*hearsayError](stream.Err)
	if stream.Err != nil && !hearsay {
		return append(steps, stream)
	}
	publishing := s.examinePublishing(ctx, session)
	if hearsay && (publishing.Err != nil || publishing.Skipped) {
		return append(steps, stream)
	}
	if hearsay { // the stream itself answers, and it decides
		stream.Warning, stream.Err = "JetStream's API says otherwise, and events can be published: "+stream.Err.Error(), nil
	}
	return append(steps, stream, publishing)
}

// anySubject is that of an event which every bridge may have to publish.
func (s *Sink) anySubject() string {
	return subjectOf(s.o.Subject, bridge.Event{
		Type: "tensorlake.unrecognized", About: bridge.About{Route: []string{"unrecognized"}},
	})
}

// examineStream looks at the stream, and at the clock of the server that tells of it.
func (s *Sink) examineStream(
	ctx context.Context, session *session, largest bridge.Largest,
) (stream, clock bridge.Step) {
	clock = wire.Clock(time.Time{}, time.Time{}, time.Time{})
	if err := s.stream.inspect(ctx, session, true); err != nil {
		return bridge.Step{Name: "stream " + s.o.Stream, Err: err}, clock
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.AckTimeout)
	defer cancel()
	ctx, done := session.watch(ctx, s.o.APIPrefix+".STREAM.INFO."+s.o.Stream)
	defer done()
	began := time.Now()
	found, err := session.js.Stream(ctx, s.o.Stream)
	if err != nil {
		return bridge.Step{
			Name: "stream " + s.o.Stream, Detail: "the account may not look at it, or it is another account's", Skipped: true,
		}, clock
	}
	info := found.CachedInfo()
	s.stream.askAccount(ctx, session, info.Config.Replicas)
	s.stream.examine(info)
	clock = wire.Clock(info.TimeStamp, began, time.Now())
	most, setting := session.nc.MaxPayload(), "max_payload of the server"
	if size := int64(info.Config.MaxMsgSize); size > 0 && size < most {
		most, setting = size, "max_msg_size of the stream"
	}
	detail := fmt.Sprintf("%d replicas, messages of at most %d bytes", info.Config.Replicas, most)
	if info.Config.Replicas == 1 {
		detail = fmt.Sprintf("1 replica, messages of at most %d bytes", most)
	}
	return wire.Fits("stream "+s.o.Stream, detail, largest, most, setting), clock
}

// examinePublishing asks the stream by way of a subject.
func (s *Sink) examinePublishing(ctx context.Context, session *session) bridge.Step {
	step := bridge.Step{Name: "permission to publish"}
	subject := s.anySubject()
	answer := s.question(ctx, session, subject, s.o.Stream)
	switch {
	case isYes(answer):
		step.Detail = "the stream answers on " + subject
	case bridge.KindOf(answer) == bridge.FailureBlocked:
		step.Err = answer
	default:
		if api, refused := errors.AsType[*natsjs.APIError](answer); refused {
			step.Err = s.classifyAnswer(subject, 0, api)
			return step
		}
		step.Detail, step.Skipped = fmt.Sprintf("no answer on %s: %v", subject, answer), true
	}
	return step
}
