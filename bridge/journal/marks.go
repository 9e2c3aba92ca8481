package journal

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// droppedLetters brings the schema to the marks that dropped dead letters leave. A mark goes with its webhook.
const droppedLetters = `
CREATE TABLE dropped_letters (
	webhook_seq INTEGER NOT NULL,
	sink TEXT NOT NULL,
	event_index INTEGER NOT NULL,
	id INTEGER NOT NULL,
	reason TEXT NOT NULL,
	dropped_at INTEGER NOT NULL,
	PRIMARY KEY (webhook_seq, sink, event_index)
) STRICT, WITHOUT ROWID;
`

// insertMark leaves a mark of a letter whose webhook is there, or it would never go. It is small beside the space that
// a drop gives back.
const insertMark = `INSERT OR REPLACE INTO dropped_letters
	(webhook_seq, sink, event_index, id, reason, dropped_at) SELECT ?1, ?2, ?3, ?4, substr(?5, 1, 80), ?6
	WHERE EXISTS (SELECT 1 FROM webhooks WHERE seq = ?1)`

// LetterMark is a dead letter without its event, or what is left of one that was dropped.
type LetterMark struct {
	ID         int64
	Sink       string
	WebhookSeq int64
	EventIndex int
	// Reason is cut where it is long.
	Reason string
	// Attempts, LastAt and RetryAt are those of a DeadLetter.
	Attempts        int
	LastAt, RetryAt time.Time
	// DroppedAt is when it was dropped; zero: it is there.
	DroppedAt time.Time
}

// LettersOf returns the dead letters that a webhook's events are, and those that were dropped. No event has both.
func (r *Reader) LettersOf(ctx context.Context, seq int64) ([]LetterMark, error) {
	found, err := r.views.lettersOf(ctx, seq)
	return found, r.failure("read the dead letters", err)
}

// LettersOf does what Reader.LettersOf does.
func (j *Journal) LettersOf(ctx context.Context, seq int64) ([]LetterMark, error) {
	found, err := j.views.lettersOf(ctx, seq)
	if err != nil {
		return nil, j.readFailure("read the dead letters", err)
	}
	return found, nil
}

func (v *views) lettersOf(ctx context.Context, seq int64) (found []LetterMark, err error) {
	version, err := v.versionNow(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := v.db.QueryContext(ctx, selectMarks(version), seq)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var m LetterMark
		if err := rows.Scan(&m.ID, &m.Sink, &m.WebhookSeq, &m.EventIndex, &m.Reason, &m.Attempts, nanoTime{&m.LastAt},
			nanoTime{&m.RetryAt}, nanoTime{&m.DroppedAt}); err != nil {
			return nil, err
		}
		found = append(found, m)
	}
	return found, rows.Err()
}

// selectMarks selects what there is of a webhook, in a journal of the given version.
func selectMarks(version int) string {
	retry, _ := marks(version)
	query := `SELECT id, sink, webhook_seq, event_index, substr(reason, 1, 1000), attempts, last_at, ` + retry + `, 0
		FROM dead_letters WHERE sink IN (SELECT sink FROM sinks) AND webhook_seq = ?1`
	if version < 6 {
		return query
	}
	return query + ` UNION ALL SELECT id, sink, webhook_seq, event_index, reason, 0, 0, 0, dropped_at
		FROM dropped_letters AS dropped WHERE webhook_seq = ?1 AND NOT EXISTS (SELECT 1 FROM dead_letters AS l
		WHERE l.sink = dropped.sink AND l.webhook_seq = dropped.webhook_seq AND l.event_index = dropped.event_index)`
}

// Lettered tells that some of a webhook's events are dead letters of a sink or, with Dropped, were.
type Lettered struct {
	Sink       string
	WebhookSeq int64
	Dropped    bool
}

// Lettered returns which of the webhooks have dead letters, or had some that were dropped. However many letters there
// are, it looks twice for each of the webhooks at each sink.
func (j *Journal) Lettered(ctx context.Context, seqs []int64) ([]Lettered, error) {
	found, err := j.views.lettered(ctx, seqs)
	if err != nil {
		return nil, j.readFailure("read the dead letters", err)
	}
	return found, nil
}

const selectLettered = `SELECT sink, seq, NOT there FROM (
	SELECT s.sink AS sink, n.value AS seq,
		EXISTS (SELECT 1 FROM dead_letters AS l WHERE l.sink = s.sink AND l.webhook_seq = n.value) AS there,
		EXISTS (SELECT 1 FROM dropped_letters AS d WHERE d.webhook_seq = n.value AND d.sink = s.sink) AS dropped
	FROM json_each(?1) AS n, sinks AS s) WHERE there OR dropped`

func (v *views) lettered(ctx context.Context, seqs []int64) (found []Lettered, err error) {
	list, err := json.Marshal(seqs)
	if err != nil {
		return nil, err
	}
	rows, err := v.db.QueryContext(ctx, selectLettered, string(list))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var l Lettered
		if err := rows.Scan(&l.Sink, &l.WebhookSeq, &l.Dropped); err != nil {
			return nil, err
		}
		found = append(found, l)
	}
	return found, rows.Err()
}

// addMarks leaves marks of letters that were dropped.
func (s *store) addMarks(ctx context.Context, dropped []LetterMark) error {
	for i := range dropped {
		m := &dropped[i]
		if _, err := s.insertMark.ExecContext(ctx,
			m.WebhookSeq, m.Sink, m.EventIndex, m.ID, m.Reason, markedAt(m.DroppedAt)); err != nil {
			return err
		}
	}
	s.marked = s.marked || len(dropped) > 0
	return nil
}

// removeMarks forgets that letters were dropped: their events reached the sink after all.
func (s *store) removeMarks(ctx context.Context, sink string, stored []Event) error {
	for _, e := range stored {
		if _, err := s.removeMark.ExecContext(ctx, sink, e.WebhookSeq, e.Index); err != nil {
			return err
		}
	}
	return nil
}

// forgetMarks forgets the letters that were dropped of webhooks that are being deleted.
func (s *store) forgetMarks(ctx context.Context, goes span) error {
	if !s.marked {
		return nil
	}
	_, err := s.deleteMarks.ExecContext(ctx, goes.after, goes.through)
	return err
}
