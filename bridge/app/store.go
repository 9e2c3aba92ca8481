package app

import (
	"context"
	"errors"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// How long a sender is asked to wait. A full journal empties as sinks come back, which takes a while.
const (
	retryAfterFull    = 30 * time.Second
	retryAfterFailure = 5 * time.Second
)

// store puts webhooks into the journal, and says for people what keeps it from doing so.
type store struct{ journal *journal.Journal }

// Append implements ingest.Store.
func (s store) Append(ctx context.Context, w bridge.Webhook) (duplicate bool, err error) {
	duplicate, err = s.journal.Append(ctx, journal.Webhook{
		ID: w.ID, Timestamp: w.Timestamp, ReceivedAt: w.ReceivedAt, Body: w.Body,
	})
	switch {
	case err == nil:
		return duplicate, nil
	case errors.Is(err, journal.ErrFull):
		return false, &ingest.UnavailableError{
			RetryAfter: retryAfterFull, Err: err,
			Detail: "The journal is full. Nothing was stored; send the webhook again later. The operator finds with \"fnbridge status\" what fills it.",
		}
	case errors.Is(err, journal.ErrClosed):
		return false, &ingest.UnavailableError{
			RetryAfter: retryAfterFailure, Err: err, Detail: "fnbridge is shutting down. Send the webhook again.",
		}
	default:
		return false, &ingest.UnavailableError{
			RetryAfter: retryAfterFailure, Err: err,
			Detail: "The journal could not store the webhook. Send it again; the operator finds the cause in the log.",
		}
	}
}
