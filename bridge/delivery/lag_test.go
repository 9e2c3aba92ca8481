package delivery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLagIsHowLongTheOldestWebhookHasWaited(t *testing.T) {
	var l lag
	start := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for _, c := range []struct {
		name         string
		cursor, head int64
		ms, want     int
	}{
		{"nothing waits", 10, 10, 0, 0},
		{"what waited before it was asked has waited since", 10, 12, 100, 0},
		{"it waits", 10, 12, 150, 50},
		{"more have come", 10, 20, 200, 100},
		{"the first of those has gone", 11, 20, 250, 150},
		{"the oldest is one of those that came later", 12, 20, 300, 100},
		{"all are gone", 20, 20, 350, 0},
		{"a minute later one comes", 20, 21, 60_000, 0},
		{"and waits", 20, 21, 60_040, 40},
	} {
		require.Equal(t, time.Duration(c.want)*time.Millisecond, l.of(c.cursor, c.head, at(c.ms)), c.name)
	}
}

func TestLagOfADayIsToldFromAFewMarks(t *testing.T) {
	var l lag
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	const step = time.Second
	var head int64
	for range 24 * time.Hour / step {
		now, head = now.Add(step), head+1000
		l.of(0, head, now)
	}
	require.Less(t, len(l.marks), 400)
	// Those of the first half have gone: the oldest that is left has waited for half a day, to a sixteenth of the day.
	require.InDelta(t, 12, l.of(head/2, head, now).Hours(), 24./markParts)
}
