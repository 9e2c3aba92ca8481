package nats_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// A server that leaves a cluster drops what it has been sent. The connection to another one does not tell.
func TestWhatALeaderThatLeftWasSentIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t, natsserver.WithoutJetStream)
	cluster := natsserver.Connect(t, srv.URL())
	ledBy := func(leader string) (stop func()) {
		return answer(t, cluster, "$JS.API.STREAM.INFO.TENSORLAKE", fmt.Sprintf(
			`{"type":"io.nats.jetstream.api.v1.stream_info_response","config":{"name":"TENSORLAKE","storage":"file",`+
				`"subjects":["tensorlake.>"],"num_replicas":1},"created":"2026-01-01T00:00:00Z","state":{},`+
				`"cluster":{"leader":%q,"replicas":[{"name":"other","current":true}]}}`, leader))
	}
	for name, next := range map[string]string{"it stays": "first", "it leaves": "second"} {
		t.Run(name, func(t *testing.T) {
			stop := ledBy("first")
			o := options(t, srv.URL())
			if next == "first" {
				o.AckTimeout = 4 * time.Second
			}
			sink := open(t, o)
			require.NoError(t, sink.Check(t.Context()))
			events, err := cluster.SubscribeSync("tensorlake.>") // which nobody acknowledges
			require.NoError(t, err)
			require.NoError(t, cluster.Flush())
			defer func() { require.NoError(t, events.Unsubscribe()) }()
			began := time.Now()
			published := make(chan error, 1)
			go func(sink *nats.Sink) { published <- sink.Publish(t.Context(), sinktest.Events("one", 1, 1))[0] }(sink)
			_, err = events.NextMsg(bound)
			require.NoError(t, err)
			stop()
			defer ledBy(next)()
			err = <-published
			if next == "first" {
				require.ErrorContains(t, err, "has not acknowledged")
				require.GreaterOrEqual(t, time.Since(began), o.AckTimeout)
				return
			}
			require.ErrorContains(t, err, "another leader")
		})
	}
}
