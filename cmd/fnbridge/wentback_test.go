package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// awaitStatus waits until "fnbridge status" says what is wanted.
func (s *shell) awaitStatus(wanted func(out string) bool) (out string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		out = s.mustRun("status")
		return wanted(out)
	}, within, 50*time.Millisecond)
	return out
}

func TestWhatAKilledBridgesServerLostIsThereAgain(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	s.mustRun("send", "--count", "100")
	s.delivered()
	before := s.stored(200)
	require.Equal(t, -1, bridge.signal(syscall.SIGKILL))
	require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "data", "nats", "jetstream", "$G", "streams", "TENSORLAKE")))

	bridge = s.serve()
	bridge.line("the sink's broker went back.*they are replayed.*replay.*1")
	require.Equal(t, before, s.stored(200))
	s.awaitStatus(func(out string) bool { return !strings.Contains(out, "went back") })
	s.replayed(`1 +nats +done .* 200 +200 +0 +0\n$`)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
}

func TestStatusHasTheCommandThatReplaysWhatIsMissing(t *testing.T) {
	server := natsserver.Single(t)
	s := newShell(t, "FNBRIDGE_NATS_URL="+server.URL())
	bridge := s.serve()
	s.mustRun("send", "--count", "3")
	s.delivered()
	nc := natsserver.Connect(t, server.URL())
	require.NoError(t, natsserver.JetStream(t, nc).DeleteStream(t.Context(), "TENSORLAKE"))
	s.mustRun("send")

	out := s.awaitStatus(func(out string) bool { return strings.Contains(out, "went back") })
	require.Regexp(t, `\nnats: the broker went back, found \d+s ago: stream TENSORLAKE .*\. `+
		`Events of [34] webhooks may be missing; replay them: fnbridge replay --sink nats --all\n`, out)
	require.Contains(t, s.mustRun("status", "--json"), `"command": "fnbridge replay --sink nats --all"`)
	_, command, _ := strings.Cut(out, "replay them: fnbridge ")
	command, _, _ = strings.Cut(command, "\n")
	s.mustRun(append(strings.Fields(command), "--wait")...)
	require.NotContains(t, s.mustRun("status"), "went back")
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
}
