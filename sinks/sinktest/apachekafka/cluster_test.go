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
	"github.com/twmb/franz-go/pkg/sasl"
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return cl.ProduceSync(ctx, r).FirstErr()
}

// TestCluster asks three nodes for whatever a cluster can be asked, and leaves them running, one of them paused.
func TestCluster(t *testing.T) {
	t.Parallel()
	apachekafka.Require(t)
	var processes []int
	t.Run("running", func(t *testing.T) {
		proxied := map[int]string{}
		c := apachekafka.Start(t, apachekafka.Options{
			Nodes: 3, Users: map[string]string{"alice": `s3cr"et \`}, ProxyUsers: true, ClientCertificates: true,
			Proxy: func(node int, address string) string {
				proxied[node] = address
				return "127.0.0.1:" + strconv.Itoa(node)
			},
		})
		require.Equal(t, []int{1, 2, 3}, c.Nodes())
		require.Len(t, proxied, 3)
		require.Equal(t, []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, c.ProxiedBrokers())
		t.Run("the console consumer reads what a client wrote", func(t *testing.T) { testConsole(t, c) })
		t.Run("users", func(t *testing.T) { testUsers(t, c, proxied[1]) })
		t.Run("nodes come and go", func(t *testing.T) { testNodes(t, c) })
		processes = c.ProcessIDs()
		require.Len(t, processes, 3)
		c.Pause(t, 1) // it must end nevertheless
	})
	for _, process := range processes {
		require.ErrorIs(t, syscall.Kill(process, 0), syscall.ESRCH)
	}
}

func testConsole(t *testing.T, c *apachekafka.Cluster) {
	c.CreateTopic(t, "console", 4, 3, nil)
	cl := client(t, c.Brokers())
	var keys []string
	for i := range 8 {
		keys = append(keys, "ключ-"+strconv.Itoa(i))
	}
	for _, key := range keys {
		require.NoError(t, produce(t, cl, &kgo.Record{
			Topic: "console", Key: []byte(key), Value: []byte("line\nof " + key),
			Headers:   []kgo.RecordHeader{{Key: "one", Value: []byte("a:b,c")}, {Key: "two"}},
			Timestamp: time.UnixMilli(1700000000123),
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
}

// testUsers logs in by every way there is, at the address behind the proxy too.
func testUsers(t *testing.T, c *apachekafka.Cluster, proxied string) {
	overTLS := kgo.DialTLSConfig(&tls.Config{RootCAs: c.CA().Pool, MinVersion: tls.VersionTLS12})
	// One request to one node: a client would go on to the addresses that the cluster tells, and nobody listens at those
	// of the proxies.
	ask := func(address string, opts ...kgo.Opt) error {
		_, err := kmsg.NewPtrApiVersionsRequest().RequestWith(t.Context(), client(t, []string{address}, opts...))
		return err
	}
	for _, address := range append(c.SASLBrokers(), proxied) {
		for password, want := range map[string]error{`s3cr"et \`: nil, "wrong": kerr.SaslAuthenticationFailed} {
			s := scram.Auth{User: "alice", Pass: password}
			for _, mechanism := range []sasl.Mechanism{
				plain.Auth{User: "alice", Pass: password}.AsMechanism(), s.AsSha256Mechanism(), s.AsSha512Mechanism(),
			} {
				require.ErrorIs(t, ask(address, overTLS, kgo.SASL(mechanism)), want, "%s at %s", mechanism.Name(), address)
			}
		}
	}
	for _, address := range c.TLSBrokers() {
		require.NoError(t, ask(address, kgo.DialTLSConfig(c.CA().ClientTLS(t))))
		require.Error(t, ask(address, overTLS), "without a client's certificate")
	}
}

func testNodes(t *testing.T, c *apachekafka.Cluster) {
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
