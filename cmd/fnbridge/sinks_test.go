package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// oneSink is a bridge that has one sink at a NATS server.
type oneSink struct {
	*shell
	broker *natsserver.Server
}

func newOneSink(t *testing.T) *oneSink {
	t.Helper()
	// A timestamp has whole seconds: with a tolerance of one, what is sent at the end of a second comes too late.
	return &oneSink{newShell(t, "FNBRIDGE_RETENTION=5s", "FNBRIDGE_WEBHOOK_TOLERANCE=5s"), natsserver.Single(t)}
}

// named starts the bridge with a sink of that name.
func (s *oneSink) named(name string) *process {
	s.t.Helper()
	s.env = append(s.env, "FNBRIDGE_SINKS="+name+"=nats", "FNBRIDGE_"+strings.ToUpper(name)+"_URL="+s.broker.URL())
	return s.serve()
}

type sinkLine struct {
	Sink       string
	Configured bool
	Backlog    int64 `json:"backlog_webhooks"`
}

func (s *oneSink) list() (all []sinkLine) {
	s.t.Helper()
	for line := range strings.Lines(s.mustRun("sinks", "list", "--json")) {
		var l sinkLine
		require.NoError(s.t, json.Unmarshal([]byte(line), &l))
		all = append(all, l)
	}
	return all
}

// pass waits until retention has taken all that nobody waits for: left webhooks are in the journal.
func (s *oneSink) pass(left int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		var status struct{ Webhooks int }
		require.NoError(s.t, json.Unmarshal([]byte(s.mustRun("status", "--json")), &status))
		return status.Webhooks == left
	}, within, 100*time.Millisecond)
}

func TestARenamedSinkKeepsWhatWaitsForIt(t *testing.T) {
	t.Parallel()
	s := newOneSink(t)
	s.broker.Stop(t)
	bridge := s.named("first")
	s.mustRun("send", "--count", "20")
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

	bridge = s.named("second")
	line := s.mustRun("status")
	require.Contains(t, line, "Sink first is not configured, and the journal keeps 20 webhooks for it.")
	require.Contains(t, line, `"fnbridge sinks rename first NEW"`)
	require.Equal(t, []sinkLine{{"first", false, 20}, {"second", true, 0}}, s.list())
	require.Regexp(t, `(?m)^first +no, for \d+s +20 webhooks`, s.mustRun("sinks", "list"))

	s.broker.Start(t)
	s.mustRun("send", "--count", "10")
	s.pass(20)
	_, errs, exit := s.run("sinks", "rename", "first", "second")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, `sink "second" is configured in the bridge that runs: stop it, rename, and start it again`)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	require.Equal(t, "Sink first is now second, with 20 webhooks. In FNBRIDGE_SINKS "+
		"it has to be second when the bridge starts next.\n",
		s.mustRun("sinks", "rename", "first", "second"))
	require.Equal(t, []sinkLine{{"second", true, 20}}, s.list())

	s.named("second")
	s.pass(0)
	s.nats = strings.TrimPrefix(s.broker.URL(), "nats://")
	require.Len(t, s.stored(60), 60)
	_, errs, exit = s.run("sinks", "rename", "first", "third")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, `there is no sink "first"; there is second`)
}

func TestASinkThatComesBackGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	s, other := newOneSink(t), natsserver.Single(t)
	first := s.broker
	first.Stop(t)
	bridge := s.named("first")
	s.mustRun("send", "--count", "20")
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	s.broker = other
	bridge = s.named("second")
	s.mustRun("send", "--count", "10")
	s.pass(20)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	first.Start(t)
	s.env = append(s.env, "FNBRIDGE_SINKS=first=nats,second=nats")
	s.serve()
	s.mustRun("send", "--count", "3")
	s.pass(0)
	for server, events := range map[*natsserver.Server]int{first: 46, other: 26} {
		s.nats = strings.TrimPrefix(server.URL(), "nats://")
		require.Len(t, s.stored(events), events)
	}
}

func TestASinkIsForgotten(t *testing.T) {
	t.Parallel()
	s := newOneSink(t)
	bridge := s.named("second")
	s.mustRun("send", "--count", "1")
	s.pass(0)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	s.env = append(s.env, "FNBRIDGE_FIRST_URL=nats://127.0.0.1:1", "FNBRIDGE_SINKS=first=nats,second=nats")
	bridge = s.serve()
	s.mustRun("send", "--count", "20")
	_, errs, exit := s.run("sinks", "forget", "first", "--yes")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, `sink "first" is configured: take it out of FNBRIDGE_SINKS`)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

	s.named("second")
	s.mustRun("send", "--count", "5")
	s.pass(20)
	_, errs, exit = s.run("sinks", "forget", "frist", "--yes")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, `there is no sink "frist"; there is first, second`)
	require.JSONEq(t, `{"sink":"first","webhooks":20,"dead_letters":0,"streams":0,"running":true}`,
		s.mustRun("sinks", "forget", "first", "--yes", "--json"))
	s.pass(0)
	require.Equal(t, []sinkLine{{"second", true, 0}}, s.list())
}
