package loglimit_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/loglimit"
)

func TestFiveLinesASecondAreWritten(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(1_800_000_000, 0)
	log := loglimit.New(slog.New(slog.NewTextHandler(&out, nil)), func() time.Time { return now })
	burst := func(log *slog.Logger, n int) (lines []string) {
		out.Reset()
		for range n {
			log.Warn("handshake")
		}
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	}
	lines := burst(log, 12)
	require.Len(t, lines, 5)
	require.NotContains(t, lines[0], "suppressed")
	now = now.Add(999 * time.Millisecond)
	require.Equal(t, []string{""}, burst(log.With("component", "c"), 1), "what With makes shares the count")
	now = now.Add(time.Millisecond)
	lines = burst(log, 2)
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], "suppressed=8")
	require.NotContains(t, lines[1], "suppressed")
	now = now.Add(-time.Hour)
	require.NotEmpty(t, burst(log, 1)[0], "a clock that was set back does not silence the log")

	log.Debug("not enabled")
	require.Len(t, burst(log, 4), 4, "what is not written anyway does not count")
}
