package nats_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// leafBeforeSmallHub returns a leaf node that takes 1 MB, whose hub takes 100 kB and drops the link at more, and a
// client of the hub.
func leafBeforeSmallHub(t *testing.T) (leaf *natsserver.Server, hub *natsgo.Conn) {
	t.Helper()
	srv := natsserver.Single(t, natsserver.ForLeaves(t), func(o *server.Options) { o.MaxPayload = 100_000 })
	hub = natsserver.Connect(t, srv.URL())
	createStream(t, natsserver.JetStream(t, hub), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>", deadLetters},
	})
	leaf = natsserver.Leaf(t, srv,
		permissions(&server.SubjectPermission{Allow: []string{"tensorlake.>", deadLetters}}, nil))
	return leaf, hub
}

func throughLeaf(t *testing.T, leaf *natsserver.Server) nats.Options {
	t.Helper()
	o := options(t, leaf.URL())
	o.User, o.Password = "bridge", "s3cret"
	o.AckTimeout = ackTimeout
	o.DeadLetter = deadLetters
	return o
}

func TestAMessageThatBreaksTheWayIsRejected(t *testing.T) {
	leaf, hub := leafBeforeSmallHub(t)
	sink := open(t, throughLeaf(t, leaf))
	requireOne(t, sink, sinktest.Event("warm", 0, "warm"))

	events := sinktest.Events("mixed", 20, 5)
	large := &events[7]
	large.Data = bytes.Repeat([]byte("1"), 200_000)
	var rejected error
	left := events
	require.Eventually(t, func() bool {
		var again []bridge.Event
		for i, err := range sink.Publish(t.Context(), left) {
			switch {
			case err == nil:
			case left[i].ID == large.ID && bridge.KindOf(err) == bridge.FailureReject:
				rejected = err
			default:
				require.NotEqual(t, bridge.FailureReject, bridge.KindOf(err), "event %s: %v", left[i].ID, err)
				again = append(again, left[i])
			}
		}
		left = again
		return len(left) == 0
	}, 2*bound, 20*time.Millisecond, "%d events do not get through", len(left))
	require.ErrorContains(t, rejected, "the way to stream TENSORLAKE breaks at this message of 20")
	require.ErrorContains(t, rejected, "max_payload")
	require.Len(t, natsserver.Messages(t, hub, "TENSORLAKE"), 1+len(events)-1)

	// So it is with what is to be told of it: the dead letter loses its data.
	dead := []bridge.DeadLetter{{Event: *large, Reason: rejected.Error(), Attempts: 5}}
	require.Eventually(t, func() bool { return sink.PublishDeadLetters(t.Context(), dead)[0] == nil },
		2*bound, 20*time.Millisecond)
	messages := natsserver.Messages(t, hub, "TENSORLAKE")
	require.Equal(t, deadLetters, messages[len(messages)-1].Subject())
	require.Less(t, len(messages[len(messages)-1].Data()), 1000)
}

// Nothing of what merely happens to be in flight is given up: not by a cluster that has lost its quorum, whose leader
// answers on for a while and acknowledges nothing, and not by a link that is down.
func TestAnOutageRejectsNothing(t *testing.T) {
	cluster := natsserver.Cluster(t, 3)
	o := options(t, cluster.URL())
	o.Replicas, o.AckTimeout = 3, 300*time.Millisecond
	sink := open(t, o)
	requirePublishes(t, sink, "warm")
	leader := cluster.Leader(t, "TENSORLAKE")
	for _, s := range cluster {
		if s != leader {
			s.Stop(t)
		}
	}
	events := sinktest.Events("outage", 4, 2)
	quorum := func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "has no quorum: 1 of its 3 servers are there (offline: node") &&
			strings.Contains(err.Error(), "and 2 are needed")
	}
	// A leader that has lost the others for long leads no more, and the rest of the quorum is not named then.
	var published, checked error
	tries, publishSays, checkSays := 0, false, false
	require.Eventually(t, func() bool {
		tries++
		for _, err := range sink.Publish(t.Context(), events) {
			require.Error(t, err)
			require.NotEqual(t, bridge.FailureReject, bridge.KindOf(err), "%v", err)
			published = err
		}
		checked = sink.Check(t.Context()) // the server may need seconds to miss the others
		publishSays, checkSays = publishSays || quorum(published), checkSays || quorum(checked)
		return tries >= 12 && publishSays && checkSays
	}, 2*bound, 20*time.Millisecond, "%v; %v", &published, &checked)
	cluster.Start(t)
	require.Eventually(t, func() bool {
		for _, err := range sink.Publish(t.Context(), events) {
			if err != nil {
				return false
			}
		}
		return true
	}, 4*bound, 20*time.Millisecond)
}

// A server that merely stands still makes suspects of what is in flight, and takes all of it when it is back.
func TestSuspectsOfAStallAreTaken(t *testing.T) {
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	o := options(t, "nats://"+proxy.Addr())
	o.AckTimeout = 300 * time.Millisecond
	sink := open(t, o)
	requirePublishes(t, sink, "warm")
	events := sinktest.Events("stall", 100, 10)
	for range 6 {
		proxy.StallAnswersAfter(0)
		for _, err := range sink.Publish(t.Context(), events) {
			require.Error(t, err)
			require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
		}
		proxy.Resume()
		requireOne(t, sink, sinktest.Event("between", 0, "between"))
	}
	require.Eventually(t, func() bool {
		for _, err := range sink.Publish(t.Context(), events) {
			if err != nil {
				return false
			}
		}
		return true
	}, bound, 20*time.Millisecond)
}
