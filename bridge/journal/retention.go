package journal

import (
	"context"
	"errors"
	"time"
)

const (
	// One step deletes this much at most, so that requests do not wait long behind it.
	maxDeletedWebhooks = 500
	maxDeletedBytes    = 8 << 20
	// maxScannedWebhooks is how many are looked at in one step, past those whose time lies in the future.
	maxScannedWebhooks = 10_000
)

// cleaning says why the writer deletes.
type cleaning struct {
	// sweep is set by the ticker, until nothing is past its retention.
	sweep bool
	// pressed is set while the journal is nearly full.
	pressed bool
	// future is a number up to which all webhooks were found to lie in the future, so that the search can go on behind it.
	future int64
	// due is a number up to which all go that are still there, since that one is old enough.
	due int64
}

// sweepInterval is how often the writer looks for webhooks past their retention.
func sweepInterval(retention time.Duration) time.Duration {
	return min(max(retention/100, time.Second), time.Minute)
}

// delivered is the number up to which every configured sink has everything.
func (w *writer) delivered() int64 {
	if len(w.cursors) == 0 {
		return 0
	}
	lowest := w.head.Load()
	for _, cursor := range w.cursors {
		lowest = min(lowest, cursor.Load())
	}
	return lowest
}

// clean deletes one step's worth of delivered webhooks that are past their retention or in the way. It
// tells whether to look again.
func (w *writer) clean(ctx context.Context) (again bool) {
	if w.inDoubt != nil || w.keepSinks {
		return false
	}
	delivered := w.delivered()
	w.notePressure(ctx, delivered)
	var needed int64
	if w.cleaning.pressed {
		needed = w.space.excess(lowMarkPercent)
	}
	if delivered < w.oldest.Load() {
		w.cleaning.sweep = false
		return false
	}
	if !w.cleaning.sweep && needed == 0 {
		return false
	}
	through, more, err := w.deleteDelivered(ctx, delivered, needed)
	if err != nil {
		if leavesDoubt(err) {
			w.inDoubt = err
		}
		w.cleaning.sweep = false
		w.reportUpkeep(ctx, "delete delivered webhooks", err)
		return false
	}
	if through == 0 {
		w.cleaning.sweep = w.cleaning.sweep && more
		return more
	}
	w.upkeepFailing = false
	w.oldest.Store(through + 1)
	w.tail.dropThrough(through)
	w.refreshUsed(ctx)
	return true
}

// notePressure begins and ends the time in which the journal is nearly full, and says so once each.
func (w *writer) notePressure(ctx context.Context, delivered int64) {
	switch {
	case !w.cleaning.pressed && w.space.above(highMarkPercent):
		w.cleaning.pressed = true
		w.log.WarnContext(ctx, "the journal is nearly full: delivered webhooks are deleted before their retention ends, and when none is left, new webhooks are refused until sinks take what waits",
			"bytes", w.space.used.Load(), "max_bytes", w.space.limit,
			"delivered_webhooks", max(delivered-w.oldest.Load()+1, 0), "undelivered_webhooks", w.head.Load()-delivered)
	case w.cleaning.pressed && !w.space.above(calmMarkPercent):
		w.cleaning.pressed = false
		w.log.InfoContext(ctx, "the journal has room again", "bytes", w.space.used.Load(), "max_bytes", w.space.limit)
	}
	if !w.space.above(lowMarkPercent) {
		w.space.wanted.Store(0)
	}
}

// deleteDelivered deletes webhooks up to delivered, oldest first: until needed bytes are free, and those past
// their retention. It returns the number of the last one deleted, 0 for none, and then whether the search goes on.
func (w *writer) deleteDelivered(ctx context.Context, delivered, needed int64) (through int64, more bool, err error) {
	if through, more, err = w.chooseDeletions(ctx, delivered, needed); err != nil || through == 0 {
		return 0, more, err
	}
	err = w.store.inTransaction(ctx, func() error {
		_, err := w.store.deleteWebhooks.ExecContext(ctx, through)
		return err
	})
	w.countFrames()
	return through, false, err
}

// chooseDeletions finds the last webhook that one step deletes, or tells that the search goes on. The order of acceptance
// is the truth about age: one that seems to come from the future, because the clock was wrong, is as old as what came
// after it. Very many of them take several steps.
func (w *writer) chooseDeletions(ctx context.Context, delivered, needed int64) (through int64, more bool, err error) {
	c := &w.cleaning
	deleted := w.oldest.Load() - 1
	skipped := max(deleted, c.future)
	if needed > 0 || c.due > deleted {
		skipped = deleted
	}
	last, through, err := w.scanDeletions(ctx, skipped, delivered, needed)
	switch {
	case err != nil:
		return 0, false, err
	case through > 0 && skipped > deleted:
		c.due = through
		return 0, true, nil
	case through > 0:
		return through, false, nil
	case last-skipped >= maxScannedWebhooks:
		c.future = last
		return 0, true, nil
	case last == delivered: // all of them: their time comes, or another's
		c.future = 0
	}
	return 0, false, nil
}

// scanDeletions looks at the webhooks behind the number after. It returns the last one looked at that may go with a later
// one, and the last one that goes now, 0 for none.
func (w *writer) scanDeletions(ctx context.Context, after, delivered, needed int64) (last, through int64, err error) {
	now := w.now()
	cutoff := toNanos(now.Add(-w.retention))
	rows, err := w.store.oldestWebhooks.QueryContext(ctx, after, delivered, maxScannedWebhooks)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	last = after
	var count, freed int64
	for rows.Next() {
		var seq, received, size int64
		if err := rows.Scan(&seq, &received, &size); err != nil {
			return 0, 0, err
		}
		switch {
		case freed < needed, received < cutoff, seq <= w.cleaning.due:
			through = seq
		case received > toNanos(now):
			// It goes with the next one that is old enough.
		default:
			return last, through, nil
		}
		last = seq
		count++
		freed += size
		if through == seq && (count >= maxDeletedWebhooks || freed >= maxDeletedBytes) {
			return last, through, nil
		}
	}
	return last, through, rows.Err()
}
