package delivery

import (
	"fmt"
	"time"

	"github.com/fnbridge/fnbridge/bridge/journal"
)

// overdue removes and returns events that are to be given up: they have been held for too long, and the lane still fails.
// One that has recovered sends them at once.
func (l *lane) overdue(now time.Time, o *Options) []*item {
	if due := l.nextOverdue(o); due.IsZero() || now.Before(due) {
		return nil
	}
	var over, rest []*item
	bytes := 0
	for _, it := range l.held {
		if now.Sub(it.waiting) >= o.GiveUpAfter && len(over) < o.BatchEvents && (len(over) == 0 || bytes+it.size() <= o.BatchBytes) {
			over = append(over, it)
			bytes += it.size()
			if it.failure == "" {
				it.failure = l.cause.Error()
			}
		} else {
			rest = append(rest, it)
		}
	}
	l.keepHeld(rest)
	return over
}

// nextOverdue returns when an event held may have to be given up, and zero if none will.
func (l *lane) nextOverdue(o *Options) time.Time {
	if o.GiveUpAfter <= 0 || len(l.held) == 0 || !l.failing() {
		return time.Time{}
	}
	due := l.oldestWait.Add(o.GiveUpAfter)
	if due.Before(l.nextGivingUp) {
		return l.nextGivingUp
	}
	return due
}

// keepHeld makes held what remains of it.
func (l *lane) keepHeld(rest []*item) {
	l.held, l.heldKeys, l.oldestWait = nil, nil, time.Time{}
	for _, it := range rest {
		l.hold(it, it.waiting)
	}
}

// gaveUp takes back what could not be stored as dead letters of what was given up; the rest is gone for good.
func (l *lane) gaveUp(now time.Time, failed []*item) {
	if len(failed) > 0 {
		l.nextGivingUp = now.Add(journalRetry)
		l.holdAgain(failed, now)
		return
	}
	if len(l.held) == 0 {
		// Nothing is left that fails. Whether the sink takes anything shows with the next event, or a check: a lane that
		// was down still asks with few.
		l.attempt, l.retryAt, l.failingSince, l.cause = 0, time.Time{}, time.Time{}, nil
	}
}

// startGivingUp makes dead letters of what has been held for too long, and returns when to look again. The lane is busy
// meanwhile: should the dead letters not be stored, nothing has overtaken these events.
func (l *loop) startGivingUp() time.Time {
	var next time.Time
	if l.o.GiveUpAfter <= 0 {
		return next
	}
	now := time.Now()
	for _, p := range l.partitions {
		for c := range classes {
			if p.busy {
				break // the loop comes back here with its answer
			}
			batch := p.lanes[c].overdue(now, &l.o)
			if len(batch) == 0 {
				next = earlier(next, p.lanes[c].nextOverdue(&l.o))
				continue
			}
			p.busy = true
			l.running++
			go func() { l.published <- l.deadLetterOverdue(p, c, batch, now) }()
		}
	}
	return next
}

// deadLetterOverdue stores what is given up as dead letters.
func (l *loop) deadLetterOverdue(p *partition, c class, batch []*item, now time.Time) outcome {
	r := outcome{partition: p, class: c, batch: batch, errs: make([]error, len(batch)), givenUp: true}
	at := l.o.Now()
	letters := make([]journal.DeadLetter, len(batch))
	for i, it := range batch {
		letters[i] = deadLetter(l.name, it, it.attempts, givenUpReason(it, now), at)
	}
	if err := l.o.Journal.AddDeadLetters(l.publish, letters); err != nil {
		for i := range r.errs {
			r.errs[i] = err
		}
		return r
	}
	l.metrics.givenUp.Add(float64(len(batch)))
	r.letters = letters
	return r
}

func givenUpReason(it *item, now time.Time) string {
	after := now.Sub(it.waiting)
	if after >= time.Second {
		after = after.Truncate(time.Second)
	}
	switch it.attempts {
	case 0:
		return fmt.Sprintf("given up after %s without a try, held behind an earlier event of its key: %s", after, it.failure)
	case 1:
		return fmt.Sprintf("given up after %s and 1 try: %s", after, it.failure)
	default:
		return fmt.Sprintf("given up after %s and %d tries: %s", after, it.attempts, it.failure)
	}
}
