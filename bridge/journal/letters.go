package journal

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// defaultLetterLimit bounds a page of dead letters when the caller gives no bound.
	defaultLetterLimit = 1000
	// One step of a change to many dead letters takes this much at most, so that other requests do not wait long behind
	// it.
	maxChangedLetters     = 500
	maxChangedLetterBytes = 8 << 20
)

// DeadLetterFilter selects dead letters: those to which every field that is set applies. The zero filter selects all.
// As JSON it is what a command asks of a running bridge.
type DeadLetterFilter struct {
	// IDs are those of the letters; nil means all, and an empty list none.
	IDs []int64 `json:"ids,omitzero"`
	// Sink is the sink's name.
	Sink string `json:"sink,omitempty"`
	// Filter selects by the event.
	bridge.Filter
	// Reason selects by the reason: a * in it stands for any text, also for none.
	Reason string `json:"reason,omitempty"`
	// Since and Until bound LastAt: at or after Since, before Until.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Retrying selects only letters that a retry is about to try.
	Retrying bool `json:"-"`
	// Unpublished selects only letters that were not published to their sink's dead-letter address.
	Unpublished bool `json:"-"`
	// AfterID leaves out those up to this ID: the last ID of one page gives the next page.
	AfterID int64 `json:"-"`
	// Limit is the most to select, those with the lowest IDs. 0 or less means 1000 where letters are returned, and all
	// where they are counted or changed.
	Limit int `json:"-"`
	// MaxBytes bounds the data of the letters that are returned. The first comes whatever its size. 0: no bound.
	MaxBytes int64 `json:"-"`

	// throughID leaves out those that came later, unmarked those that a retry is about to try.
	throughID int64
	unmarked  bool
}

// statement returns a statement on what f selects, with the arguments for it: what comes before WHERE, f's conditions
// for the given version of the schema, and what comes after. Limit is not among the conditions.
func (f *DeadLetterFilter) statement(version int, before, after string) (query string, args []any, err error) {
	retry, published := marks(version)
	all := []string{"id > ?"}
	args = []any{f.AfterID}
	add := func(condition string, values ...any) {
		all = append(all, condition)
		args = append(args, values...)
	}
	if f.throughID > 0 {
		add("id <= ?", f.throughID)
	}
	if f.Sink != "" {
		add("sink = ?", f.Sink)
	}
	if f.Reason != "" {
		// In a GLOB these two stand for other things as well. A class of one stands for itself.
		add("reason GLOB ?", strings.NewReplacer("[", "[[]", "?", "[?]").Replace(f.Reason))
	}
	if events := f.Filter; !events.IsZero() {
		text, err := json.Marshal(events)
		if err != nil {
			return "", nil, err
		}
		add(matchesEvent(version, "?"), string(text))
	}
	if f.IDs != nil {
		list, err := json.Marshal(f.IDs)
		if err != nil {
			return "", nil, err
		}
		add("id IN (SELECT value FROM json_each(?))", string(list))
	}
	if !f.Since.IsZero() {
		add("last_at >= ?", toNanos(f.Since))
	}
	if !f.Until.IsZero() {
		add("last_at < ?", toNanos(f.Until))
	}
	if f.Retrying {
		add(retry + " <> 0")
	}
	if f.unmarked {
		add(retry + " = 0")
	}
	if f.Unpublished {
		add(published + " = 0")
	}
	return before + " WHERE " + strings.Join(all, " AND ") + " " + after, args, nil
}

// versionNow returns the version of the schema, which a serve may have migrated since an older one was opened.
func (v *views) versionNow(ctx context.Context) (version int, err error) {
	if v.version == schemaVersion {
		return v.version, nil
	}
	err = v.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
	return version, err
}

func (v *views) deadLetters(ctx context.Context, f DeadLetterFilter) (letters []DeadLetter, err error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLetterLimit
	}
	version, err := v.versionNow(ctx)
	if err != nil {
		return nil, err
	}
	query, args, err := f.statement(version, selectLetters(version), "ORDER BY id LIMIT ?")
	if err != nil {
		return nil, err
	}
	rows, err := v.db.QueryContext(ctx, query, append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	scanner := letterScanner{version: version}
	var bytes int64
	for rows.Next() {
		l, err := scanner.scan(rows)
		if err != nil {
			return nil, err
		}
		bytes += int64(len(l.Event.Data))
		if f.MaxBytes > 0 && bytes > f.MaxBytes && len(letters) > 0 {
			break
		}
		letters = append(letters, l)
	}
	return letters, rows.Err()
}

// countDeadLetters counts what f selects, and the bytes of its data.
func (v *views) countDeadLetters(ctx context.Context, f DeadLetterFilter) (count, bytes int64, err error) {
	limit := int64(f.Limit)
	if limit <= 0 {
		limit = -1
	}
	version, err := v.versionNow(ctx)
	if err != nil {
		return 0, 0, err
	}
	data, _ := sizeColumns(version)
	query, args, err := f.statement(version,
		"SELECT count(*), coalesce(sum(size), 0) FROM (SELECT "+data+" AS size FROM dead_letters",
		"ORDER BY id LIMIT ?)")
	if err != nil {
		return 0, 0, err
	}
	err = v.db.QueryRowContext(ctx, query, append(args, limit)...).Scan(&count, &bytes)
	return count, bytes, err
}

// letterSinks returns how much f selects of each sink.
func (v *views) letterSinks(ctx context.Context, f DeadLetterFilter) (sinks map[string]int64, err error) {
	query, args, err := f.statement(v.version, "SELECT sink, count(*) FROM dead_letters", "GROUP BY sink")
	if err != nil {
		return nil, err
	}
	rows, err := v.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	sinks = make(map[string]int64)
	for rows.Next() {
		var sink string
		var n int64
		if err := rows.Scan(&sink, &n); err != nil {
			return nil, err
		}
		sinks[sink] = n
	}
	return sinks, rows.Err()
}

// letterIDs returns the IDs of all that f selects.
func (v *views) letterIDs(ctx context.Context, f DeadLetterFilter) (ids []int64, err error) {
	query, args, err := f.statement(v.version, "SELECT id FROM dead_letters", "ORDER BY id")
	if err != nil {
		return nil, err
	}
	rows, err := v.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	ids = make([]int64, 0)
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// LetterReason is how many dead letters a sink has for one reason.
type LetterReason struct {
	Sink, Reason    string
	Letters         int64
	FirstAt, LastAt time.Time
	// Newest is the highest ID of them.
	Newest int64
}

func (v *views) letterReasons(ctx context.Context) (reasons []LetterReason, err error) {
	rows, err := v.db.QueryContext(ctx, `SELECT sink, reason, count(*), min(first_at), max(last_at), max(id)
		FROM dead_letters GROUP BY sink, reason ORDER BY count(*) DESC, sink, reason`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r LetterReason
		var first, last int64
		if err := rows.Scan(&r.Sink, &r.Reason, &r.Letters, &first, &last, &r.Newest); err != nil {
			return nil, err
		}
		r.FirstAt, r.LastAt = fromNanos(first), fromNanos(last)
		reasons = append(reasons, r)
	}
	return reasons, rows.Err()
}

// newestLetter returns the highest ID of a dead letter, 0 when there is none.
func (v *views) newestLetter(ctx context.Context) (id int64, err error) {
	err = v.db.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) FROM dead_letters`).Scan(&id)
	return id, err
}

// nextLetters returns the IDs of what one step of a change takes, and how many bytes they take: at least one of what f
// selects, if there is one.
func (v *views) nextLetters(ctx context.Context, f DeadLetterFilter) (ids []int64, bytes int64, err error) {
	_, stored := sizeColumns(v.version)
	query, args, err := f.statement(v.version, "SELECT id, "+stored+" FROM dead_letters", "ORDER BY id LIMIT ?")
	if err != nil {
		return nil, 0, err
	}
	rows, err := v.db.QueryContext(ctx, query, append(args, f.Limit)...)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var id, size int64
		if err := rows.Scan(&id, &size); err != nil {
			return nil, 0, err
		}
		if len(ids) > 0 && bytes+size > maxChangedLetterBytes {
			break
		}
		ids, bytes = append(ids, id), bytes+size
	}
	return ids, bytes, rows.Err()
}

// dropLetters deletes everything that f selects and that is there now, in steps of which each is durable before the
// next, and returns how many letters that were.
func (j *Journal) dropLetters(ctx context.Context, f DeadLetterFilter) (dropped int64, err error) {
	if f.throughID, err = j.views.newestLetter(ctx); err != nil {
		return 0, j.readFailure("read the dead letters", err)
	}
	left := math.MaxInt
	if f.Limit > 0 {
		left = f.Limit
	}
	for {
		step := f
		step.Limit = min(left, maxChangedLetters)
		ids, bytes, err := j.views.nextLetters(ctx, step)
		if err != nil {
			return dropped, j.readFailure("read the dead letters", err)
		}
		if len(ids) == 0 {
			return dropped, nil
		}
		// The writer looks again at what f says: a letter may have changed since it was chosen.
		r := newRequest(kindDropLetters)
		chosen := f
		chosen.IDs = ids
		r.filter, r.letterBytes = &chosen, bytes
		if err := j.submit(ctx, r); err != nil {
			return dropped, err
		}
		dropped += r.changed
		f.AfterID = ids[len(ids)-1]
		if left -= len(ids); left <= 0 {
			return dropped, nil
		}
	}
}

// notePublished notes that letters were published to their sink's dead-letter address, if they are still what they
// were.
func (s *store) notePublished(ctx context.Context, letters []DeadLetter, at time.Time) error {
	for i := range letters {
		l := &letters[i]
		if _, err := s.publishedLetter.ExecContext(ctx,
			markedAt(at), l.ID, l.Sink, l.Attempts, toNanos(l.LastAt)); err != nil {
			return err
		}
	}
	return nil
}

// markedAt is a mark's time in the database, where 0 is for letters without the mark.
func markedAt(at time.Time) int64 { return max(toNanos(at), 1) }

// deleteLetters deletes what f selects, and returns how many letters that were, by sink. They leave marks.
func (s *store) deleteLetters(ctx context.Context, f *DeadLetterFilter, at time.Time) (
	deleted map[string]int64, err error,
) {
	query, args, err := f.statement(schemaVersion, "DELETE FROM dead_letters",
		"RETURNING sink, webhook_seq, event_index, id, reason")
	if err != nil {
		return nil, err
	}
	rows, err := s.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	var marks []LetterMark
	deleted = make(map[string]int64)
	for rows.Next() {
		m := LetterMark{DroppedAt: at}
		if err := rows.Scan(&m.Sink, &m.WebhookSeq, &m.EventIndex, &m.ID, &m.Reason); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		marks = append(marks, m)
		deleted[m.Sink]++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	return deleted, s.addMarks(ctx, marks)
}
