package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Status is the state of a journal at one moment.
type Status struct {
	// Bytes is what the journal holds, MaxBytes what it may hold.
	Bytes, MaxBytes int64
	// Head is the number of the newest webhook, 0 when there never was one.
	Head int64
	// Webhooks counts those that are stored, delivered or not.
	Webhooks int64
	// OldestReceivedAt is when the oldest stored webhook was received; zero when none is stored.
	OldestReceivedAt time.Time
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
	// Backlog counts the webhooks behind the cursor.
	Backlog int64
	// OldestUndelivered is when the first of them was received; zero when there is none.
	OldestUndelivered time.Time
	// DeadLetters counts the events that the sink could not store.
	DeadLetters int64
	// State is what delivery reported last.
	State SinkState
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
	if v.find, err = db.PrepareContext(ctx, findKnown); err != nil {
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
	err = v.find.QueryRowContext(ctx, w.ID, bodyColumn(w), reusedID(w)).Scan(&found)
	return found, err
}

// status reads everything in one snapshot.
func (v *views) status(ctx context.Context) (s Status, err error) {
	tx, err := v.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return Status{}, err
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	p, err := readPosition(ctx, tx)
	if err != nil {
		return Status{}, err
	}
	s.Head, s.Webhooks = p.head, p.head-p.oldest+1
	var pages, free, oldest int64
	if err := tx.QueryRowContext(ctx, `SELECT (SELECT page_count FROM pragma_page_count),
		(SELECT freelist_count FROM pragma_freelist_count),
		coalesce((SELECT value FROM settings WHERE name = 'max_bytes'), 0),
		coalesce((SELECT received_at FROM webhooks ORDER BY seq LIMIT 1), 0)`).
		Scan(&pages, &free, &s.MaxBytes, &oldest); err != nil {
		return Status{}, err
	}
	s.Bytes, s.OldestReceivedAt = (pages-free)*pageSize, fromNanos(oldest)
	s.Sinks, err = readSinks(ctx, tx, p)
	return s, err
}

func readSinks(ctx context.Context, q rowQuerier, p position) (sinks []SinkStatus, err error) {
	rows, err := q.QueryContext(ctx, `SELECT sink, configured, cursor, state, last_error, last_error_at, since,
		(SELECT count(*) FROM dead_letters WHERE dead_letters.sink = sinks.sink),
		coalesce((SELECT received_at FROM webhooks WHERE seq > cursor ORDER BY seq LIMIT 1), 0)
		FROM sinks ORDER BY sink`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			s                       SinkStatus
			lastError, since, first int64
		)
		if err := rows.Scan(&s.Sink, &s.Configured, &s.Cursor,
			&s.State.State, &s.State.LastError, &lastError, &since, &s.DeadLetters, &first); err != nil {
			return nil, err
		}
		s.Backlog = p.backlog(s.Cursor)
		s.OldestUndelivered = fromNanos(first)
		s.State.Sink, s.State.LastErrorAt, s.State.Since = s.Sink, fromNanos(lastError), fromNanos(since)
		sinks = append(sinks, s)
	}
	return sinks, rows.Err()
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

// position says which numbers the stored webhooks have. They are without gaps: the writer gives them out
// one by one, and deletes from the oldest on. With none stored, oldest is head+1.
type position struct {
	oldest, head int64
}

// backlog counts the webhooks after cursor.
func (p position) backlog(cursor int64) int64 {
	return max(p.head-max(cursor, p.oldest-1), 0)
}

// readPosition finds the position. A webhook is deleted only when every configured sink has it, so in an
// empty table the newest number is that of a cursor. AUTOINCREMENT's own record counts when it is further
// ahead than the one number that a refused duplicate can use up: rows were then deleted by hand.
func readPosition(ctx context.Context, q rowQuerier) (p position, err error) {
	var oldest, sequence int64
	if err := q.QueryRowContext(ctx, `SELECT coalesce((SELECT min(seq) FROM webhooks), 0),
		max(coalesce((SELECT max(seq) FROM webhooks), 0), coalesce((SELECT max(cursor) FROM sinks), 0)),
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'webhooks'), 0)`).
		Scan(&oldest, &p.head, &sequence); err != nil {
		return position{}, err
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
