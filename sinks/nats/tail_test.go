package nats_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// reader is a Tail in the background.
type reader struct {
	got  chan bridge.Received
	done chan error
}

func startTail(t *testing.T, o nats.Options, from bridge.TailStart) *reader {
	t.Helper()
	r := &reader{got: make(chan bridge.Received, 1000), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- nats.Tail(ctx, o, from, func(received bridge.Received) error {
			r.got <- received
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r
}

func (r *reader) next(t *testing.T) bridge.Received {
	t.Helper()
	select {
	case received := <-r.got:
		return received
	case err := <-r.done:
		require.FailNow(t, "Tail ended", "%v", err)
	case <-time.After(bound):
		require.FailNow(t, "Tail shows nothing")
	}
	return bridge.Received{}
}

func (r *reader) requireIDs(t *testing.T, events []bridge.Event) {
	t.Helper()
	for _, want := range events {
		require.Equal(t, want.ID, r.next(t).Event.ID)
	}
}

func publish(t *testing.T, sink *nats.Sink, events []bridge.Event) {
	t.Helper()
	for i := range events {
		requireOne(t, sink, events[i])
	}
}

func requireOne(t *testing.T, sink *nats.Sink, event bridge.Event) {
	t.Helper()
	var last error
	require.Eventually(t, func() bool {
		last = sink.Publish(t.Context(), []bridge.Event{event})[0]
		return last == nil
	}, bound, 20*time.Millisecond)
	require.NoError(t, last)
}

func TestTailAll(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	sink := open(t, o)
	events := sinktest.Events("all", 5, 2)
	publish(t, sink, events)
	r := startTail(t, o, bridge.TailStart{All: true})
	first := r.next(t)
	require.Equal(t, "tensorlake.workflow.all.fn_0.success", first.Address)
	require.WithinDuration(t, time.Now(), first.StoredAt, time.Minute)
	require.Equal(t, events[0].Data, first.Event.Data)
	require.Equal(t, events[0].Type, first.Event.Type)
	r.requireIDs(t, events[1:])
	more := sinktest.Events("more", 3, 1)
	publish(t, sink, more)
	r.requireIDs(t, more)
}

func TestTailEndsWithWhatIsStored(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	end := bridge.TailStart{All: true, End: true}
	require.ErrorContains(t, <-startTail(t, o, end).done, "stream "+o.Stream+" does not exist")
	sink := open(t, o)
	require.Eventually(t, func() bool { return sink.Check(t.Context()) == nil }, bound, 20*time.Millisecond)
	require.NoError(t, <-startTail(t, o, end).done, "nothing is stored")
	events := sinktest.Events("all", 5, 2)
	publish(t, sink, events)
	r := startTail(t, o, end)
	require.NoError(t, <-r.done)
	require.Len(t, r.got, len(events))
	r.requireIDs(t, events)
}

func TestTailSince(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	sink := open(t, o)
	publish(t, sink, sinktest.Events("old", 3, 1))
	messages := natsserver.Messages(t, natsserver.Connect(t, srv.URL()), o.Stream)
	last, err := messages[2].Metadata()
	require.NoError(t, err)
	r := startTail(t, o, bridge.TailStart{Since: last.Timestamp})
	require.Equal(t, "old-2", r.next(t).Event.ID)
}

// consumers waits until there is a consumer on the stream.
func waitForConsumer(t *testing.T, js natsjs.JetStream, stream string) {
	t.Helper()
	require.Eventually(t, func() bool {
		s, err := js.Stream(t.Context(), stream)
		return err == nil && s.CachedInfo().State.Consumers > 0
	}, bound, 20*time.Millisecond, "Tail has not begun")
}

func TestTailNew(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	o := options(t, srv.URL())
	sink := open(t, o)
	publish(t, sink, sinktest.Events("old", 3, 1))
	r := startTail(t, o, bridge.TailStart{})
	waitForConsumer(t, js, o.Stream)
	events := sinktest.Events("new", 3, 1)
	publish(t, sink, events)
	r.requireIDs(t, events)
}

func TestTailWaitsForTheStream(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	srv.Stop(t)
	o := options(t, srv.URL())
	var logs logbook
	o.Logger = logs.logger()
	r := startTail(t, o, bridge.TailStart{})
	srv.Start(t)
	// Once it has found that there is no stream, all of one is new.
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), "does not exist yet") }, bound,
		20*time.Millisecond)
	events := sinktest.Events("first", 3, 1)
	publish(t, open(t, o), events)
	r.requireIDs(t, events)
}

func TestTailSurvives(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	o := options(t, srv.URL())
	sink := open(t, o)
	tailed := o
	tailed.URL = "nats://" + proxy.Addr()
	events := sinktest.Events("survives", 12, 1)
	publish(t, sink, events[:3])
	r := startTail(t, tailed, bridge.TailStart{All: true})
	r.requireIDs(t, events[:3])

	proxy.Cut()
	publish(t, sink, events[3:6])
	r.requireIDs(t, events[3:6])

	srv.Stop(t)
	srv.Start(t)
	publish(t, sink, events[6:9])
	r.requireIDs(t, events[6:9])

	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	require.NoError(t, js.DeleteStream(t.Context(), o.Stream))
	publish(t, sink, events[9:])
	r.requireIDs(t, events[9:])
	require.Empty(t, r.got, "nothing is shown twice")
}

func TestTailOtherFormats(t *testing.T) {
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	js := natsserver.JetStream(t, nc)
	createStream(t, js, natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}})
	o := options(t, srv.URL())
	event := sinktest.Event("formats", 0, "key")
	for _, format := range []cloudevents.Format{cloudevents.Structured, cloudevents.Plain} {
		o.Format = format
		event.ID = format.String()
		event.Origin.Index++
		requireOne(t, open(t, o), event)
	}
	_, err := js.PublishMsg(t.Context(), &natsgo.Msg{
		Subject: "tensorlake.x", Data: []byte("not ours"), Header: natsgo.Header{"ce-specversion": {"7.0"}},
	})
	require.NoError(t, err)
	r := startTail(t, o, bridge.TailStart{All: true})
	require.Equal(t, "structured", r.next(t).Event.ID)
	require.Equal(t, bridge.Event{Data: event.Data}, r.next(t).Event)
	require.Equal(t, bridge.Event{Data: []byte("not ours")}, r.next(t).Event)
}

func TestTailEnds(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	publish(t, open(t, o), sinktest.Events("ends", 5, 1))

	enough := errors.New("enough")
	seen := 0
	err := nats.Tail(t.Context(), o, bridge.TailStart{All: true}, func(bridge.Received) error {
		if seen++; seen == 3 {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	require.Equal(t, 3, seen)

	ctx, cancel := context.WithCancel(t.Context())
	err = nats.Tail(ctx, o, bridge.TailStart{All: true}, func(bridge.Received) error {
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)

	o.Stream = ""
	require.ErrorContains(t, nats.Tail(t.Context(), o, bridge.TailStart{}, nil), "not a name of a stream")
}

// A stream may allow one consumer alone, and whoever counts them finds none that a tail has left.
func TestTailLeavesNoConsumerBehind(t *testing.T) {
	srv := natsserver.Single(t)
	proxy := faultproxy.New(t, srv.Addr())
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	createStream(t, js, natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, MaxConsumers: 1})
	o := options(t, srv.URL())
	sink := open(t, o)
	publish(t, sink, sinktest.Events("left", 5, 1))
	o.URL = "nats://" + proxy.Addr()
	consumers := func() int {
		stream, err := js.Stream(t.Context(), o.Stream)
		require.NoError(t, err)
		return stream.CachedInfo().State.Consumers
	}
	require.NoError(t, nats.Tail(t.Context(), o, bridge.TailStart{All: true, End: true},
		func(bridge.Received) error { return nil }))
	require.Zero(t, consumers(), "after all that is stored")

	enough := errors.New("enough")
	require.ErrorIs(t, nats.Tail(t.Context(), o, bridge.TailStart{All: true},
		func(bridge.Received) error { return enough }), enough)
	require.Zero(t, consumers(), "after enough")

	ctx, interrupt := context.WithCancel(t.Context())
	require.ErrorIs(t, nats.Tail(ctx, o, bridge.TailStart{All: true}, func(bridge.Received) error {
		if consumers() == 1 {
			interrupt()
		}
		return nil
	}), context.Canceled)
	require.Zero(t, consumers(), "after an interrupt")

	// That of a connection that is lost is in the way of the next one's.
	seen := 0
	require.ErrorIs(t, nats.Tail(t.Context(), o, bridge.TailStart{All: true}, func(bridge.Received) error {
		switch seen++; seen {
		case 2:
			proxy.Cut()
			publish(t, sink, sinktest.Events("more", 1, 1))
		case 6: // which the lost connection cannot have had
			return enough
		}
		return nil
	}), enough)
	require.Zero(t, consumers(), "after a connection was lost")
}

func TestTailSaysWhatIsToMend(t *testing.T) {
	tests := map[string]func(*server.Options){
		"refuses the credentials": func(o *server.Options) { o.Username, o.Password = "other", "other" },
		"permission":              permissions(&server.SubjectPermission{Allow: []string{"$JS.API.STREAM.INFO.>"}}, nil),
	}
	for want, configure := range tests {
		t.Run(want, func(t *testing.T) {
			srv := natsserver.Single(t, configure)
			if want == "permission" {
				admin := natsserver.Connect(t, srv.URL(), natsgo.UserInfo("admin", "admin"))
				createStream(t, natsserver.JetStream(t, admin), natsjs.StreamConfig{
					Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"},
				})
			}
			o := options(t, srv.URL())
			o.User, o.Password = "bridge", "s3cret"
			err := nats.Tail(t.Context(), o, bridge.TailStart{}, func(bridge.Received) error { return nil })
			require.ErrorContains(t, err, want)
			require.NotContains(t, fmt.Sprint(err), "s3cret")
		})
	}
}
