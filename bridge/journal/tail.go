package journal

import (
	"slices"
	"sync"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// The tail holds this much at most, which is what sinks that keep up are behind by.
	tailWebhooks = 4096
	tailBytes    = 4 << 20
)

// tail keeps the newest durable webhooks in memory, so that sinks that keep up with them need not read from the
// database what has just been written to it. The writer alone adds to it; anybody reads.
type tail struct {
	mu sync.Mutex
	// kept holds them in order, without gaps, behind as many empty places as have been let go of.
	kept  []Webhook
	empty int
	bytes int64 // of their bodies
}

// add takes webhooks that have become durable, and lets go of the oldest as need be.
func (t *tail) add(newest []Webhook) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range newest {
		t.bytes += int64(len(newest[i].Body))
	}
	t.kept = append(t.kept, newest...)
	t.drop(func(Webhook) bool { return len(t.kept)-t.empty > tailWebhooks || t.bytes > tailBytes })
}

// dropThrough lets go of what has been deleted.
func (t *tail) dropThrough(seq int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(func(oldest Webhook) bool { return oldest.Seq <= seq })
}

// drop lets go of the oldest while it is to go.
func (t *tail) drop(goes func(oldest Webhook) bool) {
	for t.empty < len(t.kept) && goes(t.kept[t.empty]) {
		t.bytes -= int64(len(t.kept[t.empty].Body))
		t.kept[t.empty] = Webhook{}
		t.empty++
	}
	if t.empty >= tailWebhooks { // seldom enough for the move to cost little
		t.kept, t.empty = slices.Delete(t.kept, 0, t.empty), 0
	}
}

// asRead returns w as reading number seq from the database would. The body is the caller's, and stays as it is.
func asRead(seq int64, w bridge.Webhook) Webhook {
	if w.Body == nil || cap(w.Body) > len(w.Body)+len(w.Body)/8 { // a larger buffer is not worth keeping
		w.Body = append(make([]byte, 0, len(w.Body)), w.Body...)
	}
	w.Timestamp, w.ReceivedAt = fromNanos(toNanos(w.Timestamp)), fromNanos(toNanos(w.ReceivedAt))
	return Webhook{Seq: seq, Webhook: w}
}

// forget empties the tail: what is durable must be read from the disk.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept, t.empty, t.bytes = nil, 0, 0
}

// read returns what Journal.Read does, if the tail has the first webhook after the given number.
func (t *tail) read(after int64, maxCount int, maxBytes int64) (found []Webhook, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := t.kept[t.empty:]
	if len(rest) == 0 {
		return nil, false
	}
	first := after + 1 - rest[0].Seq
	if first < 0 || first >= int64(len(rest)) {
		return nil, false
	}
	rest = rest[first:]
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
