package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Store makes a webhook durable.
type Store interface {
	// Append returns only once w is safe, or is known to be stored already (a Duplicate). A webhook is
	// told by its ID and its body. When the error is not nil the sender is asked to try again, so a webhook that
	// was stored all the same is found to be a duplicate then.
	//
	// ctx ends after Options.StoreTimeout. It does not end when the sender disconnects: a webhook that has been received
	// whole is worth storing, whether or not the sender hears of it.
	// Append is called concurrently. It may keep w.Body, which nobody changes.
	Append(ctx context.Context, w bridge.Webhook) (bridge.Acceptance, error)
}

// UnavailableError is how a Store says that it cannot take a webhook now, such as when it is full.
// The sender is answered 503.
type UnavailableError struct {
	// RetryAfter is when the sender should try again; it is told in whole seconds, at least one. 0 leaves it to ingest.
	RetryAfter time.Duration
	// Detail is shown to the sender: what is wrong and what to change, without anything secret. It may be empty.
	Detail string
	// Err is the cause, for the log. It may be nil.
	Err error
}

// Error returns the cause, and the detail where there is none.
func (e *UnavailableError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("the store takes no webhook: %v", e.Err)
	case e.Detail != "":
		return "the store takes no webhook: " + e.Detail
	default:
		return "the store takes no webhook"
	}
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// NeverError is how a Store says that it can never keep a webhook as it is. The sender is answered 422.
type NeverError struct {
	// Detail is shown to the sender: what is wrong and what to change, without anything secret.
	Detail string
	// Err is the cause, for the log. It may be nil.
	Err error
}

// Error returns the detail.
func (e *NeverError) Error() string { return "the store can never keep the webhook: " + e.Detail }

// Unwrap returns the cause.
func (e *NeverError) Unwrap() error { return e.Err }
