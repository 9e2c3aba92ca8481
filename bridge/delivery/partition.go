package delivery

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// guestEvents is the most events of a batch that are not live: a live event may have to wait for its answer.
	guestEvents = 64
	// guestShare is the part of the window that retried dead letters, and replayed events, can each have beside it.
	guestShare = 8
	// liveTurns is how many live batches go before one of retried dead letters has its turn.
	liveTurns = 8
)

// partition is where events are stored that cannot overtake each other: one of a Kafka topic, or the whole of any
// other sink. It has a lane a class, and one batch of one of them under way.
type partition struct {
	lanes [classes]lane
	// arriving are events that are not live, until the live events are finished that their keys had before them.
	arriving []*item
	busy     bool
	turns    int // live batches since the last one of retried dead letters
}

// keyLane remembers the partition of a key with unfinished events. A key never changes partitions in between: its
// events would overtake each other.
type keyLane struct {
	partition int
	open      int
	taken     int // live events, since the key is remembered
	finished  int // of these
}

// placeOf returns the partition that an event goes to.
func (l *loop) placeOf(e *bridge.Event) int {
	if k := l.keys[e.PartitionKey]; k != nil {
		return k.partition
	}
	if p, ok := l.o.Sink.(bridge.Partitioned); ok {
		return p.Partition(*e)
	}
	return 0
}

// enqueue brings an event to its partition.
func (l *loop) enqueue(it *item) {
	k := l.keys[it.event.PartitionKey]
	if k == nil {
		k = &keyLane{partition: l.placeOf(it.event)}
		l.keys[it.event.PartitionKey] = k
	}
	it.key = k
	p := l.partitions[k.partition]
	if p == nil {
		p = &partition{}
		l.partitions[k.partition] = p
	}
	k.open++
	if it.class == classLive {
		k.taken++
		p.lanes[classLive].queue = append(p.lanes[classLive].queue, it)
	} else {
		it.behind = k.taken
		p.arriving = append(p.arriving, it)
	}
}

// leave takes an event out of the count of its key, when it is finished or let go.
func (l *loop) leave(it *item) {
	if it.class == classLive {
		it.key.finished++
	}
	if it.key.open--; it.key.open == 0 {
		delete(l.keys, it.event.PartitionKey)
	}
}

// admit moves what has arrived to its lane, as far as the live events before it are finished.
func (p *partition) admit() {
	rest := p.arriving[:0]
	for _, it := range p.arriving {
		if it.key.finished < it.behind {
			rest = append(rest, it)
			continue
		}
		ln := &p.lanes[it.class]
		ln.queue = append(ln.queue, it)
	}
	clear(p.arriving[len(rest):])
	p.arriving = rest
}

// remove takes every event that which selects out of those that are not under way, and returns them.
func (p *partition) remove(c class, which func(*item) bool) []*item {
	var removed []*item
	sift := func(items []*item) []*item {
		kept := make([]*item, 0, len(items))
		for _, it := range items {
			if it.class == c && which(it) {
				removed = append(removed, it)
			} else {
				kept = append(kept, it)
			}
		}
		return kept
	}
	ln := &p.lanes[c]
	ln.queue = sift(ln.queue)
	ln.keepHeld(sift(ln.held))
	p.arriving = sift(p.arriving)
	return removed
}

// pick returns the next batch of a partition that has none under way, or when to ask again, if that is known.
// Live events go first. Retried dead letters go when there are none to send, and have their turn after a few batches of
// these; replayed events go when there is nothing else. What is not live does not ask whether a broker is back that
// live events wait for.
func (p *partition) pick(now time.Time, o, guests *Options) (class, []*item, time.Time) {
	live := &p.lanes[classLive]
	waits := func() bool { return live.down && len(live.held) > 0 }
	p.admit()
	if p.turns >= liveTurns && !waits() {
		p.turns = 0
		if batch := p.lanes[classRetried].take(now, guests); len(batch) > 0 {
			return classRetried, batch, time.Time{}
		}
	}
	if batch := live.take(now, o); len(batch) > 0 {
		p.turns++
		return classLive, batch, time.Time{}
	}
	next := live.nextTry()
	if waits() {
		return 0, nil, next
	}
	for c := classRetried; c < classes; c++ {
		if batch := p.lanes[c].take(now, guests); len(batch) > 0 {
			p.turns = 0
			return c, batch, time.Time{}
		}
		next = earlier(next, p.lanes[c].nextTry())
	}
	return 0, nil, next
}

// guestOptions are those for batches that are not live. Of dead letters many may be refused for ever: whether others get
// through shows sooner with more at a time.
func guestOptions(o Options) Options {
	o.BatchEvents = min(o.BatchEvents, guestEvents)
	o.ProbeEvents = max(o.ProbeEvents, o.BatchEvents)
	o.BatchBytes = max(1, o.BatchBytes/guestShare)
	return o
}

// share is what events of one class that is not live have in memory.
type share struct {
	events, bytes int
}

func (s *share) room(o *Options) bool {
	return s.events < max(1, o.WindowEvents/guestShare) && s.bytes < max(1, o.WindowBytes/guestShare)
}

func (s *share) take(it *item) {
	s.events++
	s.bytes += it.size()
}

func (s *share) leave(it *item) {
	s.events--
	s.bytes -= it.size()
}
