package nats_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// A server in another region is 150 ms away and back. Its connections take TCP, TLS 1.2 with two round trips, and a
// login. No time limit may be shorter than that, and what one webhook has for a key must not take a round trip for each
// event.
func TestAServerFarAway(t *testing.T) {
	t.Parallel()
	const distance, functions = 75 * time.Millisecond, 1000
	ca := testcert.New(t)
	srv := natsserver.Single(t, func(o *server.Options) {
		o.TLSConfig = ca.ServerTLS(t, false)
		o.TLSConfig.MaxVersion = tls.VersionTLS12
		o.Username, o.Password = "bridge", "s3cret"
	})
	proxy := faultproxy.New(t, srv.Addr())
	proxy.Distance(distance)
	o := options(t, "nats://"+proxy.Addr())
	o.TLSCAFile, o.User, o.Password = ca.CAFile, "bridge", "s3cret"
	sink := open(t, o)
	require.Eventually(t, func() bool { return sink.Check(t.Context()) == nil }, bound, 20*time.Millisecond)

	events := sinktest.Events("far", functions, 1)
	for i := range events {
		events[i].Origin = bridge.Origin{Webhook: bridge.WebhookDigest("msg_far", nil), Index: i}
	}
	began := time.Now()
	for i, err := range sink.Publish(t.Context(), events) {
		require.NoErrorf(t, err, "event %d", i)
	}
	require.Less(t, time.Since(began), functions*2*distance/10, "each event of a webhook took a round trip")
	require.NoError(t, sink.Check(t.Context()))
}
