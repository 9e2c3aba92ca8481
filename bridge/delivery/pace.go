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
	// While so many are, time and again for crowdAfter, they crowd in until they are fewer than crowdEnds, and delivery yields:
	// it takes a small part of the time. What holds everything up for a moment makes no crowd: were delivery to stop for it,
	// it would have more to do afterwards, and hold everything up again.
	crowdArrivals = 40
	crowdEnds     = 20
	crowdAfter    = 500 * time.Millisecond
	// yieldingAge is how long the oldest webhook has waited when delivery yields no longer, until none has waited for caughtUpAge.
	yieldingAge = 10 * time.Second
	caughtUpAge = time.Second
	// pacedEvents is the most events of a batch then.
	pacedEvents = 128
	// For each fallingBehind that the oldest webhook has waited, a rest is half as long while delivery shares, and after
	// restHalvings of them a batch twice as large: it takes no more at a time than what it can keep up with.
	fallingBehind = 250 * time.Millisecond
	restHalvings  = 4
	// lookEvery is after how long it is looked again how many webhooks are being accepted.
	lookEvery = 10 * time.Millisecond
)

// pace is how much of the time delivery takes.
type pace int

const (
	unpaced pace = iota
	sharing
	yielding
)

// longest is how long a sink rests behind a batch at most.
func (p pace) longest() time.Duration {
	switch p {
	case sharing:
		return 10 * time.Millisecond
	case yielding:
		return 100 * time.Millisecond
	default:
		return 0
	}
}

// rest is how long a sink rests behind a batch that took so long, when the oldest webhook has waited for age.
func (p pace) rest(took, age time.Duration) time.Duration {
	const yieldingTimes = 9
	if p == yielding {
		return min(took*yieldingTimes, p.longest())
	}
	return min(took, p.longest()) >> min(age/fallingBehind, restHalvings)
}

// patience is after how long the next batch begins although one is on its way.
func (p pace) patience() time.Duration { return 2 * p.longest() }

// events is the most events of a batch, of those that o allows.
func (p pace) events(age time.Duration, o *Options) int {
	most := pacedEvents
	if p == sharing {
		for age -= restHalvings * fallingBehind; age >= fallingBehind && most < o.BatchEvents; age -= fallingBehind {
			most *= 2
		}
	}
	return min(most, o.BatchEvents)
}

// pacing is what tells a loop its pace.
type pacing struct {
	lag       lag
	crowded   bool
	crowdFrom time.Time // when there was a crowd first, of which no end was seen since
	late      bool      // webhooks have waited too long for delivery to yield

	onWay bool          // a batch has begun, and none was settled since
	began time.Time     // the last batch
	ended time.Time     // the batch that was settled last
	took  time.Duration // by it

	limits Options // of a batch while webhooks come in
}

// mayStart returns how many batches may begin now, and how large they may be. While webhooks come in that is one at a time, with
// a rest behind it. When there may be none, it also returns when to ask again.
func (l *loop) mayStart(now time.Time) (batches int, limits *Options, again time.Time) {
	if l.feed != nil || l.o.Arriving == nil {
		return math.MaxInt, &l.o, time.Time{} // with a Queue, those that wait to be accepted wait for the sinks
	}
	age := l.pacing.lag.of(l.window.cursor, l.window.cursor+l.supply.backlog(), now)
	p := l.pacing.pace(l.o.Arriving()/runtime.GOMAXPROCS(0), age, now)
	if p == unpaced {
		return math.MaxInt, &l.o, time.Time{}
	}
	free := l.pacing.ended.Add(p.rest(l.pacing.took, age))
	if l.pacing.onWay {
		free = l.pacing.began.Add(p.patience())
	}
	if now.Before(free) {
		return 0, nil, earlier(free, now.Add(lookEvery))
	}
	l.pacing.limits.BatchEvents = p.events(age, &l.o)
	return 1, &l.pacing.limits, time.Time{}
}

// pace returns the pace for now, when so many webhooks for each processor are being accepted at once and the oldest one has
// waited for age.
func (p *pacing) pace(arriving int, age time.Duration, now time.Time) pace {
	p.late = age >= yieldingAge || p.late && age >= caughtUpAge
	switch {
	case arriving < crowdEnds, arriving < crowdArrivals && !p.crowded:
		p.crowded, p.crowdFrom = false, time.Time{}
	case p.crowdFrom.IsZero():
		p.crowdFrom = now
	case now.Sub(p.crowdFrom) >= crowdAfter:
		p.crowded = true
	}
	switch {
	case p.crowded && !p.late:
		return yielding
	case arriving >= sharedArrivals:
		return sharing
	default:
		return unpaced
	}
}

// begun notes that as many batches have begun as may, and returns when to ask again whether more may. Sooner is when one is settled.
func (p *pacing) begun(now time.Time) (again time.Time) {
	p.onWay, p.began = true, now
	return now.Add(lookEvery)
}

// settled notes that a batch which began at started is settled.
func (p *pacing) settled(started, now time.Time) {
	p.onWay, p.ended, p.took = false, now, now.Sub(started)
}
