package lane

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// GoOn tells whether some partition is not known to be down: one of which nothing has come may go on.
func (l *Lanes) GoOn() bool {
	down := 0
	for _, lane := range l.lanes {
		if !lane.Stands() {
			return true
		}
		down++
	}
	return down < l.partitions()
}

// SinkWell says that the sink was found to be well at a time. What it has refused since before, until somebody mends
// that, is then a matter of those events: others may get through.
func (l *Lanes) SinkWell(at time.Time) {
	for _, lane := range l.lanes {
		if lane.down && lane.kind == bridge.FailureBlocked && lane.failedAt.Before(at) {
			lane.refuses = true
		}
	}
}

// Returns counts how often a lane went on after failures.
func (l *Lanes) Returns() (n int) {
	for _, lane := range l.lanes {
		n += lane.returns
	}
	return n
}

// Still tells whether an item would stand still: nothing of its lane got through last, or an event of its key is held.
// A lane with nothing in it is to be asked whether it goes on.
func (l *Lane) Still(it *Item) bool {
	return l != nil && ((l.stands() && (l.busy || len(l.held)+len(l.queue) > 0)) || l.heldKeys[it.Key] > 0)
}

// Held counts the events that are held, and their keys.
func (l *Lane) Held() (events, keys int) { return len(l.held), len(l.heldKeys) }

// HeldAgain counts the items that are held and were read again, and their bytes.
func (l *Lanes) HeldAgain() (s Share) {
	for _, lane := range l.lanes {
		for _, it := range lane.held {
			if it.Again {
				s.Add(it)
			}
		}
	}
	return s
}

// still returns the live items that stand still: of a lane that is down all, else those held.
func (l *Lane) still() (items []*Item) {
	if l.attempt == 0 && !l.down {
		return nil
	}
	lists := [][]*Item{l.held}
	if l.stands() {
		lists = append(lists, l.queue)
	}
	for _, list := range lists {
		for _, it := range list {
			if it.Webhook.Live {
				items = append(items, it)
			}
		}
	}
	return items
}

// Still counts the live items that stand still, and their bytes.
func (l *Lanes) Still() (s Share) {
	for _, lane := range l.lanes {
		for _, it := range lane.still() {
			s.Add(it)
		}
	}
	return s
}

// Share is what items take up of a window.
type Share struct{ Events, Bytes int }

// Add adds an item.
func (s *Share) Add(it *Item) { s.Events, s.Bytes = s.Events+1, s.Bytes+it.size() }

// Remove takes an item out.
func (s *Share) Remove(it *Item) { s.Events, s.Bytes = s.Events-1, s.Bytes-it.size() }

// Minus returns what is left of it without another.
func (s Share) Minus(other Share) Share { return Share{s.Events - other.Events, s.Bytes - other.Bytes} }

// Half returns half of it.
func (s Share) Half() Share { return Share{s.Events/2 + 1, s.Bytes/2 + 1} }

// Below tells whether both are less than those of another share.
func (s Share) Below(other Share) bool { return s.Events < other.Events && s.Bytes < other.Bytes }

// Within tells whether neither is more than that of another share.
func (s Share) Within(other Share) bool { return s.Events <= other.Events && s.Bytes <= other.Bytes }

// Overflow takes out what stands still beyond a share of the window: the newest of those lanes that have the most, but
// never the last one of a lane, which asks whether that goes on. Of a key that something is taken out of, everything
// behind that is taken out, too.
func (l *Lanes) Overflow(share Share) (out []*Item) {
	var kept [][]*Item
	total := l.Still()
	for _, lane := range l.lanes {
		if items := lane.still(); len(items) > 0 {
			kept = append(kept, items)
		}
	}
	which := make(map[*Item]bool)
	for !total.Within(share) {
		most := 0
		for i := range kept {
			if len(kept[i]) > len(kept[most]) {
				most = i
			}
		}
		last := len(kept[most]) - 1
		if last < 1 {
			break
		}
		it := kept[most][last]
		kept[most] = kept[most][:last]
		which[it] = true
		total.Remove(it)
	}
	if len(which) == 0 {
		return nil
	}
	return l.PutBack(func(it *Item) bool { return which[it] })
}

// PutBack takes live items that which selects out, unless they are under way, and everything behind them of their keys.
// The first one of a lane stays, which asks whether that goes on.
func (l *Lanes) PutBack(which func(*Item) bool) (out []*Item) {
	keys := make(map[string]bool)
	first := true
	keep := func(it *Item) bool {
		if first || !it.Webhook.Live || (!keys[it.Key] && !which(it)) {
			first = false
			return true
		}
		keys[it.Key] = true
		out = append(out, it)
		return false
	}
	for _, lane := range l.lanes {
		first = true
		lane.keepHeld(filter(lane.held, keep))
		lane.queue = filter(lane.queue, keep)
	}
	return out
}
