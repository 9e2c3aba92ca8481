package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

const (
	saslPlain       = "PLAIN"
	saslScramSHA256 = "SCRAM-SHA-256"
	saslScramSHA512 = "SCRAM-SHA-512"
)

// Options describes a sink. In errors each field has the name of its setting, such as SASL_MECHANISM.
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

	// TLS encrypts connections. TLSCAFile is a PEM file of the authorities to trust instead of the system's. TLSCertFile and
	// TLSKeyFile are the client's certificate. The files are read again for new connections, so they can be replaced.
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
	mechanism   sasl.Mechanism // nil: none
	tls         *tlsFiles      // nil: plain text
}

// topicName is Kafka's own rule.
var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

func (o *Options) check() (checked, error) {
	var c checked
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if o.Name == "" {
		bad("the sink has no name")
	}
	if len(o.Brokers) == 0 {
		bad("BROKERS is empty: give at least one host:port")
	}
	for _, broker := range o.Brokers {
		if err := checkAddress(broker); err != nil {
			bad("BROKERS: %w", err)
		}
	}
	switch {
	case o.Topic == "":
		bad("TOPIC is empty")
	case o.Topic == "." || o.Topic == ".." || !topicName.MatchString(o.Topic):
		bad("TOPIC %q is not a topic name: use 1 to 249 of a-z A-Z 0-9 . _ -, and not . or .. alone", o.Topic)
	}
	switch {
	case o.DeadLetter == "":
	case o.DeadLetter == o.Topic:
		bad("DEAD_LETTER is %q, as TOPIC is: consumers of the events would take dead letters for events; give a topic of its own, such as %s-dead-letters", o.DeadLetter, o.Topic)
	case o.DeadLetter == "." || o.DeadLetter == ".." || !topicName.MatchString(o.DeadLetter):
		bad("DEAD_LETTER %q is not a topic name: use 1 to 249 of a-z A-Z 0-9 . _ -, and not . or .. alone", o.DeadLetter)
	}
	if o.CreateTopic {
		if o.Partitions < 0 || o.Partitions > math.MaxInt32 {
			bad("PARTITIONS is %d: it must be 1 or more, or 0 for the broker's default", o.Partitions)
		}
		if o.ReplicationFactor < 0 || o.ReplicationFactor > math.MaxInt16 {
			bad("REPLICATION_FACTOR is %d: it must be from 1 to %d, or 0 for the broker's default", o.ReplicationFactor, math.MaxInt16)
		}
	}
	if o.Format < cloudevents.Binary || o.Format > cloudevents.Plain {
		bad("FORMAT is unknown: use binary, structured or plain")
	}

	var err error
	if c.compression, err = compressionOf(o.Compression); err != nil {
		problems = append(problems, err)
	}
	if c.tls, err = o.checkTLS(); err != nil {
		problems = append(problems, err)
	}
	if c.mechanism, err = o.checkSASL(); err != nil {
		problems = append(problems, err)
	}
	return c, errors.Join(problems...)
}

func checkAddress(address string) error {
	if strings.Contains(address, "://") {
		return fmt.Errorf("%q has a scheme: give host:port alone", address)
	}
	if strings.ContainsAny(address, ", \t\r\n") {
		return fmt.Errorf("%q is not one host:port", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("%q is not host:port, such as kafka-1:9092", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has the port %q: it must be a number from 1 to 65535", address, port)
	}
	return nil
}

func (o *Options) checkTLS() (*tlsFiles, error) {
	var problems []error
	if !o.TLS {
		for _, f := range []struct{ setting, file string }{
			{"TLS_CA_FILE", o.TLSCAFile}, {"TLS_CERT_FILE", o.TLSCertFile}, {"TLS_KEY_FILE", o.TLSKeyFile},
		} {
			if f.file != "" {
				problems = append(problems, fmt.Errorf("%s is set and TLS is not: set TLS to true, or take %s away", f.setting, f.setting))
			}
		}
		return nil, errors.Join(problems...)
	}
	files := &tlsFiles{caFile: o.TLSCAFile, certFile: o.TLSCertFile, keyFile: o.TLSKeyFile}
	if o.TLSCAFile != "" {
		pool, err := files.readAuthorities()
		if err != nil {
			problems = append(problems, fmt.Errorf("TLS_CA_FILE: %w", err))
		}
		files.authorities = pool
	}
	switch {
	case (o.TLSCertFile == "") != (o.TLSKeyFile == ""):
		problems = append(problems, errors.New("TLS_CERT_FILE and TLS_KEY_FILE belong together: set both, or neither"))
	case o.TLSCertFile != "":
		certificate, err := tls.LoadX509KeyPair(o.TLSCertFile, o.TLSKeyFile)
		if err != nil {
			problems = append(problems, fmt.Errorf("TLS_CERT_FILE and TLS_KEY_FILE: %w", err))
		}
		files.certificate = &certificate
	}
	return files, errors.Join(problems...)
}

// checkSASL keeps the password out of its errors, and with it the library's, which quote characters that they refuse.
func (o *Options) checkSASL() (sasl.Mechanism, error) {
	if o.SASLMechanism == "" {
		if o.SASLUsername != "" || o.SASLPassword != "" {
			return nil, errors.New("SASL_USERNAME or SASL_PASSWORD is set and SASL_MECHANISM is not: use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
		}
		return nil, nil
	}
	var problems []error
	if o.SASLUsername == "" {
		problems = append(problems, fmt.Errorf("SASL_USERNAME is empty: %s needs one", o.SASLMechanism))
	}
	if o.SASLPassword == "" {
		problems = append(problems, fmt.Errorf("SASL_PASSWORD is empty: %s needs one", o.SASLMechanism))
	}
	var algorithm scram.Algorithm
	switch o.SASLMechanism {
	case saslPlain:
		if strings.ContainsRune(o.SASLUsername+o.SASLPassword, 0) {
			problems = append(problems, errors.New("SASL_USERNAME or SASL_PASSWORD holds a NUL, which PLAIN cannot send"))
		}
		return plain.Mechanism{Username: o.SASLUsername, Password: o.SASLPassword}, errors.Join(problems...)
	case saslScramSHA256:
		algorithm = scram.SHA256
	case saslScramSHA512:
		algorithm = scram.SHA512
	default:
		problems = append(problems, fmt.Errorf("SASL_MECHANISM is %q: use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", o.SASLMechanism))
		return nil, errors.Join(problems...)
	}
	mechanism, err := scram.Mechanism(algorithm, o.SASLUsername, o.SASLPassword)
	if err != nil {
		problems = append(problems, errors.New("SASL_USERNAME or SASL_PASSWORD holds a character that SCRAM does not allow (RFC 4013)"))
	}
	return mechanism, errors.Join(problems...)
}
