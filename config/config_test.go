package config

import (
	"encoding/base64"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/config/setting"
	"github.com/fnbridge/fnbridge/sinks"
	"github.com/fnbridge/fnbridge/sinks/kafka"
	"github.com/fnbridge/fnbridge/sinks/nats"
)

var update = flag.Bool("update", false, "write the golden files and the tables of variables anew")

// load loads an environment of lines NAME=value, the names without prefix.
func load(t *testing.T, lines ...string) (*Config, []Warning, Errors) {
	t.Helper()
	environ := []string{"FN_BRIDGE_LISTEN=a", "fnbridge_listen=a"} // of others
	for _, line := range lines {
		require.Contains(t, line, "=", "a line is NAME=value")
		environ = append(environ, prefix+line)
	}
	c, warnings, err := Load(sinks.Kinds(), environ)
	var errs Errors
	if err != nil {
		require.ErrorAs(t, err, &errs)
	}
	return c, warnings, errs
}

func natsOf(t *testing.T, s Sink) *nats.Settings {
	t.Helper()
	settings, ok := s.Settings.(*nats.Settings)
	require.True(t, ok, "the sink %s is of the kind %s", s.Name, s.Kind)
	return settings
}

func kafkaOf(t *testing.T, s Sink) *kafka.Settings {
	t.Helper()
	settings, ok := s.Settings.(*kafka.Settings)
	require.True(t, ok, "the sink %s is of the kind %s", s.Name, s.Kind)
	return settings
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "value")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestOAuthVariablesAreRead(t *testing.T) {
	c, _, errs := load(t, "SINKS=kafka", "KAFKA_BROKERS=one:9092", "KAFKA_TLS=true", "KAFKA_SASL_MECHANISM=OAuthBearer",
		"KAFKA_OAUTH_TOKEN_URL=https://idp.example.com/token", "KAFKA_OAUTH_CLIENT_ID=me", "KAFKA_OAUTH_CLIENT_SECRET=s3cret",
		"KAFKA_OAUTH_SCOPES=events, more", "KAFKA_OAUTH_EXTENSIONS=logicalCluster=lkc-abc12, identityPoolId=pool-a1b2")
	require.Empty(t, errs)
	k := *kafkaOf(t, c.Sinks[0])
	require.Equal(t, "OAUTHBEARER", k.SASLMechanism)
	require.Equal(t, kafka.TokenURL("https://idp.example.com/token"), k.OAuthTokenURL)
	require.Equal(t, "me", k.OAuthClientID)
	require.Equal(t, "s3cret", k.OAuthClientSecret.Reveal())
	require.Equal(t, kafka.Scopes{"events", "more"}, k.OAuthScopes)
	require.Equal(t, kafka.Extensions{"logicalCluster": "lkc-abc12", "identityPoolId": "pool-a1b2"}, k.OAuthExtensions)
}

// secretOf returns a webhook secret with a key of so many bytes.
func secretOf(bytes int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", bytes)))
}

func TestDefaults(t *testing.T) {
	c, warnings, errs := load(t)
	require.Empty(t, errs)
	require.Empty(t, warnings)
	require.Equal(t, &Config{
		Listen: ":8080", OpsListen: "127.0.0.1:8081", Path: "/webhooks/tensorlake",
		WebhookTolerance: 5 * time.Minute, MaxBody: 1 << 20, MaxInFlight: 1024, Ack: "journal",
		DataDir: "./data", JournalMaxBytes: 8 << 30, Retention: 72 * time.Hour,
		Sinks: Sinks{{
			Name: "nats", Kind: "nats", Embedded: true, Format: "binary", Routes: ">", Required: true,
			Settings: &nats.Settings{
				Stream: "TENSORLAKE", CreateStream: true, Replicas: 1, MaxAge: 168 * time.Hour,
				DedupeWindow: 10 * time.Minute, Subject: "tensorlake.{route}",
			},
		}},
		EmbeddedNATSListen: "127.0.0.1:4222", Drain: time.Second, ShutdownTimeout: 25 * time.Second, LogLevel: slog.LevelInfo,
		given: map[string]string{}, files: map[string]file{},
	}, c)
}

func TestEveryVariableIsRead(t *testing.T) {
	file := write(t, "content")
	secret := secretOf(24)
	c, warnings, errs := load(
		t,
		"LISTEN=0.0.0.0:443", "TLS_CERT_FILE="+file, "TLS_KEY_FILE="+file, "OPS_LISTEN=[::1]:9000",
		"PAGE_TOKEN=0123456789abcdef",
		"WEBHOOK_SECRETS="+secret+", "+secretOf(64), "INSECURE_UNSIGNED=false", "WEBHOOK_TOLERANCE=10m",
		"MAX_BODY=2MB", "PATH=/hooks",
		"MAX_IN_FLIGHT=7", "SUMMARY_EVENTS=TRUE", "ACK=Journal", "DATA_DIR=/var/lib/fnbridge", "JOURNAL_MAX_BYTES=1gib",
		"RETENTION=1h30m", "SINKS=nats, audit=Kafka", "DRAIN=1m30s", "SHUTDOWN_TIMEOUT=1s",
		"LOG_LEVEL=WARN", "LOG_FORMAT=JSON",
		"NATS_URL=nats://me:pass@one:4222, tls://two",
		"NATS_TLS_CA_FILE="+file, "NATS_TLS_CERT_FILE="+file, "NATS_TLS_KEY_FILE="+file,
		"NATS_STREAM=EVENTS", "NATS_CREATE_STREAM=false", "NATS_REPLICAS=3", "NATS_MAX_AGE=24h", "NATS_MAX_BYTES=2GiB",
		"NATS_DEDUPE_WINDOW=2m",
		"NATS_SUBJECT=events.{type}", "NATS_FORMAT=Structured", "NATS_REQUIRED=true",
		"NATS_DEAD_LETTER=dead.letters", "NATS_GIVE_UP_AFTER=36h", "AUDIT_DEAD_LETTER=audit.dead", "AUDIT_GIVE_UP_AFTER=0",
		"AUDIT_BROKERS=one:9092,two:9092,", "AUDIT_TOPIC=audit", "AUDIT_KEY={workflow}",
		"AUDIT_CREATE_TOPIC=1", "AUDIT_PARTITIONS=6", "AUDIT_REPLICATION_FACTOR=1", "AUDIT_TLS=true",
		"AUDIT_TLS_CA_FILE="+file, "AUDIT_TLS_CERT_FILE="+file, "AUDIT_TLS_KEY_FILE="+file,
		"AUDIT_SASL_MECHANISM=scram-sha-512", "AUDIT_SASL_USERNAME=me", "AUDIT_SASL_PASSWORD=pass",
		"AUDIT_COMPRESSION=ZSTD", "AUDIT_FORMAT=plain",
	)
	require.Empty(t, errs)
	require.Empty(t, warnings)
	require.Equal(t, []string{secret, secretOf(64)}, c.WebhookSecrets.Reveal())
	require.Equal(t, "0123456789abcdef", c.PageToken.Reveal())
	require.Equal(t, []string{"nats://me:pass@one:4222", "tls://two"}, natsOf(t, c.Sinks[0]).URL.Reveal())
	require.Equal(t, "pass", kafkaOf(t, c.Sinks[1]).SASLPassword.Reveal())

	stream, topic := *natsOf(t, c.Sinks[0]), *kafkaOf(t, c.Sinks[1])
	stream.URL, topic.SASLPassword = nil, setting.Secret{}
	require.Equal(t, nats.Settings{
		TLSCAFile: file, TLSCertFile: file, TLSKeyFile: file, Stream: "EVENTS", Replicas: 3,
		MaxAge: 24 * time.Hour, MaxBytes: 2 << 30, DedupeWindow: 2 * time.Minute, Subject: "events.{type}",
	}, stream)
	require.Equal(t, kafka.Settings{
		Brokers: kafka.Addresses{"one:9092", "two:9092"}, Topic: "audit", Key: "{workflow}",
		CreateTopic: true, Partitions: 6, ReplicationFactor: 1,
		TLS: true, TLSCAFile: file, TLSCertFile: file, TLSKeyFile: file,
		SASLMechanism: "SCRAM-SHA-512", SASLUsername: "me", Compression: "zstd",
	}, topic)
	require.Equal(t, "structured", c.Sinks[0].Format)
	require.Equal(t, "plain", c.Sinks[1].Format)
	require.Equal(t, "dead.letters", c.Sinks[0].DeadLetter)
	require.Equal(t, 36*time.Hour, c.Sinks[0].GiveUpAfter)
	require.Equal(t, "audit.dead", c.Sinks[1].DeadLetter)
	require.Zero(t, c.Sinks[1].GiveUpAfter, "never")

	bridge := *c
	bridge.WebhookSecrets, bridge.PageToken = nil, setting.Secret{}
	bridge.Sinks, bridge.given, bridge.files = nil, nil, nil
	require.Equal(t, Config{
		Listen: "0.0.0.0:443", TLSCertFile: file, TLSKeyFile: file, OpsListen: "[::1]:9000", Path: "/hooks",
		WebhookTolerance: 10 * time.Minute, MaxBody: 2_000_000, MaxInFlight: 7, SummaryEvents: true, Ack: "journal",
		DataDir: "/var/lib/fnbridge", JournalMaxBytes: 1 << 30, Retention: 90 * time.Minute,
		EmbeddedNATSListen: "127.0.0.1:4222", Drain: 90 * time.Second, ShutdownTimeout: time.Second,
		LogLevel: slog.LevelWarn, LogFormat: "json",
	}, bridge)
}

// A zero in front makes no octal number of one.
func TestNumbersAreDecimal(t *testing.T) {
	c, _, errs := load(t, "MAX_IN_FLIGHT=0100")
	require.Empty(t, errs)
	require.Equal(t, 100, c.MaxInFlight)
}

func TestLogins(t *testing.T) {
	file := write(t, "content")
	c, _, errs := load(t, "SINKS=a=nats,b=nats,c=nats",
		"A_URL=nats://a", "A_CREDS_FILE="+file, "B_URL=nats://b", "B_TOKEN=secret",
		"C_URL=nats://c", "C_USER=me", "C_PASSWORD=pass")
	require.Empty(t, errs)
	require.Equal(t, file, natsOf(t, c.Sinks[0]).CredsFile)
	require.Equal(t, "secret", natsOf(t, c.Sinks[1]).Token.Reveal())
	require.Equal(t, "me", natsOf(t, c.Sinks[2]).User)
	require.Equal(t, "pass", natsOf(t, c.Sinks[2]).Password.Reveal())
}

// The bare names are common in other programs' environments: with a prefix, envconfig would read them too.
func TestNamesWithoutPrefixAreNotRead(t *testing.T) {
	var environ []string
	for _, f := range append(kinds(sinks.Kinds()).sinkFields("nats"), field{name: "VALUE"}) {
		t.Setenv(f.name, "1")
		environ = append(environ, f.name+"=1")
	}
	c, warnings, err := Load(sinks.Kinds(), environ)
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Empty(t, natsOf(t, c.Sinks[0]).User)
	require.EqualValues(t, "TENSORLAKE", natsOf(t, c.Sinks[0]).Stream)
}

func TestEmptyCountsAsNotSet(t *testing.T) {
	c, warnings, errs := load(t,
		"MAX_BODY=", "WEBHOOK_SECRETS=", "WEBHOOK_SECRETS_FILE=", "LISTEN=", "NATS_CREATE_STREAM=", "NATS_TOKEN=",
		"SINKS=", "KAFKA_BROKERS=", "NOBODY_KNOWS_THIS=", "LOG_LEVEL=", "LOG_LEVEL_FILE="+write(t, "error"))
	require.Empty(t, errs)
	require.Empty(t, warnings)
	require.Equal(t, setting.Bytes(1<<20), c.MaxBody)
	require.Equal(t, ":8080", c.Listen)
	require.Equal(t, slog.LevelError, c.LogLevel)
	require.True(t, natsOf(t, c.Sinks[0]).CreateStream)
}

func TestFiles(t *testing.T) {
	token := write(t, "to\"ken \\ with\nlines \r\n")
	path := write(t, token+"\n")
	c, warnings, errs := load(t,
		"MAX_BODY_FILE="+write(t, "4KiB\r\n"), "MAX_IN_FLIGHT_FILE="+write(t, "3"), "LOG_LEVEL_FILE="+write(t, "DEBUG\n"),
		"RETENTION_FILE="+write(t, "2h\n"), "SUMMARY_EVENTS_FILE="+write(t, "true\n"),
		"DATA_DIR_FILE="+write(t, "/a \"b\"\\c\n\n"),
		"WEBHOOK_SECRETS_FILE="+write(t, secretOf(24)+"\n"+secretOf(32)+"\n"), "SINKS_FILE="+write(t, "audit=nats\n"),
		"AUDIT_URL_FILE="+write(t, "nats://one,nats://two\n"), "AUDIT_CREDS_FILE_FILE="+path)
	require.Empty(t, errs)
	require.Empty(t, warnings)
	require.Equal(t, setting.Bytes(4096), c.MaxBody)
	require.Equal(t, 3, c.MaxInFlight)
	require.Equal(t, slog.LevelDebug, c.LogLevel)
	require.Equal(t, 2*time.Hour, c.Retention)
	require.True(t, c.SummaryEvents)
	require.Equal(t, "/a \"b\"\\c\n", c.DataDir, "only one line break is taken off")
	require.Equal(t, []string{secretOf(24), secretOf(32)}, c.WebhookSecrets.Reveal())
	require.Equal(t, []string{"nats://one", "nats://two"}, natsOf(t, c.Sinks[0]).URL.Reveal())
	require.Equal(t, token, natsOf(t, c.Sinks[0]).CredsFile)

	c, _, errs = load(t, "NATS_URL=nats://one", "NATS_TOKEN_FILE="+token)
	require.Empty(t, errs)
	require.Equal(t, "to\"ken \\ with\nlines ", natsOf(t, c.Sinks[0]).Token.Reveal())
}

func TestFile(t *testing.T) {
	password, size := write(t, "one\n"), write(t, "1MiB")
	c, _, errs := load(t, "NATS_URL=nats://one", "NATS_USER=me", "NATS_PASSWORD_FILE="+password, "MAX_BODY_FILE="+size)
	require.Empty(t, errs)
	path, read := c.File("nats", "PASSWORD")
	require.Equal(t, password, path)
	require.NoError(t, os.WriteFile(password, []byte("two\n"), 0o600))
	text, err := read()
	require.NoError(t, err)
	require.Equal(t, "two", text)
	require.NoError(t, os.WriteFile(password, nil, 0o600))
	_, err = read()
	require.ErrorContains(t, err, "is empty")
	require.NoError(t, os.WriteFile(password, []byte("\ufeffthree\n"), 0o600))
	text, err = read()
	require.EqualError(t, err, `the file "`+password+`" begins with a byte order mark: save it as UTF-8 without one`)
	require.Empty(t, text)
	path, _ = c.File("nats", "USER")
	require.Empty(t, path)
	require.Equal(t, map[string]string{"FNBRIDGE_MAX_BODY_FILE": size}, c.ReadAtStart())
}

func TestFileAtTheLimit(t *testing.T) {
	c, _, errs := load(t, "NATS_URL=nats://one", "NATS_TOKEN_FILE="+write(t, strings.Repeat("t", maxFileBytes)))
	require.Empty(t, errs)
	require.Len(t, natsOf(t, c.Sinks[0]).Token.Reveal(), maxFileBytes)
}

func TestVariable(t *testing.T) {
	c, _, errs := load(t,
		"SINKS=audit=nats", "AUDIT_SUBJECT_FILE="+write(t, "a"), "AUDIT_STREAM=B", "LISTEN_FILE="+write(t, ":1"))
	require.Empty(t, errs)
	require.Equal(t, "FNBRIDGE_AUDIT_SUBJECT_FILE", c.Variable("audit", "SUBJECT"))
	require.Equal(t, "FNBRIDGE_AUDIT_STREAM", c.Variable("audit", "STREAM"))
	require.Equal(t, "FNBRIDGE_AUDIT_MAX_AGE", c.Variable("audit", "MAX_AGE"))
	require.Equal(t, "FNBRIDGE_LISTEN_FILE", c.Variable("", "LISTEN"))
	require.Equal(t, "FNBRIDGE_MAX_BODY", c.Variable("", "MAX_BODY"))
	require.Equal(t, "FNBRIDGE_MAX_BODY", new(Config).Variable("", "MAX_BODY"))
}

func TestConfigHoldsWhatIsRight(t *testing.T) {
	c, _, errs := load(t,
		"MAX_BODY=big", "LISTEN=:1", "SINKS=nats,nope,audit=kafka", "NATS_STREAM=B", "NATS_SUBJECT_FILE=/nowhere",
		"AUDIT_BROKERS=one:1", "NATS_CREATE_STREAM=false", "LOG_LEVEL=loud")
	require.Len(t, errs, 4)
	require.Equal(t, setting.Bytes(1<<20), c.MaxBody)
	require.Equal(t, ":1", c.Listen)
	require.Equal(t, slog.LevelInfo, c.LogLevel)
	require.Len(t, c.Sinks, 2)
	require.EqualValues(t, "B", natsOf(t, c.Sinks[0]).Stream)
	require.Equal(t, "tensorlake.{route}", natsOf(t, c.Sinks[0]).Subject)
	require.False(t, natsOf(t, c.Sinks[0]).CreateStream)
	require.Equal(t, kafka.Addresses{"one:1"}, kafkaOf(t, c.Sinks[1]).Brokers)
}

// Every field of the configuration is a variable that is described, with a default and limits that its type takes.
func TestFields(t *testing.T) {
	notVariables := []string{"given", "files", "Name", "Kind", "Embedded", "Settings"}
	names := map[string]bool{}
	l := &loader{kinds: sinks.Kinds()}
	types := map[string]reflect.Type{"": reflect.TypeFor[Config](), "SINK_": reflect.TypeFor[Sink]()}
	fields := map[string][]field{"": l.kinds.bridgeFields(), "SINK_": everySinkFields()}
	for _, kind := range l.kinds {
		start := strings.ToUpper(kind.Name) + "_"
		types[start], fields[start] = reflect.TypeOf(kind.New()).Elem(), l.kinds.fields(kind.Name)
	}
	for start, typ := range types {
		for sf := range typ.Fields() {
			if sf.Tag.Get("envconfig") == "" {
				require.Contains(t, notVariables, sf.Name, "%s of %s has no envconfig tag", sf.Name, typ)
			}
		}
		for _, f := range fields[start] {
			require.Regexp(t, `^[A-Z][A-Z0-9_]+$`, f.name)
			require.Regexp(t, `^[A-Z].*\.$`, f.desc, "the desc of %s", f.name)
			require.LessOrEqual(t, len(f.desc), 180, "the desc of %s", f.name)
			for _, name := range []string{start + f.name, start + f.name + fileSuffix} {
				require.False(t, names[name], "%s is there twice", name)
				names[name] = true
			}
			value := reflect.New(f.typ).Elem()
			if f.defaultValue != "" {
				require.Empty(t, f.set(f.defaultValue, value, func() error { return l.decode(f.defaultValue, value) }),
					"the default of %s", f.name)
			}
			for _, limit := range []string{f.min, f.max} {
				if limit != "" {
					require.NoError(t, parse(limit, value), "a limit of %s", f.name)
					require.Contains(t, f.desc, limit, "the desc of %s names its limits", f.name)
				}
			}
		}
	}
}

func TestErrorsErr(t *testing.T) {
	require.NoError(t, Errors(nil).Err())
	err := Errors{{"FNBRIDGE_A", "is wrong"}, {"FNBRIDGE_B", "too"}}.Err()
	require.EqualError(t, err, "FNBRIDGE_A: is wrong\nFNBRIDGE_B: too")
	var errs Errors
	require.ErrorAs(t, err, &errs)
	require.Equal(t, "FNBRIDGE_A: a warning", Warning{"FNBRIDGE_A", "a warning"}.String())
}

func TestWhereTheEmbeddedServerAsksForAToken(t *testing.T) {
	for given, asks := range map[string]bool{
		"LOG_LEVEL=info": false, "EMBEDDED_NATS_LISTEN=[::1]:4222": false, "EMBEDDED_NATS_LISTEN=localhost:4222": false,
		"EMBEDDED_NATS_TOKEN=token": true, "EMBEDDED_NATS_LISTEN=:4222": true, "EMBEDDED_NATS_LISTEN=10.0.0.1:4222": true,
		"EMBEDDED_NATS_LISTEN=example.com:4222": true,
	} {
		c, warnings, errs := load(t, given, "EMBEDDED_NATS_MONITOR_LISTEN=:8222")
		require.Empty(t, warnings)
		require.Empty(t, errs)
		require.Equal(t, asks, c.AsksNATSToken(), given)
		require.Equal(t, ":8222", c.EmbeddedNATSMonitorListen)
	}
}
