package lane

import (
	"slices"
	"time"
)

// Window holds what a stream has read and not finished, oldest first. It is what bounds memory, and how far a stream
// runs ahead of an event that does not get through.
type Window struct {
	webhooks   []*Webhook
	unfinished int   // of them are not done
	events     int   // taken and not finished
	bytes      int   // of those events
	cursor     int64 // everything up to here is finished
	read       int64 // the newest read
}

// NewWindow returns the window of a stream that stands at cursor.
func NewWindow(cursor int64) Window { return Window{cursor: cursor, read: cursor} }

// Room tells whether another event may be taken into a window of so many events and bytes.
func (w *Window) Room(events, bytes int) bool { return w.events < events && w.bytes < bytes }

// Events is how many events are taken and not finished.
func (w *Window) Events() int { return w.events }

// Empty tells whether all that was read is finished.
func (w *Window) Empty() bool { return w.unfinished == 0 }

// Span is how many numbers lie between the oldest unfinished webhook and the newest one read.
func (w *Window) Span() int64 { return w.read - w.cursor }

// Read is the number of the newest webhook read, and Cursor that up to which everything is finished.
func (w *Window) Read() int64 { return w.read }

// Cursor is the number up to which everything is finished.
func (w *Window) Cursor() int64 { return w.cursor }

// Add takes a webhook in.
func (w *Window) Add(hook *Webhook) {
	w.webhooks = append(w.webhooks, hook)
	w.unfinished++
	w.read = hook.Number
}

// Take counts an item that is on its way.
func (w *Window) Take(it *Item) {
	it.Webhook.open++
	w.events++
	w.bytes += it.size()
}

// Finish takes an item out of the count, and tells whether that is the end of its webhook.
func (w *Window) Finish(it *Item) (done bool) {
	it.Webhook.open--
	w.events--
	w.bytes -= it.size()
	return w.count(it.Webhook)
}

// Exhaust notes that all events of a webhook have been taken, and tells whether that is its end.
func (w *Window) Exhaust(hook *Webhook) (done bool) {
	hook.exhausted = true
	return w.count(hook)
}

func (w *Window) count(hook *Webhook) (done bool) {
	if done = hook.Done(); done {
		w.unfinished--
	}
	return done
}

// Advance moves the cursor past the finished webhooks at the front, to before the first one that is not finished.
func (w *Window) Advance() {
	for len(w.webhooks) > 0 && w.webhooks[0].Done() {
		w.webhooks[0] = nil
		w.webhooks = w.webhooks[1:]
	}
	w.cursor = w.read
	if len(w.webhooks) > 0 {
		w.cursor = w.webhooks[0].Number - 1
	}
	// Finished ones that are not at the front go too, when they are the most of those remembered.
	if len(w.webhooks) >= 2*w.unfinished+64 {
		w.webhooks = slices.DeleteFunc(w.webhooks, (*Webhook).Done)
	}
}

// Oldest returns when the oldest unfinished webhook was received.
func (w *Window) Oldest() (time.Time, bool) {
	if len(w.webhooks) == 0 {
		return time.Time{}, false
	}
	return w.webhooks[0].ReceivedAt, true
}
