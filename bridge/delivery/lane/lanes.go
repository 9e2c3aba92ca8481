// Package lane holds events on their way to a sink: in order by key, a lane for each partition, within a window. It
// only keeps state: it starts no goroutine, knows no journal and no sink, and is given the time. Nothing in it is safe
// for concurrent use.
package lane

import (
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Limits of the lanes of a sink.
type Limits struct {
	// BatchEvents and BatchBytes bound a batch; ProbeEvents bounds it while nothing gets through.
	BatchEvents, BatchBytes, ProbeEvents int
	// MinBackoff and MaxBackoff bound the wait before another try; BlockedBackoff is the least when somebody has to mend
	// something first.
	MinBackoff, MaxBackoff, BlockedBackoff time.Duration
	// GiveUpAfter is how long an event may be held; 0: for ever.
	GiveUpAfter time.Duration
}

// Lanes are the lanes of one sink.
type Lanes struct {
	limits     Limits
	partition  func(*bridge.Event) int
	partitions func() int
	lanes      map[int]*Lane
	keys       map[string]*key
}

// key remembers the partition of a key with unfinished events. A key never changes partitions in between: its events
// would overtake each other.
type key struct {
	partition int
	open      int // unfinished events
}

// New returns the lanes of a sink whose events go to the partitions that the first function gives. The second one says
// how many there are, and 0 while that is not known.
func New(limits Limits, partition func(*bridge.Event) int, partitions func() int) *Lanes {
	return &Lanes{
		limits: limits, partition: partition, partitions: partitions, lanes: make(map[int]*Lane), keys: make(map[string]*key),
	}
}

// All returns the lanes.
func (l *Lanes) All() iter.Seq[*Lane] { return maps.Values(l.lanes) }

// Of returns the lane that an item goes to, and nil if it has had none yet.
func (l *Lanes) Of(it *Item) *Lane {
	if k := l.keys[it.Key]; k != nil {
		return l.lanes[k.partition]
	}
	return l.lanes[l.partition(it.Event)]
}

// Add puts an item behind what its key has in its lane.
func (l *Lanes) Add(it *Item) {
	k := l.keys[it.Key]
	if k == nil {
		k = &key{partition: l.partition(it.Event)}
		l.keys[it.Key] = k
	}
	k.open++
	it.key = k
	lane := l.lanes[k.partition]
	if lane == nil {
		lane = &Lane{Partition: k.partition, limits: &l.limits}
		l.lanes[k.partition] = lane
	}
	lane.queue = append(lane.queue, it)
}

// Finish forgets an item that is in no lane any more.
func (l *Lanes) Finish(it *Item) {
	if it.key.open--; it.key.open == 0 {
		delete(l.keys, it.Key)
	}
}

// Held tells whether an event is held anywhere, or tried again.
func (l *Lanes) Held() bool {
	for _, lane := range l.lanes {
		if lane.attempt > 0 {
			return true
		}
	}
	return false
}

// TryNow has everything that is held tried again at once, as if it had failed for the first time. While nothing of a
// lane gets through, a small batch goes first.
func (l *Lanes) TryNow(now time.Time) {
	for _, lane := range l.lanes {
		if lane.attempt > 0 {
			lane.attempt, lane.retryAt = 1, now
		}
	}
}

// Remove takes out the items that which selects and that are not under way.
func (l *Lanes) Remove(which func(*Item) bool) (removed []*Item) {
	for _, lane := range l.lanes {
		keep := func(it *Item) bool {
			if which(it) {
				removed = append(removed, it)
				return false
			}
			return true
		}
		queue, held := filter(lane.queue, keep), filter(lane.held, keep)
		lane.queue = queue
		lane.keepHeld(held)
		lane.SettleEmpty()
	}
	return removed
}

func filter(items []*Item, keep func(*Item) bool) []*Item {
	kept := make([]*Item, 0, len(items))
	for _, it := range items {
		if keep(it) {
			kept = append(kept, it)
		}
	}
	return slices.Clip(kept)
}

// Backoff doubles from MinBackoff to MaxBackoff with the number of the attempt, from 1 on, with jitter of up to one
// half so that many bridges do not return in step.
func (l *Limits) Backoff(attempt int, kind bridge.FailureKind) time.Duration {
	wait := l.MaxBackoff
	if shift := attempt - 1; shift < 20 && l.MinBackoff<<shift < l.MaxBackoff {
		wait = l.MinBackoff << shift
	}
	if kind == bridge.FailureBlocked {
		wait = max(wait, min(l.BlockedBackoff, l.MaxBackoff))
	}
	return wait - time.Duration(rand.Int64N(int64(wait/2)+1)) //nolint:gosec // jitter needs no secrecy
}

// Earlier returns the earlier of two times, of which a zero one means never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
