package delivery

import (
	"math"
	"time"
)

// While webhooks crowd in, accepting them goes first: what is not accepted may be lost, and what is waits safely in the
// journal. Delivery then takes a small part of the time, until the crowd is over or what waits has waited for a while.
const (
	// throttledEvents is the most events of a batch then, throttledRest how long a sink rests after one, in times of what it
	// took, and longestRest the most of it.
	throttledEvents = 256
	throttledRest   = 9
	longestRest     = 100 * time.Millisecond
	// throttledAge is how long the oldest webhook may have waited. From then on, accepting and delivering share the
	// processors as they come.
	throttledAge = 10 * time.Second
)

// mayStart returns how many batches may begin now, and how large they may be. While webhooks crowd in that is a small one at
// a time, with a rest behind each. When there may be none, it also returns until when.
func (l *loop) mayStart(now time.Time) (batches int, limits *Options, until time.Time) {
	switch {
	case !l.throttled():
		return math.MaxInt, &l.o, time.Time{}
	case now.Before(l.restUntil):
		return 0, nil, l.restUntil
	default:
		return 1, &l.modest, time.Time{}
	}
}

// modestOptions are those for batches while webhooks crowd in.
func modestOptions(o Options) Options {
	o.BatchEvents = min(o.BatchEvents, throttledEvents)
	return o
}

// throttled tells whether delivery is to leave the processors to accepting.
func (l *loop) throttled() bool {
	if l.feed != nil || l.o.Crowded == nil || !l.o.Crowded() {
		return false
	}
	oldest, waits := l.window.oldest()
	return waits && l.o.Now().Sub(oldest) < throttledAge
}

// begun notes that as many batches have begun as may, and returns when the next one may at the latest: one that hangs must not
// hold up the others. It may sooner when this one is settled and has had its rest.
func (l *loop) begun(now time.Time) time.Time {
	l.restUntil = now.Add(longestRest)
	return l.restUntil
}

// rest notes, after a batch that began at started, until when none begins if webhooks go on crowding in.
func (l *loop) rest(started, now time.Time) {
	l.restUntil = now.Add(min(throttledRest*now.Sub(started), longestRest))
}
