package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// working shows the progress of work that gets through 1,000 webhooks in a tenth of a second.
func working(terminal bool, total int64) string {
	var errs bytes.Buffer
	p := newProgress(console{err: &errs, errTerminal: terminal})
	now := p.begun
	p.now = func() time.Time { return now }
	for done := int64(0); done < 300_000; done += 1000 {
		p.at(done, total, "webhooks", "")
		now = now.Add(100 * time.Millisecond)
	}
	p.clear()
	return errs.String()
}

func TestProgressOnATerminalIsOneLineThatFits(t *testing.T) {
	lines := strings.Split(working(true, 300_000), "\r\x1b[K")
	require.Len(t, lines, 292, "none in the first second")
	require.Equal(t, "[#############.......] 66 %, 200k of 300k webhooks, 10000/s, 10s left", lines[191])
	require.Empty(t, lines[291], "and nothing stays")
	for _, line := range lines {
		require.Less(t, len(line), 80)
		require.NotContains(t, line, "\n")
	}
}

func TestProgressElsewhereIsALineEveryTenSeconds(t *testing.T) {
	require.Equal(t, "33 %, 100k of 300k webhooks, 10000/s, 20s left\n66 %, 200k of 300k webhooks, 10000/s, 10s left\n",
		working(false, 300_000))
	require.Equal(t, "100k webhooks, 10000/s\n200k webhooks, 10000/s\n", working(false, 0))
}
