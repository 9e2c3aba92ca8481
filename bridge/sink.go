package bridge

import (
	"context"
	"fmt"
)

// Sink publishes events to one broker.
//
// Publish may be called concurrently; delivery never has two events of one key in concurrent calls. The key is the
// event's PartitionKey, or what a Keyed sink says. The other methods may be called at any time, Close once and last.
type Sink interface {
	Name() string
	// Publish returns one result an event, in order: nil once the broker has
	// acknowledged it, else an error that says what to do (Retry, Reject, Blocked).
	// An event may have been stored although its result is an error.
	//
	// Order: what one webhook has for a key is a share (see SameShare). Its events may go without
	// waiting for one another's acknowledgement, in their order. When one of them ends in Retry or Blocked,
	// later shares of the key in the same call are not stored ahead of it: they end in Retry or Blocked too.
	// A rejected event holds back no other.
	//
	// Publish returns soon after ctx ends, and within a bound of its own when ctx has none. The
	// events, and the bytes they hold, may be read after it has returned.
	Publish(ctx context.Context, events []Event) []error
	// Check tells whether the sink could publish now. Its error is classified as Publish's are, and names the cause.
	Check(ctx context.Context) error
	// Close ends every connection and goroutine of the sink. What was acknowledged stays stored.
	Close(ctx context.Context) error
}

// SameShare tells whether b, which comes right behind a among the events of their key, is of the same share:
// of the same webhook, whose events are reported at once and mean no order. An event that concludes the others begins a
// share.
func SameShare(a, b *Event) bool {
	return a.Origin.Webhook == b.Origin.Webhook && a.Origin.Replay == b.Origin.Replay &&
		a.Origin.Webhook != (Digest{}) && !b.Concludes
}

// Partitioned is a Sink whose broker stores events in partitions that can fail one by one. Delivery
// publishes to each from a lane of its own, so that one in trouble holds up no other. What is ready at the same time
// for partitions of one broker, it publishes in one call.
type Partitioned interface {
	Sink
	// Partition returns where e would be stored, and -1 while that is not known. Cheap, and never waits.
	// It is a hint: Publish stores each event where its key belongs, whatever Partition said before.
	Partition(e Event) int
	// PartitionCount returns how many partitions there are, and 0 while that is not known. Cheap, and never waits.
	PartitionCount() int
	// Leader returns the number of the broker that stores a partition, and -1 while that is not known. Cheap, and never
	// waits.
	Leader(partition int) int
}

// Keyed is a Sink that may keep events in order by another key than their PartitionKey, as a broker does by a record's
// key.
type Keyed interface {
	Sink
	// OrderingKey returns what makes an event's key, and nil if that is its PartitionKey. The function is cheap and never
	// waits. Events of one webhook may have several keys.
	OrderingKey() func(e *Event) string
}

// Deduper is a Sink whose broker drops what it has stored before, as far as it remembers.
type Deduper interface {
	Sink
	// Duplicates returns how many events the broker has acknowledged without storing them.
	Duplicates() int64
}

// Answers returns a sink's results for so many events. A count that does not add up is never trusted: nothing counts as
// acknowledged then.
func Answers(errs []error, want int) []error {
	if len(errs) == want {
		return errs
	}
	err := Retry(fmt.Errorf("sink answered %d results for %d events", len(errs), want))
	errs = make([]error, want)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
