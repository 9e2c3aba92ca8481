// Package config reads the environment, and nothing else in fnbridge does. Load gives the whole
// configuration, or everything that is wrong with it at once; Variables, WriteMarkdown and WriteText
// tell of every variable from the same struct tags that Load goes by.
//
// The settings of a sink are declared by its kind, and the kinds are passed in: the package knows none.
//
// Tags of a configuration field: envconfig (name after the prefix), default and desc as envconfig
// knows them; type (what a string holds), options (the words that are allowed), min and max (inclusive); required (what
// to give, when there has to be a value), reload:"true" where a bridge that runs takes over what the file of the
// variable holds anew, and first:"true" for those to know first, which the README shows.
package config

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/fnbridge/fnbridge/config/setting"
)

// What a 2xx answer stands for.
const (
	AckJournal = "journal"
	AckSinks   = "sinks"
)

// Config is the whole configuration of a bridge. It can be printed, logged and marshalled: secrets show as [redacted].
type Config struct {
	Listen      string         `envconfig:"LISTEN" default:":8080" type:"address" first:"true" desc:"Address (host:port) of the public listener, which takes the webhooks."`
	TLSCertFile string         `envconfig:"TLS_CERT_FILE" type:"file" reload:"true" desc:"PEM certificate chain of the public listener; empty: plain HTTP."`
	TLSKeyFile  string         `envconfig:"TLS_KEY_FILE" type:"secret file" reload:"true" desc:"PEM private key of that certificate."`
	OpsListen   string         `envconfig:"OPS_LISTEN" default:"127.0.0.1:8081" type:"address" desc:"Address (host:port) of the operations listener: /livez, /readyz and /metrics for everyone, the live page at / and /api/ for whoever may see payloads (PAGE_TOKEN)."`
	PageToken   setting.Secret `envconfig:"PAGE_TOKEN" reload:"true" first:"true" desc:"At least 16 characters that the live page and /api/ ask for, as the password of HTTP Basic authentication; empty: they answer on this machine only, where OPS_LISTEN is loopback."`

	Path             string        `envconfig:"PATH" default:"/webhooks/tensorlake" type:"path" desc:"Path that takes the webhooks, with or without a slash behind it."`
	WebhookSecrets   Secrets       `envconfig:"WEBHOOK_SECRETS" reload:"true" first:"true" desc:"Signing secrets (whsec_…) or public keys (whpk_…), by commas or white space; any may sign. Empty: one is made in the data directory, with ACK=sinks only if NATS is embedded."`
	InsecureUnsigned bool          `envconfig:"INSECURE_UNSIGNED" default:"false" desc:"Accept unsigned webhooks; whoever reaches the listener can then publish events."`
	WebhookTolerance time.Duration `envconfig:"WEBHOOK_TOLERANCE" default:"5m" min:"1s" max:"24h" desc:"How far the timestamp of a signature may be off from this machine's clock, from 1s to 24h."`
	MaxBody          setting.Bytes `envconfig:"MAX_BODY" default:"1MiB" min:"1KiB" max:"64MiB" desc:"Largest webhook body that is accepted, from 1KiB to 64MiB, or 7MiB with the embedded NATS server; larger ones are answered 413."`
	MaxInFlight      int           `envconfig:"MAX_IN_FLIGHT" default:"1024" min:"1" max:"100000" desc:"Webhooks stored at the same time, from 1 to 100000; further ones wait up to a second for their turn, and are then answered 503."`
	SummaryEvents    bool          `envconfig:"SUMMARY_EVENTS" default:"false" desc:"Add one event that sums up the invocation after the function events of each workflow webhook."`
	Ack              string        `envconfig:"ACK" default:"journal" options:"journal,sinks" first:"true" desc:"What a 2xx answer stands for: stored in the journal on this machine's disk, or acknowledged by every required sink (any number of processes without a disk)."`

	DataDir         string        `envconfig:"DATA_DIR" default:"./data" type:"directory" first:"true" desc:"Directory of the journal, the webhook secret that was made and the embedded NATS server's files, created when it is not there; ACK=sinks writes nothing but the latter two."`
	JournalMaxBytes setting.Bytes `envconfig:"JOURNAL_MAX_BYTES" default:"8GiB" min:"1MiB" first:"true" desc:"Disk space that the journal may take, at least 1MiB and four times MAX_BODY; when undelivered webhooks fill it, new ones are answered 503."`
	Retention       time.Duration `envconfig:"RETENTION" default:"72h" min:"1s" desc:"How long delivered webhooks stay in the journal, so that one that comes again is recognised; at least 1s."`

	Sinks              Sinks  `envconfig:"SINKS" default:"[kind]" first:"true" desc:"Where events go: a list of name=kind, separated by commas, with the kinds [kinds]; [kind] alone is short for [kind]=[kind]."`
	EmbeddedNATSListen string `envconfig:"EMBEDDED_NATS_LISTEN" default:"127.0.0.1:4222" type:"address" desc:"Address (host:port) of the embedded NATS server, which runs when a nats sink has no URL; beyond loopback its clients need the token."`

	EmbeddedNATSToken         setting.Secret `envconfig:"EMBEDDED_NATS_TOKEN" reload:"true" desc:"Token that clients of the embedded NATS server give, at least 16 characters; empty: one is made in the data directory (nats-token), or none where it listens on loopback alone."`
	EmbeddedNATSMonitorListen string         `envconfig:"EMBEDDED_NATS_MONITOR_LISTEN" type:"address" desc:"Address (host:port) of the embedded NATS server's monitoring (/healthz, /varz, /jsz), which asks for no credentials and shows no events; empty: none."`

	Drain           time.Duration `envconfig:"DRAIN" default:"1s" min:"0s" max:"10m" desc:"How long a stop first takes webhooks, not ready and closing connections, so that load balancers turn away; 0s where the platform waits by itself, at most 10m."`
	ShutdownTimeout time.Duration `envconfig:"SHUTDOWN_TIMEOUT" default:"25s" min:"1ms" desc:"How long a stop waits for running requests and deliveries, at least 1ms; what is left is delivered after the next start."`
	LogLevel        slog.Level    `envconfig:"LOG_LEVEL" default:"info" options:"debug,info,warn,error" desc:"Lowest level that is logged."`
	LogFormat       string        `envconfig:"LOG_FORMAT" options:"text,json" desc:"Form of log lines; empty: text on a terminal, else json."`

	// given tells under which full name each variable was given that may come from a file: see Variable.
	given map[string]string
	// files has the variables that were given as files, by full name without _FILE.
	files map[string]file
}

// file is where a variable's value came from.
type file struct {
	path   string
	reload bool // a new value is taken over while the bridge runs
}

// Sink is the configuration of one sink: what every sink has, and the settings of its kind.
type Sink struct {
	// Name is lower case and unique. Kind is the name of one of the kinds that Load was given.
	Name string
	Kind string
	// Embedded tells whether the sink uses the embedded server.
	Embedded bool

	Format      string        `envconfig:"FORMAT" default:"binary" options:"binary,structured,plain" desc:"How an event is written: as CloudEvents with its attributes in headers (binary) or in one JSON document (structured), or its data alone (plain)."`
	Routes      string        `envconfig:"ROUTES" default:">" type:"routes" first:"true" desc:"Which events the sink gets: patterns over {route} in the syntax of NATS subjects (* one token, > the rest), separated by commas."`
	DeadLetter  string        `envconfig:"DEAD_LETTER" type:"subject or topic" first:"true" desc:"Subject or topic that dead letters are published to as well, not that of events; CREATE_STREAM and CREATE_TOPIC hold for it; empty: none (with ACK=sinks, the answer is 422)."`
	Required    bool          `envconfig:"REQUIRED" default:"true" desc:"With ACK=sinks, whether a webhook waits for this sink; one that is not required is tried, and what it misses is counted."`
	GiveUpAfter time.Duration `envconfig:"GIVE_UP_AFTER" min:"1s" desc:"How long an event may fail, or wait behind one that does, before it goes to the dead letters, at least 1s; empty or 0: for ever. Not with ACK=sinks."`

	// Settings are what the kind's New has returned, filled.
	Settings setting.Settings
}

// AcksFromSinks tells whether a webhook is answered when the sinks have it, and nothing is stored here.
func (c *Config) AcksFromSinks() bool { return c.Ack == AckSinks }

// UsesEmbedded tells whether some sink uses the embedded server, so that it runs.
func (c *Config) UsesEmbedded() bool {
	return slices.ContainsFunc(c.Sinks, func(s Sink) bool { return s.Embedded })
}

// Variable returns the full name of a variable as whoever configured the bridge knows it, for problems
// that are found later: Variable("audit", "SUBJECT") is FNBRIDGE_AUDIT_SUBJECT, or
// FNBRIDGE_AUDIT_SUBJECT_FILE when the value came from a file. An empty sink means the bridge itself.
func (c *Config) Variable(sink, field string) string {
	return c.as(prefixOf(sink) + field)
}

// File returns the file that a variable's value came from, with what reads the value from it anew; an empty path if it
// came from none.
func (c *Config) File(sink, field string) (path string, read func() (string, error)) {
	f, ok := c.files[prefixOf(sink)+field]
	if !ok {
		return "", nil
	}
	return f.path, func() (string, error) {
		text, err := readValue(f.path)
		if reason := checkMark(text); reason != "" {
			return "", fmt.Errorf("the file %s %s", quotePath(f.path), reason)
		}
		return text, err
	}
}

// ReadAtStart returns the full names, with _FILE, of the variables that were given as files and keep their value until
// the next start, with the path of each.
func (c *Config) ReadAtStart() map[string]string {
	paths := map[string]string{}
	for name, f := range c.files {
		if !f.reload {
			paths[name+fileSuffix] = f.path
		}
	}
	return paths
}

func (c *Config) as(name string) string {
	if as, ok := c.given[name]; ok {
		return as
	}
	return name
}
