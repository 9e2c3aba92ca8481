package queue

import (
	"errors"
	"fmt"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// leastCoolDown and mostCoolDown bound how long a sink that fell again soon after it was back is not called ready.
	leastCoolDown = 5 * time.Second
	mostCoolDown  = time.Minute
)

// breaker is closed while a sink takes events, open while nothing gets through, and half-open from when a check passes
// until something is published. It decides whether webhooks are taken for the sink. The Queue's mu guards it.
type breaker struct {
	reached  bool  // it has been, once
	open     bool  // nothing gets through, for longer than a change of leader takes
	cause    error // of that
	halfOpen bool  // a check passed since it was down, and nothing has been published yet
	probing  bool  // while it is down: one webhook asks whether it still is

	failing  time.Time // since when checks fail; zero: the last one passed
	upAt     time.Time // when it was last found to be up
	coolDown time.Duration
	readyAt  time.Time
}

// admits tells whether a webhook may come in: any, or while the sink is down one at a time.
func (b *breaker) admits() bool { return !b.open || !b.probing }

func (b *breaker) ready(now time.Time) error {
	switch {
	case b.open:
		return fmt.Errorf("cannot be reached: %w", b.cause)
	case !b.reached:
		return errors.New("has not been reached yet")
	case now.Before(b.readyAt):
		return errors.New("has failed repeatedly, and is back only just now")
	default:
		return nil
	}
}

// trip notes that the sink is down. One that falls soon after it was back is given longer the next time.
func (b *breaker) trip(now time.Time, cause error) {
	b.cause = cause
	if b.open {
		return
	}
	switch {
	case b.halfOpen || (!b.upAt.IsZero() && now.Sub(b.upAt) < mostCoolDown):
		b.coolDown = min(max(2*b.coolDown, leastCoolDown), mostCoolDown)
	default:
		b.coolDown = 0
	}
	b.open, b.halfOpen, b.readyAt = true, false, now.Add(b.coolDown)
}

// close notes that something was published.
func (b *breaker) close(now time.Time) {
	if b.open || b.halfOpen {
		b.upAt = now
	}
	b.reached, b.open, b.halfOpen, b.cause = true, false, false, nil
	b.failing = time.Time{} // a check that fails now may have begun before
}

// checked notes what a check of the sink found while nothing was on its way to it, and tells whether the sink is to be
// tried again.
func (b *breaker) checked(now time.Time, err error) (halfOpen bool) {
	if err == nil {
		b.failing, b.reached = time.Time{}, true
		if b.open && !now.Before(b.readyAt) {
			b.open, b.halfOpen, b.cause = false, true, nil
			return true
		}
		return false
	}
	if b.failing.IsZero() {
		b.failing = now
	}
	if !b.reached || now.Sub(b.failing) >= downAfter || bridge.KindOf(err) == bridge.FailureBlocked {
		b.trip(now, err)
	}
	return false
}
