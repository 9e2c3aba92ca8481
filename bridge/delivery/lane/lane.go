package lane

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Lane carries the events of one partition, or of a sink that has none. One batch at a time is under way. Events that
// failed are held, and with them all later events of their keys, so that each key keeps its order; the other keys go
// on.
type Lane struct {
	// Partition is that of the sink.
	Partition int
	limits    *Limits

	queue    []*Item // not yet tried, in the order in which they came
	held     []*Item // failed, or behind a failed event of their key; in order within each key
	heldKeys map[string]int

	// What the batch under way consists of.
	busy     bool
	retrying bool // held events are in it
	fresh    bool // events are in it whose keys have nothing held

	attempt int       // consecutive rounds in which no held event got through; 0: nothing fails
	retryAt time.Time // when the held events are tried again
	live    bool      // live events are among those that fail
	down    bool      // nothing gets through: not even events of keys that have not failed
	refuses bool      // it is down by what it was given, and the sink is well: what is new may get through
	kind    bridge.FailureKind
	cause   error

	failingSince time.Time // when attempt left 0
	failedAt     time.Time // the last failure
	passedAt     time.Time // when the sink was last done with an event

	returns      int       // how often it went on after failures
	oldestWait   time.Time // no event held has waited for longer than since then
	nextGivingUp time.Time // after a failure to store what was given up
}

// Failing tells whether failures hold live events back, also while those are being tried again. A lane that has come
// back and works off what it held is not failing.
func (l *Lane) Failing() bool { return l.attempt > 0 && l.live }

// Down tells whether nothing live gets through.
func (l *Lane) Down() bool { return l.down && l.live }

// Stands tells whether nothing live gets through, and nothing new is taken to.
func (l *Lane) Stands() bool { return l.stands() && l.live }

// stands is Stands of anything, live or not.
func (l *Lane) stands() bool { return l.down && !l.refuses }

// Well tells whether nothing of the lane is known to fail.
func (l *Lane) Well() bool { return l.attempt == 0 && !l.down }

// Attempts is in how many consecutive rounds no held event got through.
func (l *Lane) Attempts() int { return l.attempt }

// Cause is why events fail.
func (l *Lane) Cause() error { return l.cause }

// Kind is what is to be done about the Cause.
func (l *Lane) Kind() bridge.FailureKind { return l.kind }

// FailingSince is when the first of the failures in a row was.
func (l *Lane) FailingSince() time.Time { return l.failingSince }

// FailedAt is when the last failure was.
func (l *Lane) FailedAt() time.Time { return l.failedAt }

// PassedAt is when the sink was last done with an event of the lane.
func (l *Lane) PassedAt() time.Time { return l.passedAt }

// Busy tells whether a batch is under way.
func (l *Lane) Busy() bool { return l.busy }

// Waiting calls each with every item that is not under way, held ones first, until it returns false.
func (l *Lane) Waiting(each func(*Item) bool) {
	for _, items := range [][]*Item{l.held, l.queue} {
		for _, it := range items {
			if !each(it) {
				return
			}
		}
	}
}

// Take returns the next batch of a lane that has none under way, or when to ask again, if that is known. Held events
// whose time has come leave half of it to new ones: those may get through where these never do.
func (l *Lane) Take(now time.Time) (batch []*Item, next time.Time) {
	if l.busy {
		return nil, time.Time{}
	}
	due := len(l.held) > 0 && !now.Before(l.retryAt)
	if l.Stands() && len(l.held) > 0 && !due {
		return nil, l.retryAt
	}
	limit := l.limits.BatchEvents
	if l.stands() {
		// A timeout may mean "stored": the smaller the batch that asks whether the sink is back, the fewer duplicates.
		limit = min(limit, l.limits.ProbeEvents)
	}
	l.retrying, l.fresh = false, false
	bytes := 0
	room := func(it *Item, count, size int) bool {
		return len(batch) == 0 || (len(batch) < count && bytes+it.size() <= size)
	}
	add := func(it *Item) {
		batch = append(batch, it)
		bytes += it.size()
	}
	l.holdBehind(now)
	if due {
		count, size := limit, l.limits.BatchBytes
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
		if !room(next, limit, l.limits.BatchBytes) && (l.fresh || len(batch) >= limit) {
			break
		}
		add(l.popQueue())
		l.fresh = true
	}
	if l.busy = len(batch) > 0; l.busy || len(l.held) == 0 {
		return batch, time.Time{}
	}
	return nil, l.retryAt
}

// holdBehind moves events at the front of the queue to those held, as far as an event of their key is held.
func (l *Lane) holdBehind(now time.Time) {
	for len(l.queue) > 0 && l.heldKeys[l.queue[0].Key] > 0 {
		it := l.popQueue()
		l.live = l.live || (l.attempt > 0 && it.Webhook.Live)
		l.hold(it, now)
	}
}

func (l *Lane) popQueue() *Item {
	it := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return it
}

func (l *Lane) popHeld() *Item {
	it := l.held[0]
	l.held[0] = nil
	l.held = l.held[1:]
	key := it.Key
	if l.heldKeys[key]--; l.heldKeys[key] == 0 {
		delete(l.heldKeys, key)
	}
	return it
}

// hold holds it, and notes since when it waits.
func (l *Lane) hold(it *Item, now time.Time) {
	if it.waiting.IsZero() {
		it.waiting = now
	}
	l.oldestWait = Earlier(l.oldestWait, it.waiting)
	if l.heldKeys == nil {
		l.heldKeys = make(map[string]int)
	}
	l.heldKeys[it.Key]++
	l.held = append(l.held, it)
}

// Result is what became of a batch.
type Result struct {
	// Done counts the items that the sink is done with, and Retried those of them that had failed before.
	Done, Retried int
	// Failed are those that failed and are tried again. Lost counts those that failed and are not, and LostLive tells
	// whether live ones are among these.
	Failed   []*Item
	Lost     int
	LostLive bool
	// Cause is why they failed.
	Cause error
}

// Settle takes the failed items of the batch under way back. They go behind the held events of other keys, so that all
// have their turn, and ahead of those of their own.
func (l *Lane) Settle(now time.Time, r Result) {
	l.busy = false
	if r.Done > 0 {
		l.passedAt = now
	}
	if l.down && r.Done > 0 { // what waited because of the lane does not any more
		for _, it := range l.queue {
			it.waiting, it.BehindLane = time.Time{}, false
		}
	}
	if r.Done > 0 && (l.down || (l.attempt > 0 && l.retrying && len(r.Failed)+r.Lost == 0)) {
		l.returns++
	}
	// That events fail again which failed before says nothing about the others.
	l.down = r.Done == 0 && len(r.Failed)+r.Lost > 0 && (l.down || l.fresh)
	l.refuses = l.refuses && l.down && !l.fresh
	if len(r.Failed)+r.Lost == 0 {
		if len(l.held) == 0 || l.retrying {
			l.reset()
		}
		return
	}
	others := len(l.held) > 0
	l.holdAgain(r.Failed, now)
	l.live = r.LostLive
	for _, it := range l.held {
		l.live = l.live || it.Webhook.Live
	}
	l.kind, l.cause, l.failedAt = bridge.KindOf(r.Cause), r.Cause, now
	if l.failingSince.IsZero() {
		l.failingSince = now
	}
	switch {
	case r.Retried > 0:
		l.attempt = 1
	case l.retrying || !others || l.down:
		l.attempt++
	default:
		// New events failed while older ones wait for their time: that time stands.
		return
	}
	l.retryAt = now.Add(l.limits.Backoff(l.attempt, l.kind))
}

// reset forgets the failures. Of a lane that is down and only has nothing left, it is kept since when that is so.
func (l *Lane) reset() {
	l.attempt, l.retryAt, l.cause, l.live = 0, time.Time{}, nil, false
	if !l.down {
		l.failingSince = time.Time{}
	}
}

// SettleEmpty forgets the failures of a lane in which nothing is left that failed: whether they go on shows with the
// next event, or a check. A lane that was down still asks with few.
func (l *Lane) SettleEmpty() {
	if len(l.held) == 0 && !l.busy {
		l.reset()
	}
}

func (l *Lane) holdAgain(failed []*Item, now time.Time) {
	again := make(map[string]bool, len(failed))
	for _, it := range failed {
		again[it.Key] = true
	}
	waiting := l.held
	l.held = make([]*Item, 0, len(failed)+len(waiting))
	l.heldKeys = make(map[string]int, len(l.heldKeys)+len(again))
	holdThose := func(ofFailedKey bool) {
		for _, it := range waiting {
			if again[it.Key] == ofFailedKey {
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

// Overdue takes out a batch of events that are to be given up, or returns when to look again, if that is known: events
// that have been held for too long, while the lane still fails. One that has recovered sends them at once. While
// nothing of the lane gets through and other lanes go on, all that is in it waits, and is given up together. Nothing
// else of the lane goes until GaveUp: should they not become dead letters, nothing has overtaken them.
func (l *Lane) Overdue(now time.Time, othersGoOn bool) (over []*Item, next time.Time) {
	if l.busy || l.limits.GiveUpAfter <= 0 || l.attempt == 0 {
		return nil, time.Time{}
	}
	behindLane := l.stands() && othersGoOn
	if behindLane {
		for _, it := range l.queue {
			if it.waiting.IsZero() {
				it.waiting = now
			}
		}
	}
	if due := l.nextOverdue(behindLane); due.IsZero() || now.Before(due) {
		return nil, due
	}
	bytes, full := 0, false
	keep := func(it *Item) bool {
		if full || now.Sub(it.waiting) < l.limits.GiveUpAfter {
			return true
		}
		// None behind one that does not fit: it may be of the same key.
		full = len(over) == l.limits.BatchEvents || (len(over) > 0 && bytes+it.size() > l.limits.BatchBytes)
		if full {
			return true
		}
		over = append(over, it)
		bytes += it.size()
		if it.Failure == "" {
			it.Failure = l.cause.Error()
		}
		return false
	}
	l.keepHeld(filter(l.held, keep))
	if behindLane {
		held := len(over)
		l.queue = filter(l.queue, keep)
		for _, it := range over[held:] {
			it.BehindLane = true
		}
	}
	if l.busy = len(over) > 0; l.busy {
		return over, time.Time{}
	}
	return nil, l.nextOverdue(behindLane)
}

// nextOverdue returns when an event may have to be given up, and zero if none will.
func (l *Lane) nextOverdue(behindLane bool) time.Time {
	var oldest time.Time
	if len(l.held) > 0 {
		oldest = l.oldestWait
	}
	if behindLane {
		for _, it := range l.queue {
			oldest = Earlier(oldest, it.waiting)
		}
	}
	if oldest.IsZero() {
		return time.Time{}
	}
	due := oldest.Add(l.limits.GiveUpAfter)
	if due.Before(l.nextGivingUp) {
		return l.nextGivingUp
	}
	return due
}

// keepHeld makes held what remains of it.
func (l *Lane) keepHeld(rest []*Item) {
	l.held, l.heldKeys, l.oldestWait = nil, nil, time.Time{}
	for _, it := range rest {
		l.hold(it, it.waiting)
	}
}

// GaveUp takes back what could not be made dead letters of what Overdue returned, to be looked at again after a while;
// the rest is gone for good.
func (l *Lane) GaveUp(now time.Time, failed []*Item, again time.Duration) {
	l.busy = false
	if len(failed) > 0 {
		l.nextGivingUp = now.Add(again)
		l.holdAgain(failed, now)
		return
	}
	l.SettleEmpty()
}
