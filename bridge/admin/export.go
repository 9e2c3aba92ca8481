package admin

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/fnbridge/fnbridge/bridge/journal"
)

// What one read of an export takes at most, so that its memory does not grow with the journal.
const (
	exportCount = 256
	exportBytes = 4 << 20
)

// ExportedWebhook is a webhook as it is in the journal. Of Body and BodyBase64, one holds the body, byte for byte.
type ExportedWebhook struct {
	Seq        int64     `json:"seq"`
	WebhookID  string    `json:"webhook_id"`
	Timestamp  time.Time `json:"timestamp"`
	ReceivedAt time.Time `json:"received_at"`
	// Body is the body if it is valid UTF-8.
	Body       *string `json:"body,omitempty"`
	BodyBase64 []byte  `json:"body_base64,omitempty"`
}

// Bytes returns the body, and false if there is none.
func (w ExportedWebhook) Bytes() ([]byte, bool) {
	if w.Body != nil {
		return []byte(*w.Body), true
	}
	return w.BodyBase64, w.BodyBase64 != nil
}

// ExportRequest selects webhooks of a journal; the zero request selects all.
type ExportRequest struct {
	// Since and Until bound when they were received: at or after Since, before Until.
	Since, Until time.Time
	// After leaves out those up to this number.
	After int64
	// Undelivered selects those that this sink has not wholly been sent; empty: whatever sinks have.
	Undelivered string
}

// Export calls f with what r selects of the webhooks that are in the journal now, oldest first, until f returns an
// error, which it returns, and progress, which may be nil, with how many it has looked at of how many, about. It works
// beside a running bridge and writes nothing.
func Export(
	ctx context.Context, dir string, r ExportRequest, progress func(done, total int64), f func(ExportedWebhook) error,
) error {
	reader, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return err
	}
	defer reader.Close()
	status, err := reader.Status(ctx)
	if err != nil {
		return err
	}
	if status.Head == 0 {
		return nil
	}
	query := journal.WebhookFilter{After: r.After, Through: status.Head, Since: r.Since, Until: r.Until}
	wanted := func(int64) bool { return true }
	if r.Undelivered != "" {
		sink, err := sinkOf(status, r.Undelivered)
		if err != nil {
			return err
		}
		query.After, wanted = max(query.After, sink.Cursor), sink.Waits
	}
	first := max(query.After, status.Head-status.Webhooks)
	for {
		found, err := reader.Select(ctx, query, exportCount, exportBytes)
		if err != nil || len(found) == 0 {
			return err
		}
		if progress != nil {
			progress(max(query.After-first, 0), status.Head-first)
		}
		for i := range found {
			if !wanted(found[i].Seq) {
				continue
			}
			if err := f(exported(&found[i])); err != nil {
				return err
			}
		}
		query.After = found[len(found)-1].Seq
	}
}

func exported(w *journal.Webhook) ExportedWebhook {
	e := ExportedWebhook{Seq: w.Seq, WebhookID: w.ID, Timestamp: w.Timestamp, ReceivedAt: w.ReceivedAt}
	if utf8.Valid(w.Body) {
		body := string(w.Body)
		e.Body = &body
	} else {
		e.BodyBase64 = w.Body
	}
	return e
}

// sinkOf returns what is known of a sink, or an *UnknownSinkError.
func sinkOf(s journal.Status, sink string) (*journal.SinkStatus, error) {
	names := make([]string, 0, len(s.Sinks))
	for i := range s.Sinks {
		if s.Sinks[i].Sink == sink {
			return &s.Sinks[i], nil
		}
		names = append(names, s.Sinks[i].Sink)
	}
	return nil, &UnknownSinkError{Sink: sink, Known: names}
}

// Verification is what a check of the whole journal found.
type Verification = journal.Verification

// Verify reads the whole journal and compares it with what must hold, calling progress with how much is done of what.
// Damage to the file itself is an error. It works beside a running bridge and writes nothing.
func Verify(ctx context.Context, dir string, progress func(done, total int64)) (Verification, error) {
	r, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return Verification{}, err
	}
	defer r.Close()
	return r.Verify(ctx, progress)
}
