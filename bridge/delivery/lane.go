package delivery

import (
	"math/rand/v2"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// item is one event on its way to the sink.
type item struct {
	event    bridge.Event
	webhook  *webhook
	index    int // of the event within its webhook
	attempts int // that have failed
}

// size is what the item counts for in bounds on bytes: its data, and an estimate of its attributes.
func (it *item) size() int {
	return len(it.event.Data) + len(it.event.Source) + len(it.event.Subject) + 512
}

// lane carries the events of one partition, or all events of a sink that has none. One batch at a time is under way.
// Events that failed are held, and with them all later events of their keys, so that each key keeps its order;
// the other keys go on.
type lane struct {
	queue    []*item // not yet tried, in the order of acceptance
	held     []*item // failed, or behind a failed event of their key; in order within each key
	heldKeys map[string]int
	busy     bool

	attempt int       // consecutive rounds in which no held event got through
	retryAt time.Time // when the held events are tried again
	down    bool      // the last batch had no event acknowledged
	kind    bridge.FailureKind
	cause   error
}

// failing tells whether events are held back by failures. A lane that has come back and works off what it held is not.
func (l *lane) failing() bool { return len(l.held) > 0 && l.attempt > 0 }

// idle tells whether the lane has nothing to do and nothing under way.
func (l *lane) idle() bool { return !l.busy && len(l.queue) == 0 && len(l.held) == 0 }

// take removes and returns the next batch, or nil when there is nothing to send now.
func (l *lane) take(now time.Time, o *Options) []*item {
	due := len(l.held) > 0 && !now.Before(l.retryAt)
	if l.busy || (l.down && len(l.held) > 0 && !due) {
		return nil
	}
	limit := o.BatchEvents
	if l.down {
		// A timeout may mean "stored": the smaller the batch that asks whether the sink is back, the fewer duplicates.
		limit = min(limit, o.ProbeEvents)
	}
	var batch []*item
	bytes := 0
	room := func(it *item) bool {
		return len(batch) == 0 || (len(batch) < limit && bytes+it.size() <= o.BatchBytes)
	}
	add := func(it *item) {
		batch = append(batch, it)
		bytes += it.size()
	}
	for due && len(l.held) > 0 && room(l.held[0]) {
		add(l.popHeld())
	}
	for len(l.queue) > 0 {
		next := l.queue[0]
		behind := l.heldKeys[next.event.PartitionKey] > 0
		if !behind && !room(next) {
			break
		}
		l.queue[0] = nil
		l.queue = l.queue[1:]
		if behind {
			l.hold(next)
		} else {
			add(next)
		}
	}
	return batch
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

func (l *lane) hold(it *item) {
	if l.heldKeys == nil {
		l.heldKeys = make(map[string]int)
	}
	l.heldKeys[it.event.PartitionKey]++
	l.held = append(l.held, it)
}

// settle takes the failed items of a finished batch back, ahead of what is held already: they are older than
// whatever waits behind them. done is how many items the sink is finished with, retried how many of those had failed before.
func (l *lane) settle(now time.Time, failed []*item, failure error, done, retried int, wasRetry bool, o *Options) {
	l.busy = false
	l.down = done == 0 && len(failed) > 0
	if len(failed) == 0 {
		if len(l.held) == 0 || wasRetry {
			l.attempt, l.retryAt, l.cause = 0, time.Time{}, nil
		}
		return
	}
	waiting := l.held
	l.held = make([]*item, 0, len(failed)+len(waiting))
	l.heldKeys = make(map[string]int)
	for _, it := range failed {
		l.hold(it)
	}
	for _, it := range waiting {
		l.hold(it)
	}
	l.kind, l.cause = bridge.KindOf(failure), failure
	switch {
	case retried > 0:
		l.attempt = 1
	case wasRetry || len(waiting) == 0 || l.down:
		l.attempt++
	default:
		// New events failed while older ones wait for their time: that time stands.
		return
	}
	l.retryAt = now.Add(backoff(l.attempt, l.kind, o))
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
