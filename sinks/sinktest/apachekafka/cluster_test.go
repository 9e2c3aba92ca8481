package apachekafka_test

import (
	"context"
	"crypto/tls"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func client(t *testing.T, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(brokers...))...)
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// produce stores a record, or says why not within a bound.
func produce(t *testing.T, cl *kgo.Client, r *kgo.Record) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return cl.ProduceSync(ctx, r).FirstErr()
}

func TestOneNode(t *testing.T) {
	t.Parallel()
	apachekafka.Require(t)
	var process int
	t.Run("a cluster", func(t *testing.T) {
		c := oneNode(t)
		process = c.ProcessIDs()[0]
		c.Pause(t, 1) // it must end nevertheless
	})
	require.ErrorIs(t, syscall.Kill(process, 0), syscall.ESRCH)
}

// oneNode tries what one node can be asked, and returns it still running.
func oneNode(t *testing.T) *apachekafka.Cluster {
	t.Helper()
	c := apachekafka.Start(t, apachekafka.Options{
		Users:              map[string]string{"alice": `s3cr"et \`, "bob": "other"},
		ClientCertificates: true,
		Config:             map[string]string{"message.max.bytes": "5000"},
	})
	require.Equal(t, []int{1}, c.Nodes())

	t.Run("the console consumer reads what a client wrote", func(t *testing.T) {
		c.CreateTopic(t, "console", 4, 1, nil)
		cl := client(t, c.Brokers())
		var keys []string
		for i := range 8 {
			keys = append(keys, "ключ-"+strconv.Itoa(i))
		}
		for _, key := range keys {
			require.NoError(t, produce(t, cl, &kgo.Record{
				Topic: "console", Key: []byte(key), Value: []byte("line\nof " + key),
				Headers: []kgo.RecordHeader{{Key: "one", Value: []byte("a:b,c")}, {Key: "two"}}, Timestamp: time.UnixMilli(1700000000123),
			}))
		}
		partitions := apachekafka.JavaPartitions(t, keys, 4)
		for _, r := range c.ConsoleConsume(t, "console", len(keys)) {
			i := slices.Index(keys, r.Key)
			require.GreaterOrEqual(t, i, 0, "key %q", r.Key)
			require.Equal(t, partitions[i], r.Partition)
			require.Equal(t, "line\nof "+r.Key, r.Value)
			require.Equal(t, []apachekafka.JavaHeader{{Key: "one", Value: "a:b,c"}, {Key: "two", Value: "null"}}, r.Headers)
			require.Equal(t, time.UnixMilli(1700000000123), r.Timestamp)
		}
	})

	t.Run("settings of brokers and topics hold", func(t *testing.T) {
		c.CreateTopic(t, "settings", 1, 1, nil)
		cl := client(t, c.Brokers(), kgo.ProducerBatchCompression(kgo.NoCompression()))
		big := func() *kgo.Record { return &kgo.Record{Topic: "settings", Value: make([]byte, 6000)} }
		require.ErrorIs(t, produce(t, cl, big()), kerr.MessageTooLarge)
		c.ConfigureTopic(t, "settings", map[string]string{"max.message.bytes": "10000"})
		require.Eventually(t, func() bool { return produce(t, cl, big()) == nil }, 10*time.Second, 20*time.Millisecond)
		c.DeleteTopic(t, "settings")
		require.ErrorIs(t, produce(t, client(t, c.Brokers(), kgo.UnknownTopicRetries(0)), big()), kerr.UnknownTopicOrPartition)
	})

	t.Run("users", func(t *testing.T) {
		c.CreateTopic(t, "users", 1, 1, nil)
		overTLS := kgo.DialTLSConfig(&tls.Config{RootCAs: c.CA().Pool, MinVersion: tls.VersionTLS12})
		record := func() *kgo.Record { return &kgo.Record{Topic: "users", Value: []byte("x")} }
		login := func(t *testing.T, mechanism, password string) error {
			t.Helper()
			s := scram.Auth{User: "alice", Pass: password}
			as := map[string]kgo.Opt{
				"PLAIN":         kgo.SASL(plain.Auth{User: "alice", Pass: password}.AsMechanism()),
				"SCRAM-SHA-256": kgo.SASL(s.AsSha256Mechanism()),
				"SCRAM-SHA-512": kgo.SASL(s.AsSha512Mechanism()),
			}[mechanism]
			return client(t, c.SASLBrokers(), overTLS, as).Ping(t.Context())
		}
		for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
			require.NoError(t, login(t, mechanism, `s3cr"et \`), mechanism)
			require.ErrorIs(t, login(t, mechanism, "wrong"), kerr.SaslAuthenticationFailed, mechanism)
		}

		alice := client(t, c.SASLBrokers(), overTLS, kgo.SASL(plain.Auth{User: "alice", Pass: `s3cr"et \`}.AsMechanism()))
		require.NoError(t, produce(t, alice, record()))
		c.DenyWrite(t, "alice", "users")
		require.Eventually(t, func() bool {
			return kerr.TopicAuthorizationFailed == produce(t, alice, record()) //nolint:errorlint // the very value
		}, 10*time.Second, 20*time.Millisecond)
		c.AllowWrite(t, "users")
		require.Eventually(t, func() bool { return produce(t, alice, record()) == nil }, 10*time.Second, 20*time.Millisecond)

		c.ChangePassword(t, "alice", "new")
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			require.NoError(t, login(t, mechanism, "new"), mechanism)
			require.ErrorIs(t, login(t, mechanism, `s3cr"et \`), kerr.SaslAuthenticationFailed, mechanism)
		}
	})

	t.Run("client certificates", func(t *testing.T) {
		require.NoError(t, client(t, c.TLSBrokers(), kgo.DialTLSConfig(c.CA().ClientTLS(t))).Ping(t.Context()))
		without := &tls.Config{RootCAs: c.CA().Pool, MinVersion: tls.VersionTLS12}
		require.Error(t, client(t, c.TLSBrokers(), kgo.DialTLSConfig(without)).Ping(t.Context()))
	})
	return c
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	proxied := map[int]string{}
	c := apachekafka.Start(t, apachekafka.Options{Nodes: 3, Users: map[string]string{"alice": "secret"}, ProxyUsers: true, Proxy: func(node int, address string) string {
		proxied[node] = address
		return "127.0.0.1:" + strconv.Itoa(node)
	}})
	require.Len(t, proxied, 3)
	require.Equal(t, []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, c.ProxiedBrokers())
	overTLS := kgo.DialTLSConfig(&tls.Config{RootCAs: c.CA().Pool, MinVersion: tls.VersionTLS12})
	for password, want := range map[string]error{"secret": nil, "wrong": kerr.SaslAuthenticationFailed} {
		login := kgo.SASL(scram.Auth{User: "alice", Pass: password}.AsSha512Mechanism())
		_, err := kmsg.NewPtrApiVersionsRequest().RequestWith(t.Context(), client(t, []string{proxied[1]}, overTLS, login))
		require.ErrorIs(t, err, want)
	}
	c.CreateTopic(t, "three", 1, 3, nil)
	cl := client(t, c.Brokers())
	record := func() *kgo.Record { return &kgo.Record{Topic: "three", Value: []byte("x")} }
	require.NoError(t, produce(t, cl, record()))

	require.Equal(t, map[int]int64{0: 1}, c.EndOffsets(t, "three"))
	for _, to := range c.Nodes() {
		c.MoveLeader(t, "three", 0, to)
		require.Equal(t, to, c.Leader(t, "three", 0))
	}
	killed := c.Leader(t, "three", 0)
	c.Kill(t, killed)
	require.NotEqual(t, killed, c.Leader(t, "three", 0))
	require.NoError(t, produce(t, cl, record()))
	c.StartNode(t, killed)

	paused := c.Leader(t, "three", 0)
	c.Pause(t, paused)
	require.NotEqual(t, paused, c.Leader(t, "three", 0))
	c.Resume(t, paused)

	c.Stop(t, 1)
	c.Kill(t, 2, 3)
	require.Error(t, cl.Ping(t.Context()))
	c.StartNode(t, c.Nodes()...)
	c.Leader(t, "three", 0)
	require.Len(t, c.ConsoleConsume(t, "three", 2), 2)
}
