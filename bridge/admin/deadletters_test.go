package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

func TestDeadLettersAreReadWithTheirDataAsJSON(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(t.Context(), journal.Options{Dir: dir, Sinks: []string{"nats"}})
	require.NoError(t, err)
	now := time.Now()
	_, err = j.Append(t.Context(), bridge.Webhook{ID: "msg_1", Timestamp: now, ReceivedAt: now, Body: []byte("{}")})
	require.NoError(t, err)
	data := []string{`{"a": 1e400}`, "not \x00 JSON", ""}
	want := []string{`{"a": 1e400}`, `"not \u0000 JSON"`, `""`}
	for i, d := range data {
		require.NoError(t, j.AddDeadLetters(t.Context(), []journal.DeadLetter{{
			Sink: "nats", WebhookSeq: 1, FirstAt: now, LastAt: now,
			DeadLetter: bridge.DeadLetter{Reason: "too large", Attempts: 1, Event: bridge.Event{
				WebhookID: "msg_1", Origin: bridge.Origin{Index: i}, ID: "id", Type: "type", Source: "/source",
				Data: []byte(d), Time: now,
			}},
		}}))
	}
	require.NoError(t, j.Close(context.WithoutCancel(t.Context())))

	letters := lettersIn(t, dir, admin.DeadLetterFilter{Sink: "nats"}, 10)
	require.Len(t, letters, len(want))
	for i, l := range letters {
		require.Equal(t, want[i], string(l.Data))
		require.Equal(t, i, l.EventIndex)
		require.Equal(t, "too large", l.Reason)
		_, err := json.Marshal(l)
		require.NoError(t, err)
	}
}

func lettersIn(t *testing.T, dir string, f admin.DeadLetterFilter, limit int) (letters []admin.DeadLetter) {
	t.Helper()
	require.NoError(t, admin.ReadDeadLetters(t.Context(), dir, f, limit, func(l admin.DeadLetter) error {
		letters = append(letters, l)
		return nil
	}))
	return letters
}

func TestDeadLettersAreReadAFewAtATime(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(t.Context(), journal.Options{Dir: dir, Sinks: []string{"nats"}})
	require.NoError(t, err)
	letters := make([]journal.DeadLetter, 50)
	for i := range letters {
		letters[i] = journal.DeadLetter{Sink: "nats", WebhookSeq: 1, DeadLetter: bridge.DeadLetter{
			Event: bridge.Event{Origin: bridge.Origin{Index: i}, Data: []byte("{}")},
		}}
	}
	require.NoError(t, j.AddDeadLetters(t.Context(), letters))
	require.NoError(t, j.Close(context.WithoutCancel(t.Context())))
	for limit, want := range map[int]int{1: 1, 16: 16, 17: 17, 50: 50, 1000: 50} {
		found := lettersIn(t, dir, admin.DeadLetterFilter{}, limit)
		require.Len(t, found, want)
		for i := range found {
			require.Equal(t, i, found[i].EventIndex)
		}
	}
	enough := errors.New("enough")
	seen := 0
	require.ErrorIs(t, admin.ReadDeadLetters(t.Context(), dir, admin.DeadLetterFilter{}, 50, func(admin.DeadLetter) error {
		seen++
		return enough
	}), enough)
	require.Equal(t, 1, seen)
}
