package kafka

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// A broker in another region is 150 ms away and back. Its connections take TCP, TLS 1.2 with two round trips, and a
// login by SCRAM. No time limit may be shorter than that, and what there is to do must not take a round trip for each
// event or partition.
func TestABrokerFarAway(t *testing.T) {
	t.Parallel()
	const partitions, functions = 100, 1000
	ca := testcert.New(t)
	old := ca.ServerTLS(t, false)
	old.MaxVersion = tls.VersionTLS12
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(partitions, testTopic), kfake.TLS(old),
		kfake.EnableSASL(), kfake.Superuser(saslScramSHA512, "bridge", password),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			listener, err := net.Listen(network, address)
			if err != nil {
				return nil, err
			}
			proxy := faultproxy.New(t, listener.Addr().String())
			proxy.Distance(75 * time.Millisecond)
			at, err := net.ResolveTCPAddr("tcp", proxy.Addr())
			return advertised{listener, at}, err
		}))
	var checks, batches atomic.Int64
	count := func(key kmsg.Key, n *atomic.Int64) {
		c.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			n.Add(1)
			return nil, nil, false
		})
	}
	count(kmsg.ListOffsets, &checks)
	count(kmsg.Produce, &batches)
	s := open(t, c.ListenAddrs(), withTLS(ca), withSASL(saslScramSHA512), func(o *Options) { o.timing = timing{} })

	// The limits are those of production, and a starved machine may exceed them now and then.
	well := func(ask func() error, otherwise string) {
		t.Helper()
		require.Eventually(t, func() bool { return ask() == nil }, within, 10*time.Millisecond, otherwise)
	}
	check := func() error { return s.Check(context.Background()) }
	well(check, "a limit is too short")
	publishUntilStored(t, s, events(functions, 1))
	require.Less(t, batches.Load(), int64(functions/2), "one key's events, each with a round trip")
	before := checks.Load()
	well(check, "a limit is too short")
	require.Less(t, checks.Load()-before, int64(partitions/2), "a round trip for each partition")
	well(func() error { return s.isThere(context.Background(), c.ListenAddrs()[0]) },
		"a broker that is well counts as silent")
}
