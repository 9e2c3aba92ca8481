package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestCheckAndStatusWarnOfWhatMayCostEvents(t *testing.T) {
	for _, ack := range []string{"journal", "sinks"} {
		t.Run(ack, func(t *testing.T) {
			srv := natsserver.Single(t)
			_, err := natsserver.JetStream(t, natsserver.Connect(t, srv.URL())).CreateStream(t.Context(), natsjs.StreamConfig{
				Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, MaxAge: 168 * time.Hour, Duplicates: 10 * time.Minute,
				MaxBytes: 1 << 20, MaxMsgsPerSubject: 1,
			})
			require.NoError(t, err)
			s := newShell(t, "FNBRIDGE_NATS_URL="+srv.URL(), "FNBRIDGE_ACK="+ack,
				"FNBRIDGE_WEBHOOK_SECRETS=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
			s.serve()
			status := s.awaitStatus(func(out string) bool { return strings.Contains(out, "max_msgs_per_subject") })
			for _, out := range []string{status, s.mustRun("check")} {
				require.Contains(t, out, "stream TENSORLAKE holds")
				require.Contains(t, out, "1.0 MiB")
				require.Contains(t, out, "raise or remove max_msgs_per_subject")
			}
			out, errs, exit := s.run("status", "--json")
			require.Equal(t, 0, exit, errs)
			var report admin.Report
			require.NoError(t, json.Unmarshal([]byte(out), &report))
			keys := make(map[string]string)
			for _, w := range report.Warnings {
				keys[w.Key] = w.Sink
			}
			require.Equal(t, "nats", keys["stream_max_msgs_per_subject"])
			require.Contains(t, keys, "configuration", "the embedded server's address has no effect")
			require.Equal(t, int64(1<<20), report.Storage[0].LimitBytes)
		})
	}
}

// What consumers have not read stays in the data directory when a URL takes the embedded server's place.
func TestStreamsOfTheEmbeddedServerThatAreLeftAreWarnedOf(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	out, errs, exit := s.run("send", "--wait=60s")
	require.Equal(t, 0, exit, out+errs)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

	broker := natsserver.Single(t)
	s.env = append(s.env, "FNBRIDGE_NATS_URL="+broker.URL())
	dir := filepath.Join(s.dir, "data", "nats")
	bridge = s.serve()
	for _, command := range []string{"check", "status"} {
		out, errs, exit = s.run(command)
		require.Equal(t, 0, exit, out+errs)
		require.Contains(t, out+errs, "has streams of the embedded NATS server (TENSORLAKE)", command)
		require.Contains(t, out+errs, "nats-server -a 127.0.0.1 -js -sd ", command)
	}
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

	left := natsserver.Single(t, func(o *server.Options) { o.StoreDir = dir }) // as that command does
	stream, err := natsserver.JetStream(t, natsserver.Connect(t, left.URL())).Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	require.NotZero(t, stream.CachedInfo().State.Msgs)
	left.Stop(t)
	require.NoError(t, os.RemoveAll(dir))
	out, errs, exit = s.run("check")
	require.Equal(t, 0, exit, out+errs)
	require.NotContains(t, out+errs, "streams of the embedded NATS server")
}

// A stream may store what is published under another subject.
func TestSendAndTailFindWhatAStreamMovesElsewhere(t *testing.T) {
	srv := natsserver.Single(t)
	_, err := natsserver.JetStream(t, natsserver.Connect(t, srv.URL())).CreateStream(t.Context(), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"},
		SubjectTransform: &natsjs.SubjectTransformConfig{Source: "tensorlake.>", Destination: "stored.here.>"},
	})
	require.NoError(t, err)
	s := newShell(t, "FNBRIDGE_NATS_URL="+srv.URL())
	s.serve()
	out, errs, exit := s.run("send", "--wait=60s")
	require.Equal(t, 0, exit, out+errs)
	out, errs, exit = s.run("tail", "--all", "--count", "1")
	require.Equal(t, 0, exit, errs)
	require.Contains(t, out, "stored.here.workflow.")
}
