package nats_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// A bridge without events looks at its stream now and then, and when it starts.
func TestAStreamThatIsMadeAnewIsFoundByALook(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "before")
	kept := sink.HighWater().Position()
	require.EqualValues(t, 1, kept["stream TENSORLAKE"].Last)
	require.NoError(t, js.DeleteStream(t.Context(), "TENSORLAKE"))
	// It is created again, once the server has removed the old one's files.
	requireCheckPasses(t, sink)
	want := []bridge.WentBack{{Log: "stream TENSORLAKE", Acknowledged: 1, Another: true}}
	require.Equal(t, want, sink.HighWater().Found())

	next := newSink(t, options(t, srv.URL()))
	next.HighWater().Restore(kept)
	require.Eventually(t, func() bool {
		_ = next.Check(t.Context())
		return len(next.HighWater().Found()) > 0
	}, bound, 20*time.Millisecond)
	require.Equal(t, want, next.HighWater().Found())
	require.NoError(t, next.Close(t.Context()))
}

// Before a bridge publishes it looks, so that it knows how much of what the stream holds is of before.
func TestAStreamOfAnOlderCopyIsFoundBeforeTheFirstEvent(t *testing.T) {
	store := t.TempDir()
	srv := natsserver.Single(t, func(o *server.Options) { o.StoreDir = store })
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "first")
	srv.Stop(t)
	older := filepath.Join(t.TempDir(), "older")
	require.NoError(t, os.CopyFS(older, os.DirFS(store)))
	srv.Start(t)
	requirePublishes(t, sink, "second")
	kept := sink.HighWater().Position()
	srv.Stop(t)
	require.NoError(t, os.RemoveAll(store))
	require.NoError(t, os.CopyFS(store, os.DirFS(older)))
	srv.Start(t)

	want := []bridge.WentBack{{Log: "stream TENSORLAKE", Acknowledged: 2, Ends: 1, Whole: true}}
	requirePublishes(t, sink, "third")
	require.Equal(t, want, sink.HighWater().Found(), "by a sink that is connected again")
	srv.Stop(t)
	require.NoError(t, os.RemoveAll(store))
	require.NoError(t, os.CopyFS(store, os.DirFS(older)))
	srv.Start(t)
	next := open(t, options(t, srv.URL()))
	require.Eventually(t, func() bool { return next.Check(t.Context()) == nil }, bound, 20*time.Millisecond)
	next.HighWater().Restore(kept)
	requirePublishes(t, next, "fourth")
	require.Equal(t, want, next.HighWater().Found(), "by one that starts")
}

// Nothing overtakes the look, and one that was cut off is none.
func TestNothingIsPublishedBeforeTheStreamHasBeenCompared(t *testing.T) {
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	var deaf atomic.Bool
	asked := make(chan struct{}, 1)
	_, err := nc.Subscribe("api.>", func(msg *natsgo.Msg) {
		if deaf.Load() {
			select {
			case asked <- struct{}{}:
			default:
			}
			return
		}
		msg.Subject = "$JS.API" + strings.TrimPrefix(msg.Subject, "api")
		_ = nc.PublishMsg(msg)
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	o := options(t, srv.URL())
	o.APIPrefix, o.AckTimeout = "api", bound
	sink := open(t, o)
	requirePublishes(t, sink, "first")
	acknowledged := sink.HighWater().Position()["stream TENSORLAKE"]
	acknowledged.Last++ // which the stream has lost
	sink.HighWater().Restore(bridge.Position{"stream TENSORLAKE": acknowledged})
	require.NoError(t, sink.Reconnect(t.Context()))

	deaf.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	checked := make(chan error, 1)
	go func() { checked <- sink.Check(ctx) }()
	<-asked
	short, end := context.WithCancel(t.Context())
	defer time.AfterFunc(time.Second, end).Stop()
	require.Error(t, sink.Publish(short, sinktest.Events("early", 1, 1))[0])
	cancel()
	require.Error(t, <-checked)
	deaf.Store(false)
	requirePublishes(t, sink, "late")
	want := []bridge.WentBack{{Log: "stream TENSORLAKE", Acknowledged: 2, Ends: 1, Whole: true}}
	require.Equal(t, want, sink.HighWater().Found())
}

// What is published within the window for duplicates has the number of the first time.
func TestARepeatThatTheStreamDropsIsNoStepBack(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, options(t, srv.URL()))
	for range 3 {
		for _, err := range sink.Publish(t.Context(), sinktest.Events("again", 10, 3)) {
			require.NoError(t, err)
		}
	}
	require.Positive(t, sink.Duplicates())
	require.Empty(t, sink.HighWater().Found())
}

// An embedded stream whose settings cannot be followed is compared all the same.
func TestAStreamThatCannotFollowItsSettingsIsCompared(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	o := options(t, srv.URL())
	o.Embedded = true
	sink := open(t, o)
	requirePublishes(t, sink, "before")
	kept := sink.HighWater().Position()
	require.NoError(t, sink.Close(t.Context()))
	require.NoError(t, js.DeleteStream(t.Context(), "TENSORLAKE"))
	createStream(t, js, natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"old.>"}})
	createStream(t, js, natsjs.StreamConfig{Name: "ANOTHER", Subjects: []string{"taken.>"}})

	o.Subject = template(t, "taken.{route}")
	next := open(t, o)
	next.HighWater().Restore(kept)
	require.ErrorContains(t, next.Check(t.Context()), "have stream TENSORLAKE follow its settings")
	want := []bridge.WentBack{{Log: "stream TENSORLAKE", Acknowledged: 1, Another: true}}
	require.Equal(t, want, next.HighWater().Found())
}
