package delivery

import (
	"slices"
	"time"
)

// webhook is one journal entry whose events are on their way.
type webhook struct {
	seq        int64
	receivedAt time.Time
	id         string
	open       int  // events taken from it and not finished
	exhausted  bool // all its events have been taken
	told       bool // the origin knows that it is done

	part *part // that the sink has in it, if it is from a Queue
	lost int   // events that were let go because nobody waits for it
}

// withdrawn tells whether nobody waits for the webhook any more, so that its events are to be let go.
func (w *webhook) withdrawn() bool { return w.part != nil && w.part.gone.Load() }

func (w *webhook) done() bool { return w.exhausted && w.open == 0 }

// window holds what has been read from the journal and is not finished, oldest first. It is what bounds memory, and
// how far delivery runs ahead of an event that does not get through.
type window struct {
	webhooks []*webhook
	// unfinished counts those of them that are not done.
	unfinished int
	events     int   // taken and not finished
	bytes      int   // of those events
	cursor     int64 // everything up to here is finished
	read       int64 // the newest webhook read
}

// room tells whether another event may be taken.
func (w *window) room(o *Options) bool { return w.events < o.WindowEvents && w.bytes < o.WindowBytes }

// span is how many webhooks lie between the oldest unfinished one and the newest one read.
func (w *window) span() int64 { return w.read - w.cursor }

func (w *window) add(hook *webhook) {
	w.webhooks = append(w.webhooks, hook)
	w.unfinished++
	w.read = hook.seq
}

func (w *window) take(it *item) {
	it.webhook.open++
	w.events++
	w.bytes += it.size()
}

func (w *window) finish(it *item) {
	it.webhook.open--
	w.events--
	w.bytes -= it.size()
}

// advance moves the cursor past the finished webhooks at the front. Numbers have no gaps, so it ends before the first one
// that is not finished.
func (w *window) advance() {
	for len(w.webhooks) > 0 && w.webhooks[0].done() {
		w.webhooks[0] = nil
		w.webhooks = w.webhooks[1:]
	}
	w.cursor = w.read
	if len(w.webhooks) > 0 {
		w.cursor = w.webhooks[0].seq - 1
	}
}

// compact forgets finished webhooks that are not at the front either, when they are the most of those remembered.
func (w *window) compact() {
	if len(w.webhooks) < 2*w.unfinished+64 {
		return
	}
	w.webhooks = slices.DeleteFunc(w.webhooks, (*webhook).done)
}

// oldest returns when the oldest unfinished webhook was received.
func (w *window) oldest() (time.Time, bool) {
	if len(w.webhooks) == 0 {
		return time.Time{}, false
	}
	return w.webhooks[0].receivedAt, true
}
