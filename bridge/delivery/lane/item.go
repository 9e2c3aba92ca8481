package lane

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Item is one event on its way to the sink.
type Item struct {
	Event   *bridge.Event // nobody changes it
	Webhook *Webhook      // that it came with
	Key     string        // by which the sink keeps events in order
	// Again tells that it was left behind, and read again.
	Again bool
	// Attempts counts the tries that have failed, and Failure says why the last one did.
	Attempts int
	Failure  string

	// BehindLane tells that it waits because nothing of its lane gets through, and has no try of its own.
	BehindLane bool

	key     *key
	waiting time.Time // since when it fails, or is held behind one that does; zero: it does not
}

// FailedBefore tells whether the item has failed, for the first time before t.
func (it *Item) FailedBefore(t time.Time) bool { return it.Attempts > 0 && it.waiting.Before(t) }

// Waited is for how long the item has been held, or failed.
func (it *Item) Waited(now time.Time) time.Duration { return now.Sub(it.waiting) }

// WaitsSince notes since when the item has been waiting behind what fails, if it was left behind meanwhile.
func (it *Item) WaitsSince(t time.Time) { it.waiting = t }

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
	exhausted bool // all its events have been taken, or left behind
	held      bool // it is in the window
	put       bool // it is among what was left behind

	finished, left Places // of its events
}

// Resume notes which events of a webhook are finished that is read anew.
func (w *Webhook) Resume(finished Places) { w.finished = finished }

// Exhausted tells whether all its events have been taken, or left behind.
func (w *Webhook) Exhausted() bool { return w.exhausted }

// through tells whether nothing of it is on its way.
func (w *Webhook) through() bool { return w.exhausted && w.open == 0 }

// Done tells whether every event has been taken and is finished.
func (w *Webhook) Done() bool { return w.through() && w.left.Empty() }
