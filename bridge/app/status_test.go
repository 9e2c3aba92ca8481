package app_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/config"
)

func TestDeadLettersAreReadWithTheirDataAsJSON(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(t.Context(), journal.Options{Dir: dir, Sinks: []string{"nats"}})
	require.NoError(t, err)
	now := time.Now()
	_, err = j.Append(t.Context(), journal.Webhook{ID: "msg_1", Timestamp: now, ReceivedAt: now, Body: []byte("{}")})
	require.NoError(t, err)
	data := []string{`{"a": 1e400}`, "not \x00 JSON", ""}
	want := []string{`{"a": 1e400}`, `"not \u0000 JSON"`, `""`}
	for i, d := range data {
		require.NoError(t, j.AddDeadLetters(t.Context(), []journal.DeadLetter{{
			Sink: "nats", WebhookSeq: 1, WebhookID: "msg_1", EventIndex: i, EventID: "id", EventType: "type", EventSource: "/source",
			Data: []byte(d), Reason: "too large", Attempts: 1, FirstAt: now, LastAt: now, EventTime: now,
		}}))
	}
	require.NoError(t, j.Close(context.WithoutCancel(t.Context())))

	letters, err := app.ReadDeadLetters(t.Context(), &config.Config{DataDir: dir}, app.DeadLetterFilter{Sink: "nats"}, 10)
	require.NoError(t, err)
	require.Len(t, letters, len(want))
	for i, l := range letters {
		require.Equal(t, want[i], string(l.Data))
		require.Equal(t, i, l.EventIndex)
		require.Equal(t, "too large", l.Reason)
		_, err := json.Marshal(l)
		require.NoError(t, err)
	}
	none, err := app.ReadDeadLetters(t.Context(), &config.Config{DataDir: dir}, app.DeadLetterFilter{Sink: "kafka"}, 10)
	require.NoError(t, err)
	require.Empty(t, none)
}
