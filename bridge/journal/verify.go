package journal

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// One read of Verify takes this much at most, so that a serve's log can begin anew between two.
	maxVerifiedRows  = 1000
	maxVerifiedBytes = 8 << 20
	// maxFindings is how many findings a report has; the rest is counted.
	maxFindings = 100

	// webhookIndex is the index that SQLite makes for the unique ids.
	webhookIndex = "sqlite_autoindex_webhooks_1"
)

// Verification is what Verify found.
type Verification struct {
	// Webhooks and DeadLetters count what was read, Bytes those of the webhooks' bodies and the dead letters' data.
	Webhooks    int64 `json:"webhooks"`
	DeadLetters int64 `json:"dead_letters"`
	Bytes       int64 `json:"bytes"`
	// Findings say what is not as it must be, for people. Empty, and never nil: all is well.
	Findings []string `json:"findings"`
}

// verifier reads a whole journal, in short reads, and notes what SQLite cannot know to be wrong.
type verifier struct {
	views    *views
	progress func(done, total int64)
	report   Verification
	more     int64

	sinks []SinkStatus
	// position is that of the webhooks to read, newest the highest number that was ever given.
	position
	newest              int64
	letters, lastLetter int64
	now                 time.Time
}

// verify has SQLite check the structure, and then looks at everything that is stored when it begins. now says which
// times lie in the future.
//
// SQLite's integrity_check would look up every row of every index in one read, which takes eight times as long as
// quick_check, and all the while a serve's log cannot begin anew. So only the small tables get that. That the index of
// webhooks has as many entries as the table, quick_check sees too; that each webhook is in it, short reads find out.
func (v *views) verify(ctx context.Context, now time.Time, progress func(done, total int64)) (Verification, error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	r := &verifier{views: v, progress: progress, report: Verification{Findings: []string{}}, now: now}
	if err := r.begin(ctx); err != nil {
		return Verification{}, err
	}
	r.advance()
	checks := []string{
		"quick_check", "integrity_check(dead_letters)", "integrity_check(sinks)", "integrity_check(settings)",
	}
	if v.version >= 5 {
		checks = append(checks, "integrity_check(letter_events)", "integrity_check(past_webhooks)")
		checks = append(checks, "integrity_check(absences)", "integrity_check(holes)")
	}
	if v.version >= 6 {
		checks = append(checks, "integrity_check(dropped_letters)")
	}
	for _, check := range checks {
		if err := checkStructure(ctx, v.db, v.path, check); err != nil {
			return Verification{}, err
		}
	}
	r.verifySinks()
	if err := r.verifyWebhooks(ctx); err != nil {
		return Verification{}, err
	}
	if err := r.verifyLetters(ctx); err != nil {
		return Verification{}, err
	}
	if r.more > 0 {
		r.report.Findings = append(r.report.Findings, fmt.Sprintf("and %d more", r.more))
	}
	return r.report, nil
}

// begin reads in one snapshot what there is to verify.
func (r *verifier) begin(ctx context.Context) (err error) {
	tx, err := r.views.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	version := r.views.version
	if r.position, err = readPosition(ctx, tx, version); err != nil {
		return err
	}
	if r.sinks, err = readSinks(ctx, tx, &r.position, version); err != nil {
		return err
	}
	return tx.QueryRowContext(ctx, `SELECT max(coalesce((SELECT max(seq) FROM webhooks), 0),
		coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'webhooks'), 0)),
		(SELECT count(*) FROM dead_letters), coalesce((SELECT max(id) FROM dead_letters), 0)`).
		Scan(&r.newest, &r.letters, &r.lastLetter)
}

func (r *verifier) damagedIndex(wrong string) error {
	return &DamagedError{Path: r.views.path, Err: fmt.Errorf("the index %s is wrong: %s", webhookIndex, wrong)}
}

// find notes a finding.
func (r *verifier) find(format string, args ...any) {
	if len(r.report.Findings) >= maxFindings {
		r.more++
		return
	}
	r.report.Findings = append(r.report.Findings, fmt.Sprintf(format, args...))
}

// advance shows how far it is.
func (r *verifier) advance() {
	done, total := r.report.Webhooks+r.report.DeadLetters, max(r.stored(), 0)+r.letters
	r.progress(min(done, total), total)
}

func (r *verifier) verifySinks() {
	for _, s := range r.sinks {
		if s.Cursor < 0 || s.Cursor > r.newest {
			r.find("the cursor of sink %q is %d, and the newest webhook ever was %d", s.Sink, s.Cursor, r.newest)
			continue
		}
		for _, wait := range waits(s.Cursor, r.absences[s.Sink]) {
			for _, gone := range append([]span{{0, r.oldest - 1}}, r.holes...) {
				if from, through := max(wait.after, gone.after), min(wait.through, gone.through); from < through {
					r.find("webhooks %d to %d are missing, and sink %q has not been sent them", from+1, through, s.Sink)
				}
			}
		}
	}
}

// verifyWebhooks looks for gaps in the numbers, and at each webhook.
func (r *verifier) verifyWebhooks(ctx context.Context) error {
	for next := r.oldest; next <= r.head; {
		p, page, err := r.readWebhooks(ctx, next-1)
		if err != nil {
			return err
		}
		// What all sinks have may be deleted meanwhile.
		r.holes = p.holes
		if p.oldest > next {
			r.oldest, next = p.oldest, p.oldest
		}
		for i := range page {
			w := &page[i]
			if next = skip(r.holes, next-1) + 1; w.Seq > next {
				r.findGap(next, w.Seq-1)
			}
			next = w.Seq + 1
			if w.Seq <= r.head {
				r.verifyWebhook(w)
			}
		}
		if len(page) == 0 {
			r.findGap(skip(r.holes, next-1)+1, r.head)
			next = r.head + 1
		}
		r.advance()
	}
	return nil
}

// readWebhooks returns the webhooks after a number, and the position at that moment.
func (r *verifier) readWebhooks(ctx context.Context, after int64) (p position, page []Webhook, err error) {
	tx, err := r.views.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return p, nil, err
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	if p, err = readPosition(ctx, tx, r.views.version); err != nil {
		return p, nil, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT seq, id, signed_at, received_at, body FROM webhooks
		WHERE seq > ? ORDER BY seq LIMIT ?`, after, maxVerifiedRows)
	if err != nil {
		return p, nil, err
	}
	if page, err = scanWebhooks(rows, maxVerifiedBytes); err != nil || len(page) == 0 {
		return p, nil, err
	}
	var lost int64
	err = tx.QueryRowContext(ctx, `SELECT seq FROM webhooks AS stored NOT INDEXED WHERE seq > ? AND seq <= ?
		AND NOT EXISTS (SELECT 1 FROM webhooks AS found INDEXED BY `+webhookIndex+`
			WHERE found.id = stored.id AND found.seq = stored.seq) LIMIT 1`,
		after, page[len(page)-1].Seq).Scan(&lost)
	switch {
	case err == nil:
		return p, nil, r.damagedIndex(fmt.Sprintf("webhook %d is not in it", lost))
	case errors.Is(err, sql.ErrNoRows):
		return p, page, nil
	default:
		return p, nil, err
	}
}

func (r *verifier) findGap(from, through int64) {
	if through < from {
		return
	}
	var lacking []string
	for _, s := range r.sinks {
		if overlap(waits(s.Cursor, r.absences[s.Sink]), from-1, through) > 0 {
			lacking = append(lacking, fmt.Sprintf("%q", s.Sink))
		}
	}
	if len(lacking) == 0 {
		r.find("webhooks %d to %d are missing; all sinks have been sent them", from, through)
		return
	}
	r.find("webhooks %d to %d are missing, and %s has not been sent them all", from, through, strings.Join(lacking, ", "))
}

func (r *verifier) verifyWebhook(w *Webhook) {
	r.report.Webhooks++
	r.report.Bytes += int64(len(w.Body))
	if w.ID == "" {
		r.find("webhook %d: it has no id", w.Seq)
	}
	if wrong := r.implausible(w.ReceivedAt); wrong != "" {
		r.find("webhook %d (%q): received %s", w.Seq, w.ID, wrong)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(w.Body, " \t\r\n"), []byte("{")) || !json.Valid(w.Body) {
		r.find("webhook %d (%q): its body is not a JSON object", w.Seq, w.ID)
	}
}

// implausible says what is wrong with a time at which something happened, empty if nothing is.
func (r *verifier) implausible(t time.Time) string {
	switch {
	case t.Year() < 2020:
		return fmt.Sprintf("at %s, which is too long ago: the clock was wrong", t.Format(time.RFC3339))
	case t.After(r.now.Add(24 * time.Hour)):
		return fmt.Sprintf("at %s, which is in the future: the clock was wrong, or is now", t.Format(time.RFC3339))
	default:
		return ""
	}
}

func (r *verifier) verifyLetters(ctx context.Context) error {
	for after := int64(0); after < r.lastLetter; {
		n, last, err := r.verifyLetterPage(ctx, after)
		if err != nil {
			return err
		}
		r.advance()
		if n == 0 {
			return nil
		}
		after = last
	}
	return nil
}

func (r *verifier) verifyLetterPage(ctx context.Context, after int64) (n int, last int64, err error) {
	data, _ := sizeColumns(r.views.version)
	packed, base := packedColumns(r.views.version)
	columns := []string{
		"id", "sink", "webhook_seq", "event_time", "route", "attempts", "first_at", "last_at", data, packed, base,
	}
	f := DeadLetterFilter{AfterID: after, throughID: r.lastLetter}
	query, args, err := f.statement(r.views.version,
		"SELECT "+strings.Join(columns, ", ")+" FROM dead_letters", "ORDER BY id LIMIT ?")
	if err != nil {
		return 0, 0, err
	}
	rows, err := r.views.db.QueryContext(ctx, query, append(args, maxVerifiedRows)...)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for read := 0; read < maxVerifiedBytes && rows.Next(); {
		var (
			l                     DeadLetter
			at, route             string
			first, lastTry, bytes int64
			event, shared         sql.RawBytes
		)
		if err := rows.Scan(&l.ID, &l.Sink, &l.WebhookSeq, &at, &route, &l.Attempts, &first, &lastTry, &bytes,
			&event, &shared); err != nil {
			return 0, 0, err
		}
		l.FirstAt, l.LastAt = fromNanos(first), fromNanos(lastTry)
		r.verifyLetter(&l)
		if len(event) > 0 {
			r.verifyPacked(&l, event, shared)
		} else {
			r.verifyPlain(&l, at, route)
		}
		r.report.DeadLetters++
		r.report.Bytes += bytes
		read += len(event) + len(shared)
		n, last = n+1, l.ID
	}
	return n, last, rows.Err()
}

// verifyPacked looks at a letter's event as it is stored.
func (r *verifier) verifyPacked(l *DeadLetter, event, shared []byte) {
	base, err := unpackEvent(shared, &bridge.Event{})
	if err == nil {
		_, err = unpackEvent(event, &base)
	}
	if err != nil {
		r.find("dead letter %d: its event cannot be read: %v", l.ID, err)
	}
}

// verifyPlain does so for a letter of an older version.
func (r *verifier) verifyPlain(l *DeadLetter, eventTime, route string) {
	if err := json.Unmarshal([]byte(route), &l.Event.Route); err != nil {
		r.find("dead letter %d: its route cannot be read: %v", l.ID, err)
	}
	if eventTime != "" && fromText(eventTime).IsZero() {
		r.find("dead letter %d: the time of its event (%q) cannot be read", l.ID, eventTime)
	}
}

func (r *verifier) verifyLetter(l *DeadLetter) {
	known := false
	for _, s := range r.sinks {
		known = known || s.Sink == l.Sink
	}
	if !known {
		r.find("dead letter %d: the journal does not know its sink %q", l.ID, l.Sink)
	}
	if l.WebhookSeq < 1 || l.WebhookSeq > max(r.newest, r.head) {
		r.find("dead letter %d: there never was a webhook %d", l.ID, l.WebhookSeq)
	}
	for _, t := range []time.Time{l.FirstAt, l.LastAt} {
		if wrong := r.implausible(t); !t.IsZero() && wrong != "" {
			r.find("dead letter %d: tried %s", l.ID, wrong)
			break
		}
	}
}
