package nats

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/config/setting"
)

// maxEmbeddedBody is the largest body that the embedded server stores for sure, when an event has all of it as its
// data. The server takes 8 MiB a message, headers included.
const maxEmbeddedBody setting.Bytes = 7 << 20

// Settings are those of a sink that publishes to NATS JetStream.
type Settings struct {
	URL          URLs           `envconfig:"URL" type:"URLs" first:"true" desc:"Server URLs (nats://, tls://, ws:// or wss://), separated by commas; empty: the embedded server."`
	CredsFile    string         `envconfig:"CREDS_FILE" type:"secret file" reload:"true" first:"true" desc:"Credentials file (JWT and NKey seed) to log in with."`
	Token        setting.Secret `envconfig:"TOKEN" reload:"true" desc:"Token to log in with."`
	User         string         `envconfig:"USER" reload:"true" desc:"User to log in as, with a password."`
	Password     setting.Secret `envconfig:"PASSWORD" reload:"true" desc:"Password of that user."`
	NKeyFile     string         `envconfig:"NKEY_FILE" type:"secret file" reload:"true" desc:"NKey seed file to log in with."`
	TLSCAFile    string         `envconfig:"TLS_CA_FILE" type:"file" reload:"true" desc:"PEM certificates of the authorities that may vouch for the servers; empty: those of the system."`
	TLSCertFile  string         `envconfig:"TLS_CERT_FILE" type:"file" reload:"true" desc:"PEM client certificate, with TLS_KEY_FILE."`
	TLSKeyFile   string         `envconfig:"TLS_KEY_FILE" type:"secret file" reload:"true" desc:"PEM private key of the client certificate."`
	TLSFirst     bool           `envconfig:"TLS_FIRST" default:"false" desc:"Begin with the TLS handshake, as servers with handshake_first want it."`
	JSDomain     JSDomain       `envconfig:"JS_DOMAIN" type:"name" desc:"Domain of the JetStream that has the stream, when it is not that of the server, as behind a leaf node."`
	JSAPIPrefix  JSAPIPrefix    `envconfig:"JS_API_PREFIX" type:"subject" desc:"What the subjects of JetStream's API begin with, instead of $JS.API, as when it is imported from another account."`
	Stream       StreamName     `envconfig:"STREAM" default:"TENSORLAKE" type:"name" first:"true" desc:"JetStream stream that stores the events."`
	CreateStream bool           `envconfig:"CREATE_STREAM" default:"true" desc:"Create the stream when it is not there; one that is there is used as it is."`
	Replicas     int            `envconfig:"REPLICAS" default:"1" min:"1" max:"5" desc:"Replicas of a stream that is created, from 1 to 5; more than 1 needs a cluster."`
	MaxAge       time.Duration  `envconfig:"MAX_AGE" default:"168h" min:"100ms" desc:"How long a stream that is created keeps its events, at least 100ms."`
	MaxBytes     setting.Bytes  `envconfig:"MAX_BYTES" min:"1MiB" desc:"How much a stream that is created keeps, at least 1MiB, the newest first; empty or 0: all, and with the embedded server what its volume holds beyond JOURNAL_MAX_BYTES."`
	DedupeWindow time.Duration  `envconfig:"DEDUPE_WINDOW" default:"10m" min:"100ms" desc:"How long a stream that is created recognises an event that is published again, from 100ms to MAX_AGE."`
	Subject      string         `envconfig:"SUBJECT" default:"tensorlake.{route}" type:"template" first:"true" desc:"Template of the subject that an event is published on; placeholders such as {route}, {application}, {status} and {project} are listed in docs/events.md."`
}

// StreamName is the name of a stream.
type StreamName string

var streamName = regexp.MustCompile(`^[^\s.*>/\\\x00-\x1f\x7f]{1,255}$`)

// Decode takes a name that a stream can have.
func (n *StreamName) Decode(text string) error {
	*n = StreamName(text)
	return checkStream(text)
}

func checkStream(name string) error {
	if streamName.MatchString(name) {
		return nil
	}
	return errors.New(setting.Quote(name) + ` is not a name of a stream: ` +
		`give at most 255 characters without white space and any of . * > / \, such as TENSORLAKE`)
}

// JSDomain is a domain of JetStream.
type JSDomain string

// Decode takes what can be a part of a subject.
func (d *JSDomain) Decode(text string) error {
	if strings.Contains(text, ".") || checkPrefix(text) != nil {
		return errors.New(setting.Quote(text) + " is not a domain: " +
			"give it as the server has it (jetstream { domain: … }), one word without dots")
	}
	*d = JSDomain(text)
	return nil
}

// JSAPIPrefix is a subject.
type JSAPIPrefix string

// Decode takes a subject without wildcards.
func (p *JSAPIPrefix) Decode(text string) error {
	*p = JSAPIPrefix(text)
	return checkPrefix(text)
}

func checkPrefix(text string) error {
	if slices.Contains(strings.Split(text, "."), "") ||
		strings.ContainsFunc(text, func(r rune) bool { return !bridge.TokenRune(r) && r != '.' }) {
		return errors.New(setting.Quote(text) +
			" is not the beginning of a subject: give words with dots between them, such as $JS.hub.API")
	}
	return nil
}

// Embedded implements setting.Embeddable. What was given for servers may be wrong, and they are the sink's own still.
func (*Settings) Embedded(sink setting.Scope) bool { return !sink.Given("URL") }

// Check implements setting.Settings.
func (s *Settings) Check(sink *setting.Sink, earlier []*setting.Sink) {
	sink.Both("USER", "PASSWORD")
	sink.Both("TLS_CERT_FILE", "TLS_KEY_FILE")
	s.checkLogins(sink)
	if sink.Given("JS_DOMAIN") && sink.Given("JS_API_PREFIX") {
		sink.Problem("JS_API_PREFIX", "says where JetStream is, and so does %s: keep one", sink.As("JS_DOMAIN"))
	}
	if sink.Embedded {
		s.checkEmbedded(sink)
	}
	if !sink.Bad("DEDUPE_WINDOW") && !sink.Bad("MAX_AGE") && s.DedupeWindow > s.MaxAge {
		sink.Problem("DEDUPE_WINDOW", "%s is longer than events are kept (%s, %s), which no stream allows: "+
			"give at most %s", s.DedupeWindow, sink.Variable("MAX_AGE"), s.MaxAge, s.MaxAge)
	}
	if err := s.checkSubject(); err != nil {
		sink.Problem("SUBJECT", "%v", err)
	}
	s.checkDeadLetter(sink, s)
	for _, other := range earlier {
		if settings, ok := other.Settings.(*Settings); ok && sameAccount(sink, other) {
			s.checkBeside(sink, other, settings)
		}
	}
}

func (s *Settings) checkLogins(sink *setting.Sink) {
	var logins []string
	for _, name := range []string{"CREDS_FILE", "TOKEN", "USER", "NKEY_FILE"} {
		if sink.Given(name) {
			logins = append(logins, name)
		}
	}
	if slices.ContainsFunc(s.URL, URL.hasCredentials) {
		logins = append(logins, "URL")
	}
	s.checkClearText(sink, logins)
	last := len(logins) - 1
	if last < 1 {
		return
	}
	others := make([]string, last)
	for i, name := range logins[:last] {
		others[i] = sink.As(name)
	}
	sink.Problem(logins[last], "logs in, and so does %s: keep one way to log in", strings.Join(others, ", "))
}

// checkClearText warns of a password or token that may go to another machine as it is.
func (s *Settings) checkClearText(sink *setting.Sink, logins []string) {
	if s.TLSFirst || s.TLSCAFile != "" || s.TLSCertFile != "" {
		return // which makes TLS a must
	}
	for _, u := range s.URL {
		if !u.clear() {
			continue
		}
		for _, name := range logins {
			if name == "USER" || name == "TOKEN" || name == "URL" && u.hasCredentials() {
				sink.Warn(name, "goes to %s in clear text, unless that server demands TLS by itself: write %s://, "+
					"or log in with an NKey or a credentials file, whose secret is never sent", u, u.secureScheme())
				return
			}
		}
	}
}

// checkEmbedded finds what the embedded server cannot do.
func (s *Settings) checkEmbedded(sink *setting.Sink) {
	url := sink.Variable("URL")
	if sink.MaxBody > maxEmbeddedBody && !sink.Bridge.Bad("MAX_BODY") {
		sink.Bridge.Problem("MAX_BODY", "%s is more than the embedded NATS server stores in one message: "+
			"give at most %s, or set %s to a server whose max_payload is larger", sink.MaxBody, maxEmbeddedBody, url)
	}
	for _, name := range []string{
		"CREDS_FILE", "TOKEN", "USER", "PASSWORD", "NKEY_FILE", "TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE",
		"TLS_FIRST", "JS_DOMAIN", "JS_API_PREFIX",
	} {
		if sink.Given(name) && (name != "TLS_FIRST" || s.TLSFirst) {
			sink.Problem(name, "is for a server of your own, and the embedded one needs none of the kind: "+
				"set %s, or leave this out", url)
		}
	}
	if s.Replicas > 1 && !sink.Bad("REPLICAS") {
		sink.Problem("REPLICAS", "%d replicas need a cluster, and the embedded server is a single one: "+
			"set %s, or give 1", s.Replicas, url)
	}
}

func (s *Settings) checkSubject() error {
	subject, err := bridge.ParseTemplate(s.Subject)
	if err != nil {
		return err
	}
	return ValidateSubject(subject)
}

// checkDeadLetter demands that the dead letters of sink stay apart from events of the same account, its own or those of
// another. One problem says enough.
func (*Settings) checkDeadLetter(sink *setting.Sink, events *Settings) {
	if sink.DeadLetter == "" || sink.Bad("SUBJECT") || sink.Bad("DEAD_LETTER") || events.checkSubject() != nil {
		return
	}
	if err := ValidateDeadLetter(sink.DeadLetter, events.subject()); err != nil {
		sink.Problem("DEAD_LETTER", "%v", err)
	}
}

// checkBeside finds where two sinks of the same account get into each other's way: a stream is made for the subjects of
// one of them.
func (s *Settings) checkBeside(sink, other *setting.Sink, theirs *Settings) {
	s.checkDeadLetter(sink, theirs)
	s.checkDeadLetter(other, s)
	if s.Stream == theirs.Stream {
		sink.Problem("STREAM", "the sink %s writes to the stream %s of the same server: "+
			"give each sink a stream and a subject of its own", other.Name, theirs.Stream)
		return
	}
	if sink.Bad("SUBJECT") || theirs.checkSubject() != nil || !s.CreateStream && !theirs.CreateStream {
		return
	}
	if a, b := s.filter(), theirs.filter(); overlap(a, b) {
		sink.Problem("SUBJECT", "the sink %s publishes under %s of the same server, which has subjects in common with %s, "+
			"and a subject belongs to one stream: give each sink subjects of its own, such as %s.{route}",
			other.Name, b, a, sink.Name)
	}
}

// sameAccount tells whether two sinks are known to publish to the same account of the same servers. Those whose logins
// differ may have accounts of their own, in which names mean something else.
func sameAccount(a, b *setting.Sink) bool {
	if a.Embedded != b.Embedded || a.Bad("URL") || b.Bad("URL") {
		return false
	}
	account := func(s *setting.Sink) []string {
		its := s.Settings.(*Settings) //nolint:forcetypeassert // Check has looked
		return append(slices.Sorted(slices.Values(its.URL.Reveal())),
			its.CredsFile, its.NKeyFile, its.User, its.Token.Reveal())
	}
	return slices.Equal(account(a), account(b))
}

// subject returns the template of subjects, which Check has parsed.
func (s *Settings) subject() bridge.Template {
	subject, _ := bridge.ParseTemplate(s.Subject)
	return subject
}

// filter covers every subject of the sink's events.
func (s *Settings) filter() string { return streamSubject(s.subject()) }

// New makes the sink that the settings describe.
func (s *Settings) New(o bridge.SinkOptions) (bridge.Sink, error) { return New(s.options(o)) }

// Address returns the subject of an event. Its key is nothing that NATS has.
func (s *Settings) Address(e bridge.Event) (address, key string) {
	return subjectOf(s.subject(), e), ""
}

// Tail reads the events of the sink that the settings describe.
func (s *Settings) Tail(
	ctx context.Context, o bridge.SinkOptions, start bridge.TailStart, f func(bridge.Received) error,
) error {
	return Tail(ctx, s.options(o), start, f)
}

// StreamBytes returns how much a stream that is created keeps, 0 if that is not said.
func (s *Settings) StreamBytes() int64 { return int64(s.MaxBytes) }

func (s *Settings) options(o bridge.SinkOptions) Options {
	format, _ := cloudevents.ParseFormat(o.Format) // one of three words
	url := strings.Join(s.URL.Reveal(), ",")
	token := s.Token.Reveal()
	embedded := url == ""
	var loginVariable string
	var sync bridge.Syncer
	if embedded {
		url, token, sync = o.EmbeddedURL, o.EmbeddedToken, o.EmbeddedSync
		loginVariable = "FNBRIDGE_EMBEDDED_NATS_TOKEN"
	}
	maxBytes := int64(s.MaxBytes)
	sharesVolume := embedded && maxBytes == 0
	if sharesVolume {
		maxBytes = o.EmbeddedMaxBytes
	}
	prefix := string(s.JSAPIPrefix)
	if s.JSDomain != "" {
		prefix = "$JS." + string(s.JSDomain) + ".API"
	}
	return Options{
		Name: o.Name, URL: url, Embedded: embedded && o.RunsEmbedded, Sync: sync, APIPrefix: prefix,
		CredsFile: s.CredsFile, Token: token, User: s.User, Password: s.Password.Reveal(), NKeyFile: s.NKeyFile,
		LoginVariable: loginVariable,
		TLSCAFile:     s.TLSCAFile, TLSCertFile: s.TLSCertFile, TLSKeyFile: s.TLSKeyFile, TLSFirst: s.TLSFirst,
		Stream: string(s.Stream), CreateStream: s.CreateStream,
		Replicas: s.Replicas, MaxAge: s.MaxAge, MaxBytes: maxBytes, SharesVolume: sharesVolume, DedupeWindow: s.DedupeWindow,
		Subject: s.subject(), Format: format, DeadLetter: o.DeadLetter, Files: o.Files, Logger: o.Logger,
	}
}
