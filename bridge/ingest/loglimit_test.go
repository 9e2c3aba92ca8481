package ingest

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLineLimit(t *testing.T) {
	t.Parallel()
	var l lineLimit
	now := time.Unix(1_800_000_000, 0)
	burst := func(n int) (passed, suppressed int) {
		for range n {
			before, ok := l.pass(now)
			if ok {
				passed++
			}
			suppressed += before
		}
		return passed, suppressed
	}
	passed, suppressed := burst(12)
	require.Equal(t, []int{5, 0}, []int{passed, suppressed})
	now = now.Add(999 * time.Millisecond)
	passed, _ = burst(1)
	require.Zero(t, passed)
	now = now.Add(time.Millisecond)
	passed, suppressed = burst(2)
	require.Equal(t, []int{2, 8}, []int{passed, suppressed})
	now = now.Add(-time.Hour)
	passed, suppressed = burst(1)
	require.Equal(t, []int{1, 0}, []int{passed, suppressed}, "a clock that was set back does not silence the log")
}

func TestServerMessagesAreLimited(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	handler := limitedHandler{Handler: slog.NewTextHandler(&log, nil), limit: &lineLimit{}}
	now := time.Unix(1_800_000_000, 0)
	for range 20 {
		require.NoError(t, handler.Handle(t.Context(), slog.NewRecord(now, slog.LevelWarn, "handshake", 0)))
	}
	require.Equal(t, 5, strings.Count(log.String(), "\n"))
	require.NoError(t, handler.Handle(t.Context(), slog.NewRecord(now.Add(time.Second), slog.LevelWarn, "handshake", 0)))
	require.Equal(t, 6, strings.Count(log.String(), "\n"))
	require.Contains(t, log.String(), "suppressed=15")
}

func TestShorten(t *testing.T) {
	t.Parallel()
	long := ""
	for range 100 {
		long += "é"
	}
	require.Equal(t, "short", shorten("short"))
	require.Equal(t, long[:128]+"... (200 bytes)", shorten(long))
	require.Equal(t, "x"+long[:126]+"... (201 bytes)", shorten("x"+long), "cut after a whole rune")
	require.Equal(t, `"a\nb\u202e\x80"`, quote("a\nb\u202e\x80"))
}
