package delivery

import (
	"math/rand/v2"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// class tells why an event is on its way. Events of different classes never share a batch.
type class int

const (
	classLive     class = iota // accepted, and behind the cursor until it is finished
	classRetried               // a dead letter that somebody asked another try for
	classReplayed              // finished long ago, and asked for again
	classes
)

// item is one event on its way to the sink.
type item struct {
	event    *bridge.Event // nobody changes it
	key      *keyLane      // of its partition key, once it is in a partition
	webhook  *webhook
	attempts int // that have failed
	class    class
	letter   int64   // the dead letter that it is, if retried
	carried  int     // attempts of its that were before it made room for others
	replay   *replay // that it belongs to, if replayed
	// behind is how many live events of its key had been taken before it, if it is not live itself: it goes behind those.
	behind int

	waiting time.Time // since when it fails, or is held behind one that does; zero: it does not
	failure string    // of the last try
}

// size is what the item counts for in bounds on bytes: its data, and an estimate of its attributes.
func (it *item) size() int {
	return len(it.event.Data) + len(it.event.Source) + len(it.event.Subject) + 512
}

// lane carries the events of one class and one partition, or of a sink that has none. One batch at a time is under way.
// Events that failed are held, and with them all later events of their keys, so that each key keeps its order;
// the other keys go on. Its times are the process's own clock.
type lane struct {
	queue    []*item // not yet tried, in the order of acceptance
	held     []*item // failed, or behind a failed event of their key; in order within each key
	heldKeys map[string]int

	// What the batch under way consists of.
	retrying bool // held events are in it
	fresh    bool // events are in it whose keys have nothing held

	attempt int       // consecutive rounds in which no held event got through; 0: nothing fails
	retryAt time.Time // when the held events are tried again
	down    bool      // nothing gets through: not even events of keys that have not failed
	kind    bridge.FailureKind
	cause   error

	failingSince time.Time // when attempt left 0
	failedAt     time.Time // the last failure
	passedAt     time.Time // when the sink was last done with an event

	troubledAt time.Time // when the first batch of those began since when nothing gets through; zero: something does
	shedding   bool      // it is known to be down: webhooks are refused while one, the probe, asks whether it still is
	probe      *webhook

	oldestWait   time.Time // no event held has waited for longer than since then
	nextGivingUp time.Time // after a failure to store what was given up
}

// failing tells whether failures hold events back, also while those are being tried again. A lane that has come back
// and works off what it held is not failing.
func (l *lane) failing() bool { return l.attempt > 0 }

// take removes and returns the next batch, or nil when there is nothing to send now. Held events whose time has come
// leave half of it to new ones: those may get through where these never do.
func (l *lane) take(now time.Time, o *Options) []*item {
	due := len(l.held) > 0 && !now.Before(l.retryAt)
	if l.down && len(l.held) > 0 && !due {
		return nil
	}
	limit := o.BatchEvents
	if l.down {
		// A timeout may mean "stored": the smaller the batch that asks whether the sink is back, the fewer duplicates.
		limit = min(limit, o.ProbeEvents)
	}
	l.retrying, l.fresh = false, false
	var batch []*item
	bytes := 0
	room := func(it *item, count, size int) bool {
		return len(batch) == 0 || (len(batch) < count && bytes+it.size() <= size)
	}
	add := func(it *item) {
		batch = append(batch, it)
		bytes += it.size()
	}
	l.holdBehind(now)
	if due {
		count, size := limit, o.BatchBytes
		if len(l.queue) > 0 {
			count, size = count/2, size/2
		}
		for len(l.held) > 0 && room(l.held[0], count, size) {
			add(l.popHeld())
			l.retrying = true
		}
	}
	for ; len(l.queue) > 0; l.holdBehind(now) {
		next := l.queue[0]
		// The first new event goes along whatever its size.
		if !room(next, limit, o.BatchBytes) && (l.fresh || len(batch) >= limit) {
			break
		}
		add(l.popQueue())
		l.fresh = true
	}
	return batch
}

// holdBehind moves events at the front of the queue to those held, as far as an event of their key is held.
func (l *lane) holdBehind(now time.Time) {
	for len(l.queue) > 0 && l.heldKeys[l.queue[0].event.PartitionKey] > 0 {
		l.hold(l.popQueue(), now)
	}
}

func (l *lane) popQueue() *item {
	it := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return it
}

func (l *lane) popHeld() *item {
	it := l.held[0]
	l.held[0] = nil
	l.held = l.held[1:]
	key := it.event.PartitionKey
	if l.heldKeys[key]--; l.heldKeys[key] == 0 {
		delete(l.heldKeys, key)
	}
	return it
}

// hold holds it, and notes since when it waits.
func (l *lane) hold(it *item, now time.Time) {
	if it.waiting.IsZero() {
		it.waiting = now
	}
	l.oldestWait = earlier(l.oldestWait, it.waiting)
	if l.heldKeys == nil {
		l.heldKeys = make(map[string]int)
	}
	l.heldKeys[it.event.PartitionKey]++
	l.held = append(l.held, it)
}

// result counts what became of a batch: items that the sink is done with, how many of those had failed before, and items that
// failed and are not tried again.
type result struct{ done, retried, lost int }

// settle takes the failed items of a finished batch back. They go behind the held events of other keys, so that all
// have their turn, and ahead of those of their own.
func (l *lane) settle(now time.Time, failed []*item, failure error, r result, o *Options) {
	if r.done > 0 {
		l.passedAt = now
	}
	// That events fail again which failed before says nothing about the others.
	l.down = r.done == 0 && len(failed)+r.lost > 0 && (l.down || l.fresh)
	if len(failed)+r.lost == 0 {
		if len(l.held) == 0 || l.retrying {
			l.attempt, l.retryAt, l.failingSince, l.cause = 0, time.Time{}, time.Time{}, nil
		}
		return
	}
	others := len(l.held) > 0
	l.holdAgain(failed, now)
	l.kind, l.cause, l.failedAt = bridge.KindOf(failure), failure, now
	if l.failingSince.IsZero() {
		l.failingSince = now
	}
	switch {
	case r.retried > 0:
		l.attempt = 1
	case l.retrying || !others || l.down:
		l.attempt++
	default:
		// New events failed while older ones wait for their time: that time stands.
		return
	}
	l.retryAt = now.Add(backoff(l.attempt, l.kind, o))
}

func (l *lane) holdAgain(failed []*item, now time.Time) {
	again := make(map[string]bool, len(failed))
	for _, it := range failed {
		again[it.event.PartitionKey] = true
	}
	waiting := l.held
	l.held = make([]*item, 0, len(failed)+len(waiting))
	l.heldKeys = make(map[string]int, len(l.heldKeys)+len(again))
	holdThose := func(ofFailedKey bool) {
		for _, it := range waiting {
			if again[it.event.PartitionKey] == ofFailedKey {
				l.hold(it, now)
			}
		}
	}
	holdThose(false)
	for _, it := range failed {
		l.hold(it, now)
	}
	holdThose(true)
}

// nextTry returns when a lane that had nothing to take will have something held to try, and zero if that is not known.
func (l *lane) nextTry() time.Time {
	if len(l.held) == 0 {
		return time.Time{}
	}
	return l.retryAt
}

// backoff doubles from MinBackoff to MaxBackoff, with jitter of up to one half so that many bridges do not return in step.
func backoff(attempt int, kind bridge.FailureKind, o *Options) time.Duration {
	wait := o.MaxBackoff
	if shift := attempt - 1; shift < 20 && o.MinBackoff<<shift < o.MaxBackoff {
		wait = o.MinBackoff << shift
	}
	if kind == bridge.FailureBlocked {
		wait = max(wait, min(o.BlockedBackoff, o.MaxBackoff))
	}
	return wait - time.Duration(rand.Int64N(int64(wait/2)+1)) //nolint:gosec // jitter needs no secrecy
}
