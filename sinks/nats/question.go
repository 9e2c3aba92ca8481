package nats

import (
	"context"
	"errors"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
)

// question asks the stream that takes what is published to subject to store what it never can, so that it answers, and
// stores nothing. Its answer is an error: see isAnswer and isYes. Whoever else subscribes to the subject sees an empty
// message. The stream's name may be empty, for any.
func (s *Sink) question(ctx context.Context, session *session, subject, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.AckTimeout)
	defer cancel()
	ctx, done := session.watch(ctx, subject)
	defer done()
	header := natsgo.Header{natsjs.ExpectedLastSeqHeader: {"9223372036854775807"}}
	if stream != "" {
		header[natsjs.ExpectedStreamHeader] = []string{stream}
	}
	_, err := session.js.PublishMsg(ctx, &natsgo.Msg{Subject: subject, Header: header}, natsjs.WithRetryAttempts(0))
	if denied := context.Cause(ctx); err != nil && bridge.KindOf(denied) == bridge.FailureBlocked {
		return denied
	}
	return err
}

// isAnswer tells whether err, of question, is what a stream answered.
func isAnswer(err error) bool {
	_, answer := errors.AsType[*natsjs.APIError](err)
	return answer
}

// isYes tells whether err, of question, is from the stream that was asked, and nothing but the question hinders it.
func isYes(err error) bool {
	api, answer := errors.AsType[*natsjs.APIError](err)
	return answer && (api.ErrorCode == natsjs.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == natsjs.JSErrCodeStreamWrongLastSequenceConstant)
}
