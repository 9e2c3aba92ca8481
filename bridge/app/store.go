package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/queue"
	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// How long a sender is asked to wait. A full journal empties as sinks come back, which takes a while.
const (
	retryAfterFull    = 30 * time.Second
	retryAfterFailure = 5 * time.Second
)

// answerTimeout is how long after its arrival a webhook is answered that waits for the sinks. Its sender gives up after
// 15 s.
const answerTimeout = 12 * time.Second

// store puts webhooks into the journal, and says for people what keeps it from doing so.
type store struct{ journal *journal.Journal }

// Append implements ingest.Store.
func (s store) Append(ctx context.Context, w bridge.Webhook) (bridge.Acceptance, error) {
	accepted, err := s.journal.Append(ctx, w)
	switch {
	case err == nil:
		return accepted, nil
	case errors.Is(err, journal.ErrFullOfDeadLetters):
		return 0, &ingest.UnavailableError{
			RetryAfter: retryAfterFull, Err: err,
			Detail: "Dead letters, which are events that a sink could never store, fill the journal. " +
				"Nothing was stored; send the webhook again later. The operator lists them with " +
				"\"fnbridge dead-letters list\", and makes room with \"fnbridge dead-letters retry\", once their cause is " +
				"mended, or \"fnbridge dead-letters drop\".",
		}
	case errors.Is(err, journal.ErrFull):
		return 0, &ingest.UnavailableError{
			RetryAfter: retryAfterFull, Err: err,
			Detail: "The journal is full. Nothing was stored; send the webhook again later. " +
				"The operator finds with \"fnbridge status\" what fills it.",
		}
	case errors.Is(err, journal.ErrDiskFull):
		return 0, &ingest.UnavailableError{
			RetryAfter: retryAfterFull, Err: err,
			Detail: "The disk of the journal is full. Nothing was stored; send the webhook again later. " +
				"The operator has to make room on the volume of FNBRIDGE_DATA_DIR.",
		}
	case errors.Is(err, journal.ErrClosed):
		return 0, &ingest.UnavailableError{
			RetryAfter: retryAfterFailure, Err: err, Detail: "fnbridge is shutting down. Send the webhook again.",
		}
	default:
		return 0, &ingest.UnavailableError{
			RetryAfter: retryAfterFailure, Err: err,
			Detail: "The journal could not store the webhook. Send it again; the operator finds the cause in the log.",
		}
	}
}

// queueStore publishes webhooks, and says for people what keeps it from doing so. What a sink said of that is for the
// log only, but for the reason why it can never store an event: that has to be seen where the webhook comes from.
type queueStore struct{ queue *queue.Queue }

// Append implements ingest.Store.
func (s queueStore) Append(ctx context.Context, w bridge.Webhook) (bridge.Acceptance, error) {
	accepted, err := s.queue.Submit(ctx, w)
	if err == nil {
		return accepted, nil
	}
	if rejected, ok := errors.AsType[*queue.RejectedError](err); ok {
		detail := fmt.Sprintf("%d of the events of this webhook can never be stored by the sink %s "+
			"(the others were published): %s.", rejected.Events, rejected.Sink, rejected.Reason)
		if !rejected.Addressed {
			detail += fmt.Sprintf(" The operator can set FNBRIDGE_%s_DEAD_LETTER to have such events published there.",
				strings.ToUpper(rejected.Sink))
		}
		return 0, &ingest.NeverError{Err: err, Detail: detail}
	}
	unavailable := &ingest.UnavailableError{RetryAfter: retryAfterFailure, Err: err}
	down, isDown := errors.AsType[*queue.DownError](err)
	switch {
	case isDown && down.InTime:
		unavailable.Detail = fmt.Sprintf("The sink %s did not acknowledge every event in time. "+
			"Some may be published; send the webhook again.", down.Sink)
	case isDown:
		unavailable.Detail = fmt.Sprintf("The sink %s does not take events at the moment. "+
			"Send the webhook again later.", down.Sink)
	case errors.Is(err, queue.ErrFull):
		unavailable.Detail = "As many webhooks as FNBRIDGE_MAX_IN_FLIGHT allows wait for the sinks already. " +
			"Send this one again."
	case errors.Is(err, queue.ErrClosed):
		unavailable.Detail = "fnbridge is shutting down. Send the webhook again."
	}
	return 0, unavailable
}
