package admin

import (
	"context"
	"time"

	"github.com/fnbridge/fnbridge/bridge/journal"
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

// ReadStatus reads the journal in dir, beside a running bridge or without one. It writes nothing.
func ReadStatus(ctx context.Context, dir string) (Status, error) {
	r, err := journal.OpenReader(ctx, dir)
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
