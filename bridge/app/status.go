package app

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/config"
)

// Status is how a bridge is, as its data directory tells. Times that are not there are nil.
type Status struct {
	JournalBytes    int64        `json:"journal_bytes"`
	JournalMaxBytes int64        `json:"journal_max_bytes"`
	Webhooks        int64        `json:"webhooks"`
	Head            int64        `json:"head"` // number of the newest webhook
	Oldest          *time.Time   `json:"oldest_received_at,omitempty"`
	Sinks           []SinkStatus `json:"sinks"`
}

// SinkStatus is how far a sink is.
type SinkStatus struct {
	Sink string `json:"sink"`
	// Configured tells whether the bridge that ran last delivered to this sink.
	Configured bool `json:"configured"`
	// State is up, degraded, down or blocked, and empty until delivery has reported.
	State             string     `json:"state"`
	Since             *time.Time `json:"since,omitempty"`
	BacklogWebhooks   int64      `json:"backlog_webhooks"`
	OldestUndelivered *time.Time `json:"oldest_undelivered_received_at,omitempty"`
	DeadLetters       int64      `json:"dead_letters"`
	LastError         string     `json:"last_error,omitempty"`
	LastErrorAt       *time.Time `json:"last_error_at,omitempty"`
	Cursor            int64      `json:"cursor"`
}

// ReadStatus reads the data directory, beside a running bridge or without one. It writes nothing.
func ReadStatus(ctx context.Context, cfg *config.Config) (Status, error) {
	r, err := journal.OpenReader(ctx, cfg.DataDir)
	if err != nil {
		return Status{}, err
	}
	defer r.Close()
	s, err := r.Status(ctx)
	if err != nil {
		return Status{}, err
	}
	out := Status{
		JournalBytes: s.Bytes, JournalMaxBytes: s.MaxBytes, Webhooks: s.Webhooks, Head: s.Head,
		Oldest: optional(s.OldestReceivedAt), Sinks: make([]SinkStatus, 0, len(s.Sinks)),
	}
	for _, k := range s.Sinks {
		out.Sinks = append(out.Sinks, SinkStatus{
			Sink: k.Sink, Configured: k.Configured, State: k.State.State, Since: optional(k.State.Since),
			BacklogWebhooks: k.Backlog, OldestUndelivered: optional(k.OldestUndelivered), DeadLetters: k.DeadLetters,
			LastError: k.State.LastError, LastErrorAt: optional(k.State.LastErrorAt), Cursor: k.Cursor,
		})
	}
	return out, nil
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// DeadLetter is an event that a sink's broker can never store, with why.
type DeadLetter struct {
	ID           int64     `json:"id"`
	Sink         string    `json:"sink"`
	Reason       string    `json:"reason"`
	Attempts     int       `json:"attempts"`
	FirstAt      time.Time `json:"first_at"`
	LastAt       time.Time `json:"last_at"`
	WebhookID    string    `json:"webhook_id"`
	EventIndex   int       `json:"event_index"` // among the events of its webhook, from 0
	EventID      string    `json:"event_id"`
	Type         string    `json:"type"`
	Source       string    `json:"source"`
	Subject      string    `json:"subject,omitempty"`
	Time         time.Time `json:"time"`
	PartitionKey string    `json:"partition_key"`
	// Data is the event's data; a JSON string of it if it is no JSON itself.
	Data json.RawMessage `json:"data"`
}

// ReadDeadLetters returns dead letters from the data directory, oldest first: those of one sink or, if that is empty, of
// all, and at most limit. It works beside a running bridge and writes nothing.
func ReadDeadLetters(ctx context.Context, cfg *config.Config, sink string, limit int) ([]DeadLetter, error) {
	r, err := journal.OpenReader(ctx, cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	letters, err := r.DeadLetters(ctx, journal.DeadLetterFilter{Sink: sink, Limit: limit})
	if err != nil {
		return nil, err
	}
	out := make([]DeadLetter, 0, len(letters))
	for _, l := range letters {
		data := json.RawMessage(l.Data)
		if !json.Valid(data) {
			data, _ = json.Marshal(string(l.Data)) // a string can always be
		}
		out = append(out, DeadLetter{
			ID: l.ID, Sink: l.Sink, Reason: l.Reason, Attempts: l.Attempts, FirstAt: l.FirstAt, LastAt: l.LastAt,
			WebhookID: l.WebhookID, EventIndex: l.EventIndex, EventID: l.EventID, Type: l.EventType, Source: l.EventSource,
			Subject: l.EventSubject, Time: l.EventTime, PartitionKey: l.PartitionKey, Data: data,
		})
	}
	return out, nil
}
