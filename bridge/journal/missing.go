package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// keptCheckpoints is how many a sink has at most. When there are more, every second one of the older half goes: the
// older they are, the farther they lie apart.
const keptCheckpoints = 32

const thinCheckpoints = `DELETE FROM checkpoints WHERE sink = ?1 AND
	(SELECT count(*) FROM checkpoints WHERE sink = ?1) > ?2 AND cursor IN (
		SELECT cursor FROM (SELECT cursor, row_number() OVER (ORDER BY cursor) AS place FROM checkpoints WHERE sink = ?1)
		WHERE place <= ?2 / 2 AND place % 2 = 0)`

// positions brings the schema to how far each sink's broker has acknowledged, by itself and together with the cursor
// that the sink had then, and to what a broker that went back may have lost.
const positions = `
ALTER TABLE sinks ADD COLUMN position TEXT NOT NULL DEFAULT '';
ALTER TABLE sinks ADD COLUMN missing TEXT NOT NULL DEFAULT '';
CREATE TABLE checkpoints (
	sink TEXT NOT NULL,
	cursor INTEGER NOT NULL,
	position TEXT NOT NULL,
	PRIMARY KEY (sink, cursor)
) STRICT, WITHOUT ROWID;
`

// Missing is what a sink's broker may have lost of what it had acknowledged.
type Missing struct {
	FoundAt time.Time `json:"found_at"`
	// Found says how it was seen, for people.
	Found string `json:"found"`
	// After and Through are the numbers of webhooks between which lie those whose events may be missing, the first one
	// excluded. All tells that the journal cannot tell more than that all which it has may be.
	After   int64 `json:"after"`
	Through int64 `json:"through"`
	All     bool  `json:"all"`
	// Since is when the first of those was received that the journal had; zero when it had none.
	Since time.Time `json:"since"`
	// Asked is the number of the newest stream that was asked for before: the clock does not tell which came later.
	Asked int64 `json:"asked,omitempty"`
	// Replay is the number of the replay that the bridge made of them; 0: somebody has to.
	Replay int64 `json:"replay,omitempty"`
}

// Command is what replays to the sink what may be missing.
func (m *Missing) Command(sink string) string {
	if m.All || m.Since.IsZero() {
		return "fnbridge replay --sink " + sink + " --all"
	}
	return "fnbridge replay --sink " + sink + " --since " + m.Since.UTC().Truncate(time.Second).Format(time.RFC3339)
}

// Webhooks counts those whose events may be missing.
func (m *Missing) Webhooks() int64 { return m.Through - m.After }

func (m *Missing) webhooks() int64 {
	if m == nil {
		return 0
	}
	return m.Webhooks()
}

// join adds what else may be missing.
func (m *Missing) join(other *Missing) {
	m.After, m.Through, m.All = min(m.After, other.After), max(m.Through, other.Through), m.All || other.All
	m.Asked = max(m.Asked, other.Asked)
	if !other.Since.IsZero() && (m.Since.IsZero() || other.Since.Before(m.Since)) {
		m.Since = other.Since
	}
}

// isIn tells whether a replay that somebody ended publishes all of it.
func (m *Missing) isIn(t *Stream) bool {
	return t.ID == m.Replay || t.Events.IsZero() && t.Through >= m.Through && t.ID > m.Asked &&
		(t.Since.IsZero() || !t.Since.After(m.Since)) && (t.Until.IsZero() || t.Until.After(m.FoundAt))
}

func parseMissing(text string) (*Missing, error) {
	if text == "" {
		return nil, nil
	}
	m := new(Missing)
	return m, json.Unmarshal([]byte(text), m)
}

// Position returns how far the broker of a configured sink has acknowledged; nil: that is not known.
func (j *Journal) Position(ctx context.Context, sink string) (p bridge.Position, err error) {
	var text string
	err = j.views.db.QueryRowContext(ctx, `SELECT position FROM sinks WHERE sink = ?`, sink).Scan(&text)
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &p)
	}
	if err != nil {
		return nil, j.readFailure("read the position of sink "+sink, err)
	}
	return p, nil
}

// missingNote is what NoteMissing has the writer store.
type missingNote struct {
	sink     string
	position string
	replay   bool
	missing  Missing
}

// NoteMissing stores that the broker of a configured sink went back, as found says, and goes on from position: durably
// when it returns nil. What may be missing begins behind the newest checkpoint that the broker still holds, and ends at
// the cursor. With replay it makes a replay of that. No Move of the sink may be under way.
func (j *Journal) NoteMissing(
	ctx context.Context, sink string, found []bridge.WentBack, position bridge.Position, replay bool,
) (Missing, error) {
	cursor, err := j.cursor(sink)
	if err != nil {
		return Missing{}, err
	}
	text, err := json.Marshal(position)
	if err != nil {
		return Missing{}, err
	}
	said := make([]string, len(found))
	for i, w := range found {
		said[i] = w.String()
	}
	note := &missingNote{sink: sink, position: string(text), replay: replay, missing: Missing{
		Found: strings.Join(said, "; "), Through: cursor.Load(),
	}}
	if err := j.views.bound(ctx, sink, found, &note.missing); err != nil {
		return Missing{}, j.readFailure("find what may be missing", err)
	}
	r := newRequest(kindNoteMissing)
	r.missing = note
	if err := j.submit(ctx, r); err != nil {
		return Missing{}, err
	}
	return note.missing, nil
}

// bound finds where what may be missing begins.
func (v *views) bound(ctx context.Context, sink string, found []bridge.WentBack, m *Missing) (err error) {
	rows, err := v.db.QueryContext(ctx,
		`SELECT cursor, position FROM checkpoints WHERE sink = ? ORDER BY cursor DESC`, sink)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	m.All = true
	for m.All && rows.Next() {
		var text string
		var p bridge.Position
		if err := rows.Scan(&m.After, &text); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return err
		}
		m.All = !p.Holds(found)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if m.All {
		m.After = 0
	}
	return v.received(ctx, m)
}

// received finds what else is to be said of what may be missing: which of it the journal has, and since when.
func (v *views) received(ctx context.Context, m *Missing) error {
	p, err := readPosition(ctx, v.db, v.version)
	if err != nil {
		return err
	}
	m.After = min(max(m.After, p.oldest-1), m.Through)
	// The clock may have been set back: the first webhook need not be the earliest.
	var earliest sql.NullInt64
	for after := m.After; after < m.Through; after += scannedAtOnce {
		var n sql.NullInt64
		if err := v.db.QueryRowContext(ctx, `SELECT min(received_at) FROM webhooks WHERE seq > ? AND seq <= ?`,
			after, min(after+scannedAtOnce, m.Through)).Scan(&n); err != nil {
			return err
		}
		if n.Valid && (!earliest.Valid || n.Int64 < earliest.Int64) {
			earliest = n
		}
	}
	m.Since = fromNanos(earliest.Int64)
	return nil
}

// noteMissing stores a note. What was missing before and has not been replayed is missing still.
func (w *writer) noteMissing(ctx context.Context, n *missingNote, e *effects) error {
	m := &n.missing
	before, err := w.store.missing(ctx, n.sink)
	if err != nil {
		return err
	}
	if before != nil {
		m.join(before)
	}
	// What a sink of another name had taken over from it has got lies beyond its cursor, in an absence.
	for _, a := range w.absences[n.sink] {
		if a.through != endless {
			m.Through = max(m.Through, a.through)
		}
	}
	m.FoundAt = fromNanos(markedAt(w.journal.now()))
	if err := w.store.conn.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) FROM streams`).Scan(&m.Asked); err != nil {
		return err
	}
	if n.replay && m.After < m.Through {
		t := Stream{Kind: Replay, Sink: n.sink, Cursor: m.After, Through: m.Through}
		if err := w.store.addStream(ctx, &t, w.journal.now()); err != nil {
			return err
		}
		m.Replay = t.ID
		e.replay(t.ID, span{t.Cursor, t.Through})
		e.streamsChanged = true
	}
	// What lies beyond the cursor is published again.
	if _, err := w.store.moveLive.ExecContext(ctx, 0, n.position, []byte{}, n.sink); err != nil {
		return err
	}
	// The others hold what is not there any more.
	if _, err := w.store.cutCheckpoints.ExecContext(ctx, n.sink, m.After+1); err != nil {
		return err
	}
	if m.After == m.Through {
		return nil
	}
	return w.setMissing(ctx, n.sink, m, e)
}

func (s *store) missing(ctx context.Context, sink string) (*Missing, error) {
	var text string
	if err := s.conn.QueryRowContext(ctx, `SELECT missing FROM sinks WHERE sink = ?`, sink).Scan(&text); err != nil {
		return nil, err
	}
	return parseMissing(text)
}

// setMissing notes what is missing; nil: nothing is any more.
func (w *writer) setMissing(ctx context.Context, sink string, m *Missing, e *effects) error {
	text := ""
	if m != nil {
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		text = string(b)
	}
	if e.missing == nil {
		e.missing = make(map[string]int64)
	}
	e.missing[sink] = m.webhooks()
	_, err := w.store.conn.ExecContext(ctx, `UPDATE sinks SET missing = ? WHERE sink = ?`, text, sink)
	return err
}

// resolveMissing notes that a replay is done, or somebody does not want it: what it has is not missing any more.
func (w *writer) resolveMissing(ctx context.Context, id int64, e *effects) error {
	rows, err := w.store.conn.QueryContext(ctx,
		"SELECT "+streamColumns+" FROM streams WHERE id = ? AND kind = 'replay'", id)
	if err != nil {
		return err
	}
	var t Stream
	found := rows.Next()
	if found {
		t, err = scanStream(rows)
	}
	if err := errors.Join(err, rows.Err(), rows.Close()); err != nil || !found {
		return err
	}
	m, err := w.store.missing(ctx, t.Sink)
	if err != nil || m == nil || !m.isIn(&t) || t.End == StreamNoRoom {
		return err
	}
	return w.setMissing(ctx, t.Sink, nil, e)
}

// keepLive writes how far a live stream has come, and how far the broker of its sink has acknowledged.
func (s *store) keepLive(ctx context.Context, m *Move) error {
	var position, finished any // nil: what is kept stays
	if m.Position != nil {
		text, err := json.Marshal(m.Position)
		if err != nil {
			return fmt.Errorf("write the position of sink %s: %w", m.Stream.Sink, err)
		}
		position = string(text)
	}
	if m.Finished != nil {
		finished = m.Finished
	}
	_, err := s.moveLive.ExecContext(ctx, m.Stream.Cursor, position, finished, m.Stream.Sink)
	if err != nil || position == nil || !m.Checkpoint {
		return err
	}
	if _, err := s.addCheckpoint.ExecContext(ctx, m.Stream.Sink, m.Stream.Cursor, position); err != nil {
		return err
	}
	_, err = s.thinCheckpoints.ExecContext(ctx, m.Stream.Sink, keptCheckpoints)
	return err
}

// forgetCheckpoints forgets those of cursors that have passed events which were stored again since: what a broker held
// up to there does not have these.
func (s *store) forgetCheckpoints(ctx context.Context, sink string, stored []Event) error {
	lowest := stored[0].WebhookSeq
	for _, e := range stored {
		lowest = min(lowest, e.WebhookSeq)
	}
	_, err := s.cutCheckpoints.ExecContext(ctx, sink, lowest)
	return err
}
