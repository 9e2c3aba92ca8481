package kafka

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

func TestNewRefusesWrongOptions(t *testing.T) {
	ca := testcert.New(t)
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(noPEM, []byte("not a certificate"), 0o600))
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no brokers":          {func(o *Options) { o.Brokers = nil }, "BROKERS is empty"},
		"broker without port": {func(o *Options) { o.Brokers = []string{"kafka"} }, `"kafka" is not an address`},
		"broker without host": {func(o *Options) { o.Brokers = []string{":9092"} }, "is not an address"},
		"broker with scheme":  {func(o *Options) { o.Brokers = []string{"kafka://a:1"} }, "no scheme"},
		"brokers in one":      {func(o *Options) { o.Brokers = []string{"a:1,b:2"} }, "is not an address"},
		"port zero":           {func(o *Options) { o.Brokers = []string{"a:0"} }, "from 1 to 65535"},
		"port too high":       {func(o *Options) { o.Brokers = []string{"a:65536"} }, "from 1 to 65535"},
		"no topic":            {func(o *Options) { o.Topic = "" }, `"" is not a name of a topic`},
		"topic characters":    {func(o *Options) { o.Topic = "a b" }, `TOPIC: "a b" is not a name of a topic`},
		"topic dots":          {func(o *Options) { o.Topic = ".." }, "is not a name of a topic"},
		"compression":         {func(o *Options) { o.Compression = "brotli" }, `COMPRESSION is "brotli"`},
		"no CA file": {
			func(o *Options) { o.TLS, o.TLSCAFile = true, "/nowhere/ca.pem" }, "TLS_CA_FILE: open /nowhere/ca.pem",
		},
		"CA file without PEM": {func(o *Options) { o.TLS, o.TLSCAFile = true, noPEM }, "holds no certificate"},
		"key of another cert": {
			func(o *Options) { o.TLS, o.TLSCertFile, o.TLSKeyFile = true, ca.ClientCertFile, ca.ServerKeyFile },
			"TLS_CERT_FILE and TLS_KEY_FILE",
		},
		"mechanism": {
			func(o *Options) { o.SASLMechanism, o.SASLUsername, o.SASLPassword = "GSSAPI", "u", "hunter2" },
			`SASL_MECHANISM is "GSSAPI"`,
		},
		"NUL in PLAIN": {
			func(o *Options) { o.SASLMechanism, o.SASLUsername, o.SASLPassword = saslPlain, "u", "hunter2\x00" }, "holds a NUL",
		},
		"SCRAM prohibits": {func(o *Options) {
			o.SASLMechanism, o.SASLUsername, o.SASLPassword = saslScramSHA512, "u", "hunter2\x07"
		}, "SCRAM does not allow"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(testOptions(t, []string{"127.0.0.1:1"}, tt.change))
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestNewListsEverythingThatIsWrong(t *testing.T) {
	_, err := New(Options{Name: "audit", Compression: "x", TLS: true, TLSCAFile: "y", SASLMechanism: "z"})
	for _, want := range []string{
		`kafka sink "audit"`, "BROKERS", "TOPIC", "COMPRESSION", "TLS_CA_FILE", "SASL_MECHANISM",
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestNewNeedsNoBroker(t *testing.T) {
	s := open(t, []string{"127.0.0.1:1"})
	require.Equal(t, "test", s.Name())
	require.Equal(t, -1, s.Partition(event(1, "k")))
}

func TestClassification(t *testing.T) {
	for kind, codes := range map[bridge.FailureKind][]int{
		bridge.FailureRetry:   {-1, 1, 2, 3, 5, 6, 7, 8, 9, 13, 19, 20, 56, 74, 75, 89, 100, 999},
		bridge.FailureReject:  {10, 18, 87},
		bridge.FailureBlocked: {17, 21, 29, 31, 32, 33, 34, 35, 43, 44, 58, 76},
	} {
		for _, code := range codes {
			got, _ := classifyCode(nil, kafkagoError(code))
			require.Equal(t, kind.String(), got.String(), "code %d", code)
		}
	}
}

func TestAnEventsAddressIsItsTopicAndKey(t *testing.T) {
	e := bridge.Event{PartitionKey: "inv_1", About: bridge.About{Application: "invoices"}}
	for template, want := range map[string]string{"{application}": "invoices", "{sandbox}": "inv_1", "": "inv_1"} {
		address, key := (&Settings{Topic: "events", Key: template}).Address(e)
		require.Equal(t, []string{"events", want}, []string{address, key})
	}
}
