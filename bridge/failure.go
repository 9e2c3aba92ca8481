package bridge

import "errors"

// FailureKind says what delivery does about a failure to publish.
type FailureKind int

const (
	// FailureRetry is for what passes by itself: network, timeouts, a change of leader, anything unknown.
	FailureRetry FailureKind = iota
	// FailureReject is for an event that the broker can never store. It becomes a dead letter.
	FailureReject
	// FailureBlocked is for what a person has to mend: credentials, permission, a missing topic.
	// The events are kept, and tried again slowly.
	FailureBlocked
)

// String returns the word for logs and metrics: retry, reject or blocked.
func (k FailureKind) String() string {
	switch k {
	case FailureReject:
		return "reject"
	case FailureBlocked:
		return "blocked"
	case FailureRetry:
		return "retry"
	default:
		return "retry"
	}
}

// failure marks an error with its kind. The mark stays when the error is wrapped.
type failure struct {
	kind FailureKind
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Retry marks err as passing by itself. A nil err stays nil, as with Reject and Blocked.
func Retry(err error) error { return mark(FailureRetry, err) }

// Reject marks err as final for its event.
func Reject(err error) error { return mark(FailureReject, err) }

// Blocked marks err as something that a person has to mend.
func Blocked(err error) error { return mark(FailureBlocked, err) }

func mark(kind FailureKind, err error) error {
	if err == nil {
		return nil
	}
	return &failure{kind: kind, err: err}
}

// KindOf returns the kind that the outermost mark in err's chain gives it. An error without a mark is FailureRetry:
// trying again loses nothing.
func KindOf(err error) FailureKind {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.kind
	}
	return FailureRetry
}
