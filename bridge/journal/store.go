package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"modernc.org/sqlite"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	driverName = "sqlite"
	// busyTimeout bounds the wait for another program that has locked the file, such as sqlite3 in a write.
	busyTimeout = 2000
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
	prepared     []*sql.Stmt

	begin, commit, rollback, save, restore, release *sql.Stmt

	insertWebhook, advance, setState *sql.Stmt
	findKnown                        *sql.Stmt
	updateLetter, insertLetter       *sql.Stmt
	publishedLetter, removeLetter    *sql.Stmt
	moveStream                       *sql.Stmt
	oldestWebhooks, deleteWebhooks   *sql.Stmt
	pageCount, freePages, passive    *sql.Stmt
	passiveBeside                    *sql.Stmt // passive, on beside
}

// openStore opens the database for writing and proves that it is as durable as the journal needs.
func openStore(ctx context.Context, path string) (_ *store, err error) {
	if err := registerFunctions(); err != nil {
		return nil, fmt.Errorf("prepare SQLite: %w", err)
	}
	db, err := sql.Open(driverName, dataSource(path,
		"mode=rw", "_txlock=immediate", "_dqs=0", "_defensive=1", "_error_rc=1", fmt.Sprintf("_busy_timeout=%d", busyTimeout),
		"_pragma=journal_mode(wal)", "_pragma=synchronous(full)",
		// On macOS only these two reach the platter; elsewhere they change nothing.
		"_pragma=fullfsync(1)", "_pragma=checkpoint_fullfsync(1)",
		// The writer checkpoints by itself, after it has answered, and sees when that fails.
		"_pragma=wal_autocheckpoint(0)", fmt.Sprintf("_pragma=journal_size_limit(%d)", walKeep),
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
		{&s.findKnown, findKnown},
		{&s.advance, `UPDATE sinks SET cursor = ?1 WHERE sink = ?2 AND cursor < ?1`},
		{&s.setState, `UPDATE sinks SET state = ?, last_error = ?, last_error_at = ?, since = ? WHERE sink = ?`},
		{&s.updateLetter, `UPDATE dead_letters SET reason = ?, attempts = attempts + ?, last_at = ?, replay = ?,
			published_at = 0
			WHERE sink = ? AND webhook_seq = ? AND event_index = ?`},
		{&s.insertLetter, insertLetter()},
		{&s.publishedLetter, `UPDATE dead_letters SET published_at = ?
			WHERE id = ? AND sink = ? AND attempts = ? AND last_at = ?`},
		{&s.removeLetter, `DELETE FROM dead_letters WHERE sink = ? AND webhook_seq = ? AND event_index = ?`},
		{&s.moveStream, `UPDATE streams SET cursor = ?, taken = ?, acknowledged = ?, dead_lettered = ?,
			ended = ?, ended_at = ?
			WHERE id = ? AND ended_at = 0`},
		{&s.oldestWebhooks, `SELECT seq, received_at, length(body) FROM webhooks
			WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?`},
		{&s.deleteWebhooks, `DELETE FROM webhooks WHERE seq <= ?`},
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

// storeWebhook adds w as number seq under an ID, or finds that the ID is there already.
func (s *store) storeWebhook(ctx context.Context, seq int64, id string, w *bridge.Webhook) (stored bool, err error) {
	result, err := s.insertWebhook.ExecContext(ctx, seq, id, toNanos(w.Timestamp), toNanos(w.ReceivedAt), bodyColumn(w))
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

// storeLetters adds or updates dead letters, all or none, and returns how many are new, by sink.
func (s *store) storeLetters(ctx context.Context, letters []DeadLetter) (added map[string]int64, err error) {
	if _, err := s.save.ExecContext(ctx); err != nil {
		return nil, err
	}
	added = make(map[string]int64)
	for i := range letters {
		fresh, err := s.storeLetter(ctx, &letters[i])
		if err != nil {
			if statementOnly(err) {
				_, undo := s.restore.ExecContext(ctx)
				_, end := s.release.ExecContext(ctx)
				if failed := errors.Join(undo, end); failed != nil {
					return nil, failed
				}
			}
			return nil, err
		}
		if fresh {
			added[letters[i].Sink]++
		}
	}
	_, err = s.release.ExecContext(ctx)
	return added, err
}

func (s *store) storeLetter(ctx context.Context, l *DeadLetter) (fresh bool, err error) {
	result, err := s.updateLetter.ExecContext(ctx, l.Reason, l.Attempts, toNanos(l.LastAt), l.Event.Origin.Replay,
		l.Sink, l.WebhookSeq, l.Event.Origin.Index)
	if err != nil {
		return false, err
	}
	if changed, err := result.RowsAffected(); err != nil || changed > 0 {
		return false, err
	}
	_, err = s.insertLetter.ExecContext(ctx, letterValues(l)...)
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
		return checkpointFrames // rather too often than never
	}
	return int64(frames)
}
