package journal

import (
	"slices"
	"sync"
)

const (
	// The tail holds this much at most, which is what sinks that keep up are behind by.
	tailWebhooks = 4096
	tailBytes    = 4 << 20
)

// tail keeps the newest durable webhooks in memory, so that sinks that keep up with them need not read from the
// database what has just been written to it. The writer alone adds to it; anybody reads.
type tail struct {
	mu       sync.Mutex
	webhooks []Webhook // in order, without gaps
	bytes    int64     // of their bodies
}

// add takes webhooks that have become durable, and lets go of the oldest as need be.
func (t *tail) add(newest []Webhook) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range newest {
		t.bytes += int64(len(newest[i].Body))
	}
	t.webhooks = append(t.webhooks, newest...)
	t.drop(func(Webhook) bool { return len(t.webhooks) > tailWebhooks || t.bytes > tailBytes })
}

// dropThrough lets go of what has been deleted.
func (t *tail) dropThrough(seq int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(func(oldest Webhook) bool { return oldest.Seq <= seq })
}

// drop lets go of the oldest while it is to go.
func (t *tail) drop(goes func(oldest Webhook) bool) {
	for len(t.webhooks) > 0 && goes(t.webhooks[0]) {
		t.bytes -= int64(len(t.webhooks[0].Body))
		t.webhooks[0] = Webhook{} // the array behind the slice holds it until append moves the rest
		t.webhooks = t.webhooks[1:]
	}
}

// asRead returns w as reading number seq from the database would.
func asRead(seq int64, w Webhook) Webhook {
	return Webhook{
		Seq: seq, ID: w.ID, Timestamp: fromNanos(toNanos(w.Timestamp)), ReceivedAt: fromNanos(toNanos(w.ReceivedAt)),
		Body: append(make([]byte, 0, len(w.Body)), w.Body...),
	}
}

// forget empties the tail: what is durable must be read from the disk.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.webhooks, t.bytes = nil, 0
}

// read returns what Journal.Read does, if the tail has the first webhook after the given number.
func (t *tail) read(after int64, maxCount int, maxBytes int64) (found []Webhook, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.webhooks) == 0 {
		return nil, false
	}
	first := after + 1 - t.webhooks[0].Seq
	if first < 0 || first >= int64(len(t.webhooks)) {
		return nil, false
	}
	rest := t.webhooks[first:]
	rest = rest[:min(len(rest), max(maxCount, 1))]
	var bytes int64
	for i := range rest {
		if bytes += int64(len(rest[i].Body)); i > 0 && bytes > maxBytes {
			rest = rest[:i]
			break
		}
	}
	return slices.Clone(rest), true
}
