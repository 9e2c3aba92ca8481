package lane

import (
	"cmp"
	"slices"
	"time"
)

// Window holds what a stream has read and not finished, oldest first, but for what it left behind. It is what bounds
// memory.
type Window struct {
	webhooks   []*Webhook
	unfinished int   // of them are not through
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

// Empty tells whether all that was read is finished, or left behind.
func (w *Window) Empty() bool { return w.unfinished == 0 }

// Waiting counts the webhooks read that are not finished, with those that were left behind.
func (w *Window) Waiting(left *Left) int { return w.unfinished + left.Webhooks() }

// Span is how many numbers lie between the oldest unfinished webhook and the newest one read.
func (w *Window) Span() int64 { return w.read - w.cursor }

// Read is the number of the newest webhook read.
func (w *Window) Read() int64 { return w.read }

// Cursor is the number up to which everything is finished.
func (w *Window) Cursor() int64 { return w.cursor }

// Skip notes that a webhook was read of which nothing is to be done.
func (w *Window) Skip(number int64) { w.read = max(w.read, number) }

// Add takes a webhook in, or again when it has been read again.
func (w *Window) Add(hook *Webhook) {
	w.read = max(w.read, hook.Number)
	if hook.held && !hook.through() { // events of it are on their way still
		hook.exhausted = false
		return
	}
	hook.exhausted = false
	w.unfinished++
	if hook.held {
		return
	}
	hook.held = true
	if n := len(w.webhooks); n == 0 || w.webhooks[n-1].Number < hook.Number {
		w.webhooks = append(w.webhooks, hook)
		return
	}
	i, _ := slices.BinarySearchFunc(w.webhooks, hook.Number, func(h *Webhook, number int64) int {
		return cmp.Compare(h.Number, number)
	})
	w.webhooks = slices.Insert(w.webhooks, i, hook)
}

// Take counts an item that is on its way.
func (w *Window) Take(it *Item) {
	it.Webhook.open++
	w.events++
	w.bytes += it.size()
}

// Finish takes an item out of the count, and tells whether that is the end of its webhook.
func (w *Window) Finish(it *Item) (done bool) {
	it.Webhook.finished.Add(it.Event.Origin.Index)
	return w.out(it)
}

// PutBack takes an item out that is left behind from now on.
func (w *Window) PutBack(it *Item) { w.out(it) }

func (w *Window) out(it *Item) (done bool) {
	it.Webhook.open--
	w.events--
	w.bytes -= it.size()
	return w.count(it.Webhook)
}

// Exhaust notes that all events of a webhook have been taken or left behind, and tells whether that is its end.
func (w *Window) Exhaust(hook *Webhook) (done bool) {
	hook.exhausted = true
	return w.count(hook)
}

func (w *Window) count(hook *Webhook) (done bool) {
	if hook.through() {
		w.unfinished--
	}
	return hook.Done()
}

// Advance moves the cursor past the finished webhooks at the front, to before the first one that is not finished.
func (w *Window) Advance(left *Left) {
	for len(w.webhooks) > 0 && w.webhooks[0].through() {
		w.webhooks[0].held = false
		w.webhooks[0] = nil
		w.webhooks = w.webhooks[1:]
	}
	w.cursor = w.read
	if len(w.webhooks) > 0 {
		w.cursor = w.webhooks[0].Number - 1
	}
	if first, ok := left.first(); ok {
		w.cursor = min(w.cursor, first.number-1)
	}
	// Those that are through and not at the front go too, when they are the most of those remembered.
	if len(w.webhooks) >= 2*w.unfinished+64 {
		w.webhooks = slices.DeleteFunc(w.webhooks, func(hook *Webhook) bool {
			hook.held = !hook.through()
			return !hook.held
		})
	}
}

// Oldest returns when the oldest unfinished webhook was received.
func (w *Window) Oldest(left *Left) (time.Time, bool) {
	first, ok := left.first()
	switch {
	case ok && (len(w.webhooks) == 0 || first.number < w.webhooks[0].Number):
		return time.Unix(0, first.receivedAt), true
	case len(w.webhooks) == 0:
		return time.Time{}, false
	default:
		return w.webhooks[0].ReceivedAt, true
	}
}
