package nats_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func streamConfig(t *testing.T, js natsjs.JetStream) natsjs.StreamConfig {
	t.Helper()
	stream, err := js.Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	return stream.CachedInfo().Config
}

// createStream waits while the server still removes the files of an older stream of that name.
func createStream(t *testing.T, js natsjs.JetStream, config natsjs.StreamConfig) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := js.CreateStream(t.Context(), config)
		return err == nil
	}, bound, 20*time.Millisecond)
}

func TestStreamIsCreated(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	o := options(t, srv.URL())
	logs := &logbook{}
	o.Logger = logs.logger()
	sink := open(t, o)
	// Consumers find it before the first event.
	require.Eventually(t, func() bool {
		_, err := js.Stream(t.Context(), "TENSORLAKE")
		return err == nil
	}, bound, 20*time.Millisecond)
	config := streamConfig(t, js)
	require.Equal(t, []string{"tensorlake.>"}, config.Subjects)
	require.Equal(t, natsjs.FileStorage, config.Storage)
	require.Equal(t, natsjs.LimitsPolicy, config.Retention)
	require.Equal(t, natsjs.DiscardOld, config.Discard)
	require.Equal(t, 168*time.Hour, config.MaxAge)
	require.Equal(t, 10*time.Minute, config.Duplicates)
	require.Equal(t, 1, config.Replicas)
	requirePublishes(t, sink, "created")
	require.Contains(t, logs.String(), "created the stream")
	require.NotContains(t, logs.String(), "WARN", "what the sink creates is as configured")
}

func TestTheSizeOfAStream(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	o := options(t, srv.URL())
	o.MaxBytes = 1 << 20
	logs := &logbook{}
	o.Logger = logs.logger()
	requirePublishes(t, open(t, o), "created")
	config := streamConfig(t, js)
	require.EqualValues(t, 1<<20, config.MaxBytes)
	require.Equal(t, natsjs.DiscardOld, config.Discard)

	o.MaxBytes = 2 << 20
	requirePublishes(t, open(t, o), "somebody's")
	require.Equal(t, config, streamConfig(t, js), "somebody may have made it so")
	require.Contains(t, logs.String(), "its maximum size is 1048576 bytes, not 2097152")

	logs = &logbook{}
	o.Logger, o.Embedded = logs.logger(), true
	requirePublishes(t, open(t, o), "the bridge's own")
	config.MaxBytes = 2 << 20
	require.Equal(t, config, streamConfig(t, js))
	require.NotContains(t, logs.String(), "WARN", "it is as configured")
}

func TestTheEmbeddedServersStreamFollowsItsSettings(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	o := options(t, srv.URL())
	o.Embedded = true
	sink := newSink(t, o)
	requirePublishes(t, sink, "before")
	require.NoError(t, sink.Close(t.Context()))
	stored, err := js.Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	before := stored.CachedInfo().State.Msgs

	logs := &logbook{}
	o.Logger = logs.logger()
	o.Subject, o.DeadLetter = template(t, "moved.{route}"), "moved-letters"
	o.MaxAge, o.DedupeWindow, o.MaxBytes = time.Hour, time.Minute, 8<<20
	sink = newSink(t, o)
	requirePublishes(t, sink, "after")
	require.NoError(t, sink.Close(t.Context()))
	config := streamConfig(t, js)
	require.Equal(t, []string{"moved.>", "moved-letters"}, config.Subjects)
	require.Equal(t, time.Hour, config.MaxAge)
	require.Equal(t, time.Minute, config.Duplicates)
	require.EqualValues(t, 8<<20, config.MaxBytes)
	info, err := stored.Info(t.Context())
	require.NoError(t, err)
	require.Greater(t, info.State.Msgs, before, "what is stored stays")
	require.NotContains(t, logs.String(), "WARN")

	// Another stream takes the dead letters, and this one no more.
	createStream(t, js, natsjs.StreamConfig{Name: "LETTERS", Subjects: []string{"letters.>"}})
	logs = &logbook{}
	o.Logger, o.DeadLetter = logs.logger(), "letters.of-the-bridge"
	sink = open(t, o)
	requirePublishes(t, sink, "letters")
	require.NoError(t, sink.Check(t.Context()))
	require.Equal(t, []string{"moved.>"}, streamConfig(t, js).Subjects)
	require.Equal(t, 1, strings.Count(logs.String(), "follows its settings"), "%s", logs)
	require.NotContains(t, logs.String(), "WARN")
}

func TestDedupeWindowIsCutToTheAge(t *testing.T) {
	srv := natsserver.Single(t)
	o := options(t, srv.URL())
	o.MaxAge, o.DedupeWindow = time.Minute, time.Hour
	requirePublishes(t, open(t, o), "cut")
	config := streamConfig(t, natsserver.JetStream(t, natsserver.Connect(t, srv.URL())))
	require.Equal(t, time.Minute, config.Duplicates)
}

func TestExistingStreamIsUsedAsItIs(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	createStream(t, js, natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.workflow.>"}, MaxAge: time.Hour, Duplicates: time.Minute,
		Storage: natsjs.MemoryStorage,
	})
	before := streamConfig(t, js)
	o := options(t, srv.URL())
	logs := &logbook{}
	o.Logger = logs.logger()
	sink := open(t, o)
	requirePublishes(t, sink, "existing")
	requirePublishes(t, sink, "again") // checks, and so looks at it once more
	require.Equal(t, before, streamConfig(t, js))
	require.Equal(t, 1, strings.Count(logs.String(), "WARN"), "%s", logs)
	for _, difference := range []string{
		"maximum age is 1h0m0s", "window for duplicates is 1m0s", "memory", "[tensorlake.workflow.>]",
	} {
		require.Contains(t, logs.String(), difference)
	}
	require.NotContains(t, logs.String(), "replicas, not", "what does not differ")

	event := sinktest.Event("elsewhere", 0, "key")
	event.Route = []string{"document_ingestion", "job"}
	err := sink.Publish(t.Context(), []bridge.Event{event})[0]
	require.Equal(t, bridge.FailureBlocked, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "do not cover tensorlake.document_ingestion.job")
}

func TestUnusableStreams(t *testing.T) {
	t.Parallel()
	full := natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}}
	tests := map[string]struct {
		streams []natsjs.StreamConfig
		change  func(*nats.Options)
		want    string
	}{
		"missing": {
			nil, func(o *nats.Options) { o.CreateStream = false }, "stream TENSORLAKE does not exist",
		},
		"other subjects": {
			[]natsjs.StreamConfig{{Name: "TENSORLAKE", Subjects: []string{"other.>"}}}, nil, "takes the subjects [other.>]",
		},
		"subjects of another stream": {
			[]natsjs.StreamConfig{{Name: "ANOTHER", Subjects: []string{"tensorlake.workflow.>"}}},
			nil,
			"another stream has its subjects",
		},
		"a part of the subjects in another stream": {
			[]natsjs.StreamConfig{
				{Name: "ANOTHER", Subjects: []string{"tensorlake.workflow.>"}},
				{Name: "TENSORLAKE", Subjects: []string{"tensorlake.document.>"}},
			}, nil, "belongs to another stream",
		},
		"no acknowledgements": {
			[]natsjs.StreamConfig{{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, NoAck: true}}, nil, "no_ack",
		},
		"counters": {
			[]natsjs.StreamConfig{
				{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, AllowMsgCounter: true, AllowDirect: true},
			},
			nil,
			"keeps counters (allow_msg_counter)",
		},
		"a mirror": {
			[]natsjs.StreamConfig{
				{Name: "ORIGIN", Subjects: []string{"other.>"}},
				{Name: "TENSORLAKE", Mirror: &natsjs.StreamSource{Name: "ORIGIN"}},
			}, nil, "is a mirror of ORIGIN",
		},
		"replicas without a cluster": {
			nil, func(o *nats.Options) { o.Replicas = 3 }, "no cluster",
		},
		"larger than the server's storage": {
			nil, func(o *nats.Options) { o.MaxBytes = 1 << 60 }, "no storage for a stream of 1152921504606846976 bytes: lower ",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := natsserver.Single(t)
			js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
			for _, config := range tt.streams {
				createStream(t, js, config)
			}
			o := options(t, srv.URL())
			if tt.change != nil {
				tt.change(&o)
			}
			sink := open(t, o)
			var err error
			require.Eventually(t, func() bool {
				err = sink.Publish(t.Context(), sinktest.Events("blocked", 1, 1))[0]
				return bridge.KindOf(err) == bridge.FailureBlocked
			}, bound, 20*time.Millisecond)
			require.ErrorContains(t, err, tt.want)

			// Somebody mends it.
			for _, config := range tt.streams {
				require.NoError(t, js.DeleteStream(t.Context(), config.Name))
			}
			if tt.change != nil || len(tt.streams) > 0 {
				// The sink may be making the stream anew in this very moment:
				// of two at once, the server fails one.
				require.Eventually(t, func() bool {
					_, err = js.CreateOrUpdateStream(t.Context(), full)
					return err == nil
				}, bound, 20*time.Millisecond, "%v", err)
			}
			requirePublishes(t, sink, "mended")
		})
	}
}

func TestDeletedStreamIsCreatedAgain(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "before")
	require.NoError(t, js.DeleteStream(t.Context(), "TENSORLAKE"))
	err := sink.Publish(t.Context(), sinktest.Events("deleted", 1, 1))[0]
	require.Error(t, err)
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	requirePublishes(t, sink, "after")
}

func TestDeletedStreamStaysDeleted(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	createStream(t, js, natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}})
	o := options(t, srv.URL())
	o.CreateStream = false
	sink := open(t, o)
	requirePublishes(t, sink, "before")
	require.NoError(t, js.DeleteStream(t.Context(), "TENSORLAKE"))
	requireBlocked(t, sink, "stream TENSORLAKE does not exist")
	_, err := js.Stream(t.Context(), "TENSORLAKE")
	require.ErrorIs(t, err, natsjs.ErrStreamNotFound)
}

func TestLimitsOfTheStream(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	createStream(t, js, natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, MaxMsgSize: 4096, MaxMsgs: 10, Discard: natsjs.DiscardNew,
	})
	sink := open(t, options(t, srv.URL()))
	events := sinktest.Events("limits", 12, 1)
	events[3].Data = []byte(`"` + strings.Repeat("x", 4096) + `"`)
	results := sink.Publish(t.Context(), events)
	require.Equal(t, bridge.FailureReject, bridge.KindOf(results[3]), "%v", results[3])
	require.ErrorContains(t, results[3], "4096, headers included")
	require.ErrorContains(t, results[3], "bytes is larger than stream TENSORLAKE takes")
	for _, i := range []int{0, 1, 2, 4, 5, 6, 7, 8, 9, 10} {
		require.NoError(t, results[i])
	}
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(results[11]), "a full stream can be emptied")
	require.ErrorContains(t, results[11], "full?")
	require.ErrorContains(t, results[11], "maximum messages exceeded")
}

func TestLimitOfTheServer(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "warm")
	event := sinktest.Event("large", 0, "key")
	event.Data = bytes.Repeat([]byte("1"), 1<<20)
	err := sink.Publish(t.Context(), []bridge.Event{event})[0]
	require.Equal(t, bridge.FailureReject, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "the server takes 1048576")

	event = sinktest.Event("large-headers", 0, strings.Repeat("k", 1<<16))
	err = sink.Publish(t.Context(), []bridge.Event{event})[0]
	require.Equal(t, bridge.FailureReject, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "JetStream allows 65535")
}

func TestServerWithoutJetStream(t *testing.T) {
	srv := natsserver.Single(t, natsserver.WithoutJetStream)
	sink := open(t, options(t, srv.URL()))
	err := sink.Publish(t.Context(), sinktest.Events("none", 1, 1))[0]
	require.ErrorContains(t, err, "JetStream")
	require.ErrorContains(t, err, "enabled")
}

func TestMessage(t *testing.T) {
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	event := sinktest.Event("message", 0, "inv-1")
	for _, format := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured, cloudevents.Plain} {
		t.Run(format.String(), func(t *testing.T) {
			o := options(t, srv.URL())
			o.Format = format
			o.Stream = strings.ToUpper(format.String())
			o.Subject = template(t, format.String()+".{route}")
			sink := open(t, o)
			require.NoError(t, sink.Publish(t.Context(), []bridge.Event{event})[0])
			require.NoError(t, sink.Publish(t.Context(), []bridge.Event{event})[0], "a duplicate is a success")
			messages := natsserver.Messages(t, nc, o.Stream)
			require.Len(t, messages, 1, "the stream drops what is sent again")
			msg := messages[0]
			require.Equal(t, format.String()+".workflow.message.fn_0.success", msg.Subject())
			require.Equal(t, event.Origin.DedupeID(msg.Subject()), msg.Headers().Get("Nats-Msg-Id"))
			require.Equal(t, o.Stream, msg.Headers().Get("Nats-Expected-Stream"))
			if format == cloudevents.Plain {
				require.Equal(t, event.Data, msg.Data())
				require.Len(t, msg.Headers(), 3, "%v", msg.Headers())
			}
		})
	}
}

func TestIncompleteEventIsRejected(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, options(t, srv.URL()))
	events := sinktest.Events("incomplete", 3, 1)
	events[1].Type = ""
	results := sink.Publish(t.Context(), events)
	require.NoError(t, results[0])
	require.Equal(t, bridge.FailureReject, bridge.KindOf(results[1]), "%v", results[1])
	require.NoError(t, results[2])
}

func TestOneServerOfTwoIsEnough(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, options(t, "nats://127.0.0.1:1, "+srv.URL()))
	requirePublishes(t, sink, "two")
}

func TestErrorsNameTheServerAndTheCause(t *testing.T) {
	srv := natsserver.Single(t)
	srv.Stop(t)
	sink := open(t, options(t, "nats://user:s3cret@"+srv.Addr()))
	for _, err := range []error{sink.Check(t.Context()), sink.Publish(t.Context(), sinktest.Events("away", 1, 1))[0]} {
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
		require.ErrorContains(t, err, srv.URL())
		require.ErrorContains(t, err, "connection refused")
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestOneKeyStopsAtItsFirstFailure(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	createStream(t, js, natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, MaxMsgsPerSubject: 1, DiscardNewPerSubject: true,
		Discard: natsjs.DiscardNew,
	})
	o := options(t, srv.URL())
	o.Subject = template(t, "tensorlake.{function}")
	sink := open(t, o)
	events := sinktest.Events("chain", 12, 2)
	for i := range events {
		events[i].Function = fmt.Sprint("fn", i)
	}
	events[4].Function = "fn2" // of the same key as event 2, whose subject takes one message only
	results := sink.Publish(t.Context(), events)
	for i, err := range results {
		if i%2 == 1 || i < 4 {
			require.NoError(t, err, "event %d", i)
			continue
		}
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "event %d: %v", i, err)
		require.ErrorContains(t, err, "maximum messages per subject exceeded")
		if i > 4 {
			require.ErrorContains(t, err, "an earlier event of its partition key failed")
		}
	}
	require.Len(t, natsserver.Messages(t, natsserver.Connect(t, srv.URL()), "TENSORLAKE"), 8)
}

func BenchmarkPublish(b *testing.B) {
	for name, keys := range map[string]int{"512 keys": 512, "32 keys": 32, "one key": 1} {
		b.Run(name, func(b *testing.B) {
			srv := natsserver.Single(b)
			o := options(b, srv.URL())
			o.AckTimeout = 0
			sink := newSink(b, o)
			defer func() { require.NoError(b, sink.Close(context.Background())) }()
			n := 0
			for b.Loop() {
				n++
				for _, err := range sink.Publish(b.Context(), sinktest.Events(fmt.Sprint("bench", n), 512, keys)) {
					require.NoError(b, err)
				}
			}
			b.ReportMetric(float64(512*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
