package kafka

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
)

const (
	saslPlain       = "PLAIN"
	saslScramSHA256 = "SCRAM-SHA-256"
	saslScramSHA512 = "SCRAM-SHA-512"
)

// Options describes a sink. In errors each field has the name of its setting, such as SASL_MECHANISM. What
// Settings.Check refuses is not to be given here.
type Options struct {
	// Name is the sink's name in logs and errors.
	Name string
	// Brokers are the addresses to start from, each host:port. The cluster tells of its others.
	Brokers []string
	// Topic is where every event goes.
	Topic string
	// Key makes the record key, which chooses the partition. Kafka keeps order within a partition only, so
	// a key that differs between events of one PartitionKey gives up their order.
	Key bridge.Template

	// CreateTopic has the sink create the topic when there is none, with Partitions and ReplicationFactor (0: the
	// broker's defaults), and from three replicas on with min.insync.replicas=2. A topic that exists is used as it is.
	CreateTopic                   bool
	Partitions, ReplicationFactor int

	// TLS encrypts connections. TLSCAFile is a PEM file of the authorities to trust instead of the system's. TLSCertFile
	// and TLSKeyFile are the client's certificate. The files are read again for new connections, so they can be replaced.
	TLS                                bool
	TLSCAFile, TLSCertFile, TLSKeyFile string

	// SASLMechanism is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, or empty for none.
	SASLMechanism, SASLUsername, SASLPassword string

	// Compression of batches is none (or empty), gzip, snappy, lz4 or zstd.
	Compression string
	// Format is how an event becomes a record's headers and value.
	Format cloudevents.Format
	// DeadLetter is the topic of the dead letters, and empty for none. CreateTopic holds for it as for Topic.
	DeadLetter string
	// Logger gets what a person should know. Nil logs nothing.
	Logger *slog.Logger

	timing timing
}

// checked is what check makes of Options.
type checked struct {
	compression kafkago.Compression
	mechanism   sasl.Mechanism  // nil: none
	tls         *tlsfiles.Files // nil: plain text
}

func (o *Options) check(log *slog.Logger) (checked, error) {
	var c checked
	var problems []error
	if len(o.Brokers) == 0 {
		problems = append(problems, errors.New("BROKERS is empty"))
	}
	for _, broker := range o.Brokers {
		if fault := addressFault(broker); fault != "" {
			problems = append(problems, fmt.Errorf("BROKERS: %q %s", broker, fault))
		}
	}
	if err := new(TopicName).Decode(o.Topic); err != nil {
		problems = append(problems, fmt.Errorf("TOPIC: %w", err))
	}
	var err error
	if c.compression, err = compressionOf(o.Compression); err != nil {
		problems = append(problems, err)
	}
	if o.TLS {
		if c.tls, err = tlsfiles.Open(tlsfiles.Names{
			CA: o.TLSCAFile, Cert: o.TLSCertFile, Key: o.TLSKeyFile,
		}, log); err != nil {
			problems = append(problems, err)
		}
	}
	if c.mechanism, err = o.checkSASL(); err != nil {
		problems = append(problems, err)
	}
	return c, errors.Join(problems...)
}

// checkSASL keeps the password out of its errors, and with it the library's, which quote characters that they refuse.
func (o *Options) checkSASL() (sasl.Mechanism, error) {
	var algorithm scram.Algorithm
	switch o.SASLMechanism {
	case "":
		return nil, nil
	case saslPlain:
		if strings.ContainsRune(o.SASLUsername+o.SASLPassword, 0) {
			return nil, errors.New("SASL_USERNAME or SASL_PASSWORD holds a NUL, which PLAIN cannot send")
		}
		return plain.Mechanism{Username: o.SASLUsername, Password: o.SASLPassword}, nil
	case saslScramSHA256:
		algorithm = scram.SHA256
	case saslScramSHA512:
		algorithm = scram.SHA512
	default:
		return nil, fmt.Errorf("SASL_MECHANISM is %q: use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", o.SASLMechanism)
	}
	mechanism, err := scram.Mechanism(algorithm, o.SASLUsername, o.SASLPassword)
	if err != nil {
		return nil, errors.New("SASL_USERNAME or SASL_PASSWORD holds a character that SCRAM does not allow (RFC 4013)")
	}
	return boundedSCRAM{mechanism}, nil
}
