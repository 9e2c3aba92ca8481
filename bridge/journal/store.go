package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"modernc.org/sqlite"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	driverName = "sqlite"
	// busyTimeout bounds the wait for another program that has locked the file, such as sqlite3 in a write.
	busyTimeout = 2000

	// wideRows is how many webhooks one statement stores where there are so many: what a statement costs beside its rows
	// is worth half a row. webhookColumns is how many values each has.
	wideRows       = 8
	webhookColumns = 5
)

// store is the writer's connection, and a second one for its checkpoints. Only the writer uses it.
type store struct {
	path     string
	db       *sql.DB
	conn     *sql.Conn
	beside   *sql.Conn // for checkpoints while conn commits
	database os.FileInfo
	log      os.FileInfo
	// leftover is set while the log may hold frames of a commit that failed, as it may when it is opened.
	leftover bool
	// migratedFrom is the version of the schema that was found, if it was an older one, else 0.
	migratedFrom int
	// tolerance is how far a valid signature's time may be off, as the writer says. remembers is set while there are past
	// webhooks.
	tolerance time.Duration
	remembers bool
	// marked is set once dropped letters have left marks.
	marked   bool
	prepared []*sql.Stmt

	begin, commit, rollback, save, restore, release *sql.Stmt

	insertWebhook, insertWide        *sql.Stmt
	moveLive, setState               *sql.Stmt
	findKnown                        *sql.Stmt
	findID, findPast, anyPast        *sql.Stmt
	findAny                          *sql.Stmt // of wideRows
	insertPast, deletePast, pastRows *sql.Stmt
	signedBetween                    *sql.Stmt
	updateLetter, insertLetter       *sql.Stmt
	findBase, insertBase, letterSum  *sql.Stmt
	publishedLetter, removeLetter    *sql.Stmt
	insertMark, removeMark           *sql.Stmt
	anyMarks, deleteMarks            *sql.Stmt
	moveStream                       *sql.Stmt
	addCheckpoint                    *sql.Stmt
	thinCheckpoints, cutCheckpoints  *sql.Stmt
	oldestWebhooks, deleteWebhooks   *sql.Stmt
	pageCount, freePages, passive    *sql.Stmt
	passiveBeside                    *sql.Stmt // passive, on beside
}

// openStore opens the database for writing and proves that it is as durable as the journal needs. logKeep is how much
// of the log's file stays when the log begins anew, in bytes.
func openStore(ctx context.Context, path string, logKeep int64) (_ *store, err error) {
	if err := registerFunctions(); err != nil {
		return nil, fmt.Errorf("prepare SQLite: %w", err)
	}
	db, err := sql.Open(driverName, dataSource(path,
		"mode=rw", "_txlock=immediate", "_dqs=0", "_defensive=1", "_error_rc=1", fmt.Sprintf("_busy_timeout=%d", busyTimeout),
		"_pragma=journal_mode(wal)", "_pragma=synchronous(full)",
		// On macOS only these two reach the platter; elsewhere they change nothing.
		"_pragma=fullfsync(1)", "_pragma=checkpoint_fullfsync(1)",
		// The writer checkpoints by itself, after it has answered, and sees when that fails.
		"_pragma=wal_autocheckpoint(0)", fmt.Sprintf("_pragma=journal_size_limit(%d)", logKeep),
		"_pragma=trusted_schema(0)", "_pragma=cache_size(-8192)", "_pragma=mmap_size(0)", "_pragma=temp_store(memory)",
		// Nothing of a transaction is in the log before its commit.
		"_pragma=cache_spill(0)"))
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	db.SetMaxOpenConns(2) // conn and beside
	s := &store{path: path, db: db, leftover: true}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.conn, err = db.Conn(ctx); err != nil {
		return nil, fmt.Errorf("open the journal %s: %w", path, damaged(path, err))
	}
	if err := s.verifyPragmas(ctx); err != nil {
		return nil, err
	}
	if s.migratedFrom, err = s.migrate(ctx); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, fmt.Errorf("open the journal %s: %w", path, damaged(path, err))
	}
	if err := errors.Join(s.anyPast.QueryRowContext(ctx).Scan(&s.remembers),
		s.anyMarks.QueryRowContext(ctx).Scan(&s.marked)); err != nil {
		return nil, fmt.Errorf("open the journal %s: %w", path, damaged(path, err))
	}
	if s.database, err = os.Stat(path); err != nil {
		return nil, fmt.Errorf("look at the journal: %w", err)
	}
	return s, nil
}

// verifyPragmas reads back what the promise rests on: SQLite keeps quiet when it cannot set them.
func (s *store) verifyPragmas(ctx context.Context) error {
	var mode string
	if err := s.conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return damaged(s.path, err)
	}
	if !strings.EqualFold(mode, "wal") {
		return fmt.Errorf("the journal %s runs in journal mode %q and needs a write-ahead log: "+
			"the file system does not share memory between processes, put the data directory on a local disk", s.path, mode)
	}
	var synchronous int
	if err := s.conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&synchronous); err != nil {
		return damaged(s.path, err)
	}
	if synchronous != 2 {
		return fmt.Errorf("the journal %s cannot be made durable: SQLite reports synchronous=%d where FULL (2) was asked for",
			s.path, synchronous)
	}
	return nil
}

// migrate brings an older journal to the present schema, in one durable transaction, and returns the version that it
// had, or 0 when there was nothing to do. A journal that looks damaged is left as it is.
func (s *store) migrate(ctx context.Context) (from int, err error) {
	version, err := checkSchema(ctx, s.conn, s.path)
	if err != nil || version == schemaVersion {
		return 0, err
	}
	if err := s.checkBeforeMigration(ctx); err != nil {
		return 0, err
	}
	tx, err := s.conn.BeginTx(ctx, nil)
	if err == nil {
		defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
		err = migrateSchema(ctx, tx, version)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return 0, fmt.Errorf("bring the journal %s from schema version %d to %d: %w",
			s.path, version, schemaVersion, damaged(s.path, err))
	}
	return version, nil
}

// checkBeforeMigration looks at the length of an older journal, as a start does.
func (s *store) checkBeforeMigration(ctx context.Context) error {
	result, err := checkpoint(ctx, s.conn)
	if err != nil {
		return fmt.Errorf("move the journal's log into the database: %w", damaged(s.path, err))
	}
	return s.checkLength(ctx, result)
}

// checkLength refuses a database that is shorter than it says. With frames left in the log, it may be.
func (s *store) checkLength(ctx context.Context, last checkpointResult) error {
	if last.busy || !last.complete() {
		return nil
	}
	var pages int64
	if err := s.conn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return damaged(s.path, err)
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("look at the journal: %w", err)
	}
	if info.Size() < pages*pageSize {
		return &DamagedError{Path: s.path, Err: fmt.Errorf("the file has %d bytes and should have %d",
			info.Size(), pages*pageSize)}
	}
	return nil
}

func (s *store) prepare(ctx context.Context) error {
	for _, p := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&s.begin, "BEGIN IMMEDIATE"},
		{&s.commit, "COMMIT"},
		{&s.rollback, "ROLLBACK"},
		{&s.save, "SAVEPOINT request"},
		{&s.restore, "ROLLBACK TO request"},
		{&s.release, "RELEASE request"},
		{&s.insertWebhook, `INSERT INTO webhooks (seq, id, signed_at, received_at, body)
			VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`},
		{&s.insertWide, `INSERT INTO webhooks (seq, id, signed_at, received_at, body)
			VALUES (?, ?, ?, ?, ?)` + strings.Repeat(", (?, ?, ?, ?, ?)", wideRows-1)},
		{&s.findKnown, `SELECT signed_at FROM webhooks WHERE id = ?3 OR (id = ?1 AND body = ?2)`},
		{&s.findID, `SELECT EXISTS (SELECT 1 FROM past_webhooks WHERE id = ?)`},
		{&s.findAny, `SELECT EXISTS (SELECT 1 FROM past_webhooks
			WHERE id IN (?` + strings.Repeat(", ?", wideRows-1) + `))`},
		{&s.findPast, `SELECT until FROM past_webhooks WHERE id = ? AND digest = ?`},
		{&s.anyPast, `SELECT EXISTS (SELECT 1 FROM past_webhooks)`},
		{&s.pastRows, `SELECT coalesce((SELECT max(n) FROM past_webhooks) - (SELECT min(n) FROM past_webhooks) + 1, 0)`},
		{&s.insertPast, `INSERT OR REPLACE INTO past_webhooks (id, digest, until) SELECT ?1, ?2, ?3
			WHERE NOT EXISTS (SELECT 1 FROM past_webhooks WHERE id = ?1 AND digest = ?2 AND until >= ?3)`},
		{&s.deletePast, `DELETE FROM past_webhooks WHERE n IN (SELECT n FROM past_webhooks ORDER BY n LIMIT ?)
			AND NOT until BETWEEN ? AND ?`},
		{&s.signedBetween, `SELECT seq, id, signed_at, received_at, body FROM webhooks
			WHERE seq > ? AND seq <= ? AND signed_at BETWEEN ? AND ? ORDER BY seq LIMIT ?`},
		{&s.moveLive, `UPDATE sinks SET cursor = max(cursor, ?), position = coalesce(?, position),
			finished = coalesce(?, finished) WHERE sink = ?`},
		{&s.setState, `UPDATE sinks SET state = ?, last_error = ?, last_error_at = ?, since = ?, stands_still = ?
			WHERE sink = ?`},
		{&s.updateLetter, `UPDATE dead_letters SET reason = ?, attempts = attempts + ?, last_at = ?, replay = ?,
			published_at = 0
			WHERE sink = ? AND webhook_seq = ? AND event_index = ?`},
		{&s.insertLetter, insertLetter},
		{&s.findBase, `SELECT event FROM letter_events WHERE webhook_seq = ?`},
		{&s.insertBase, `INSERT INTO letter_events (webhook_seq, event) VALUES (?, ?)`},
		{&s.letterSum, `SELECT value FROM settings WHERE name = 'letter_bytes'`},
		{&s.publishedLetter, `UPDATE dead_letters SET published_at = ?
			WHERE id = ? AND sink = ? AND attempts = ? AND last_at = ?`},
		{&s.removeLetter, `DELETE FROM dead_letters WHERE sink = ? AND webhook_seq = ? AND event_index = ?`},
		{&s.insertMark, insertMark},
		{&s.removeMark, `DELETE FROM dropped_letters WHERE sink = ? AND webhook_seq = ? AND event_index = ?`},
		{&s.anyMarks, `SELECT EXISTS (SELECT 1 FROM dropped_letters)`},
		{&s.deleteMarks, `DELETE FROM dropped_letters WHERE webhook_seq > ? AND webhook_seq <= ?`},
		{&s.moveStream, `UPDATE streams SET cursor = ?, taken = ?, acknowledged = ?, dead_lettered = ?,
			ended = ?, ended_at = ?
			WHERE id = ? AND ended_at = 0`},
		{&s.addCheckpoint, `INSERT INTO checkpoints (sink, cursor, position) VALUES (?1, ?2, ?3)
			ON CONFLICT DO UPDATE SET position = ?3`},
		{&s.thinCheckpoints, thinCheckpoints},
		{&s.cutCheckpoints, `DELETE FROM checkpoints WHERE sink = ? AND cursor >= ?`},
		{&s.oldestWebhooks, `SELECT seq, received_at, length(body) FROM webhooks
			WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?`},
		{&s.deleteWebhooks, `DELETE FROM webhooks WHERE seq > ? AND seq <= ?`},
		{&s.pageCount, "PRAGMA page_count"},
		{&s.freePages, "PRAGMA freelist_count"},
		{&s.passive, checkpointBeside},
	} {
		stmt, err := s.conn.PrepareContext(ctx, p.query)
		if err != nil {
			return err
		}
		*p.to = stmt
		s.prepared = append(s.prepared, stmt)
	}
	return s.prepareBeside(ctx)
}

func (s *store) prepareBeside(ctx context.Context) (err error) {
	if s.beside, err = s.db.Conn(ctx); err != nil {
		return err
	}
	if s.passiveBeside, err = s.beside.PrepareContext(ctx, checkpointBeside); err == nil {
		s.prepared = append(s.prepared, s.passiveBeside)
	}
	return err
}

// close ends the connection. When it is the last one, SQLite moves the log into the database and removes it.
// database/sql leaves statements of a dedicated connection to their owner, and SQLite stays open behind them.
func (s *store) close() error {
	var errs []error
	for _, stmt := range s.prepared {
		errs = append(errs, stmt.Close())
	}
	for _, conn := range []*sql.Conn{s.beside, s.conn} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(append(errs, s.db.Close())...)
}

// inTransaction runs f in a transaction and returns once that is durable. After an error nothing of it counts.
func (s *store) inTransaction(ctx context.Context, f func() error) error {
	if _, err := s.begin.ExecContext(ctx); err != nil {
		return err
	}
	err := s.dropLeftover(ctx)
	if err == nil {
		err = f()
	}
	if err == nil {
		err = s.stillInPlace()
	}
	if err == nil {
		_, err = s.commit.ExecContext(ctx)
		s.leftover = err != nil
	}
	if err != nil {
		// SQLite has already rolled back by itself after some errors, and then says so; a real failure
		// shows in the next BEGIN.
		_, _ = s.rollback.ExecContext(ctx)
	}
	return err
}

// dropLeftover cuts off what a commit that failed has left in the log. Behind the next commit it would look as if that
// were damaged. It is called in a transaction, while nobody else can write.
func (s *store) dropLeftover(ctx context.Context) error {
	if !s.leftover {
		return nil
	}
	result, err := scanCheckpoint(s.beside.QueryRowContext(ctx, "PRAGMA wal_checkpoint(NOOP)"))
	if err == nil && result.frames < 0 {
		err = errors.New("SQLite does not say where the log ends")
	}
	if err != nil {
		return err
	}
	var end int64
	if result.frames > 0 {
		end = logHeaderSize + result.frames*(frameHeader+pageSize)
	}
	log := s.path + "-wal"
	info, err := os.Stat(log)
	switch {
	case err != nil:
		return fmt.Errorf("look at the journal's log: %w", err)
	case info.Size() < end:
		return fmt.Errorf("%s: %w", log, errMoved)
	}
	if err := os.Truncate(log, end); err != nil {
		return fmt.Errorf("cut off what a failed write left in the log: %w", err)
	}
	s.leftover = false
	return nil
}

// stillInPlace refuses to go on writing into files that nobody would find again.
func (s *store) stillInPlace() error {
	if err := inPlace(s.path, s.database); err != nil {
		return err
	}
	if s.log == nil {
		return nil
	}
	return inPlace(s.path+"-wal", s.log)
}

// inPlace tells whether path still names the file that it named before.
func inPlace(path string, before os.FileInfo) error {
	now, err := os.Stat(path)
	if err == nil && os.SameFile(now, before) {
		return nil
	}
	return fmt.Errorf("%s: %w", path, errMoved)
}

// noteLog remembers the log file, which SQLite makes at the first write, and makes its name durable.
func (s *store) noteLog() error {
	info, err := os.Stat(s.path + "-wal")
	if err != nil {
		return err
	}
	s.log = info
	return nil
}

// webhookValues are the columns of a webhook that is stored as number seq under an ID.
func webhookValues(seq int64, id string, w *bridge.Webhook) []any {
	return []any{seq, id, toNanos(w.Timestamp), toNanos(w.ReceivedAt), bodyColumn(w)}
}

// storeWebhook adds w as number seq under an ID, or finds that the ID is there already.
func (s *store) storeWebhook(ctx context.Context, seq int64, id string, w *bridge.Webhook) (stored bool, err error) {
	result, err := s.insertWebhook.ExecContext(ctx, webhookValues(seq, id, w)...)
	if takenSeq(err) {
		err = &OwnershipError{fmt.Sprintf("another process writes the journal %s: it has given the number %d",
			s.path, seq), err}
	}
	if err != nil {
		return false, err
	}
	changed, err := result.RowsAffected()
	return changed == 1, err
}

// storeLetters adds or updates dead letters, all or none, and returns how many are new, by sink. If full is an error,
// it is that of new ones.
func (s *store) storeLetters(ctx context.Context, letters []DeadLetter, full error) (
	added map[string]int64, err error,
) {
	added = make(map[string]int64)
	bases := make(map[int64]*bridge.Event)
	return added, s.allOrNone(ctx, func() error {
		for i := range letters {
			fresh, err := s.storeLetter(ctx, &letters[i], bases, full)
			if err != nil {
				return err
			}
			if fresh {
				added[letters[i].Sink]++
			}
		}
		return nil
	})
}

// allOrNone runs f in a transaction. After a statement that SQLite refuses by itself, or a letter that has no room,
// nothing of f is in it.
func (s *store) allOrNone(ctx context.Context, f func() error) error {
	if _, err := s.save.ExecContext(ctx); err != nil {
		return err
	}
	err := f()
	if err == nil {
		_, err = s.release.ExecContext(ctx)
		return err
	}
	if statementOnly(err) || errors.Is(err, ErrFullOfDeadLetters) {
		_, undo := s.restore.ExecContext(ctx)
		_, end := s.release.ExecContext(ctx)
		if failed := errors.Join(undo, end); failed != nil {
			return failed
		}
	}
	return err
}

// storeLetter adds one, or updates it. bases has those that are known of this transaction's webhooks.
func (s *store) storeLetter(ctx context.Context, l *DeadLetter, bases map[int64]*bridge.Event, full error) (
	fresh bool, err error,
) {
	result, err := s.updateLetter.ExecContext(ctx, l.Reason, l.Attempts, toNanos(l.LastAt), l.Event.Origin.Replay,
		l.Sink, l.WebhookSeq, l.Event.Origin.Index)
	if err != nil {
		return false, err
	}
	if changed, err := result.RowsAffected(); err != nil || changed > 0 {
		return false, err
	}
	if full != nil {
		return false, full
	}
	base := bases[l.WebhookSeq]
	if base == nil {
		found, err := s.base(ctx, l)
		if err != nil {
			return false, err
		}
		base = &found
		bases[l.WebhookSeq] = base
	}
	_, err = s.insertLetter.ExecContext(ctx, letterValues(l, packEvent(&l.Event, base))...)
	return err == nil, err
}

// usedBytes is what the database holds, without the pages that are free for use again.
func (s *store) usedBytes(ctx context.Context) (int64, error) {
	var pages, free int64
	if err := s.pageCount.QueryRowContext(ctx).Scan(&pages); err != nil {
		return 0, err
	}
	if err := s.freePages.QueryRowContext(ctx).Scan(&free); err != nil {
		return 0, err
	}
	return (pages - free) * pageSize, nil
}

// framesWritten returns how many pages went to the log since the last call.
func (s *store) framesWritten() int64 {
	var frames int
	err := s.conn.Raw(func(c any) error {
		counters, ok := c.(sqlite.DBStatus)
		if !ok {
			return errors.New("the driver has no counters")
		}
		var err error
		frames, _, err = counters.Status(sqlite.DBStatusCacheWrite, true)
		return err
	})
	if err != nil {
		return mostLogBytes / pageSize // rather too often than never
	}
	return int64(frames)
}
