package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each environment has these problems and no others: variable and a part of the message, with a colon between.
func TestProblems(t *testing.T) {
	file, dir := write(t, "content"), t.TempDir()
	missing := filepath.Join(dir, "missing")
	big := write(t, strings.Repeat("t", maxFileBytes+1))
	empty, marked := write(t, "\n"), write(t, "\ufeffhidden\n")
	const kafka = "SINKS=kafka\nKAFKA_BROKERS=one:9092\n"
	secret := "WEBHOOK_SECRETS=" + secretOf(24)
	for name, c := range map[string]struct {
		given string
		want  []string
	}{
		"boolean": {
			"SUMMARY_EVENTS=maybe", []string{`SUMMARY_EVENTS: "maybe" is not a boolean: give true or false`},
		},
		"number": {
			"MAX_IN_FLIGHT=many",
			[]string{`MAX_IN_FLIGHT: "many" is not a whole number from 1 to 100000: give digits, such as 1024`},
		},
		"number below": {"MAX_IN_FLIGHT=0", []string{`MAX_IN_FLIGHT: "0" is not a whole number from 1 to`}},
		"number above": {
			"MAX_IN_FLIGHT=100001", []string{`MAX_IN_FLIGHT: "100001" is not a whole number from 1 to`},
		},
		"number beyond 64 bits": {
			"MAX_IN_FLIGHT=99999999999999999999", []string{`MAX_IN_FLIGHT: "99999999999999999999" is not a whole number`},
		},
		"number of another base": {
			"MAX_IN_FLIGHT=0x100", []string{`MAX_IN_FLIGHT: "0x100" is not a whole number from 1 to`},
		},
		"duration": {
			"RETENTION=7 days",
			[]string{
				`RETENTION: "7 days" is not a duration of at least 1s: give numbers with a unit of ms, s, m, h or d, such as 72h`,
			},
		},
		"duration of zero": {"RETENTION=0s", []string{`RETENTION: "0s" is not a duration of at least 1s`}},
		"duration below zero": {
			"SHUTDOWN_TIMEOUT=-5s", []string{`SHUTDOWN_TIMEOUT: "-5s" is not a duration of at least 1ms`},
		},
		"duration above": {
			"WEBHOOK_TOLERANCE=25h", []string{`WEBHOOK_TOLERANCE: "25h" is not a duration from 1s to 24h`},
		},
		"size": {
			"MAX_BODY=1.5MiB",
			[]string{`MAX_BODY: "1.5MiB" is not a size from 1KiB to 64MiB: give bytes, or a whole number with a unit`},
		},
		"size below": {"MAX_BODY=1023", []string{`MAX_BODY: "1023" is not a size from 1KiB`}},
		"size above": {"MAX_BODY=65MiB", []string{`MAX_BODY: "65MiB" is not a size from 1KiB`}},
		"size without a default": {
			"NATS_MAX_BYTES=much",
			[]string{
				`"much" is not a size of at least 1MiB, or 0: give bytes, or a whole number with a unit of ` +
					`KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 1GiB`,
			},
		},
		"word": {"LOG_FORMAT=xml", []string{`LOG_FORMAT: "xml" is not known: give text or json`}},
		"page token": {
			"PAGE_TOKEN=short-and-sec",
			[]string{`PAGE_TOKEN: has 13 characters, and whoever guesses it sees every payload: give at least 16`},
		},
		"level between words": {
			"LOG_LEVEL=info+1", []string{`LOG_LEVEL: "info+1" is not known: give debug, info, warn or error`},
		},
		"address":               {"LISTEN=8080", []string{`LISTEN: "8080" is not an address: give host:port`}},
		"address with a scheme": {"LISTEN=http://a:80", []string{`LISTEN: "http://a:80" is not an address`}},
		"address, port":         {"OPS_LISTEN=:65536", []string{`OPS_LISTEN: ":65536" is not an address`}},
		"address, named port":   {"OPS_LISTEN=:http", []string{`OPS_LISTEN: ":http" is not an address`}},
		"long value": {
			"LISTEN=" + strings.Repeat("é", 90), []string{`LISTEN: "` + strings.Repeat("é", 80) + `"… is not`},
		},
		"control characters": {"LISTEN=a\x1b[31m:\u2028", []string{`LISTEN: "a\x1b[31m:\u2028" is not`}},
		"data directory": {
			"DATA_DIR=" + file, []string{`DATA_DIR: "` + file + `" is a file: give the path of a directory`},
		},

		"file and value": {
			"MAX_BODY=1MiB\nMAX_BODY_FILE=" + missing, []string{`MAX_BODY: FNBRIDGE_MAX_BODY_FILE is set as well`},
		},
		"file missing": {
			"MAX_BODY_FILE=" + missing,
			[]string{`MAX_BODY_FILE: the file "` + missing + `" cannot be read (no such file or directory): give`},
		},
		"file is a directory": {
			"MAX_BODY_FILE=" + dir, []string{`MAX_BODY_FILE: the file "` + dir + `" cannot be read (is a directory)`},
		},
		"file too large": {
			"MAX_BODY_FILE=" + big, []string{`MAX_BODY_FILE: the file "` + big + `" has more than 1 MiB`},
		},
		"file empty": {
			"NATS_URL=nats://a\nNATS_TOKEN_FILE=" + empty, []string{`NATS_TOKEN_FILE: the file "` + empty + `" is empty`},
		},
		"byte order mark": {
			"NATS_URL=nats://a\nNATS_TOKEN=\ufeffhidden",
			[]string{`NATS_TOKEN: begins with a byte order mark: save it as UTF-8 without one`},
		},
		"byte order mark of a file": {
			kafka + "KAFKA_TLS=true\nKAFKA_SASL_MECHANISM=PLAIN\nKAFKA_SASL_USERNAME=me\nKAFKA_SASL_PASSWORD_FILE=" + marked,
			[]string{`KAFKA_SASL_PASSWORD_FILE: in the file "` + marked + `": begins with a byte order mark: save it as UTF-8`},
		},
		"byte order mark of the page's token": {
			"PAGE_TOKEN=\ufeffhidden", []string{`PAGE_TOKEN: begins with a byte order mark: save it as UTF-8 without one`},
		},
		"byte order mark before a number": {
			"MAX_IN_FLIGHT_FILE=" + write(t, "\xff\xfe1\x000\x00"),
			[]string{`": begins with a byte order mark: save it as UTF-8 without one`},
		},
		"file with an error": {
			"MAX_BODY_FILE=" + file, []string{`MAX_BODY_FILE: in the file "` + file + `": "content" is not a size`},
		},
		"path of a path": {
			"NATS_URL=nats://a\nNATS_CREDS_FILE_FILE=" + file,
			[]string{`NATS_CREDS_FILE_FILE: in the file "` + file + `": the file (not shown, as it begins neither`},
		},
		"named file missing": {
			"NATS_URL=nats://a\nNATS_CREDS_FILE=" + missing,
			[]string{`NATS_CREDS_FILE: the file "` + missing + `" cannot be read (no such file or directory): give`},
		},
		"named file directory": {
			"NATS_URL=nats://a\nNATS_CREDS_FILE=" + dir, []string{`NATS_CREDS_FILE: "` + dir + `" is a directory`},
		},

		"path, relative":      {"PATH=hooks", []string{`PATH: "hooks" is not a path: give a slash and a name`}},
		"path, root":          {"PATH=/", []string{`PATH: "/" is not a path`}},
		"path with a slash":   {"PATH=/hooks/", []string{`PATH: "/hooks/" is not a path`}},
		"path with a pattern": {"PATH=/hooks/:x", []string{`PATH: "/hooks/:x" is not a path`}},
		"path with dots":      {"PATH=/a/../b", []string{`PATH: "/a/../b" is not a path`}},
		"path of the health":  {"PATH=/livez", []string{`PATH: "/livez" is what load balancers ask for`}},
		"no secret":           {"WEBHOOK_SECRETS= , ", []string{`WEBHOOK_SECRETS: there is no secret in it`}},
		"unsigned and secrets": {
			secret + "\nINSECURE_UNSIGNED=true",
			[]string{`INSECURE_UNSIGNED: true accepts webhooks that nobody signed, although FNBRIDGE_WEBHOOK_SECRETS is set`},
		},

		"certificate without key": {
			"TLS_CERT_FILE=" + file, []string{`TLS_KEY_FILE: is not set, and FNBRIDGE_TLS_CERT_FILE is`},
		},
		"key without certificate": {
			"TLS_KEY_FILE_FILE=" + write(t, file), []string{`TLS_CERT_FILE: is not set, and FNBRIDGE_TLS_KEY_FILE_FILE is`},
		},
		"journal of few webhooks": {
			"JOURNAL_MAX_BYTES=7MiB\nMAX_BODY=2MiB",
			[]string{
				`JOURNAL_MAX_BYTES: 7MiB is less than 4 times FNBRIDGE_MAX_BODY (2MiB), ` +
					`so that few webhooks could fill the journal: give at least 8MiB, or a smaller`,
			},
		},
		"body and embedded NATS": {
			"MAX_BODY=8MiB",
			[]string{
				`MAX_BODY: 8MiB is more than the embedded NATS server stores in one message: ` +
					`give at most 7MiB, or set FNBRIDGE_NATS_URL to a server whose max_payload is larger`,
			},
		},
		"one port twice": {
			"OPS_LISTEN=127.0.0.1:8080", []string{`OPS_LISTEN: 127.0.0.1:8080 is taken by FNBRIDGE_LISTEN (:8080)`},
		},
		"port of embedded NATS": {
			"EMBEDDED_NATS_LISTEN=127.0.0.1:8081",
			[]string{`EMBEDDED_NATS_LISTEN: 127.0.0.1:8081 is taken by FNBRIDGE_OPS_LISTEN`},
		},
		"port of its monitoring": {
			"EMBEDDED_NATS_MONITOR_LISTEN=:4222",
			[]string{`EMBEDDED_NATS_MONITOR_LISTEN: :4222 is taken by FNBRIDGE_EMBEDDED_NATS_LISTEN`},
		},

		"ack at the sinks, each with a secret of its own": {
			"ACK=sinks\nNATS_URL=nats://a",
			[]string{`WEBHOOK_SECRETS: is not set, and with FNBRIDGE_ACK=sinks each process would make a secret of its own`},
		},
		"ack at sinks of which none is required": {
			"ACK=sinks\nNATS_REQUIRED=false",
			[]string{`NATS_REQUIRED: false leaves no sink that a 2xx answer could stand for with FNBRIDGE_ACK=sinks`},
		},
		"ack at the sinks, and giving up": {
			"ACK=sinks\nNATS_GIVE_UP_AFTER=1h",
			[]string{
				`NATS_GIVE_UP_AFTER: is for FNBRIDGE_ACK=journal: ` +
					`with sinks, a webhook that is not stored within 12s is answered 503`,
			},
		},
		"ack unknown": {"ACK=never", []string{`ACK: "never" is not known: give journal or sinks`}},
		"required, or what?": {
			"NATS_REQUIRED=perhaps", []string{`NATS_REQUIRED: "perhaps" is not a boolean: give true or false`},
		},
		"giving up soon": {
			"NATS_GIVE_UP_AFTER=999ms",
			[]string{
				`NATS_GIVE_UP_AFTER: "999ms" is not a duration of at least 1s, or 0: ` +
					`give numbers with a unit of ms, s, m, h or d, such as 24h`,
			},
		},
		"giving up, when?": {
			"NATS_GIVE_UP_AFTER=soon", []string{`NATS_GIVE_UP_AFTER: "soon" is not a duration of at least 1s, or 0: give`},
		},
		"giving up before": {
			"NATS_GIVE_UP_AFTER=-1h", []string{`NATS_GIVE_UP_AFTER: "-1h" is not a duration of at least 1s, or 0`},
		},

		"dead letters among events": {
			kafka + "KAFKA_TOPIC=a\nKAFKA_DEAD_LETTER=a",
			[]string{
				`KAFKA_DEAD_LETTER: a is the topic of the events, whose consumers would take dead letters for events: ` +
					`give a topic of its own, such as a-dead-letters`,
			},
		},
		"dead letters to a template": {
			kafka + "KAFKA_DEAD_LETTER=dead.{status}",
			[]string{`KAFKA_DEAD_LETTER: "dead.{status}" is not a name of a topic: give one fixed topic`},
		},
		"dead letters to dots": {
			kafka + "KAFKA_DEAD_LETTER=..", []string{`KAFKA_DEAD_LETTER: ".." is not a name of a topic`},
		},
		"dead letters among other events": {
			"SINKS=kafka,b=kafka\nKAFKA_BROKERS=a:1\nB_BROKERS=a:1\nB_TOPIC=b\nB_DEAD_LETTER=tensorlake-events",
			[]string{`B_DEAD_LETTER: tensorlake-events is the topic of the events of the sink kafka`},
		},
		"dead letters among later events": {
			"SINKS=kafka,b=kafka\nKAFKA_BROKERS=a:1\nB_BROKERS=a:1\nB_TOPIC=b\nKAFKA_DEAD_LETTER=b",
			[]string{`KAFKA_DEAD_LETTER: b is the topic of the events of the sink b`},
		},

		"no sinks": {
			"SINKS=,",
			[]string{`SINKS: there is no sink in it: give name or name=kind, several separated by commas; kinds are nats`},
		},
		"sink without kind": {"SINKS=audit", []string{`SINKS: "audit" has no kind: give audit=nats`}},
		"sink of unknown kind": {
			"SINKS=audit=rabbit", []string{`SINKS: "audit=rabbit": "rabbit" is not a kind of sink: give audit=nats`},
		},
		"sink with a dash": {
			"SINKS=my-sink=nats",
			[]string{
				`SINKS: "my-sink=nats": "my-sink" is not a name of a sink: ` +
					`give a lower-case letter and then at most 30 of a-z, 0-9 and _, such as audit (no dashes`,
			},
		},
		"sink in upper case": {"SINKS=Audit=nats", []string{`SINKS: "Audit=nats": "Audit" is not a name`}},
		"sink from a digit":  {"SINKS=2nd=nats", []string{`SINKS: "2nd=nats": "2nd" is not a name`}},
		"sink without name":  {"SINKS==nats", []string{`SINKS: "=nats": "" is not a name`}},
		"sink's long name":   {"SINKS=a" + strings.Repeat("b", 31) + "=nats", []string{`is not a name`}},
		"sink twice": {
			"SINKS=nats,a=nats,a=nats\nA_STREAM=A\nA_SUBJECT=a",
			[]string{`SINKS: "a=nats": there are two sinks with the name a: give each a name of its own, such as a2=nats`},
		},
		"sink with another kind's name": {
			"SINKS=nats=kafka", []string{`SINKS: "nats=kafka": a sink with the name of another kind would mislead`},
		},
		"sinks that clash": {
			"SINKS=a=kafka,a_tls=kafka\nA_BROKERS=one:1\nA_TLS_BROKERS=two:1",
			[]string{`SINKS: the sinks a and a_tls would both have a variable FNBRIDGE_A_TLS_KEY_FILE: rename one`},
		},

		"sinks of two kinds that clash": {
			"SINKS=kafka,kafka_sasl=nats\nKAFKA_BROKERS=one:1",
			[]string{
				`SINKS: the sinks kafka and kafka_sasl would both have a variable FNBRIDGE_KAFKA_SASL_PASSWORD: rename one`,
			},
		},

		"no URL": {"NATS_URL=,", []string{`NATS_URL: there is no URL in it`}},
		"URL without scheme": {
			"NATS_URL=one:4222",
			[]string{
				`NATS_URL: "one:4222" is not a URL: give nats://, tls://, ws:// or wss:// with a host and a port, ` +
					`such as nats://nats-1:4222`,
			},
		},
		"URL's scheme": {
			"NATS_URL=nats://a,http://b", []string{`NATS_URL: "http://b" has a scheme that NATS does not know`},
		},
		"URL without host": {"NATS_URL=nats://:4222", []string{`NATS_URL: "nats://:4222" names no host`}},
		"URL's port": {
			"NATS_URL=nats://a:65536", []string{`NATS_URL: "nats://a:65536" has a port outside of 1 to 65535`},
		},
		"URL with a secret": {
			"NATS_URL=nats://a,http://me:hidden@b",
			[]string{`NATS_URL: URL 2 of 2 (not shown, as there may be a password in it) has a scheme`},
		},
		"URL with two @": {
			"NATS_URL=nats://me:hid@den@b",
			[]string{`NATS_URL: URL 1 of 1 (not shown, as there may be a password in it) has a second @`},
		},
		"WebSocket and not": {
			"NATS_URL=nats://a,wss://b", []string{`NATS_URL: WebSocket URLs (ws://, wss://) stand beside others`},
		},

		"two logins": {
			"NATS_URL=nats://a\nNATS_TOKEN=hidden\nNATS_CREDS_FILE=" + file,
			[]string{`NATS_TOKEN: logs in, and so does FNBRIDGE_NATS_CREDS_FILE: keep one`},
		},
		"login in the URL too": {
			"NATS_URL=nats://me:hidden@a\nNATS_NKEY_FILE=" + file,
			[]string{`NATS_URL: logs in, and so does FNBRIDGE_NATS_NKEY_FILE: keep one`},
		},
		"three logins": {
			"NATS_URL=nats://a\nNATS_TOKEN=hidden\nNATS_USER=me\nNATS_PASSWORD=hidden\nNATS_NKEY_FILE=" + file,
			[]string{`NATS_NKEY_FILE: logs in, and so does FNBRIDGE_NATS_TOKEN, FNBRIDGE_NATS_USER: keep one`},
		},
		"user without password": {
			"NATS_URL=nats://a\nNATS_USER=me", []string{`NATS_PASSWORD: is not set, and FNBRIDGE_NATS_USER is`},
		},
		"password without user": {
			"NATS_URL=nats://a\nNATS_PASSWORD=hidden", []string{`NATS_USER: is not set, and FNBRIDGE_NATS_PASSWORD is`},
		},
		"NATS certificate": {
			"NATS_URL=nats://a\nNATS_TLS_CERT_FILE=" + file, []string{`NATS_TLS_KEY_FILE: is not set`},
		},
		"domain of the embedded server": {
			"NATS_JS_DOMAIN=hub",
			[]string{`NATS_JS_DOMAIN: is for a server of your own, and the embedded one needs none of the kind`},
		},
		"domain with a dot": {
			"NATS_URL=nats://a\nNATS_JS_DOMAIN=a.b",
			[]string{`NATS_JS_DOMAIN: "a.b" is not a domain: give it as the server has it`},
		},
		"prefix with a wildcard": {
			"NATS_URL=nats://a\nNATS_JS_API_PREFIX=$JS.>",
			[]string{`NATS_JS_API_PREFIX: "$JS.>" is not the beginning of a subject: give`},
		},
		"prefix and domain": {
			"NATS_URL=nats://a\nNATS_JS_API_PREFIX=js.hub\nNATS_JS_DOMAIN=hub",
			[]string{`NATS_JS_API_PREFIX: says where JetStream is, and so does FNBRIDGE_NATS_JS_DOMAIN: keep one`},
		},
		"login without server": {
			"NATS_TOKEN=hidden",
			[]string{
				`NATS_TOKEN: is for a server of your own, and the embedded one needs none of the kind: ` +
					`set FNBRIDGE_NATS_URL, or leave this out`,
			},
		},
		"TLS without server": {"NATS_TLS_CA_FILE=" + file, []string{`NATS_TLS_CA_FILE: is for a server of your own`}},
		"replicas of one": {
			"NATS_REPLICAS=3", []string{`NATS_REPLICAS: 3 replicas need a cluster, and the embedded server is a single one`},
		},
		"too many replicas": {
			"NATS_REPLICAS=6", []string{`NATS_REPLICAS: "6" is not a whole number from 1 to 5: give digits, such as 1`},
		},
		"window beyond age": {
			"NATS_MAX_AGE=5m",
			[]string{`NATS_DEDUPE_WINDOW: 10m0s is longer than events are kept (FNBRIDGE_NATS_MAX_AGE, 5m0s)`},
		},
		"window and a bad age": {
			"NATS_MAX_AGE=5 m\nNATS_DEDUPE_WINDOW=200h", []string{`NATS_MAX_AGE: "5 m" is not a duration`},
		},
		"stream":  {"NATS_STREAM=my.stream", []string{`NATS_STREAM: "my.stream" is not a name of a stream`}},
		"subject": {"NATS_SUBJECT=a b", []string{`NATS_SUBJECT: "a b" holds a character that a subject cannot`}},
		"one stream twice": {
			"SINKS=nats,b=nats", []string{`B_STREAM: the sink nats writes to the stream TENSORLAKE of the same server`},
		},
		"one stream twice, in an account": {
			"SINKS=nats,b=nats\nNATS_URL=nats://a\nB_URL=nats://a\nNATS_CREDS_FILE=" + file + "\nB_CREDS_FILE=" + file,
			[]string{`B_STREAM: the sink nats writes to the stream TENSORLAKE of the same server`},
		},

		"no brokers":    {"SINKS=kafka", []string{`KAFKA_BROKERS: is not set: give host:port`}},
		"empty brokers": {"SINKS=kafka\nKAFKA_BROKERS=,", []string{`KAFKA_BROKERS: there is no address in it`}},
		"broker without port": {
			"SINKS=kafka\nKAFKA_BROKERS=one,two:0,:9092,four:1",
			[]string{`KAFKA_BROKERS: "one" is not an address`, `KAFKA_BROKERS: "two:0"`, `KAFKA_BROKERS: ":9092"`},
		},
		"broker with a scheme": {
			"SINKS=kafka\nKAFKA_BROKERS=kafka://one:9092",
			[]string{
				`KAFKA_BROKERS: "kafka://one:9092" is not an address: give host:port with a port from 1 to 65535 and no scheme`,
			},
		},
		"topic":         {kafka + "KAFKA_TOPIC=a/b", []string{`KAFKA_TOPIC: "a/b" is not a name of a topic`}},
		"topic of dots": {kafka + "KAFKA_TOPIC=..", []string{`KAFKA_TOPIC: ".." is not a name of a topic`}},
		"TLS files without TLS": {
			kafka + "KAFKA_TLS_CA_FILE=" + file,
			[]string{`KAFKA_TLS_CA_FILE: has no effect without TLS: set FNBRIDGE_KAFKA_TLS=true`},
		},
		"Kafka certificate": {
			kafka + "KAFKA_TLS=true\nKAFKA_TLS_KEY_FILE=" + file, []string{`KAFKA_TLS_CERT_FILE: is not set`},
		},
		"SASL without mechanism": {
			kafka + "KAFKA_SASL_USERNAME=me\nKAFKA_SASL_PASSWORD=hidden",
			[]string{`KAFKA_SASL_USERNAME: has no effect without a mechanism`, `KAFKA_SASL_PASSWORD: has no effect`},
		},
		"SASL without user": {
			kafka + "KAFKA_SASL_MECHANISM=SCRAM-SHA-256",
			[]string{`KAFKA_SASL_USERNAME: is not set, and FNBRIDGE_KAFKA_SASL_MECHANISM is`, `KAFKA_SASL_PASSWORD: is not set`},
		},
		"SASL mechanism": {
			kafka + "KAFKA_SASL_MECHANISM=SCRAM\nKAFKA_SASL_USERNAME=me\nKAFKA_SASL_PASSWORD=hidden",
			[]string{`KAFKA_SASL_MECHANISM: "SCRAM" is not known: give PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER`},
		},
		"a token without what it takes": {
			kafka + "KAFKA_SASL_MECHANISM=OAUTHBEARER\nKAFKA_SASL_USERNAME=me",
			[]string{
				`KAFKA_SASL_USERNAME: has no effect with OAUTHBEARER`, `KAFKA_OAUTH_TOKEN_URL: is not set`,
				`KAFKA_OAUTH_CLIENT_ID: is not set`, `KAFKA_OAUTH_CLIENT_SECRET: is not set`,
			},
		},
		"a token without OAUTHBEARER": {
			kafka + "KAFKA_OAUTH_CLIENT_ID=me\nKAFKA_OAUTH_SCOPES=events",
			[]string{
				`KAFKA_OAUTH_CLIENT_ID: is for OAUTHBEARER: set FNBRIDGE_KAFKA_SASL_MECHANISM`, `KAFKA_OAUTH_SCOPES: is for`,
			},
		},
		"where tokens come from": {
			kafka + "KAFKA_SASL_MECHANISM=OAUTHBEARER\nKAFKA_OAUTH_CLIENT_ID=me\nKAFKA_OAUTH_CLIENT_SECRET=hidden\n" +
				"KAFKA_OAUTH_TOKEN_URL=https://me:hidden@idp/token\nKAFKA_OAUTH_EXTENSIONS=logical-cluster=a",
			[]string{
				`KAFKA_OAUTH_TOKEN_URL: it is no address of tokens: give a URL`,
				`KAFKA_OAUTH_EXTENSIONS: "logical-cluster=a" is no extension: give a name of letters`,
			},
		},
		"extensions of a token": {
			kafka + "KAFKA_SASL_MECHANISM=OAUTHBEARER\nKAFKA_OAUTH_CLIENT_ID=me\nKAFKA_OAUTH_CLIENT_SECRET=hidden\n" +
				"KAFKA_OAUTH_TOKEN_URL=https://idp/token\nKAFKA_OAUTH_EXTENSIONS=a=1,a=2",
			[]string{`KAFKA_OAUTH_EXTENSIONS: "a" is there twice: keep one of them`},
		},
		"compression": {
			kafka + "KAFKA_COMPRESSION=rar",
			[]string{`KAFKA_COMPRESSION: "rar" is not known: give none, gzip, snappy, lz4 or zstd`},
		},
		"format": {
			"NATS_FORMAT=avro", []string{`NATS_FORMAT: "avro" is not known: give binary, structured or plain`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, errs := load(t, strings.Split(strings.TrimSuffix(c.given, "\n"), "\n")...)
			require.Len(t, errs, len(c.want), "%v", errs)
			for i, want := range c.want {
				require.Contains(t, errs[i].Error(), want)
				require.True(t, strings.HasPrefix(errs[i].Error(), prefix))
			}
			require.NotContains(t, errs.Error(), "hid")
			require.NotContains(t, errs.Error(), secretOf(24)[:12])
		})
	}
}

func TestReservedSinkNames(t *testing.T) {
	for _, name := range []string{
		"listen", "listen_file", "ops", "tls", "tls_cert", "webhook", "insecure", "max", "max_in", "summary", "ack", "data",
		"journal", "retention", "sinks", "embedded", "embedded_nats", "shutdown", "log", "port", "service",
	} {
		_, _, errs := load(t, "SINKS="+name+"=nats")
		require.Len(t, errs, 1, name)
		require.Contains(t, errs[0].Error(),
			"the name "+name+" is reserved, because variables such as FNBRIDGE_"+strings.ToUpper(name))
		require.Contains(t, errs[0].Error(), "such as "+name+"_sink")
	}
	for _, name := range []string{
		"log_sink", "logs", "lo", "audit", "nats2", "a", "tls_sink", "maximum", "a" + strings.Repeat("b", 30),
	} {
		_, _, errs := load(t, "SINKS="+name+"=nats")
		require.Empty(t, errs, name)
	}
}

func TestSinksThatOnlyLookAlike(t *testing.T) {
	_, _, errs := load(t, "SINKS=a=kafka,a_b=kafka,kafka,kafka_b=nats,x=nats,x_tls=nats", "A_BROKERS=a:1",
		"A_B_BROKERS=b:1", "KAFKA_BROKERS=c:1",
		"X_STREAM=X", "X_SUBJECT=x", "X_TLS_STREAM=Y", "X_TLS_SUBJECT=y")
	require.Empty(t, errs)
}

func TestSinksBesideEachOther(t *testing.T) {
	for name, lines := range map[string][]string{
		"own streams and subjects": {"SINKS=nats,b=nats", "B_STREAM=B", "B_SUBJECT=b.{route}"},
		"embedded and external":    {"SINKS=nats,b=nats", "B_URL=nats://b"},
		"two servers":              {"SINKS=a=nats,b=nats", "A_URL=nats://a", "B_URL=nats://b"},
		"free ports":               {"LISTEN=:0", "OPS_LISTEN=:0", "EMBEDDED_NATS_LISTEN=127.0.0.1:0"},
		"one port, two hosts":      {"LISTEN=127.0.0.1:80", "OPS_LISTEN=127.0.0.2:80"},
	} {
		_, warnings, errs := load(t, lines...)
		require.Empty(t, errs, name)
		require.Empty(t, warnings, name)
	}
}

func TestErrorsGolden(t *testing.T) {
	_, _, errs := load(t, "MAX_BODY=a lot", "RETENTION=3 days", "LISTEN=localhost", "LOG_LEVEL=verbose",
		"WEBHOOK_SECRETS=,", "ACK=sinks",
		"SINKS=nats,audit=kafka,log=nats,my-sink=kafka", "NATS_URL=nats://me:pass@one,http://two", "NATS_REPLICAS=9",
		"NATS_TOKEN_FILE=/run/secrets/missing", "AUDIT_TLS=perhaps", "AUDIT_SASL_USERNAME=me")
	const golden = "testdata/errors.golden"
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(errs.Error()+"\n"), 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), errs.Error()+"\n", "run go generate ./config if this is meant")
}
