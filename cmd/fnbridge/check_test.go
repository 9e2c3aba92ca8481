package main

import (
	"encoding/json"
	"fmt"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

func TestCheckGoesThroughEveryStep(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	out, errs, exit := s.run("check")
	require.Equal(t, 0, exit, out+errs)
	for _, line := range []string{
		"configuration  ok\n", "! webhook secrets ", "✓ data directory ", "✓ free space ", "held by the bridge that runs",
		"sink nats (nats)  ok\n", "  ✓ name resolution ", "  ✓ connection ", "  – TLS ", "  ✓ authentication ", "  ✓ clock ",
		"  ✓ stream TENSORLAKE ", "  ✓ permission to publish ",
	} {
		require.Contains(t, out, line)
	}
	out, errs, exit = s.run("check", "--json", "--timeout", "1d")
	require.Equal(t, 0, exit, errs)
	of, sink := checked(t, out)
	require.Equal(t, s.ops, of.Bridge)
	require.True(t, of.OK)
	require.Len(t, of.Steps, 4)
	require.Equal(t, "warning", of.Steps[0].State, "the secret is the bridge's own")
	require.Equal(t, "nats", sink.Sink)
	require.True(t, sink.OK)
	require.Len(t, sink.Steps, 7)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
}

// checkedLine is a line of check --json.
type checkedLine struct {
	Bridge, Sink, Error string
	OK                  bool
	Warnings            []struct{ Key, Text string }
	Steps               []struct{ Step, State, Detail string }
}

// checked reads the line of the bridge, and that of its one sink.
func checked(t *testing.T, out string) (bridge, sink checkedLine) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	require.NoError(t, d.Decode(&bridge), out)
	require.NoError(t, d.Decode(&sink), out)
	require.False(t, d.More(), out)
	return bridge, sink
}

// Its stream has the size that the bridge itself has given it.
func TestCheckFindsNothingWrongWithADefaultBridge(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--wait=60s")
	require.NotContains(t, s.mustRun("check"), "warning:")
}

// A shell often lacks variables of the bridge that runs. What they say of the stream stays.
func TestCheckLeavesTheEmbeddedStreamAsItIs(t *testing.T) {
	s := newShell(t)
	shell := s.env
	s.env = append(slices.Clone(shell), "FNBRIDGE_NATS_MAX_AGE=720h", "FNBRIDGE_NATS_DEAD_LETTER=letters",
		"FNBRIDGE_NATS_DEDUPE_WINDOW=1m")
	bridge := s.serve()
	js := natsserver.JetStream(t, natsserver.Connect(t, "nats://"+s.nats))
	config := func() natsjs.StreamConfig {
		stream, err := js.Stream(t.Context(), "TENSORLAKE")
		require.NoError(t, err)
		return stream.CachedInfo().Config
	}
	_, _, exit := s.run("check") // so that the stream is there
	require.Equal(t, 0, exit)
	before := config()
	require.Equal(t, 720*time.Hour, before.MaxAge)
	listeners := s.env[len(s.env)-3:]
	s.env = slices.Concat(shell, listeners)
	out, errs, exit := s.run("check")
	require.Equal(t, 0, exit, out+errs)
	require.Equal(t, before, config())
	s.env = append(s.env, "FNBRIDGE_NATS_SUBJECT=other.{route}", "FNBRIDGE_NATS_MAX_BYTES=1MiB")
	out, errs, exit = s.run("check")
	require.Equal(t, 1, exit, out+errs)
	require.Contains(t, out, "takes the subjects [tensorlake.> letters], and events go to other.>")
	require.Equal(t, before, config())
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
}

// Each broker lacks one thing, and the check names it.
func TestCheckSaysWhichStepFails(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	small := natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 10_000 })
	locked := natsserver.Single(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p"}, {
			Username: "reader", Password: "p",
			Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"$JS.API.>"}}},
		}}
	})
	encrypted := natsserver.Single(t, func(o *server.Options) { o.TLSConfig = ca.ServerTLS(t, false) })
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "tensorlake-events"))
	require.NoError(t, err)
	t.Cleanup(kafka.Close)
	http := httptest.NewServer(nethttp.NotFoundHandler())
	t.Cleanup(http.Close)
	web := http.Listener.Addr().String()
	for name, c := range map[string]struct {
		env  []string
		exit int
		says []string
	}{
		"NATS at an HTTP port": {
			[]string{"FNBRIDGE_NATS_URL=nats://" + web},
			1,
			[]string{"sink nats (nats)  cannot be published to, until somebody mends it\n", "answers HTTP, not NATS"},
		},
		"Kafka at an HTTP port": {
			[]string{"FNBRIDGE_SINKS=k=kafka", "FNBRIDGE_K_BROKERS=" + web},
			1,
			[]string{
				"sink k (kafka)  cannot be published to, until somebody mends it\n",
				web + " answers HTTP, not Kafka: check the host and port in FNBRIDGE_K_BROKERS\n",
			},
		},
		"no such name": {
			[]string{"FNBRIDGE_NATS_URL=nats://broker.invalid"},
			1,
			[]string{"✗ name resolution", "broker.invalid cannot be looked up"},
		},
		"nobody there": {
			[]string{"FNBRIDGE_NATS_URL=nats://localhost:1"},
			1,
			[]string{"✓ name resolution", "✗ connection", "localhost:1"},
		},
		"one of two": {
			[]string{"FNBRIDGE_NATS_URL=nats://127.0.0.1:1," + small.URL()},
			0,
			[]string{"! connection", "127.0.0.1:1 cannot be reached"},
		},
		"a small server": {
			[]string{"FNBRIDGE_NATS_URL=" + small.URL()},
			0,
			[]string{"! stream TENSORLAKE", "FNBRIDGE_MAX_BODY is 1048576 bytes", "at most 10000", "max_payload"},
		},
		"a wrong password": {
			[]string{"FNBRIDGE_NATS_URL=" + locked.URL(), "FNBRIDGE_NATS_USER=u", "FNBRIDGE_NATS_PASSWORD=hunter2"},
			1,
			[]string{"✓ connection", "✗ authentication"},
		},
		"no permission to publish": {
			[]string{"FNBRIDGE_NATS_URL=" + locked.URL(), "FNBRIDGE_NATS_USER=reader", "FNBRIDGE_NATS_PASSWORD=p"},
			1,
			[]string{"✓ authentication", "✗ permission to publish", "lacks a permission"},
		},
		"an authority that is not known": {
			[]string{"FNBRIDGE_NATS_URL=" + strings.Replace(encrypted.URL(), "nats:", "tls:", 1)}, 1, []string{"✗ TLS"},
		},
		"a certificate": {
			[]string{
				"FNBRIDGE_NATS_URL=" + strings.Replace(encrypted.URL(), "nats:", "tls:", 1),
				"FNBRIDGE_NATS_TLS_CA_FILE=" + ca.CAFile,
			}, 0, []string{"TLS", "the certificate ends in "},
		},
		"Kafka": {
			[]string{"FNBRIDGE_SINKS=kafka", "FNBRIDGE_KAFKA_BROKERS=" + kafka.ListenAddrs()[0]},
			0,
			[]string{
				"✓ connection", "– TLS", "✓ authentication", "– clock", "✓ topic tensorlake-events", "3 partitions",
				"– permission to publish",
			},
		},
		"a topic that is not there": {
			[]string{
				"FNBRIDGE_SINKS=kafka", "FNBRIDGE_KAFKA_BROKERS=" + kafka.ListenAddrs()[0], "FNBRIDGE_KAFKA_TOPIC=none",
			}, 1, []string{"✗ topic none"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, c.env...)
			out, errs, exit := s.run("check", "--timeout", "30s")
			require.Equal(t, c.exit, exit, out+errs)
			for _, text := range c.says {
				require.Contains(t, out, text)
			}
			require.NotContains(t, out+errs, "hunter2")
		})
	}
}

func TestCheckFindsWhoHoldsTheListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s := newShell(t, "FNBRIDGE_NATS_URL="+natsserver.Single(t).URL())
	s.env = append(s.env, "FNBRIDGE_LISTEN="+l.Addr().String())
	out, errs, exit := s.run("check")
	require.Equal(t, 1, exit, out+errs)
	require.Contains(t, out, "✗ public listener")
	require.Contains(t, out, "held by something that is no bridge")
	require.Contains(t, out, "sink nats (nats)  ok", "the others are gone through all the same")
	s.env = append(s.env, "FNBRIDGE_RETENTIONS=1h")
	out, errs, exit = s.run("check", "--json")
	require.Equal(t, 1, exit)
	require.Empty(t, errs)
	bridge, sink := checked(t, out)
	require.False(t, bridge.OK)
	require.Contains(t, bridge.Error, "held by something that is no bridge")
	require.Equal(t, "failed", bridge.Steps[len(bridge.Steps)-1].State)
	require.Equal(t, "configuration", bridge.Warnings[0].Key)
	require.Contains(t, fmt.Sprint(bridge.Warnings), "FNBRIDGE_RETENTIONS")
	require.True(t, sink.OK)
}
