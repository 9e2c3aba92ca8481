package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
)

const (
	// checkpointFrames is how much log the writer lets gather before it has it moved into the database (16 MiB).
	checkpointFrames = 4096
	// walKeep is how much of the log file stays for use again; overwriting is cheaper than growing.
	walKeep = 64 << 20
	// logAlarmFrames is the length of log (64 MiB) from which the writer waits a moment for readers to let it begin anew.
	logAlarmFrames = walKeep / pageSize

	// checkpointBeside moves as much of the log as it can while others read and write.
	checkpointBeside = "PRAGMA wal_checkpoint(PASSIVE)"
)

// checkpointWhenDue has the log moved into the database when enough has gathered. That takes some ten milliseconds, in
// which commits go on: it has a connection of its own, and ends before anything else is done with it.
func (w *writer) checkpointWhenDue(ctx context.Context) {
	if w.checkpointing != nil || w.inDoubt != nil || w.frames < checkpointFrames {
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
	var result checkpointResult
	if err == nil {
		result, err = scanCheckpoint(w.store.passive.QueryRowContext(ctx))
	}
	if err == nil && result.frames >= logAlarmFrames {
		err = w.store.truncateLog(ctx)
	}
	if err != nil {
		if leavesDoubt(err) {
			w.inDoubt = err
		}
		w.reportUpkeep(ctx, "move the log into the database", err)
		return
	}
	w.upkeepFailing = false
	w.logExcess = 0
	if info, err := os.Stat(w.journal.path + "-wal"); err == nil {
		w.logExcess = max(info.Size()-walKeep, 0)
	}
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
