package kafka

import (
	"errors"
	"fmt"
	"log/slog"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
)

// Options describes a sink. In errors each field has the name that Files has for its setting. What Settings.Check
// refuses is not to be given here.
type Options struct {
	// Name is the sink's name in logs and errors.
	Name string
	// Brokers are the addresses to start from, each host:port. The cluster tells of its others.
	Brokers []string
	// Topic is where every event goes.
	Topic string
	// Key makes the record key, which chooses the partition. Kafka keeps order within a partition only, so events are in
	// order by this key: one that differs between events of one PartitionKey gives up their order.
	Key bridge.Template

	// CreateTopic has the sink create the topic when there is none, with Partitions and ReplicationFactor (0: the
	// broker's defaults), and from three replicas on with min.insync.replicas=2. A topic that exists is used as it is.
	CreateTopic                   bool
	Partitions, ReplicationFactor int

	// TLS encrypts connections. TLSCAFile is a PEM file of the authorities to trust instead of the system's. TLSCertFile
	// and TLSKeyFile are the client's certificate.
	TLS                                bool
	TLSCAFile, TLSCertFile, TLSKeyFile string

	// SASLMechanism is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, or empty for none.
	SASLMechanism, SASLUsername, SASLPassword string
	// With OAUTHBEARER, a token comes from OAuthTokenURL by the client's credentials, for OAuthScopes. OAuthExtensions
	// go to the broker with it.
	OAuthTokenURL, OAuthClientID, OAuthClientSecret string
	OAuthScopes                                     []string
	OAuthExtensions                                 map[string]string

	// Compression of batches is none (or empty), gzip, snappy, lz4 or zstd.
	Compression string
	// Format is how an event becomes a record's headers and value.
	Format cloudevents.Format
	// DeadLetter is the topic of the dead letters, and empty for none. CreateTopic holds for it as for Topic.
	DeadLetter string
	// Files are those of the credentials and of TLS, which may change. Nil: they do not.
	Files *reload.Part
	// Logger gets what a person should know. Nil logs nothing.
	Logger *slog.Logger

	timing timing
}

// checked is what check makes of Options.
type checked struct {
	compression kafkago.Compression
	login       *reload.Value[login]
	tls         *tlsfiles.Files // nil: plain text
}

func (o *Options) check(log *slog.Logger) (checked, error) {
	var c checked
	var problems []error
	if len(o.Brokers) == 0 {
		problems = append(problems, errors.New(o.Files.Variable("BROKERS")+" is empty"))
	}
	for _, broker := range o.Brokers {
		if fault := addressFault(broker); fault != "" {
			problems = append(problems, fmt.Errorf("%s: %q %s", o.Files.Variable("BROKERS"), broker, fault))
		}
	}
	if err := new(TopicName).Decode(o.Topic); err != nil {
		problems = append(problems, fmt.Errorf("%s: %w", o.Files.Variable("TOPIC"), err))
	}
	var err error
	if c.compression, err = compressionOf(o.Compression); err != nil {
		problems = append(problems, fmt.Errorf("%s %w", o.Files.Variable("COMPRESSION"), err))
	}
	if o.TLS {
		if c.tls, err = tlsfiles.Open(tlsfiles.Names{
			CA: o.TLSCAFile, Cert: o.TLSCertFile, Key: o.TLSKeyFile,
		}, o.Files, log); err != nil {
			problems = append(problems, err)
		}
	}
	if c.login, err = o.openLogin(c.tls); err != nil {
		problems = append(problems, err)
	}
	return c, errors.Join(problems...)
}
