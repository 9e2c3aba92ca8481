package journal

import (
	"context"
	"errors"
	"math"
	"time"
)

const (
	// One step deletes this much at most, so that requests do not wait long behind it.
	maxDeletedWebhooks = 500
	maxDeletedBytes    = 8 << 20
)

// cleaning says why the writer deletes.
type cleaning struct {
	// sweep is set by the ticker, until nothing is past its retention.
	sweep bool
	// pressed is set while the journal is nearly full.
	pressed bool
}

// sweepInterval is how often the writer looks for webhooks past their retention.
func sweepInterval(retention time.Duration) time.Duration {
	return min(max(retention/100, time.Second), time.Minute)
}

// delivered is the number up to which every configured sink has everything.
func (w *writer) delivered() int64 {
	if len(w.journal.cursors) == 0 {
		return 0
	}
	lowest := w.journal.head.Load()
	for _, cursor := range w.journal.cursors {
		lowest = min(lowest, cursor.Load())
	}
	return lowest
}

// replayed is the number up to which no replay needs a webhook any more.
func (w *writer) replayed() int64 {
	lowest := int64(math.MaxInt64)
	for _, cursor := range w.replays {
		lowest = min(lowest, cursor)
	}
	return lowest
}

// endReplays ends the replays that keep delivered webhooks in a journal that is nearly full: senders come first.
func (w *writer) endReplays(ctx context.Context, delivered int64) error {
	var waiting []int64
	for id, cursor := range w.replays {
		if cursor < delivered {
			waiting = append(waiting, id)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	if err := w.store.inTransaction(ctx, func() error {
		for _, id := range waiting {
			if _, err := w.store.endReplay(ctx, id, StreamNoRoom, w.journal.now()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, id := range waiting {
		delete(w.replays, id)
	}
	w.journal.metrics.replaysEnded.Add(float64(len(waiting)))
	w.journal.streamsChanged.notify()
	w.journal.log.WarnContext(ctx, "replays were ended, "+
		"since the webhooks that they had yet to publish fill the journal; ask for them again when it has room",
		"replays", waiting)
	return nil
}

// clean deletes one step's worth of delivered webhooks that are past their retention or in the way. It
// tells whether to look again.
func (w *writer) clean(ctx context.Context) (again bool) {
	if w.inDoubt != nil || w.journal.keepSinks {
		return false
	}
	delivered := w.delivered()
	w.notePressure(ctx, delivered)
	var needed int64
	if w.cleaning.pressed {
		needed = w.journal.space.excess(lowMarkPercent)
	}
	if delivered < w.journal.oldest.Load() {
		w.cleaning.sweep = false
		return false
	}
	if !w.cleaning.sweep && needed == 0 {
		return false
	}
	var through int64
	var err error
	if needed > 0 {
		err = w.endReplays(ctx, delivered)
	}
	if err == nil {
		through, err = w.deleteDelivered(ctx, min(delivered, w.replayed()), needed)
	}
	if err != nil {
		if leavesDoubt(err) {
			w.inDoubt = err
		}
		w.cleaning.sweep = false
		w.reportUpkeep(ctx, "delete delivered webhooks", err)
		return false
	}
	if through == 0 {
		w.cleaning.sweep = false
		return false
	}
	w.upkeepFailing = false
	w.journal.oldest.Store(through + 1)
	w.journal.tail.dropThrough(through)
	w.refreshUsed(ctx)
	return true
}

// notePressure begins and ends the time in which the journal is nearly full, and says so once each.
func (w *writer) notePressure(ctx context.Context, delivered int64) {
	switch {
	case !w.cleaning.pressed && w.journal.space.above(highMarkPercent):
		w.cleaning.pressed = true
		w.journal.log.WarnContext(ctx, "the journal is nearly full: "+
			"delivered webhooks are deleted before their retention ends, "+
			"and when none is left, new webhooks are refused until sinks take what waits",
			"bytes", w.journal.space.used.Load(), "max_bytes", w.journal.space.limit,
			"delivered_webhooks", max(delivered-w.journal.oldest.Load()+1, 0),
			"undelivered_webhooks", w.journal.head.Load()-delivered)
	case w.cleaning.pressed && !w.journal.space.above(calmMarkPercent):
		w.cleaning.pressed = false
		w.journal.log.InfoContext(ctx, "the journal has room again",
			"bytes", w.journal.space.used.Load(), "max_bytes", w.journal.space.limit)
	}
	if !w.journal.space.above(lowMarkPercent) {
		w.journal.space.wanted.Store(0)
	}
}

// deleteDelivered deletes webhooks up to delivered, oldest first: until needed bytes are free, and those past their
// retention. It returns the number of the last one deleted, 0 for none.
func (w *writer) deleteDelivered(ctx context.Context, delivered, needed int64) (through int64, err error) {
	if through, err = w.lastToDelete(ctx, delivered, needed); err != nil || through == 0 {
		return 0, err
	}
	err = w.store.inTransaction(ctx, func() error {
		_, err := w.store.deleteWebhooks.ExecContext(ctx, through)
		return err
	})
	w.countFrames()
	return through, err
}

// lastToDelete returns the number of the last webhook that one step deletes, 0 for none. One that is to come in more
// than a retention is old as well: a clock was wrong, and it must not keep those behind it for years.
func (w *writer) lastToDelete(ctx context.Context, delivered, needed int64) (through int64, err error) {
	now := w.journal.now()
	from, to := toNanos(now.Add(-w.journal.retention)), toNanos(now.Add(w.journal.retention))
	rows, err := w.store.oldestWebhooks.QueryContext(ctx, w.journal.oldest.Load()-1, delivered, maxDeletedWebhooks)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var freed int64
	for freed < maxDeletedBytes && rows.Next() {
		var seq, received, size int64
		if err := rows.Scan(&seq, &received, &size); err != nil {
			return 0, err
		}
		if freed >= needed && from <= received && received <= to {
			break
		}
		through = seq
		freed += size
	}
	return through, rows.Err()
}
