package journal

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"
)

const (
	// searchStep is how many numbers one read of a search looks at, at first and at most: some milliseconds, in which a
	// running bridge has a processor less.
	searchStep = 2000
	// searchTime bounds one read of a search: while it lasts, the log cannot begin anew.
	searchTime = 250 * time.Millisecond
)

// Search looks for webhooks by what they hold, from the newest on, in short reads: one a step. It is not for concurrent
// use.
type Search struct {
	// Before leaves out webhooks of this number and above. A step moves it on. 0: the search has ended, or not begun.
	Before int64
	// Since leaves out what was received before; zero: nothing.
	Since time.Time
	// Holds are texts of which a body holds one, byte for byte; none: whatever a body holds.
	Holds [][]byte

	begun          bool
	newest, oldest int64 // of what it looks at
	step           int64
}

// Looked is how many webhooks the search has looked at, and of how many, about.
func (s *Search) Looked() (done, total int64) {
	return s.newest + 1 - s.Before, s.newest + 1 - s.oldest
}

// Ended tells whether the search has looked at everything.
func (s *Search) Ended() bool { return s.begun && s.Before <= s.oldest }

// SearchNext takes a step of a search: it returns some of what s selects, newest first, at most maxCount and no more
// than maxBytes of bodies but for the first; it may be none although the search has not ended.
func (r *Reader) SearchNext(ctx context.Context, s *Search, maxCount int, maxBytes int64) ([]Webhook, error) {
	found, err := r.views.search(ctx, s, maxCount, maxBytes)
	return found, r.failure("search the journal", err)
}

// SearchNext does what Reader.SearchNext does.
func (j *Journal) SearchNext(ctx context.Context, s *Search, maxCount int, maxBytes int64) ([]Webhook, error) {
	found, err := j.views.search(ctx, s, maxCount, maxBytes)
	if err != nil {
		return nil, j.readFailure("search the journal", err)
	}
	return found, nil
}

func (v *views) search(ctx context.Context, s *Search, maxCount int, maxBytes int64) (found []Webhook, err error) {
	if !s.begun {
		after, through, err := v.bounds(ctx, WebhookFilter{})
		if err != nil {
			return nil, err
		}
		s.begun, s.step, s.oldest = true, searchStep, after+1
		if s.Before == 0 || s.Before > through {
			s.Before = through + 1
		}
		s.newest = s.Before - 1
	}
	if s.Ended() {
		return nil, nil
	}
	low := max(s.Before-s.step, s.oldest)
	if passed, err := v.passed(ctx, s, low); err != nil || passed {
		return nil, err
	}
	bounded := ctx
	if s.step > 1 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, searchTime)
		defer cancel()
	}
	began := time.Now()
	found, ended, err := v.searchStep(bounded, s, low, maxCount, maxBytes)
	switch {
	case err != nil && ctx.Err() == nil && bounded.Err() != nil:
		s.step = max(s.step/4, 1) // its bodies are large, or the disk is slow
		return nil, nil
	case err != nil:
		return nil, err
	}
	s.Before = low
	if !ended {
		s.Before = found[len(found)-1].Seq
	}
	if time.Since(began) < searchTime/4 {
		s.step = min(2*s.step, searchStep)
	}
	return found, nil
}

// passed passes over a step whose ends were both received before. Webhooks are ordered by number, and the clock that
// gave them their times may have jumped, but seldom twice within a step.
func (v *views) passed(ctx context.Context, s *Search, low int64) (bool, error) {
	if s.Since.IsZero() {
		return false, nil
	}
	var newest int64
	err := v.db.QueryRowContext(ctx, `SELECT coalesce(max(received_at), 0) FROM (
		SELECT * FROM (SELECT received_at FROM webhooks WHERE seq >= ?1 AND seq < ?2 ORDER BY seq LIMIT 1) UNION ALL
		SELECT * FROM (SELECT received_at FROM webhooks WHERE seq >= ?1 AND seq < ?2 ORDER BY seq DESC LIMIT 1))`,
		low, s.Before).Scan(&newest)
	if err != nil || newest >= toNanos(s.Since) {
		return false, err
	}
	s.Before = low
	return true, nil
}

// searchStep reads from s.Before down to low, and tells whether it came to its end.
func (v *views) searchStep(ctx context.Context, s *Search, low int64, maxCount int, maxBytes int64) (
	found []Webhook, ended bool, err error,
) {
	query := `SELECT seq, id, signed_at, received_at, body FROM webhooks WHERE seq < ? AND seq >= ?`
	args := []any{s.Before, low}
	if !s.Since.IsZero() {
		query += ` AND received_at >= ?`
		args = append(args, toNanos(s.Since))
	}
	if len(s.Holds) > 0 {
		query += ` AND (` + strings.Repeat(`instr(body, ?) OR `, len(s.Holds)-1) + `instr(body, ?))`
		for _, text := range s.Holds {
			args = append(args, text)
		}
	}
	rows, err := v.db.QueryContext(ctx, query+` ORDER BY seq DESC`, args...)
	if err != nil {
		return nil, false, err
	}
	return scanSome(rows, maxCount, maxBytes)
}

// WebhooksOf returns the webhooks that came with an id, newest first: more than one if it was used for several bodies.
func (r *Reader) WebhooksOf(ctx context.Context, id string) ([]Webhook, error) {
	found, err := r.views.webhooksOf(ctx, id)
	return found, r.failure("read webhooks", err)
}

// WebhooksOf does what Reader.WebhooksOf does.
func (j *Journal) WebhooksOf(ctx context.Context, id string) ([]Webhook, error) {
	found, err := j.views.webhooksOf(ctx, id)
	if err != nil {
		return nil, j.readFailure("read webhooks", err)
	}
	return found, nil
}

func (v *views) webhooksOf(ctx context.Context, id string) ([]Webhook, error) {
	reused := id + reusedMark
	rows, err := v.db.QueryContext(ctx, `SELECT seq, id, signed_at, received_at, body FROM webhooks
		WHERE id = ?1 OR (id > ?2 AND id < ?3) ORDER BY seq DESC LIMIT ?4`, id, reused, reused+"g", maxReusedShown)
	if err != nil {
		return nil, err
	}
	return scanWebhooks(rows, maxReusedBytes)
}

// What is read of the webhooks that have one id.
const (
	maxReusedShown = 100
	maxReusedBytes = 8 << 20
)

// Standing is how far a sink is with webhooks, at one moment.
type Standing struct {
	Sink       string
	Configured bool
	// Cursor is the number of the newest webhook up to which everything is done with.
	Cursor int64
	// Began is the number of the newest webhook when the sink was first configured: it does not get those up to there.
	Began int64
	// Finished is what it has finished beyond its cursor, in a form of delivery's.
	Finished []byte
	// Missing is what its broker may have lost; nil: nothing is known to be.
	Missing *Missing

	position *position
}

// Absent tells whether a webhook was accepted while the sink was not configured.
func (s *Standing) Absent(seq int64) bool {
	return overlap(s.position.absences[s.Sink], seq-1, seq) > 0
}

// Ahead counts the webhooks that wait for the sink before the one of that number.
func (s *Standing) Ahead(seq int64) int64 {
	return overlap(waits(s.Cursor, s.position.absences[s.Sink]), s.position.oldest-1, seq-1)
}

// Standings returns how far each sink is, in the order of their names.
func (r *Reader) Standings(ctx context.Context) ([]Standing, error) {
	all, err := r.views.standings(ctx)
	return all, r.failure("read how far sinks are", err)
}

// Standings does what Reader.Standings does.
func (j *Journal) Standings(ctx context.Context) ([]Standing, error) {
	all, err := j.views.standings(ctx)
	if err != nil {
		return nil, j.readFailure("read how far sinks are", err)
	}
	return all, nil
}

func (v *views) standings(ctx context.Context) (all []Standing, err error) {
	version, err := v.versionNow(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := v.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	p, err := readPosition(ctx, tx, version)
	if err != nil {
		return nil, err
	}
	columns := "0, x'', ''"
	if version >= 5 {
		columns = "began, finished, missing"
	}
	rows, err := tx.QueryContext(ctx, `SELECT sink, configured, cursor, `+columns+` FROM sinks ORDER BY sink`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		s := Standing{position: &p}
		var missing string
		err := rows.Scan(&s.Sink, &s.Configured, &s.Cursor, &s.Began, &s.Finished, &missing)
		if err == nil {
			s.Missing, err = parseMissing(missing)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}
