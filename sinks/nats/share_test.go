package nats_test

import (
	"fmt"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// To a broker that is far away each wait for an acknowledgement is a round trip. A subscriber in the stream's place
// acknowledges nothing until all that may go without waiting is there.
func TestAWebhooksShareOfAKeyGoesTogetherAndOneShareAfterTheOther(t *testing.T) {
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	createStream(t, natsserver.JetStream(t, nc), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.workflow.>"},
	})
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "warm")

	const functions = 200
	shares := [][]bridge.Event{nil, nil, nil}
	for webhook := range 2 {
		for i := range functions {
			e := sinktest.Event(fmt.Sprintf("webhook-%d", webhook), i, "invocation")
			e.Origin = bridge.Origin{Webhook: bridge.WebhookDigest("msg", []byte{byte(webhook)}), Index: i}
			shares[2*webhook] = append(shares[2*webhook], e)
		}
	}
	summary := shares[0][functions-1]
	summary.Origin.Index, summary.Concludes = functions, true
	shares[1] = []bridge.Event{summary}
	var events []bridge.Event
	for _, share := range shares {
		for i := range share {
			share[i].Route = []string{"elsewhere"}
		}
		events = append(events, share...)
	}

	arrived := make(chan *natsgo.Msg, len(events))
	sub, err := nc.ChanSubscribe("tensorlake.elsewhere", arrived)
	require.NoError(t, err)
	defer func() { require.NoError(t, sub.Unsubscribe()) }()
	require.NoError(t, nc.Flush())
	done := make(chan []error, 1)
	go func() { done <- sink.Publish(t.Context(), events) }()
	for _, share := range shares {
		var together []*natsgo.Msg
		for range share {
			together = append(together, <-arrived)
		}
		require.NoError(t, nc.Flush())
		require.Empty(t, arrived, "the next share waits")
		for i, m := range together {
			require.Equal(t, share[i].Origin.DedupeID(m.Subject), m.Header.Get(natsjs.MsgIDHeader), "in their order")
			require.NoError(t, m.Respond(fmt.Appendf(nil, `{"stream":"TENSORLAKE","seq":%d}`, i+1)))
		}
	}
	for _, err := range <-done {
		require.NoError(t, err)
	}
}
