package admin

import (
	"context"
	"time"

	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// Status is how a bridge is, as its data directory tells. Times that are not there are nil.
type Status struct {
	// JournalBytes is what the journal holds, JournalMaxBytes what it may hold. JournalFilesBytes is what its files take
	// on the volume, with the places in them that are free for use again.
	JournalBytes      int64 `json:"journal_bytes"`
	JournalMaxBytes   int64 `json:"journal_max_bytes"`
	JournalFilesBytes int64 `json:"journal_files_bytes"`
	// Of the Webhooks in the journal, WaitingWebhooks cannot be deleted, since a sink waits for them or for one before
	// them; KeptWebhooks are those that every sink has, which stay for deduping and replay. What either takes is told
	// about, and so is what dead letters take.
	Webhooks        int64 `json:"webhooks"`
	WaitingWebhooks int64 `json:"waiting_webhooks"`
	WaitingBytes    int64 `json:"waiting_bytes"`
	KeptWebhooks    int64 `json:"kept_webhooks"`
	KeptBytes       int64 `json:"kept_bytes"`
	DeadLetterBytes int64 `json:"dead_letter_bytes"`
	Head            int64 `json:"head"` // number of the newest webhook
	// Oldest is when the oldest webhook in the journal was received, LastAccepted when the newest was, also if it has been
	// deleted since.
	Oldest       *time.Time   `json:"oldest_received_at,omitempty"`
	LastAccepted *time.Time   `json:"last_accepted_at,omitempty"`
	Sinks        []SinkStatus `json:"sinks"`
	// Report is empty unless a bridge runs.
	Report
}

// SinkStatus is how far a sink is.
type SinkStatus struct {
	Sink string `json:"sink"`
	// Configured tells whether the bridge that ran last delivered to this sink.
	Configured bool `json:"configured"`
	// RemovedAt is when a bridge first ran without this sink, as far as that is known.
	RemovedAt *time.Time `json:"removed_at,omitempty"`
	// State is up, degraded, down or blocked, and empty until delivery has reported.
	State string     `json:"state"`
	Since *time.Time `json:"since,omitempty"`
	// Advice says what a state other than up means, and what to do about it.
	Advice string `json:"advice,omitempty"`
	// BacklogWebhooks counts what waits for the sink: accepted webhooks that have not wholly reached it.
	BacklogWebhooks   int64      `json:"backlog_webhooks"`
	OldestUndelivered *time.Time `json:"oldest_undelivered_received_at,omitempty"`
	DeadLetters       int64      `json:"dead_letters"`
	LastError         string     `json:"last_error,omitempty"`
	LastErrorAt       *time.Time `json:"last_error_at,omitempty"`
	// StandsStill says what of the sink stands still while the rest goes on, and why.
	StandsStill string `json:"stands_still,omitempty"`
	Cursor      int64  `json:"cursor"`
	// Missing is what the sink's broker may have lost and no replay has published again.
	Missing *Missing `json:"missing,omitempty"`
}

// Missing is what a broker that went back may have lost of what it had acknowledged.
type Missing struct {
	FoundAt time.Time `json:"found_at"`
	// Found says how it was seen.
	Found string `json:"found"`
	// Webhooks counts those whose events may be missing.
	Webhooks int64 `json:"webhooks"`
	// Replay is the number of the replay that the bridge made of them; 0: Command makes one.
	Replay  int64  `json:"replay,omitempty"`
	Command string `json:"command"`
}

func shownMissing(sink string, m *journal.Missing) *Missing {
	if m == nil {
		return nil
	}
	return &Missing{
		FoundAt: m.FoundAt, Found: m.Found, Webhooks: m.Webhooks(), Replay: m.Replay, Command: m.Command(sink),
	}
}

// ReadStatus reads the journal in dir, beside a running bridge, which it asks for its report, or without one. It writes
// nothing.
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
	out := shownStatus(&s)
	out.Report = askReport(ctx, dir)
	return out, nil
}

func shownStatus(s *journal.Status) Status {
	out := Status{
		JournalBytes: s.Bytes, JournalMaxBytes: s.MaxBytes, JournalFilesBytes: s.FilesBytes,
		Webhooks: s.Webhooks, WaitingWebhooks: s.WaitingWebhooks, WaitingBytes: s.WaitingBytes,
		KeptWebhooks: s.KeptWebhooks, KeptBytes: s.KeptBytes, DeadLetterBytes: s.DeadLetterBytes, Head: s.Head,
		Oldest: optional(s.OldestReceivedAt), LastAccepted: optional(s.LastAcceptedAt),
		Sinks: make([]SinkStatus, 0, len(s.Sinks)),
	}
	for i := range s.Sinks {
		k := &s.Sinks[i]
		out.Sinks = append(out.Sinks, SinkStatus{
			Sink: k.Sink, Configured: k.Configured, RemovedAt: optional(k.RemovedAt),
			State: k.State.State, Since: optional(k.State.Since),
			BacklogWebhooks: delivery.Backlog(k), OldestUndelivered: optional(k.OldestUndelivered), DeadLetters: k.DeadLetters,
			LastError: k.State.LastError, LastErrorAt: optional(k.State.LastErrorAt),
			StandsStill: k.State.StandsStill, Cursor: k.Cursor, Missing: shownMissing(k.Sink, k.Missing),
		})
		if k.Configured {
			out.Sinks[i].Advice = advice(k.State.State, keptEvents)
		}
	}
	return out
}
