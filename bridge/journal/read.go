package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Status is the state of a journal at one moment.
type Status struct {
	// Bytes is what the journal holds, its log included, MaxBytes what it may hold. FilesBytes is what its files take on
	// the volume: they keep the places of what was deleted, for use again.
	Bytes, MaxBytes, FilesBytes int64
	// Parts are what of Bytes goes for what.
	Parts
	// Head is the number of the newest webhook, 0 when there never was one.
	Head int64
	// Webhooks counts those that are stored, delivered or not.
	Webhooks int64
	// OldestReceivedAt is when the oldest stored webhook was received; zero when none is stored.
	OldestReceivedAt time.Time
	// LastAcceptedAt is when the newest webhook was received, also if it has been deleted since; zero when there never
	// was one.
	LastAcceptedAt time.Time
	// Sinks are in the order of their names.
	Sinks []SinkStatus
}

// SinkStatus is the state of one sink's delivery.
type SinkStatus struct {
	Sink string
	// Configured tells whether the serve that opened the journal last delivers to this sink.
	Configured bool
	// Cursor is the number of the newest webhook up to which everything is delivered or in the dead letters.
	Cursor int64
	// RemovedAt is when a serve first ran without the sink; zero while it is configured, and where that is not known.
	RemovedAt time.Time
	// Backlog counts the webhooks that wait for the sink or behind one that does: those behind the cursor that were
	// accepted while it was configured. Finished is what of them the sink has all the same, as delivery wrote it down.
	Backlog  int64
	Finished []byte
	// OldestUndelivered is when the first of them was received; zero when there is none.
	OldestUndelivered time.Time
	// DeadLetters counts the events that the sink could not store.
	DeadLetters int64
	// State is what delivery reported last.
	State SinkState
	// Missing is what the sink's broker may have lost and no replay has published again; nil: nothing is known to be.
	Missing *Missing

	// began is the number of the newest webhook when the sink was first configured.
	began    int64
	absences []span
}

// Waits tells whether the webhook of that number waits for the sink.
func (s *SinkStatus) Waits(seq int64) bool {
	return overlap(waits(s.Cursor, s.absences), seq-1, seq) > 0
}

// Within counts the webhooks of the backlog with numbers behind after, up to through.
func (s *SinkStatus) Within(after, through int64) int64 {
	return overlap(waits(s.Cursor, s.absences), after, through)
}

// left is the number of the newest webhook when a serve first ran without the sink.
func (s *SinkStatus) left() int64 {
	if n := len(s.absences); n > 0 && s.absences[n-1].through == endless {
		return s.absences[n-1].after
	}
	return endless
}

// SinkState is what delivery last saw of a sink, for the status command beside a running serve.
type SinkState struct {
	Sink string
	// State is a word: up, degraded, down or blocked; empty before delivery has reported.
	State string
	// LastError is the newest error and LastErrorAt when it occurred; it stays when the sink is up again.
	LastError   string
	LastErrorAt time.Time
	// Since is when the sink entered State.
	Since time.Time
	// StandsStill says what of the sink stands still while the rest goes on, and why; empty: nothing does.
	StandsStill string
}

// DeadLetter is one event that a sink could not store, whole, so that it outlives its webhook.
type DeadLetter struct {
	// ID orders dead letters; the journal gives it.
	ID   int64
	Sink string
	// WebhookSeq is the number of the webhook that the event came with. Sink, WebhookSeq and the event's index in its
	// Origin together identify the dead letter.
	WebhookSeq int64
	// DeadLetter has the tries of every time that the event became one.
	bridge.DeadLetter
	// FirstAt is when it became a dead letter, LastAt when it was tried last.
	FirstAt, LastAt time.Time
	// RetryAt is when somebody asked for another try that has not been made; zero when nobody has.
	RetryAt time.Time
	// PublishedAt is when it was published to its sink's dead-letter address; zero when it was not.
	PublishedAt time.Time
}

// readConnections is how many reads run at one time; more wait. Each holds a small page cache.
const readConnections = 4

// views reads what is durable: a transaction shows here only after its commit.
type views struct {
	path string
	db   *sql.DB
	// version is the schema's. A reader may meet an older one.
	version int

	next *sql.Stmt
	find *sql.Stmt
}

func openViews(ctx context.Context, path string) (_ *views, err error) {
	if err := registerFunctions(); err != nil {
		return nil, fmt.Errorf("prepare SQLite: %w", err)
	}
	db, err := sql.Open(driverName, dataSource(path, "mode=ro", "_dqs=0", "_error_rc=1",
		fmt.Sprintf("_busy_timeout=%d", busyTimeout),
		"_pragma=trusted_schema(0)", "_pragma=query_only(1)", "_pragma=mmap_size(0)", "_pragma=temp_store(memory)"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(readConnections)
	db.SetMaxIdleConns(readConnections)
	v := &views{path: path, db: db}
	defer func() {
		if err != nil {
			err = errors.Join(damaged(path, err), v.close())
		}
	}()
	if v.version, err = checkSchema(ctx, db, path); err != nil {
		return nil, err
	}
	if v.next, err = db.PrepareContext(ctx, `SELECT seq, id, signed_at, received_at, body FROM webhooks
		WHERE seq > ? ORDER BY seq LIMIT ?`); err != nil {
		return nil, err
	}
	if v.find, err = db.PrepareContext(ctx, findKnown(v.version)); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *views) close() error { return v.db.Close() }

// webhooks returns those after the given number, in order, until there are maxCount or the next would pass
// maxBytes of bodies. The first comes whatever its size.
func (v *views) webhooks(ctx context.Context, after int64, maxCount int, maxBytes int64) (found []Webhook, err error) {
	rows, err := v.next.QueryContext(ctx, after, max(maxCount, 1))
	if err != nil {
		return nil, err
	}
	return scanWebhooks(rows, maxBytes)
}

func (v *views) has(ctx context.Context, w *bridge.Webhook) (found bool, err error) {
	err = v.find.QueryRowContext(ctx, w.ID, bodyColumn(w), reusedID(w), bodyDigest(w.Body)).Scan(&found)
	return found, err
}

// status reads everything in one snapshot.
func (v *views) status(ctx context.Context) (s Status, err error) {
	tx, err := v.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return Status{}, err
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	p, err := readPosition(ctx, tx, v.version)
	if err != nil {
		return Status{}, err
	}
	s.Head, s.Webhooks = p.head, p.stored()
	var pages, free, oldest, letters int64
	if err := tx.QueryRowContext(ctx, `SELECT (SELECT page_count FROM pragma_page_count),
		(SELECT freelist_count FROM pragma_freelist_count),
		coalesce((SELECT value FROM settings WHERE name = 'max_bytes'), 0),
		coalesce((SELECT received_at FROM webhooks ORDER BY seq LIMIT 1), 0),
		coalesce((SELECT value FROM settings WHERE name = 'letter_bytes'), 0)`).
		Scan(&pages, &free, &s.MaxBytes, &oldest, &letters); err != nil {
		return Status{}, err
	}
	accepted, err := lastAccepted(ctx, tx)
	if err != nil {
		return Status{}, err
	}
	s.OldestReceivedAt, s.LastAcceptedAt = fromNanos(oldest), fromNanos(accepted)
	keep := limitsOf(s.MaxBytes, filepath.Dir(v.path)).keep
	s.Bytes = (pages-free)*pageSize + max(fileSize(v.path+"-wal"), keep)
	s.FilesBytes = FilesBytes(filepath.Dir(v.path))
	if s.Sinks, err = readSinks(ctx, tx, &p, v.version); err != nil {
		return Status{}, err
	}
	s.Parts, err = p.parts(ctx, tx, s.Sinks, (pages-free)*pageSize, letters)
	return s, err
}

// finished returns what a sink has finished beyond its cursor, as it was stored.
func (v *views) finished(ctx context.Context, sink string) (text []byte, err error) {
	err = v.db.QueryRowContext(ctx, `SELECT finished FROM sinks WHERE sink = ?`, sink).Scan(&text)
	return text, err
}

// readSinks returns what is known of each sink, in a journal of the given version.
func readSinks(ctx context.Context, q rowQuerier, p *position, version int) (sinks []SinkStatus, err error) {
	columns := "0, 0, '', '', x''"
	if version >= 5 {
		columns = "began, coalesce((SELECT max(since) FROM absences WHERE absences.sink = sinks.sink), 0), missing, " +
			"stands_still, finished"
	}
	rows, err := q.QueryContext(ctx, `SELECT sink, configured, cursor, state, last_error, last_error_at, since,
		(SELECT count(*) FROM dead_letters WHERE dead_letters.sink = sinks.sink), `+columns+`
		FROM sinks ORDER BY sink`)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var s SinkStatus
		var missing string
		err := rows.Scan(&s.Sink, &s.Configured, &s.Cursor, &s.State.State, &s.State.LastError,
			nanoTime{&s.State.LastErrorAt}, nanoTime{&s.State.Since}, &s.DeadLetters,
			&s.began, nanoTime{&s.RemovedAt}, &missing, &s.State.StandsStill, &s.Finished)
		if err == nil {
			s.Missing, err = parseMissing(missing)
		}
		if err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		s.State.Sink = s.Sink
		s.Backlog = p.backlog(s.Sink, s.Cursor)
		s.absences = p.absences[s.Sink]
		if s.Configured {
			s.RemovedAt = time.Time{}
		}
		sinks = append(sinks, s)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for i := range sinks {
		s := &sinks[i]
		if s.Backlog == 0 {
			continue
		}
		first := waits(s.Cursor, p.absences[s.Sink])[0].after
		if err := q.QueryRowContext(ctx, `SELECT received_at FROM webhooks WHERE seq > ? ORDER BY seq LIMIT 1`,
			first).Scan(nanoTime{&s.OldestUndelivered}); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return sinks, nil
}

// checkStructure has SQLite compare the database with itself.
func checkStructure(ctx context.Context, q rowQuerier, path, pragma string) (err error) {
	rows, err := q.QueryContext(ctx, "PRAGMA "+pragma)
	if err != nil {
		return damaged(path, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var findings []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return damaged(path, err)
		}
		if line != "ok" {
			findings = append(findings, line)
		}
	}
	if err := rows.Err(); err != nil {
		return damaged(path, err)
	}
	if len(findings) > 0 {
		return &DamagedError{Path: path, Err: errors.New(strings.Join(findings, "; "))}
	}
	return nil
}

// readPosition finds the position, in a journal of the given version. A webhook is deleted only when no sink waits for
// it, so in an empty table the newest number is that of a cursor, of an absence, or the one noted when a sink was
// forgotten. AUTOINCREMENT's own record counts when it is further ahead than the one number that a refused duplicate
// can use up: rows were then deleted by hand.
func readPosition(ctx context.Context, q rowQuerier, version int) (p position, err error) {
	if version >= 5 {
		if err := p.readSpans(ctx, q); err != nil {
			return position{}, err
		}
	}
	var oldest, sequence int64
	if err := q.QueryRowContext(ctx, `SELECT coalesce((SELECT min(seq) FROM webhooks), 0),
		max(coalesce((SELECT max(seq) FROM webhooks), 0), coalesce((SELECT max(cursor) FROM sinks), 0),
			coalesce((SELECT value FROM settings WHERE name = 'head'), 0)),
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'webhooks'), 0)`).
		Scan(&oldest, &p.head, &sequence); err != nil {
		return position{}, err
	}
	for _, absences := range p.absences {
		for _, a := range absences {
			p.head = max(p.head, a.after)
			if a.through != endless {
				p.head = max(p.head, a.through)
			}
		}
	}
	if sequence > p.head+1 {
		p.head = sequence
	}
	p.oldest = oldest
	if oldest == 0 {
		p.oldest = p.head + 1
	}
	return p, nil
}

func (p *position) readSpans(ctx context.Context, q rowQuerier) (err error) {
	rows, err := q.QueryContext(ctx, `SELECT '', after, through FROM holes
		UNION ALL SELECT sink, after, through FROM absences ORDER BY 1, 2`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	p.absences = make(map[string][]span)
	for rows.Next() {
		var sink string
		var s span
		if err := rows.Scan(&sink, &s.after, &s.through); err != nil {
			return err
		}
		if sink == "" {
			p.holes = append(p.holes, s)
		} else {
			p.absences[sink] = append(p.absences[sink], s)
		}
	}
	return rows.Err()
}
