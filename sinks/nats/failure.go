package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/fnbridge/fnbridge/bridge"
)

// Error codes of JetStream that nats.go has no names for.
const (
	codeStreamMismatch      natsjs.ErrorCode = 10060
	codeStreamSealed        natsjs.ErrorCode = 10109
	codeHeaderTooLarge      natsjs.ErrorCode = 10097
	codeStoreFailed         natsjs.ErrorCode = 10077
	codeSubjectsOverlap     natsjs.ErrorCode = 10065
	codeReplicasUnsupported natsjs.ErrorCode = 10074
	codeMaximumStreams      natsjs.ErrorCode = 10027
	codeMaxBytesRequired    natsjs.ErrorCode = 10113
	codeInvalidConfig       natsjs.ErrorCode = 10052
	codeNoLimits            natsjs.ErrorCode = 10120
	codeAccountFull         natsjs.ErrorCode = 10002
	codeDuplicateInProcess  natsjs.ErrorCode = 10158
	codeNotAvailable        natsjs.ErrorCode = 10008
	codeNoStorage           natsjs.ErrorCode = 10047
)

// classifyConnect marks an error of connecting. What may pass by itself is retried: a server that is away or busy.
// What a person has to mend is blocked: credentials, certificates, a server without TLS.
func (o *Options) classifyConnect(err error) error {
	record, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case bridge.KindOf(err) == bridge.FailureBlocked:
		return err // already said
	case noTLS && string(record.RecordHeader[:]) == "INFO ":
		return bridge.Blocked(fmt.Errorf("the server does not begin with TLS; leave %s out",
			o.Files.Variable("TLS_FIRST")))
	case errors.Is(err, natsgo.ErrAuthorization), errors.Is(err, natsgo.ErrAuthExpired),
		errors.Is(err, natsgo.ErrAuthRevoked), errors.Is(err, natsgo.ErrAccountAuthExpired):
		return bridge.Blocked(fmt.Errorf("the server refuses the credentials; check %s: %w", o.loginVariables(), err))
	case errors.Is(err, natsgo.ErrNkeysNotSupported):
		return bridge.Blocked(fmt.Errorf("the server does not ask for an NKey; check the way to authenticate (%s): %w",
			o.loginVariables(), err))
	case errors.Is(err, natsgo.ErrSecureConnWanted):
		return bridge.Blocked(fmt.Errorf("TLS is configured, and the server has none; "+
			"check the address (%s) and the TLS files (%s): %w",
			o.Files.Variable("URL"), o.Files.Variables("TLS_CA_FILE", "TLS_CERT_FILE"), err))
	case errors.Is(err, natsgo.ErrSecureConnRequired):
		return bridge.Blocked(fmt.Errorf("the server requires TLS; "+
			"use tls:// in %s or set %s: %w", o.Files.Variable("URL"), o.Files.Variable("TLS_CA_FILE"), err))
	case isCertificateError(err):
		return bridge.Blocked(fmt.Errorf("TLS failed; check the authorities (%s) and the client's certificate (%s): %w",
			o.Files.Variable("TLS_CA_FILE"), o.Files.Variable("TLS_CERT_FILE"), err))
	case isCredentialsFileError(err):
		return bridge.Blocked(fmt.Errorf("the credentials cannot be used: %w", err))
	default:
		return bridge.Retry(err)
	}
}

// isCertificateError tells whether either side refuses the other's certificate, or one of them speaks no TLS.
func isCertificateError(err error) bool {
	var (
		invalid   x509.CertificateInvalidError
		hostname  x509.HostnameError
		authority x509.UnknownAuthorityError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		op        *net.OpError
	)
	return errors.As(err, &invalid) || errors.As(err, &hostname) || errors.As(err, &authority) ||
		errors.As(err, &verify) || errors.As(err, &record) ||
		(errors.As(err, &op) && op.Op == "remote error") // an alert
}

func isCredentialsFileError(err error) bool {
	return errors.Is(err, nkeys.ErrInvalidSeed) || errors.Is(err, nkeys.ErrInvalidPrefixByte) ||
		errors.Is(err, nkeys.ErrInvalidEncoding) || errors.Is(err, nkeys.ErrInvalidChecksum) ||
		errors.Is(err, nkeys.ErrNoSeedFound) || strings.Contains(err.Error(), "error signing nonce")
}

// classifyPublish marks what came instead of an acknowledgement. halt says that the trouble is not the event's, so that
// nothing more should be sent for now.
func (s *Sink) classifyPublish(subject string, size int, err error) (halt bool, _ error) {
	if bridge.KindOf(err) != bridge.FailureRetry {
		return false, err // already said
	}
	var api *natsjs.APIError
	switch {
	case errors.As(err, &api):
		return false, s.classifyAnswer(subject, size, api)
	case errors.Is(err, natsgo.ErrMaxPayload):
		return false, bridge.Reject(fmt.Errorf("the message of %d bytes is larger than the server takes: %w", size, err))
	case errors.Is(err, natsgo.ErrBadSubject), errors.Is(err, natsgo.ErrBadHeaderMsg):
		return false, bridge.Reject(fmt.Errorf("the message to %q cannot be written: %w", subject, err))
	case errors.Is(err, natsgo.ErrHeadersNotSupported):
		return false, bridge.Blocked(fmt.Errorf("the server is too old for message headers: %w", err))
	case errors.Is(err, natsjs.ErrNoStreamResponse), errors.Is(err, natsgo.ErrNoResponders):
		return false, s.noAnswer(subject)
	case errors.Is(err, natsjs.ErrInvalidJSAck):
		return false, s.somebodyElse(subject, "the answer is no acknowledgement of a stream")
	case errors.Is(err, natsjs.ErrAsyncPublishTimeout):
		return true, s.doubted(subject, bridge.Retry(fmt.Errorf("%s has not acknowledged a message to %s within %s: %w",
			s.streamOf(subject), subject, s.o.AckTimeout, err)))
	case errors.Is(err, natsjs.ErrTooManyStalledMsgs):
		return true, bridge.Retry(fmt.Errorf("too many messages wait for %s: %w", s.streamOf(subject), err))
	default:
		return true, bridge.Retry(fmt.Errorf("publish to %s: %w", subject, err))
	}
}

// checkAcknowledgement returns an error unless ack is one of the stream that the message was for. Whoever may subscribe
// to the subject can answer what looks like one.
func (c *call) checkAcknowledgement(subject string, ack *natsjs.PubAck) error {
	s := c.sink
	switch {
	case c.from != "" && ack.Stream != c.from:
		err := s.somebodyElse(subject,
			fmt.Sprintf("the acknowledgement is one of stream %.64q, not of %s", ack.Stream, c.from))
		if c.letters {
			// They may have another stream by now. The next call asks.
			s.forgetLetterStream(c.session)
			err = bridge.Retry(err)
		}
		return err
	case ack.Sequence == 0:
		// Older servers answer so while they store a message of this ID, or when an interest stream drops a repeat.
		// It passes with the window for duplicates.
		return bridge.Retry(fmt.Errorf("not stored: an acknowledgement of stream %.64q for %s names no sequence; "+
			"is a repeat of it being stored, or does somebody else answer?", ack.Stream, subject))
	default:
		return nil
	}
}

// somebodyElse is the error of an answer to a message that is not its stream's.
func (s *Sink) somebodyElse(subject, why string) error {
	return bridge.Blocked(fmt.Errorf("not stored: somebody else than %s answers messages to %s (%s); "+
		"find who subscribes to it, or change the subject (%s)",
		s.streamOf(subject), subject, why, s.variableOf(subject)))
}

// classifyAnswer marks what the stream answered instead of an acknowledgement.
func (s *Sink) classifyAnswer(subject string, size int, api *natsjs.APIError) error {
	stream := s.streamOf(subject)
	switch api.ErrorCode {
	case natsjs.JSErrCodeStreamMessageExceedsMaximum:
		var limit string
		if !s.takesDeadLetters(subject) {
			limit = s.stream.messageLimit()
		}
		return bridge.Reject(fmt.Errorf("the message of %d bytes is larger than %s takes%s: %w", size, stream, limit, api))
	case codeHeaderTooLarge:
		return bridge.Reject(fmt.Errorf("the message's headers are larger than %s takes: %w", stream, api))
	case codeStreamMismatch:
		return s.doubted(subject, bridge.Blocked(fmt.Errorf(
			"the subject %s belongs to another stream than %s; change the subject (%s) or the stream (%s): %w",
			subject, s.o.Stream, s.variableOf(subject), s.o.Files.Variable("STREAM"), api)))
	case codeStreamSealed:
		return bridge.Blocked(fmt.Errorf("%s is sealed and takes nothing; publish to another (%s): %w",
			stream, s.streamVariable(subject), api))
	case natsjs.JSErrCodeJetStreamNotEnabled, natsjs.JSErrCodeJetStreamNotEnabledForAccount:
		return bridge.Blocked(fmt.Errorf("JetStream is not enabled for this account: %w", api))
	case codeStoreFailed:
		if strings.Contains(api.Description, "message too large") {
			return bridge.Reject(fmt.Errorf("the message of %d bytes is larger than %s can store: %w", size, stream, api))
		}
		return bridge.Retry(fmt.Errorf("%s cannot store more now; is it full? %w", stream, api))
	case natsjs.JSErrCodeStreamNotFound:
		return s.noAnswer(subject)
	case codeDuplicateInProcess:
		return s.doubted(subject, bridge.Retry(fmt.Errorf(
			"%s has this message from an earlier try, and its servers have not agreed on it yet: %w", stream, api)))
	default:
		refused := fmt.Errorf("%s refused a message to %s: %w", stream, subject, api)
		if api.Code == http.StatusBadRequest && api.ErrorCode != codeAccountFull {
			// It is of the wrong kind for this stream, as each event would be: so the codes of JetStream are made.
			return bridge.Blocked(fmt.Errorf("%w; change the stream's settings, or publish to another (%s)",
				refused, s.streamVariable(subject)))
		}
		return bridge.Retry(refused)
	}
}

// doubted returns err, with what is wrong with the stream if that is known. It is looked at again.
func (s *Sink) doubted(subject string, err error) error {
	if s.takesDeadLetters(subject) {
		return err
	}
	return s.stream.doubted(err)
}

// classifyRequest marks an error of asking JetStream about a stream, or of creating one.
func (o *Options) classifyRequest(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil && bridge.KindOf(cause) == bridge.FailureBlocked {
		return bridge.Blocked(fmt.Errorf("%s: %w", what, cause))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return bridge.Retry(fmt.Errorf("%s: JetStream gave no answer in time: %w", what, err))
	}
	if api, ok := errors.AsType[*natsjs.APIError](err); ok {
		switch api.ErrorCode {
		case codeNoStorage:
			if o.MaxBytes > 0 && !o.SharesVolume {
				return bridge.Blocked(fmt.Errorf("%s: the server has no storage for a stream of %d bytes: lower %s: %w",
					what, o.MaxBytes, o.Files.Variable("MAX_BYTES"), err))
			}
		case codeNotAvailable:
			return bridge.Retry(fmt.Errorf("%s: JetStream's cluster has no leader; "+
				"more than half of its servers are needed for one: %w", what, err))
		case codeSubjectsOverlap:
			return bridge.Blocked(fmt.Errorf("%s: another stream has its subjects; "+
				"publish to that stream (%s), or change the subject (%s): %w",
				what, o.Files.Variable("STREAM"), o.Files.Variable("SUBJECT"), err))
		case codeReplicasUnsupported:
			return bridge.Blocked(fmt.Errorf("%s: the server is no cluster, so 1 replica is all that it can keep (%s): %w",
				what, o.Files.Variable("REPLICAS"), err))
		case codeMaxBytesRequired:
			return bridge.Blocked(fmt.Errorf("%s: the account demands a bound of each stream: set %s: %w",
				what, o.Files.Variable("MAX_BYTES"), err))
		case codeMaximumStreams, codeInvalidConfig, codeNoLimits,
			natsjs.JSErrCodeJetStreamNotEnabledForAccount, natsjs.JSErrCodeBadRequest:
			return bridge.Blocked(fmt.Errorf("%s: %w", what, err))
		default: // a change of leader, a lack of resources, and whatever else may pass
		}
	}
	return bridge.Retry(fmt.Errorf("%s: %w", what, err))
}
