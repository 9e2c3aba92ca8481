package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// checkpointBeside moves as much of the log as it can while others read and write.
const checkpointBeside = "PRAGMA wal_checkpoint(PASSIVE)"

// checkpointFrames is how many pages of log gather until it is moved into the database.
func (w *writer) checkpointFrames() int64 { return w.journal.limits.checkpoint / pageSize }

// checkpointWhenDue has the log moved into the database when enough has gathered. That takes some ten milliseconds, in
// which commits go on: it has a connection of its own, and ends before anything else is done with it.
func (w *writer) checkpointWhenDue(ctx context.Context) {
	if w.checkpointing != nil || w.inDoubt != nil || w.frames < w.checkpointFrames() {
		return
	}
	if !w.canMove(ctx) {
		w.outOfSpace(ctx)
		return
	}
	w.frames = 0
	store, ended := w.store, make(chan error, 1)
	w.checkpointing = ended
	go func() {
		_, err := scanCheckpoint(store.passiveBeside.QueryRowContext(ctx))
		ended <- err
	}()
}

// tookCheckpoint takes what became of a checkpoint, and moves what has come to the log meanwhile, which is little. The
// next commit then begins the log anew, unless a reader is still in it.
func (w *writer) tookCheckpoint(ctx context.Context, err error) {
	w.checkpointing = nil
	if w.inDoubt != nil {
		return
	}
	if err == nil {
		_, err = scanCheckpoint(w.store.passive.QueryRowContext(ctx))
	}
	log := w.journal.path + "-wal"
	// On a full disk whatever is let go of is somebody else's at once.
	if err == nil && fileSize(log) > w.journal.limits.keep && !w.journal.space.exhausted.Load() {
		err = w.store.truncateLog(ctx)
	}
	if err != nil && isFull(err) {
		w.outOfSpace(ctx)
	}
	if err != nil {
		if leavesDoubt(err) {
			w.inDoubt = err
		}
		w.reportUpkeep(ctx, "move the log into the database", err)
		return
	}
	w.upkeepFailing = false
	w.logExcess = max(fileSize(log)-w.journal.limits.keep, 0)
	w.refreshUsed(ctx)
}

// awaitCheckpoint waits for a checkpoint under way, whose connection is about to be closed. What it did not do, the
// next one does.
func (w *writer) awaitCheckpoint() {
	if w.checkpointing == nil {
		return
	}
	if err := <-w.checkpointing; err != nil {
		w.journal.log.Debug("a checkpoint of the journal failed while its connection was to be closed", "error", err)
	}
	w.checkpointing = nil
}

// truncateLog moves the log into the database and empties it. It waits only a moment for readers: with one
// in the way it changes nothing, and that is no error.
func (s *store) truncateLog(ctx context.Context) (err error) {
	if _, err := s.conn.ExecContext(ctx, "PRAGMA busy_timeout = 100"); err != nil {
		return err
	}
	defer func() {
		_, failed := s.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", busyTimeout))
		err = errors.Join(err, failed)
	}()
	_, err = checkpoint(ctx, s.conn)
	return err
}

// checkpointResult is what PRAGMA wal_checkpoint answers.
type checkpointResult struct {
	busy              bool
	frames, completed int64
}

// complete tells whether the whole log is in the database.
func (r checkpointResult) complete() bool { return r.frames == r.completed }

func scanCheckpoint(row *sql.Row) (r checkpointResult, err error) {
	err = row.Scan(&r.busy, &r.frames, &r.completed)
	return r, err
}

// checkpoint moves the whole log into the database and empties it.
func checkpoint(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
},
) (checkpointResult, error) {
	return scanCheckpoint(q.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"))
}
