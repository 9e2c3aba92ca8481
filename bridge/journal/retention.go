package journal

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

const (
	// One step deletes this much at most, so that requests do not wait long behind it.
	maxDeletedWebhooks = 500
	maxDeletedBytes    = 8 << 20
	// On a full disk a step has to do with the little log that there is.
	maxDeletedOnFullDisk = 16
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

// awaited is what sinks wait for, configured or not.
func (w *writer) awaited() (all []span) {
	if len(w.journal.cursors) == 0 {
		return []span{{0, endless}} // with no sink at all nothing counts as delivered
	}
	for sink, cursor := range w.journal.cursors {
		all = append(all, waits(cursor.Load(), w.absences[sink])...)
	}
	for sink, cursor := range w.removed {
		all = append(all, waits(cursor, w.absences[sink])...)
	}
	return all
}

// waitForRemoved counts the webhooks that wait for sinks that are not configured, for each of them.
func (w *writer) waitForRemoved() (n int64) {
	p := w.position()
	for sink, cursor := range w.removed {
		n += p.backlog(sink, cursor)
	}
	return n
}

// position is that of what is durable.
func (w *writer) position() position {
	return position{
		oldest: w.journal.oldest.Load(), head: w.journal.head.Load(), holes: w.holes, absences: w.absences,
	}
}

// moveOldest takes over what is stored, but for the newest.
func (w *writer) moveOldest(p position) {
	w.holes = p.holes
	w.journal.oldest.Store(p.oldest)
	w.journal.missing.Store(overlap(p.holes, 0, endless))
}

// endReplays ends the replays that keep delivered webhooks in a journal that is nearly full: senders come first.
func (w *writer) endReplays(ctx context.Context) error {
	var waiting []int64
	p, awaited := w.position(), w.awaited()
	for id, left := range w.replays {
		ofReplay := position{oldest: max(left.after+1, p.oldest), head: min(left.through, p.head), holes: p.holes}
		if _, alone := ofReplay.deletable(awaited); alone {
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
	w.notePressure(ctx)
	var needed int64
	if w.cleaning.pressed {
		needed = w.journal.space.excess(lowMarkPercent)
	}
	if !w.cleaning.sweep && needed == 0 {
		return false
	}
	var some bool
	var err error
	if needed > 0 {
		err = w.endReplays(ctx)
	}
	if err == nil {
		some, err = w.deleteDelivered(ctx, needed)
	}
	if err != nil {
		if isFull(err) {
			w.outOfSpace(ctx)
		} else if leavesDoubt(err) {
			w.inDoubt = err
		}
		w.cleaning.sweep = false
		w.reportUpkeep(ctx, "delete delivered webhooks", err)
		return false
	}
	if !some {
		w.cleaning.sweep = false
		return false
	}
	w.upkeepFailing = false
	w.refreshUsed(ctx)
	return true
}

// notePressure begins and ends the time in which the journal is nearly full, and says so once each.
func (w *writer) notePressure(ctx context.Context) {
	switch {
	case !w.cleaning.pressed && w.journal.space.above(highMarkPercent):
		w.cleaning.pressed = true
		delivered := w.delivered()
		what := "the journal is nearly full: "
		if w.journal.space.bound() < w.journal.space.limit {
			what = "the disk is nearly full: "
		}
		w.journal.log.WarnContext(ctx, what+ //nolint:sloglint // one of two constants
			"delivered webhooks are deleted before their retention ends, "+
			"and when none is left, new webhooks are refused until sinks take what waits",
			"bytes", w.journal.space.used.Load(), "max_bytes", w.journal.space.bound(),
			"dead_letter_bytes", w.journal.space.letters.Load(), "remembered_id_bytes", w.journal.space.past.Load(),
			"delivered_webhooks", max(delivered-w.journal.oldest.Load()+1, 0),
			"undelivered_webhooks", w.journal.head.Load()-delivered,
			"webhooks_of_removed_sinks", w.waitForRemoved())
	case w.cleaning.pressed && !w.journal.space.above(calmMarkPercent):
		w.cleaning.pressed = false
		w.journal.log.InfoContext(ctx, "the journal has room again",
			"bytes", w.journal.space.used.Load(), "max_bytes", w.journal.space.bound())
	}
	if !w.journal.space.above(lowMarkPercent) {
		w.journal.space.wanted.Store(0)
	}
}

// deleteDelivered deletes webhooks that nobody waits for, oldest first: until needed bytes are free, and those past
// their retention. It tells whether there were some.
func (w *writer) deleteDelivered(ctx context.Context, needed int64) (some bool, err error) {
	p := w.position()
	goes, some := p.deletable(slices.AppendSeq(w.awaited(), maps.Values(w.replays)))
	if !some {
		return false, nil
	}
	goes.through, err = w.lastToDelete(ctx, goes, needed)
	if err != nil || goes.through == 0 {
		return false, err
	}
	after := p.without(goes)
	err = w.store.inTransaction(ctx, func() error {
		if err := w.store.rememberDeleted(ctx, goes, w.journal.now()); err != nil {
			return err
		}
		if goes.through == p.head {
			if err := w.store.noteAccepted(ctx, goes.through); err != nil {
				return err
			}
		}
		_, err := w.store.deleteWebhooks.ExecContext(ctx, goes.after, goes.through)
		if err == nil {
			err = w.store.forgetMarks(ctx, goes)
		}
		if err == nil && !slices.Equal(p.holes, after.holes) {
			err = w.store.writeHoles(ctx, after.holes)
		}
		return err
	})
	w.countFrames()
	if err == nil {
		w.moveOldest(after)
		w.journal.tail.dropThrough(goes.through)
	}
	return err == nil, err
}

// writeHoles replaces what is known of numbers that are missing between stored ones.
func (s *store) writeHoles(ctx context.Context, holes []span) error {
	if _, err := s.conn.ExecContext(ctx, `DELETE FROM holes`); err != nil {
		return err
	}
	for _, h := range holes {
		if _, err := s.conn.ExecContext(ctx, `INSERT INTO holes (after, through) VALUES (?, ?)`,
			h.after, h.through); err != nil {
			return err
		}
	}
	return nil
}

// lastToDelete returns the number of the last webhook of s that one step deletes, 0 for none. One that is to come in
// more than a retention is old as well: a clock was wrong, and it must not keep those behind it for years.
func (w *writer) lastToDelete(ctx context.Context, s span, needed int64) (through int64, err error) {
	now := w.journal.now()
	from, to := toNanos(now.Add(-w.journal.retention)), toNanos(now.Add(w.journal.retention))
	count := maxDeletedWebhooks
	if w.journal.space.exhausted.Load() {
		count = maxDeletedOnFullDisk
	}
	rows, err := w.store.oldestWebhooks.QueryContext(ctx, s.after, s.through, count)
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
