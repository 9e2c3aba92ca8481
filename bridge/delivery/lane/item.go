package lane

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Item is one event on its way to the sink.
type Item struct {
	Event   *bridge.Event // nobody changes it
	Webhook *Webhook      // that it came with
	// Attempts counts the tries that have failed, and Failure says why the last one did.
	Attempts int
	Failure  string

	key     *key
	waiting time.Time // since when it fails, or is held behind one that does; zero: it does not
}

// FailedBefore tells whether the item has failed, for the first time before t.
func (it *Item) FailedBefore(t time.Time) bool { return it.Attempts > 0 && it.waiting.Before(t) }

// Waited is for how long the item has been held, or failed.
func (it *Item) Waited(now time.Time) time.Duration { return now.Sub(it.waiting) }

// size is what the item counts for in bounds on bytes: its data, and an estimate of its attributes.
func (it *Item) size() int {
	return len(it.Event.Data) + len(it.Event.Source) + len(it.Event.Subject) + 512
}

// Webhook is a webhook, or a dead letter, whose events are on their way.
type Webhook struct {
	// Number is its place in what its stream reads, Seq the webhook's in the journal, and ID the webhook's id.
	Number, Seq int64
	ID          string
	ReceivedAt  time.Time
	// Live tells whether the events come for the first time. What else fails says nothing of how the sink is.
	Live bool
	// Owner is whatever the one who reads it needs to know it again.
	Owner any
	// Lost counts the events that were let go.
	Lost int

	open      int  // events taken from it and not finished
	exhausted bool // all its events have been taken
}

// Done tells whether every event has been taken and is finished.
func (w *Webhook) Done() bool { return w.exhausted && w.open == 0 }
