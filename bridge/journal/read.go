package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
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
	// WebhookSeq, WebhookID and EventIndex tell which event it was of which webhook. Sink, WebhookSeq and
	// EventIndex together identify the dead letter.
	WebhookSeq int64
	WebhookID  string
	EventIndex int

	EventID, EventType, EventSource, EventSubject, PartitionKey string

	EventTime time.Time
	Data      []byte

	Workflow, Function, Status, Invocation, Project string

	Route []string
	// Reason is why the sink could not store it, for people.
	Reason string
	// Attempts counts the tries.
	Attempts int
	// FirstAt is when it became a dead letter, LastAt when it was tried last.
	FirstAt, LastAt time.Time
}

// DeadLetterFilter selects dead letters. The zero filter selects the first 1000 of all sinks.
type DeadLetterFilter struct {
	// Sink is the sink's name, or empty for all.
	Sink string
	// AfterID leaves out those up to this ID: the last ID of one page gives the next page.
	AfterID int64
	// Limit is the most to return; 0 or less means 1000.
	Limit int
}

// defaultLetterLimit bounds a page of dead letters when the caller gives no bound.
const defaultLetterLimit = 1000

// readConnections is how many reads run at one time; more wait. Each holds a small page cache.
const readConnections = 4

// views reads what is durable: a transaction shows here only after its commit.
type views struct {
	path string
	db   *sql.DB
	next *sql.Stmt
	find *sql.Stmt
}

func openViews(ctx context.Context, path string) (_ *views, err error) {
	db, err := sql.Open(driverName, dataSource(path, "mode=ro", "_dqs=0", "_error_rc=1", fmt.Sprintf("_busy_timeout=%d", busyTimeout),
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
	if err := checkSchema(ctx, db, path); err != nil {
		return nil, err
	}
	if v.next, err = db.PrepareContext(ctx, `SELECT seq, id, signed_at, received_at, body FROM webhooks WHERE seq > ? ORDER BY seq LIMIT ?`); err != nil {
		return nil, err
	}
	if v.find, err = db.PrepareContext(ctx, `SELECT EXISTS (SELECT 1 FROM webhooks WHERE id = ?)`); err != nil {
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
	// An early end gives the read lock back before the caller works with what was found.
	defer func() { err = errors.Join(err, rows.Close()) }()
	var bytes int64
	for rows.Next() {
		var (
			w                Webhook
			signed, received int64
			body             sql.RawBytes
		)
		if err := rows.Scan(&w.Seq, &w.ID, &signed, &received, &body); err != nil {
			return nil, err
		}
		bytes += int64(len(body))
		if len(found) > 0 && bytes > maxBytes {
			break
		}
		w.Timestamp, w.ReceivedAt = fromNanos(signed), fromNanos(received)
		w.Body = append(make([]byte, 0, len(body)), body...)
		found = append(found, w)
	}
	return found, rows.Err()
}

func (v *views) has(ctx context.Context, id string) (found bool, err error) {
	err = v.find.QueryRowContext(ctx, id).Scan(&found)
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
	if err := tx.QueryRowContext(ctx, `SELECT (SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count),
		coalesce((SELECT value FROM settings WHERE name = 'max_bytes'), 0), coalesce((SELECT received_at FROM webhooks ORDER BY seq LIMIT 1), 0)`).
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
		if err := rows.Scan(&s.Sink, &s.Configured, &s.Cursor, &s.State.State, &s.State.LastError, &lastError, &since, &s.DeadLetters, &first); err != nil {
			return nil, err
		}
		s.Backlog = p.backlog(s.Cursor)
		s.OldestUndelivered = fromNanos(first)
		s.State.Sink, s.State.LastErrorAt, s.State.Since = s.Sink, fromNanos(lastError), fromNanos(since)
		sinks = append(sinks, s)
	}
	return sinks, rows.Err()
}

func (v *views) deadLetters(ctx context.Context, f DeadLetterFilter) (letters []DeadLetter, err error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLetterLimit
	}
	var query strings.Builder
	query.WriteString(`SELECT id, sink, webhook_seq, event_index, webhook_id, event_id, event_type, event_source, event_subject, event_time, partition_key,
		workflow, function, status, invocation, project, route, reason, attempts, first_at, last_at, data FROM dead_letters WHERE id > ?`)
	args := []any{f.AfterID}
	if f.Sink != "" {
		query.WriteString(` AND sink = ?`)
		args = append(args, f.Sink)
	}
	query.WriteString(` ORDER BY id LIMIT ?`)
	rows, err := v.db.QueryContext(ctx, query.String(), append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			l           DeadLetter
			at, route   string
			first, last int64
		)
		if err := rows.Scan(&l.ID, &l.Sink, &l.WebhookSeq, &l.EventIndex, &l.WebhookID, &l.EventID, &l.EventType, &l.EventSource, &l.EventSubject, &at,
			&l.PartitionKey, &l.Workflow, &l.Function, &l.Status, &l.Invocation, &l.Project, &route, &l.Reason, &l.Attempts, &first, &last, &l.Data); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(route), &l.Route); err != nil {
			return nil, fmt.Errorf("read the route of dead letter %d: %w", l.ID, err)
		}
		l.EventTime, l.FirstAt, l.LastAt = fromText(at), fromNanos(first), fromNanos(last)
		letters = append(letters, l)
	}
	return letters, rows.Err()
}

// verify reads the whole database and compares it with itself.
func (v *views) verify(ctx context.Context, pragma string) (err error) {
	rows, err := v.db.QueryContext(ctx, "PRAGMA "+pragma)
	if err != nil {
		return damaged(v.path, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var findings []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return damaged(v.path, err)
		}
		if line != "ok" {
			findings = append(findings, line)
		}
	}
	if err := rows.Err(); err != nil {
		return damaged(v.path, err)
	}
	if len(findings) > 0 {
		return &DamagedError{Path: v.path, Err: errors.New(strings.Join(findings, "; "))}
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
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'webhooks'), 0)`).Scan(&oldest, &p.head, &sequence); err != nil {
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
