package delivery

import (
	"math"
	"runtime"
	"time"
)

// Accepting goes ahead of delivering: what is not accepted may be lost, and what is waits safely in the journal.
const (
	// While so many webhooks for each processor are being accepted at once, delivery shares: what it does between two rests is
	// short, so that none of them waits long for a processor.
	sharedArrivals = 4
	// While so many are, they crowd in, and delivery yields: it takes a small part of the time.
	crowdArrivals = 40
	// pacedEvents is the most events of a batch then. Twice as many are for each fallingBehind that the oldest webhook has
	// waited while delivery shares: the batches stay as small as it can keep up with.
	pacedEvents   = 128
	fallingBehind = 250 * time.Millisecond
	// yieldingAge is how long the oldest webhook has waited when delivery yields no longer.
	yieldingAge = 10 * time.Second
)

// pace is how much of the time delivery takes.
type pace int

const (
	unpaced pace = iota
	sharing
	yielding
)

// longest is how long a sink rests behind a batch at most, and after how long the next one begins even if that one hangs.
func (p pace) longest() time.Duration {
	switch p {
	case sharing:
		return 5 * time.Millisecond
	case yielding:
		return 100 * time.Millisecond
	default:
		return 0
	}
}

// rest is how long a sink rests behind a batch that took so long.
func (p pace) rest(took time.Duration) time.Duration {
	const yieldingTimes = 9
	if p == yielding {
		took *= yieldingTimes
	}
	return min(took, p.longest())
}

// mayStart returns how many batches may begin now, and how large they may be. While webhooks come in that is one at a time, with
// a rest behind it. When there may be none, it also returns until when.
func (l *loop) mayStart(now time.Time) (batches int, limits *Options, until time.Time) {
	age := l.waited()
	l.pace = l.paceOf(age)
	switch {
	case l.pace == unpaced:
		return math.MaxInt, &l.o, time.Time{}
	case now.Before(l.restUntil):
		return 0, nil, l.restUntil
	default:
		l.paced.BatchEvents = l.pace.events(age, &l.o)
		return 1, &l.paced, time.Time{}
	}
}

// events is the most events of a batch when the oldest webhook has waited for age.
func (p pace) events(age time.Duration, o *Options) int {
	most := pacedEvents
	if p == sharing {
		for ; age >= fallingBehind && most < o.BatchEvents; age -= fallingBehind {
			most *= 2
		}
	}
	return min(most, o.BatchEvents)
}

// paceOf returns the pace for now, when the oldest webhook has waited for age.
func (l *loop) paceOf(age time.Duration) pace {
	if l.feed != nil || l.o.Arriving == nil {
		return unpaced // with a Queue, those that wait to be accepted wait for the sinks
	}
	switch arriving := l.o.Arriving() / runtime.GOMAXPROCS(0); {
	case arriving >= crowdArrivals && age < yieldingAge:
		return yielding
	case arriving >= sharedArrivals:
		return sharing
	default:
		return unpaced
	}
}

// waited returns for how long the oldest unfinished webhook has waited.
func (l *loop) waited() time.Duration {
	oldest, waits := l.window.oldest()
	if !waits {
		return 0
	}
	return l.o.Now().Sub(oldest)
}

// begun notes that as many batches have begun as may, and returns when the next one may at the latest. It may sooner when this one
// is settled and has had its rest.
func (l *loop) begun(now time.Time) time.Time {
	l.restUntil = now.Add(l.pace.longest())
	return l.restUntil
}

// rest notes, after a batch that began at started, until when none begins if webhooks go on coming in.
func (l *loop) rest(started, now time.Time) {
	l.restUntil = now.Add(l.pace.rest(now.Sub(started)))
}
