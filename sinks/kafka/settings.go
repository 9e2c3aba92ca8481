package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/config/setting"
)

// Settings are those of a sink that publishes to Apache Kafka.
type Settings struct {
	Brokers           Addresses      `envconfig:"BROKERS" type:"addresses" required:"host:port of one broker or more, separated by commas, such as broker-1:9092,broker-2:9092" first:"true" desc:"Addresses (host:port) of brokers to start from, separated by commas."`
	Topic             TopicName      `envconfig:"TOPIC" default:"tensorlake-events" type:"name" first:"true" desc:"Topic that stores the events."`
	Key               string         `envconfig:"KEY" default:"{partitionkey}" type:"template" desc:"Template of an event's key, which decides its partition as in the Java client; placeholders as in a NATS subject; an empty key becomes {partitionkey}."`
	CreateTopic       bool           `envconfig:"CREATE_TOPIC" default:"false" desc:"Create the topic when it is not there; one that is there is used as it is."`
	Partitions        int            `envconfig:"PARTITIONS" default:"12" min:"1" max:"100000" desc:"Partitions of a topic that is created, from 1 to 100000."`
	ReplicationFactor int            `envconfig:"REPLICATION_FACTOR" default:"3" min:"1" max:"32767" desc:"Replicas of each partition of a topic that is created, from 1 to 32767; not more than there are brokers."`
	TLS               bool           `envconfig:"TLS" default:"false" first:"true" desc:"Connect with TLS."`
	TLSCAFile         string         `envconfig:"TLS_CA_FILE" type:"file" reload:"true" desc:"PEM certificates of the authorities that may vouch for the brokers; empty: those of the system."`
	TLSCertFile       string         `envconfig:"TLS_CERT_FILE" type:"file" reload:"true" desc:"PEM client certificate, with TLS_KEY_FILE."`
	TLSKeyFile        string         `envconfig:"TLS_KEY_FILE" type:"secret file" reload:"true" desc:"PEM private key of the client certificate."`
	SASLMechanism     string         `envconfig:"SASL_MECHANISM" options:"PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER" first:"true" desc:"How to log in, with SASL_USERNAME and SASL_PASSWORD, or with OAUTHBEARER by a token; empty: without."`
	SASLUsername      string         `envconfig:"SASL_USERNAME" reload:"true" desc:"User to log in as."`
	SASLPassword      setting.Secret `envconfig:"SASL_PASSWORD" reload:"true" desc:"Password of SASL_USERNAME."`
	OAuthTokenURL     TokenURL       `envconfig:"OAUTH_TOKEN_URL" type:"URL" desc:"Where OAUTHBEARER gets its tokens, by client credentials; connections are renewed before a token ends."`
	OAuthClientID     string         `envconfig:"OAUTH_CLIENT_ID" reload:"true" desc:"Client that the tokens are for."`
	OAuthClientSecret setting.Secret `envconfig:"OAUTH_CLIENT_SECRET" reload:"true" desc:"Secret of OAUTH_CLIENT_ID."`
	OAuthScopes       Scopes         `envconfig:"OAUTH_SCOPES" type:"words" desc:"Scopes to ask for, separated by commas or white space; empty: the provider's own choice."`
	OAuthExtensions   Extensions     `envconfig:"OAUTH_EXTENSIONS" type:"name=value list" desc:"What to tell the broker with a token: name=value, separated by commas, such as logicalCluster=lkc-abc12,identityPoolId=pool-a1b2 for Confluent Cloud."`
	Compression       string         `envconfig:"COMPRESSION" default:"lz4" options:"none,gzip,snappy,lz4,zstd" desc:"Compression of the batches that are sent."`
}

// Addresses is a list of host:port.
type Addresses []string

// Decode reads addresses separated by commas.
func (a *Addresses) Decode(value string) error {
	list := setting.List(value)
	if len(list) == 0 {
		return errors.New("there is no address in it: give host:port, such as broker-1:9092, several separated by commas")
	}
	var errs []error
	for i, address := range list {
		if fault := addressFault(address); fault != "" {
			what := setting.Quote(address)
			if strings.Contains(value, "@") {
				what = fmt.Sprintf("address %d of %d (not shown, as there may be a password in it)", i+1, len(list))
			}
			errs = append(errs, fmt.Errorf("%s %s", what, fault))
		}
	}
	*a = list
	return errors.Join(errs...)
}

// addressFault says what is wrong with the address of a broker; empty: nothing.
func addressFault(address string) string {
	if host, port, ok := setting.SplitAddress(address); ok && host != "" && port != 0 {
		return ""
	}
	return "is not an address: give host:port with a port from 1 to 65535 and no scheme, such as broker-1:9092"
}

// TokenURL is the address of an OAuth provider's token endpoint.
type TokenURL string

// Decode takes http:// and https:// with a host, and no credentials.
func (u *TokenURL) Decode(text string) error {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" || parsed.User != nil ||
		parsed.Fragment != "" {
		return errors.New("it is no address of tokens: give a URL such as https://idp.example.com/oauth2/token, " +
			"without a user and a password: the client's id and secret have variables of their own")
	}
	*u = TokenURL(text)
	return nil
}

// inClear tells whether what is sent there can be read on its way.
func (u TokenURL) inClear() bool {
	parsed, err := url.Parse(string(u))
	if err != nil || parsed.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(parsed.Hostname())
	return parsed.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// Scopes are what a token is asked for.
type Scopes []string

// Decode reads words separated by commas or white space.
func (s *Scopes) Decode(text string) error {
	*s = strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	return nil
}

// Extensions go to the broker with a token.
type Extensions map[string]string

var (
	// extensionName and extensionValue are the rules of RFC 7628.
	extensionName  = regexp.MustCompile(`^[A-Za-z]+$`)
	extensionValue = regexp.MustCompile(`^[\x21-\x7E \t]+$`)
)

// Decode reads name=value, separated by commas.
func (e *Extensions) Decode(text string) error {
	extensions := Extensions{}
	for _, entry := range setting.List(text) {
		name, value, ok := strings.Cut(entry, "=")
		switch _, twice := extensions[name]; {
		case !ok || !extensionName.MatchString(name) || !extensionValue.MatchString(value):
			return errors.New(setting.Quote(entry) + " is no extension: give a name of letters, = and a value, " +
				"such as logicalCluster=lkc-abc12, several separated by commas")
		case name == "auth":
			return errors.New("auth is the token's own name: leave it out")
		case twice:
			return errors.New(setting.Quote(name) + " is there twice: keep one of them")
		}
		extensions[name] = value
	}
	*e = extensions
	return nil
}

// TopicName is the name of a topic.
type TopicName string

// topicName is Kafka's own rule.
var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// Decode takes a name that a topic can have.
func (n *TopicName) Decode(text string) error {
	*n = TopicName(text)
	if !isTopic(text) {
		return errors.New(setting.Quote(text) +
			" is not a name of a topic: give at most 249 of a-z, A-Z, 0-9, dot, _ and -, such as tensorlake-events")
	}
	return nil
}

func isTopic(text string) bool { return topicName.MatchString(text) && text != "." && text != ".." }

// Check implements setting.Settings.
func (s *Settings) Check(sink *setting.Sink, earlier []*setting.Sink) {
	s.checkDeadLetter(sink)
	s.checkTLS(sink)
	s.checkLogin(sink)
	for _, other := range earlier {
		if settings, ok := other.Settings.(*Settings); ok && s.sameBrokers(settings) {
			s.checkBeside(sink, other, settings)
		}
	}
	if _, err := bridge.ParseTemplate(s.Key); err != nil {
		sink.Problem("KEY", "%v", err)
	}
}

func (s *Settings) checkDeadLetter(sink *setting.Sink) {
	switch letters := sink.DeadLetter; {
	case letters == "":
	case !isTopic(letters):
		sink.Problem("DEAD_LETTER", "%s is not a name of a topic: give one fixed topic, "+
			"at most 249 of a-z, A-Z, 0-9, dot, _ and -, such as %s-dead-letters", setting.Quote(letters), s.Topic)
	case letters == string(s.Topic):
		sink.Problem("DEAD_LETTER", "%s is the topic of the events, whose consumers would take dead letters for events: "+
			"give a topic of its own, such as %s-dead-letters", letters, s.Topic)
	}
}

func (s *Settings) checkTLS(sink *setting.Sink) {
	sink.Both("TLS_CERT_FILE", "TLS_KEY_FILE")
	for _, name := range []string{"TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE"} {
		if sink.Given(name) && !s.TLS && !sink.Bad("TLS") {
			sink.Problem(name, "has no effect without TLS: set %s=true, or leave this out", sink.Variable("TLS"))
		}
	}
}

func (s *Settings) checkLogin(sink *setting.Sink) {
	const mechanism = "SASL_MECHANISM"
	oauth := s.SASLMechanism == saslOAuthBearer
	for _, name := range []string{"SASL_USERNAME", "SASL_PASSWORD"} {
		switch {
		case sink.Given(name) && !sink.Given(mechanism):
			sink.Problem(name, "has no effect without a mechanism: set %s to PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
				sink.Variable(mechanism))
		case sink.Given(name) && oauth:
			sink.Problem(name, "has no effect with OAUTHBEARER, which logs in by a token: leave it out, or give %s PLAIN, "+
				"SCRAM-SHA-256 or SCRAM-SHA-512", sink.As(mechanism))
		case !sink.Given(name) && sink.Given(mechanism) && !oauth:
			sink.Problem(name, "is not set, and %s is: give user and password", sink.As(mechanism))
		}
	}
	for _, name := range []string{
		"OAUTH_TOKEN_URL", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OAUTH_EXTENSIONS",
	} {
		switch needed := name != "OAUTH_SCOPES" && name != "OAUTH_EXTENSIONS"; {
		case sink.Given(name) && !oauth && !sink.Bad(mechanism):
			sink.Problem(name, "is for OAUTHBEARER: set %s to that, or leave this out", sink.Variable(mechanism))
		case !sink.Given(name) && oauth && needed:
			sink.Problem(name, "is not set, and %s is OAUTHBEARER: give the address of the tokens, "+
				"and the client's id and secret", sink.As(mechanism))
		}
	}
	if s.SASLMechanism == saslPlain && !s.TLS && !sink.Bad("TLS") {
		sink.Warn(mechanism, "PLAIN without TLS sends the password in clear text: set %s=true", sink.Variable("TLS"))
	}
	if oauth && !s.TLS && !sink.Bad("TLS") {
		sink.Warn(mechanism, "OAUTHBEARER without TLS sends the token in clear text: set %s=true", sink.Variable("TLS"))
	}
	if s.OAuthTokenURL.inClear() && !sink.Bad("OAUTH_TOKEN_URL") {
		sink.Warn("OAUTH_TOKEN_URL", "http:// sends the client's secret in clear text: give an address with https://")
	}
}

// sameBrokers tells whether two sinks are known to publish to the same cluster.
func (s *Settings) sameBrokers(other *Settings) bool {
	return len(s.Brokers) > 0 &&
		slices.Equal(slices.Sorted(slices.Values(s.Brokers)), slices.Sorted(slices.Values(other.Brokers)))
}

// checkBeside finds where two sinks at the same brokers get into each other's way.
func (s *Settings) checkBeside(sink, other *setting.Sink, theirs *Settings) {
	if s.Topic == theirs.Topic {
		sink.Warn("TOPIC", "the sink %s writes to the topic %s of the same brokers: it will hold every event twice",
			other.Name, theirs.Topic)
	}
	theirs.checkLettersApart(other, sink, s)
	s.checkLettersApart(sink, other, theirs)
}

// checkLettersApart demands that the dead letters of sink go to another topic than the events of another one.
func (s *Settings) checkLettersApart(sink, other *setting.Sink, events *Settings) {
	if letters := TopicName(sink.DeadLetter); letters != "" && letters == events.Topic && letters != s.Topic {
		sink.Problem("DEAD_LETTER", "%s is the topic of the events of the sink %s, "+
			"whose consumers would take dead letters for events: give a topic of its own, such as %s-dead-letters",
			letters, other.Name, s.Topic)
	}
}

// New makes the sink that the settings describe.
func (s *Settings) New(o bridge.SinkOptions) (bridge.Sink, error) { return New(s.options(o)) }

// Address returns the topic, and the key of an event's record.
func (s *Settings) Address(e bridge.Event) (address, key string) {
	template, _ := bridge.ParseTemplate(s.Key) // Check has parsed it
	return string(s.Topic), keyOf(template, &e)
}

// Tail reads the events of the sink that the settings describe.
func (s *Settings) Tail(
	ctx context.Context, o bridge.SinkOptions, start bridge.TailStart, f func(bridge.Received) error,
) error {
	return Tail(ctx, s.options(o), start, f)
}

func (s *Settings) options(o bridge.SinkOptions) Options {
	format, _ := cloudevents.ParseFormat(o.Format) // one of three words
	key, _ := bridge.ParseTemplate(s.Key)          // Check has parsed it
	return Options{
		Name: o.Name, Brokers: s.Brokers, Topic: string(s.Topic), Key: key, Format: format, DeadLetter: o.DeadLetter,
		CreateTopic: s.CreateTopic, Partitions: s.Partitions, ReplicationFactor: s.ReplicationFactor,
		TLS: s.TLS, TLSCAFile: s.TLSCAFile, TLSCertFile: s.TLSCertFile, TLSKeyFile: s.TLSKeyFile,
		SASLMechanism: s.SASLMechanism, SASLUsername: s.SASLUsername, SASLPassword: s.SASLPassword.Reveal(),
		OAuthTokenURL: string(s.OAuthTokenURL), OAuthClientID: s.OAuthClientID,
		OAuthClientSecret: s.OAuthClientSecret.Reveal(), OAuthScopes: s.OAuthScopes, OAuthExtensions: s.OAuthExtensions,
		Compression: s.Compression, Files: o.Files, Logger: o.Logger,
	}
}
