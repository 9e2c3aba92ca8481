package natsserver_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/embeddednats"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natsserver.Leftovers()...) }

// TestEmbeddedServer has the NATS sink pass the suite against the server that a bridge brings along.
func TestEmbeddedServer(t *testing.T) {
	subject, err := bridge.ParseTemplate("tensorlake.{route}")
	require.NoError(t, err)
	sinktest.Run(t, func(t *testing.T) sinktest.Broker {
		listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(natsserver.Port(t)))
		options := embeddednats.Options{Listen: listen, Dir: t.TempDir()}
		var running *embeddednats.Server
		start := func(t *testing.T) {
			t.Helper()
			var err error
			running, err = embeddednats.Start(t.Context(), options)
			require.NoError(t, err)
		}
		stop := func(t *testing.T) {
			t.Helper()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			require.NoError(t, running.Shutdown(ctx))
		}
		start(t)
		t.Cleanup(func() { stop(t) })
		newSink := func(t *testing.T, deadLetter string) *nats.Sink {
			t.Helper()
			sink, err := nats.New(nats.Options{
				Name: "nats", URL: running.ClientURL(), Stream: "TENSORLAKE", CreateStream: true, DeadLetter: deadLetter,
				MaxAge: time.Hour, DedupeWindow: time.Minute, Subject: subject, AckTimeout: time.Second,
			})
			require.NoError(t, err)
			return sink
		}
		return sinktest.Broker{
			NewSink: func(t *testing.T) bridge.Sink { return newSink(t, "") },
			DeadLetters: &sinktest.DeadLetterTest{
				NewSink: func(t *testing.T) bridge.DeadLetterPublisher {
					return newSink(t, natsserver.DeadLetters+"tensorlake")
				},
				Stored: func(t *testing.T) []sinktest.Letter {
					return natsserver.Letters(t, running.ClientURL(), "TENSORLAKE")
				},
				AddressOf: natsserver.Subject("tensorlake"),
			},
			Stored: func(t *testing.T) []sinktest.Record {
				return natsserver.Records(t, running.ClientURL(), "TENSORLAKE")
			},
			TooLarge:     9 << 20,
			PublishBound: 8 * time.Second,
			Faults:       sinktest.Faults{Stop: stop, Start: start, Unreachable: true},
		}
	})
}

// TestAnyNameLeavesTheIndexWhole: nats-server throws away the index of a stream with a subject that it does not like,
// and reads all of the stream instead whenever it starts.
func TestAnyNameLeavesTheIndexWhole(t *testing.T) {
	subject, err := bridge.ParseTemplate("tensorlake.{function}")
	require.NoError(t, err)
	log := &bytes.Buffer{} // which also hears of what takes long
	options := embeddednats.Options{
		Listen: "127.0.0.1:0", Dir: t.TempDir(),
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for range 2 {
		server, err := embeddednats.Start(t.Context(), options)
		require.NoError(t, err)
		sink, err := nats.New(nats.Options{
			Name: "nats", URL: server.ClientURL(), Stream: "TENSORLAKE", CreateStream: true, MaxAge: time.Hour,
			DedupeWindow: time.Minute, Subject: subject, AckTimeout: time.Minute,
		})
		require.NoError(t, err)
		var events []bridge.Event
		for i, name := range []string{
			"a\ufffdb", "\xff\xfe", "a b\tc\r\n", "*", ">", "\x00", "漢字 \U0001f600", "\u2028\u200b", "..", "$JS",
		} {
			events = append(events, bridge.Event{
				ID: strconv.Itoa(i), Source: "/test", Type: "test", Time: time.Unix(0, 0), About: bridge.About{Function: name},
				PartitionKey: name, Data: []byte("{}"),
			})
		}
		for _, err := range sink.Publish(t.Context(), events) {
			require.NoError(t, err)
		}
		require.NoError(t, sink.Close(t.Context()))
		require.NoError(t, server.Shutdown(t.Context()))
	}
	for line := range strings.Lines(log.String()) {
		require.Contains(t, line, " took ")
	}
}
