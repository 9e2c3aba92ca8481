package nats_test

import (
	"testing"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// Whoever subscribes to the subject can answer in the stream's place.
func TestAnAnswerThatIsNotTheStreamsIsNoAcknowledgement(t *testing.T) {
	for answer, says := range map[string]string{
		`{"stream":"OTHER","seq":7}`:       `somebody else than stream TENSORLAKE answers messages to tensorlake.workflow.lied.fn_0.success (it is one of stream "OTHER")`,
		`{"stream":"TENSORLAKE","seq":0}`:  "it names no sequence",
		`{"stream":"TENSORLAKE"}`:          "it names no sequence",
		`{"seq":7}`:                        "its answer is no acknowledgement of a stream",
		`{}`:                               "its answer is no acknowledgement of a stream",
		`{"order":"taken","stream":["a"]}`: "its answer is no acknowledgement of a stream",
	} {
		t.Run(answer, func(t *testing.T) {
			srv := natsserver.Single(t)
			nc := natsserver.Connect(t, srv.URL())
			js := natsserver.JetStream(t, nc)
			stream := natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}}
			createStream(t, js, stream)
			sink := open(t, options(t, srv.URL()))
			requireOne(t, sink, sinktest.Event("true", 0, "key"))
			// From now on the stream keeps quiet, so that the liar is the first to answer.
			stream.NoAck = true
			_, err := js.UpdateStream(t.Context(), stream)
			require.NoError(t, err)
			liar, err := nc.Subscribe("tensorlake.>", func(m *natsgo.Msg) { _ = m.Respond([]byte(answer)) })
			require.NoError(t, err)
			require.NoError(t, nc.Flush())
			errs := sink.Publish(t.Context(), []bridge.Event{sinktest.Event("lied", 0, "key")})
			require.ErrorContains(t, errs[0], says)
			require.Equal(t, bridge.FailureBlocked, bridge.KindOf(errs[0]))
			require.NoError(t, liar.Unsubscribe())
		})
	}
}

func TestWhatTheStreamDropsAsADuplicateIsCounted(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, options(t, srv.URL()))
	events := sinktest.Events("repeated", 10, 3)
	for range 3 {
		publish(t, sink, events)
	}
	require.EqualValues(t, 20, sink.Duplicates())
	require.Len(t, natsserver.Messages(t, natsserver.Connect(t, srv.URL()), "TENSORLAKE"), 10)
}
