package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWarnings(t *testing.T) {
	quotedFile := write(t, "\"0123456789abcdef\"\n")
	for name, c := range map[string]struct {
		given []string
		want  []string
	}{
		"swapped letters": {
			[]string{"NATS_STRAEM=a"},
			[]string{"FNBRIDGE_NATS_STRAEM: is not a variable of fnbridge: did you mean FNBRIDGE_NATS_STREAM?"},
		},
		"lower case": {
			[]string{"NATS_sTREAM=a"},
			[]string{"FNBRIDGE_NATS_sTREAM: is not a variable of fnbridge: did you mean FNBRIDGE_NATS_STREAM?"},
		},
		"one more server of a sink that has its own": {
			[]string{"SINKS=nats,b=nats", "NATS_URL=nats://a:1", "NATS_SERVER=nats://b:1", "B_STREAM=B", "B_SUBJECT=b"},
			[]string{"FNBRIDGE_NATS_SERVER: is not a variable of fnbridge: "},
		},
		"servers of a sink that was removed": {
			[]string{"SINKS=nats", "OTHER_URL=nats://a:1"},
			[]string{"FNBRIDGE_OTHER_URL: has no effect: there is no sink other in FNBRIDGE_SINKS (nats)"},
		},
		"another list of sinks": {
			[]string{"SINKS=nats", "SINK=kafka"},
			[]string{"FNBRIDGE_SINK: is not a variable of fnbridge: did you mean FNBRIDGE_SINKS?"},
		},
		"a list of sinks, and a server": {
			[]string{"SINK=kafka", "KAFKA_BROKERS=a:1", "NATS_URL=nats://a:1"},
			[]string{"there is no sink kafka", "did you mean FNBRIDGE_SINKS?"},
		},
		"a URL of something else": {
			[]string{"DOCS=https://example.com"}, []string{"FNBRIDGE_DOCS: is not a variable of fnbridge: "},
		},
		"servers of a sink that has others": {
			[]string{"NATS_URL=nats://a:1", "NATS_URLS=nats://b:1"},
			[]string{"FNBRIDGE_NATS_URLS: is not a variable of fnbridge: did you mean FNBRIDGE_NATS_URL?"},
		},
		"missing letter": {
			[]string{"WEBHOOK_SECRET=a"},
			[]string{"FNBRIDGE_WEBHOOK_SECRET: is not a variable of fnbridge: did you mean FNBRIDGE_WEBHOOK_SECRETS?"},
		},
		"file of a typo": {[]string{"WEBHOK_SECRETS_FILE=a"}, []string{"did you mean FNBRIDGE_WEBHOOK_SECRETS_FILE?"}},
		"nothing near": {
			[]string{"COLOUR=a"}, []string{"FNBRIDGE_COLOUR: is not a variable of fnbridge: fnbridge env lists them all"},
		},
		"a port by hand": {
			[]string{"PORT=8080"}, []string{"FNBRIDGE_PORT: is not a variable of fnbridge: fnbridge env lists them all"},
		},
		"several, in order": {[]string{"NATS_STRAEM=a", "COLOUR=a"}, []string{"FNBRIDGE_COLOUR: ", "FNBRIDGE_NATS_STRAEM: "}},
		"sink not in the list": {
			[]string{"SINKS=nats", "KAFKA_BROKERS=a:1"},
			[]string{
				"FNBRIDGE_KAFKA_BROKERS: has no effect: there is no sink kafka in FNBRIDGE_SINKS (nats); add kafka if you want one",
			},
		},
		"its file": {
			[]string{"KAFKA_TLS_KEY_FILE=a"}, []string{"FNBRIDGE_KAFKA_TLS_KEY_FILE: has no effect: there is no sink kafka in"},
		},
		"named sink not there": {
			[]string{"AUDIT_TOPIC=a"},
			[]string{
				"FNBRIDGE_AUDIT_TOPIC: has no effect: there is no sink audit in FNBRIDGE_SINKS (nats); " +
					"add audit=kafka if you want one",
			},
		},
		"of either kind": {[]string{"AUDIT_FORMAT=a"}, []string{"add audit=nats"}},
		"sink's name misspelt": {
			[]string{"NAST_STREAM=a"},
			[]string{
				"FNBRIDGE_NAST_STREAM: has no effect: there is no sink nast in FNBRIDGE_SINKS (nats); " +
					"add nast=nats if you want one, or did you mean FNBRIDGE_NATS_STREAM?",
			},
		},
		"other kind's variable": {
			[]string{"NATS_TOPIC=a"},
			[]string{"FNBRIDGE_NATS_TOPIC: has no effect: the sink nats is of the kind nats, and only kafka sinks have TOPIC"},
		},

		"set by Kubernetes": {[]string{
			"PORT=tcp://10.0.0.1:8080", "PORT_8080_TCP=tcp://10.0.0.1:8080", "PORT_8080_TCP_PROTO=tcp",
			"PORT_8080_TCP_PORT=8080", "PORT_8080_TCP_ADDR=10.0.0.1",
			"SERVICE_HOST=10.0.0.1", "SERVICE_PORT=8080", "SERVICE_PORT_HTTP=8080",
			"NATS_PORT=tcp://10.0.0.1:4222", "NATS_PORT_4222_TCP_ADDR=10.0.0.1", "NATS_SERVICE_HOST=10.0.0.1",
			"NATS_SERVICE_PORT=4222", "NATS_PORT_53_UDP=udp://10.0.0.1:53",
		}, nil},
		"other programs' variables": {nil, nil},

		"embedded NATS for all, with a token": {[]string{"EMBEDDED_NATS_LISTEN=:4222"}, nil},
		"embedded NATS for nobody": {
			[]string{
				"EMBEDDED_NATS_LISTEN=:4222", "EMBEDDED_NATS_TOKEN=a", "EMBEDDED_NATS_MONITOR_LISTEN=:8222", "NATS_URL=nats://a",
			},
			[]string{
				"FNBRIDGE_EMBEDDED_NATS_LISTEN: has no effect, as no sink uses the embedded NATS server",
				"FNBRIDGE_EMBEDDED_NATS_TOKEN: has no effect, as no sink uses the embedded NATS server",
				"FNBRIDGE_EMBEDDED_NATS_MONITOR_LISTEN: has no effect, as no sink uses the embedded NATS server",
			},
		},
		"a token in clear text": {
			[]string{"NATS_URL=nats://localhost,nats://10.0.0.1:4222", "NATS_TOKEN=a"},
			[]string{"FNBRIDGE_NATS_TOKEN: goes to nats://10.0.0.1:4222 in clear text, " +
				"unless that server demands TLS by itself: write tls://"},
		},
		"a password in a URL in clear text": {
			[]string{"NATS_URL=ws://a:b@nats"},
			[]string{"FNBRIDGE_NATS_URL: goes to ws://[redacted]@nats in clear text, " +
				"unless that server demands TLS by itself: write wss://"},
		},
		"a password on this machine": {[]string{"NATS_URL=nats://a:b@127.0.0.1"}, nil},
		"a password behind TLS": {
			[]string{"NATS_URL=nats://nats", "NATS_USER=a", "NATS_PASSWORD=b", "NATS_TLS_FIRST=true"}, nil,
		},
		"best effort with a journal": {
			[]string{"NATS_REQUIRED=false"}, []string{"FNBRIDGE_NATS_REQUIRED: has no effect with FNBRIDGE_ACK=journal"},
		},
		"a journal's settings without one": {
			[]string{"ACK=Sinks", "RETENTION=1h", "JOURNAL_MAX_BYTES=1MiB"},
			[]string{
				"FNBRIDGE_JOURNAL_MAX_BYTES: has no effect with FNBRIDGE_ACK=sinks",
				"FNBRIDGE_RETENTION: has no effect with FNBRIDGE_ACK=sinks",
			},
		},
		"best effort beside a sink that is required": {
			[]string{"ACK=sinks", "SINKS=nats,b=nats", "B_STREAM=B", "B_SUBJECT=b.{route}", "B_REQUIRED=false"}, nil,
		},
		"password in clear text": {
			[]string{
				"SINKS=kafka", "KAFKA_BROKERS=a:1", "KAFKA_SASL_MECHANISM=plain", "KAFKA_SASL_USERNAME=me",
				"KAFKA_SASL_PASSWORD=pass",
			},
			[]string{
				"FNBRIDGE_KAFKA_SASL_MECHANISM: PLAIN without TLS sends the password in clear text: set FNBRIDGE_KAFKA_TLS=true",
			},
		},
		"password over TLS": {
			[]string{
				"SINKS=kafka", "KAFKA_BROKERS=a:1", "KAFKA_SASL_MECHANISM=plain", "KAFKA_SASL_USERNAME=me",
				"KAFKA_SASL_PASSWORD=pass", "KAFKA_TLS=true",
			}, nil,
		},
		"tokens in clear text": {
			[]string{
				"SINKS=kafka", "KAFKA_BROKERS=a:1", "KAFKA_SASL_MECHANISM=oauthbearer", "KAFKA_OAUTH_CLIENT_ID=me",
				"KAFKA_OAUTH_CLIENT_SECRET=s3cret", "KAFKA_OAUTH_TOKEN_URL=http://idp.example.com/token",
			},
			[]string{
				"FNBRIDGE_KAFKA_SASL_MECHANISM: OAUTHBEARER without TLS sends the token in clear text: set FNBRIDGE_KAFKA_TLS=true",
				"FNBRIDGE_KAFKA_OAUTH_TOKEN_URL: http:// sends the client's secret in clear text: give an address with https://",
			},
		},
		"tokens from this machine": {
			[]string{
				"SINKS=kafka", "KAFKA_BROKERS=a:1", "KAFKA_SASL_MECHANISM=oauthbearer", "KAFKA_OAUTH_CLIENT_ID=me",
				"KAFKA_TLS=true", "KAFKA_OAUTH_CLIENT_SECRET=s3cret", "KAFKA_OAUTH_TOKEN_URL=http://127.0.0.1:8080/token",
			}, nil,
		},
		"quotation marks": {
			[]string{
				"NATS_URL=nats://localhost", `NATS_TOKEN="hidden"`, "PAGE_TOKEN='0123456789abcdef'", "NATS_STREAM=`A`",
				`NATS_SUBJECT="a'`,
			},
			[]string{
				"FNBRIDGE_PAGE_TOKEN: begins and ends with a quotation mark, and both become part of the value: leave them out",
				"FNBRIDGE_NATS_TOKEN: begins and ends with a quotation mark", "FNBRIDGE_NATS_STREAM: begins and ends with",
			},
		},
		"quotation marks in a file": {
			[]string{"PAGE_TOKEN_FILE=" + quotedFile},
			[]string{`FNBRIDGE_PAGE_TOKEN_FILE: in the file "` + quotedFile + `": begins and ends with a quotation mark`},
		},
		"one topic twice": {
			[]string{"SINKS=kafka,b=kafka", "KAFKA_BROKERS=a:1,b:1", "B_BROKERS=b:1, a:1"},
			[]string{
				"FNBRIDGE_B_TOPIC: the sink kafka writes to the topic tensorlake-events of the same brokers: " +
					"it will hold every event twice",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, errs := load(t, c.given...)
			require.Empty(t, errs)
			require.Len(t, warnings, len(c.want), "%v", warnings)
			for i, want := range c.want {
				require.Contains(t, warnings[i].String(), want)
				require.NotContains(t, warnings[i].String(), "hidden")
			}
		})
	}
}

// With a list of sinks that is wrong, what belongs to its sinks is not said to be unknown.
func TestNoSinkWarningsWithoutSinks(t *testing.T) {
	_, warnings, errs := load(t, "SINKS=au-dit=kafka", "AUDIT_BROKERS=a:1")
	require.Len(t, errs, 1)
	require.Equal(t, []Warning{{"FNBRIDGE_AUDIT_BROKERS", "is not a variable of fnbridge: fnbridge env lists them all"}},
		warnings)
}

// Where events go must not depend on a letter.
func TestAMisspeltAddressDoesNotLeadToTheEmbeddedServer(t *testing.T) {
	for _, name := range []string{"NATS_URLS", "NATS_URl", "NATS_ULR", "NATS_URL_FIEL", "NAST_URL"} {
		_, _, errs := load(t, name+"=nats://a:1")
		require.Len(t, errs, 1, name)
		require.Equal(t, "FNBRIDGE_"+name, errs[0].Variable)
		require.Contains(t, errs[0].Message, "did you mean FNBRIDGE_NATS_URL")
		require.Contains(t, errs[0].Message, "the embedded server gets the events of the sink nats")
	}
}

func TestAMisspeltListOfSinksDoesNotLeadToTheEmbeddedServer(t *testing.T) {
	for _, name := range []string{"SINK", "SNIKS", "SINKS_", "sinks", "SINKS_FIEL"} {
		_, _, errs := load(t, name+"=kafka")
		require.Len(t, errs, 1, name)
		require.Equal(t, "FNBRIDGE_"+name, errs[0].Variable)
		require.Contains(t, errs[0].Message, "did you mean FNBRIDGE_SINKS")
		require.Contains(t, errs[0].Message, "the embedded server gets the events of the sink nats: correct the name")
	}
}

func TestTheAddressOfASinkThatNobodyAskedForDoesNotLeadToTheEmbeddedServer(t *testing.T) {
	for name, add := range map[string]string{
		"KAFKA_BROKERS": "kafka", "KAFKA_BROKERS_FILE": "kafka", "AUDIT_BROKERS": "audit=kafka", "OTHER_URL": "other=nats",
	} {
		_, _, errs := load(t, name+"=a:1")
		require.Len(t, errs, 1, name)
		require.Equal(t, "FNBRIDGE_"+name, errs[0].Variable)
		require.Contains(t, errs[0].Message, "in FNBRIDGE_SINKS (nats); add "+add+" if you want one. As long as "+
			"FNBRIDGE_SINKS is not set, the embedded server gets the events of the sink nats: set it, or remove this")
	}
}

func TestAServerUnderAnyOtherNameDoesNotLeadToTheEmbeddedServer(t *testing.T) {
	for _, name := range []string{"URL", "SERVERS", "NATS_SERVER", "NATS_SERVERS", "NATS_HOST", "EMBEDDED_NATS_URL"} {
		_, _, errs := load(t, name+"=tls://me:hidden@a:1,tls://b")
		require.Len(t, errs, 1, name)
		require.Equal(t, "FNBRIDGE_"+name+": is not a variable of fnbridge: did you mean FNBRIDGE_NATS_URL? Without that "+
			"variable, the embedded server gets the events of the sink nats: correct the name, or remove it", errs[0].Error())
	}
}
