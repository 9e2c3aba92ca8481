package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/wire"
)

// explain turns what the library or a broker says into an error that names what failed, tells what to
// do, and carries its kind. A nil err stays nil.
func (s *Sink) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	kind, advice := classify(s.opts.Files, err)
	text := what + ": " + inWords(err)
	if advice != "" {
		text += ": " + advice
	}
	return mark(kind, &failure{text: text, cause: err})
}

func mark(kind bridge.FailureKind, err error) error {
	switch kind {
	case bridge.FailureReject:
		return bridge.Reject(err)
	case bridge.FailureBlocked:
		return bridge.Blocked(err)
	case bridge.FailureRetry:
	}
	return bridge.Retry(err)
}

// failure words an error anew and keeps it for errors.Is.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

// libraryPrefix is what the library puts before errors; the second names the wrong request.
var libraryPrefix = regexp.MustCompile(`^(kafka\.\(\*Client\)\.\w+: )?(fetch request error: )?`)

func inWords(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "given up by the caller"
	}
	return libraryPrefix.ReplaceAllLiteralString(err.Error(), "")
}

// classify says what to do about err, for delivery and for people, who know settings by the names that files has. What
// it does not know is retried: that loses nothing.
func classify(files *reload.Part, err error) (kind bridge.FailureKind, advice string) {
	if refused, ok := errors.AsType[*refusedTokenError](err); ok && refused != nil {
		return bridge.FailureBlocked, "compare issuer, audience and scope of the token with what the broker expects, " +
			"and check " + files.Variables("OAUTH_TOKEN_URL", "OAUTH_SCOPES", "OAUTH_EXTENSIONS")
	}
	if token, ok := errors.AsType[*tokenError](err); ok {
		if token.blocked {
			return bridge.FailureBlocked, ""
		}
		return bridge.FailureRetry, ""
	}
	if code, ok := errors.AsType[kafkago.Error](err); ok {
		return classifyCode(files, code)
	}
	if advice := certificateAdvice(files, err); advice != "" {
		return bridge.FailureBlocked, advice
	}
	if _, ok := errors.AsType[*strangerError](err); ok {
		return bridge.FailureBlocked, "check the host and port in " + files.Variable("BROKERS")
	}
	if errors.Is(err, errOldSASL) {
		return bridge.FailureBlocked, "use newer brokers, or connect with TLS"
	}
	if advertised, ok := errors.AsType[*advertisedError](err); ok {
		return bridge.FailureRetry,
			advertised.address + " is what the broker advertises (advertised.listeners), " +
				"and was never reached from here: correct it there, or let this machine reach it"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return bridge.FailureRetry, "check " + files.Variable("BROKERS") + ", and the names that the brokers advertise"
	}
	if errors.Is(err, protocol.ErrNoLeader) {
		return bridge.FailureRetry, "no broker leads it now"
	}
	return bridge.FailureRetry, ""
}

// classifyCode is the table of broker error codes that are not simply retried.
func classifyCode(files *reload.Part, code kafkago.Error) (bridge.FailureKind, string) {
	switch code {
	case kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge, kafkago.InvalidRecord:
		return bridge.FailureReject, ""

	case kafkago.InvalidTimestamp:
		// Records carry the time of their sending, so all of them would be refused, and none for its own sake.
		return bridge.FailureBlocked,
			"compare this machine's clock with the brokers', and the topic's limits on timestamps (message.timestamp.*)"

	case kafkago.InvalidTopic:
		return bridge.FailureBlocked, "check " + files.Variable("TOPIC")
	case kafkago.InvalidRequiredAcks, kafkago.UnsupportedVersion, kafkago.UnsupportedForMessageFormat:
		return bridge.FailureBlocked, "the brokers are too old or set up for old clients"
	case kafkago.TopicAuthorizationFailed:
		return bridge.FailureBlocked, "grant the user WRITE and DESCRIBE on the topic"
	case kafkago.ClusterAuthorizationFailed:
		return bridge.FailureBlocked, "grant the user CREATE on the topic or the cluster, or create the topic by hand"
	case kafkago.UnsupportedSASLMechanism, kafkago.IllegalSASLState:
		return bridge.FailureBlocked, "check " + files.Variable("SASL_MECHANISM") + " against the listener's"
	case kafkago.SASLAuthenticationFailed:
		return bridge.FailureBlocked,
			"check " + files.Variables("SASL_MECHANISM", "SASL_USERNAME", "SASL_PASSWORD") + ", or the OAUTH settings"
	case kafkago.PolicyViolation:
		return bridge.FailureBlocked, "the cluster has a policy against it"
	case kafkago.UnsupportedCompressionType:
		return bridge.FailureBlocked, "choose another " + files.Variable("COMPRESSION")

	case kafkago.NotEnoughReplicas, kafkago.NotEnoughReplicasAfterAppend:
		return bridge.FailureRetry, "fewer brokers are in sync than the topic's min.insync.replicas demands"
	default:
		return bridge.FailureRetry, ""
	}
}

// certificateAdvice returns what to do about an error of TLS that time does not mend, and "" for any other error.
func certificateAdvice(files *reload.Part, err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "set " + files.Variable("TLS_CA_FILE") + " to the authority that signed the brokers' certificates"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "use the name that the broker's certificate holds, in " + files.Variable("BROKERS") +
			" and in what the brokers advertise"
	}
	if _, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return "the broker's certificate has to be replaced"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "check the broker's certificate and " + files.Variable("TLS_CA_FILE")
	}
	if wire.IsHTTP(err) {
		return "it answers HTTP, not Kafka: check the host and port in " + files.Variable("BROKERS")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the port does not speak TLS: set " + files.Variable("TLS") + " to false, or use the brokers' TLS port"
	}
	// The alert itself has an unexported type.
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return "the broker refuses our side of TLS: check " + files.Variables("TLS_CERT_FILE", "TLS_KEY_FILE")
	}
	return ""
}

// firstContact explains why brokers could not be connected to before anything was ever read from the cluster with these
// credentials.
func (s *Sink) firstContact(ctx context.Context, brokers []string, err error) error {
	what := "connecting to " + strings.Join(brokers, ", ")
	op, _ := errors.AsType[*net.OpError](err)
	var advice string
	switch {
	case isCut(err):
		// So does a broker that is asked for TLS or credentials and gets none, or the other way round.
		advice = "wrong credentials, or TLS against a plaintext port, or the reverse? Check " +
			s.opts.Files.Variable("TLS") + " and the SASL settings"
	case op != nil && op.Op == "read" && op.Timeout():
		advice = "it takes connections and does not answer. " +
			"Is it a Kafka broker and well, and is it TLS against a plaintext port?"
	default:
		return s.explain(what, err)
	}
	// Servers of HTTP wait for the end of a line, and hang up when none comes.
	address := brokers[0]
	if len(brokers) > 1 && op != nil && op.Addr != nil {
		address = op.Addr.String()
	}
	if speaks := wire.Speaks(ctx, address); strings.HasPrefix(speaks, "HTTP") {
		return s.explain(what, &strangerError{address, speaks})
	}
	return bridge.Retry(&failure{text: what + ": " + inWords(err) + ": " + advice, cause: err})
}

// advertisedError is about an address that was never reached, and that nobody but the brokers gives.
type advertisedError struct {
	address string
	cause   error
}

func (e *advertisedError) Error() string { return e.cause.Error() }
func (e *advertisedError) Unwrap() error { return e.cause }

// isCut tells whether a broker, or what is before it, has ended the connection.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isRecordFault tells whether a broker refuses a batch for one of its records.
func isRecordFault(err error) bool {
	code, ok := errors.AsType[kafkago.Error](err)
	if !ok {
		return false
	}
	kind, _ := classifyCode(nil, code)
	return kind == bridge.FailureReject
}

// isMissing tells whether err says that there is no such topic, or no such partition of it.
func isMissing(err error) bool {
	return errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition) ||
		errors.Is(err, kafkago.UnknownTopicOrPartition)
}

// isStale tells whether err can come from connections or metadata that are out of date.
func isStale(err error) bool {
	if code, ok := errors.AsType[kafkago.Error](err); ok {
		switch code { //nolint:exhaustive // the few of a hundred codes that tell of metadata
		case kafkago.UnknownTopicOrPartition, kafkago.LeaderNotAvailable, kafkago.NotLeaderForPartition,
			kafkago.BrokerNotAvailable, kafkago.FencedLeaderEpoch, kafkago.UnknownTopicID, kafkago.SASLAuthenticationFailed:
			return true
		}
		return false
	}
	// The client has no other errors than those of the network, of TLS, and of metadata without the partition or a leader.
	return !errors.Is(err, context.Canceled)
}
