package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// A sink that leaves the configuration keeps what was accepted until then, and what it is to get when it comes back has
// a gap: its absence. So a name that is misspelt, or renamed, costs nothing. ForgetSink and RenameSink end that.

// removedSinks brings the schema to sinks that have left: where each began, what was accepted while it was away, and
// which numbers are deleted between stored ones. Of one that had left before, all that is still there is kept.
const removedSinks = `
ALTER TABLE sinks ADD COLUMN began INTEGER NOT NULL DEFAULT 0;
CREATE TABLE absences (
	sink TEXT NOT NULL,
	after INTEGER NOT NULL,
	through INTEGER NOT NULL,
	since INTEGER NOT NULL,
	PRIMARY KEY (sink, after)
) STRICT, WITHOUT ROWID;
CREATE TABLE holes (
	after INTEGER NOT NULL PRIMARY KEY,
	through INTEGER NOT NULL
) STRICT;
UPDATE sinks SET cursor = max(cursor, (SELECT coalesce(min(seq) - 1, 0) FROM webhooks)) WHERE configured = 0;
INSERT INTO absences (sink, after, through, since)
	SELECT sink, max(cursor, (SELECT coalesce(max(seq), 0) FROM webhooks)), 9223372036854775807, 0
	FROM sinks WHERE configured = 0;
`

// Held is what the journal holds for a sink: what waits for it or is left of it.
type Held struct {
	Webhooks    int64 `json:"webhooks"`
	DeadLetters int64 `json:"dead_letters"`
	// Streams are replays and retries that have not ended.
	Streams int64 `json:"streams"`
}

func (w *writer) readSinks(ctx context.Context) (p position, sinks []SinkStatus, err error) {
	if p, err = readPosition(ctx, w.store.conn, schemaVersion); err != nil {
		return p, nil, err
	}
	sinks, err = readSinks(ctx, w.store.conn, &p, schemaVersion)
	return p, sinks, err
}

// rereadSinks takes into memory what has become of the sinks.
func (w *writer) rereadSinks(ctx context.Context) {
	if err := w.load(ctx); err != nil {
		w.inDoubt = err
		return
	}
	w.journal.metrics.deadLetters.Reset()
	w.journal.metrics.missing.Reset()
	w.showDeadLetters()
	w.cleaning.sweep = true
}

// registerSinks gives each configured sink its row, and notes which sinks have left or come back.
func (w *writer) registerSinks(ctx context.Context) error {
	var before, after []SinkStatus
	err := w.store.inTransaction(ctx, func() error {
		if _, err := w.store.conn.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ('max_bytes', ?1)
			ON CONFLICT (name) DO UPDATE SET value = ?1`,
			w.journal.space.limit); err != nil {
			return err
		}
		p, sinks, err := w.readSinks(ctx)
		if err != nil {
			return err
		}
		before = sinks
		for i := range sinks {
			if err := w.registerKnown(ctx, &sinks[i], &p); err != nil {
				return err
			}
		}
		for _, sink := range w.journal.sinks {
			if !slices.ContainsFunc(sinks, func(s SinkStatus) bool { return s.Sink == sink }) {
				if _, err := w.store.conn.ExecContext(ctx,
					`INSERT INTO sinks (sink, cursor, configured, began) VALUES (?1, ?2, 1, ?2)`, sink, p.head); err != nil {
					return err
				}
			}
		}
		_, after, err = w.readSinks(ctx)
		return err
	})
	if err != nil && isFull(err) {
		// Nothing has to be written for a start with the sinks of the one before.
		if same, failed := w.registered(ctx); failed != nil || !same {
			return errors.Join(err, failed)
		}
		w.outOfSpace(ctx)
		return nil
	}
	if err != nil {
		return err
	}
	for i := range after {
		w.sayOfSink(ctx, &after[i], before)
	}
	return nil
}

// registered tells whether the sinks that the journal is opened for are those that it was opened for before.
func (w *writer) registered(ctx context.Context) (bool, error) {
	_, known, err := w.readSinks(ctx)
	var configured []string
	for _, s := range known {
		if s.Configured {
			configured = append(configured, s.Sink)
		}
	}
	return slices.Equal(configured, w.journal.sinks), err
}

// registerKnown updates the row of a sink that the journal knows.
func (w *writer) registerKnown(ctx context.Context, s *SinkStatus, p *position) error {
	configured := slices.Contains(w.journal.sinks, s.Sink)
	if configured != s.Configured {
		statement := `INSERT INTO absences (sink, after, through, since) VALUES (?1, ?2, ?4, ?3)
			ON CONFLICT (sink, after) DO UPDATE SET through = ?4, since = ?3`
		if configured {
			statement = `UPDATE absences SET through = ?2 WHERE sink = ?1 AND through = ?4`
		}
		if _, err := w.store.conn.ExecContext(ctx, statement,
			s.Sink, p.head, toNanos(w.journal.now()), int64(endless)); err != nil {
			return err
		}
	}
	if !configured {
		_, err := w.store.conn.ExecContext(ctx, `UPDATE sinks SET configured = 0 WHERE sink = ?`, s.Sink)
		return err
	}
	absences := slices.Clone(p.absences[s.Sink])
	for i := range absences {
		absences[i].through = min(absences[i].through, p.head)
	}
	cursor := skip(absences, s.Cursor)
	if missed := p.oldest - 1 - cursor; missed > 0 {
		w.journal.log.WarnContext(ctx, "webhooks that wait for a sink are not in the journal any more "+
			"and will not reach it; somebody else has deleted them", "sink", s.Sink, "webhooks_missed", missed)
		cursor = p.oldest - 1
	}
	if _, err := w.store.conn.ExecContext(ctx, `UPDATE sinks SET configured = 1, cursor = ? WHERE sink = ?`,
		cursor, s.Sink); err != nil {
		return err
	}
	_, err := w.store.conn.ExecContext(ctx,
		`DELETE FROM absences WHERE sink = ? AND (through <= ? OR through <= after)`, s.Sink, cursor)
	return err
}

// sayOfSink says of a sink that is not configured what waits for it, and of one that has come back where it goes on.
func (w *writer) sayOfSink(ctx context.Context, s *SinkStatus, before []SinkStatus) {
	back := slices.ContainsFunc(before, func(b SinkStatus) bool { return b.Sink == s.Sink && !b.Configured })
	switch {
	case s.Configured && back:
		w.journal.log.InfoContext(ctx, "a sink is configured again; it gets what waited for it, "+
			"nothing of what was accepted meanwhile, and then all that comes", "sink", s.Sink, "webhooks", s.Backlog)
	case s.Configured:
	case s.Backlog == 0 && s.DeadLetters == 0:
		w.journal.log.InfoContext(ctx, "a sink is not configured any more; nothing waits for it", "sink", s.Sink)
	default:
		w.journal.log.WarnContext(ctx, "a sink is not configured any more; what was accepted while it was is kept for it, "+
			"and counts against the journal's limit, until it is configured again, forgotten or renamed",
			"sink", s.Sink, "webhooks", s.Backlog, "dead_letters", s.DeadLetters,
			"to_drop_it", "fnbridge sinks forget "+s.Sink, "to_rename_it", "fnbridge sinks rename "+s.Sink+" NEW")
	}
}

// ForgetSink drops all that the journal holds for a sink that is not configured, and what it knows of it, durably when
// it returns no error. It returns what it dropped. Dead letters go in steps: after an error, some may be gone.
func (j *Journal) ForgetSink(ctx context.Context, sink string) (Held, error) {
	if err := j.checkRemoved(ctx, sink); err != nil {
		return Held{}, err
	}
	letters, err := j.dropLetters(ctx, DeadLetterFilter{Sink: sink})
	if err != nil {
		return Held{DeadLetters: letters}, err
	}
	r := newRequest(kindForgetSink)
	r.sink = sink
	err = j.submit(ctx, r)
	r.held.DeadLetters += letters
	return r.held, err
}

// checkRemoved refuses to forget a sink that is configured, or not known.
func (j *Journal) checkRemoved(ctx context.Context, sink string) error {
	s, err := j.views.status(ctx)
	if err != nil {
		return j.readFailure("read the sinks", err)
	}
	return removable(s.Sinks, sink)
}

func removable(sinks []SinkStatus, sink string) error {
	s := sinkNamed(sinks, sink)
	switch {
	case s == nil:
		return unknownSink(sink)
	case s.Configured:
		return fmt.Errorf("sink %q is configured: take it out of FNBRIDGE_SINKS and start the bridge without it first", sink)
	default:
		return nil
	}
}

func sinkNamed(sinks []SinkStatus, sink string) *SinkStatus {
	at := slices.IndexFunc(sinks, func(s SinkStatus) bool { return s.Sink == sink })
	if at < 0 {
		return nil
	}
	return &sinks[at]
}

func unknownSink(sink string) error { return fmt.Errorf("the journal knows no sink %q", sink) }

func (w *writer) forgetSink(ctx context.Context, r *request) error {
	p, sinks, err := w.readSinks(ctx)
	if err != nil {
		return err
	}
	if r.refused(removable(sinks, r.sink)) {
		return nil
	}
	s := sinkNamed(sinks, r.sink)
	r.held = Held{Webhooks: s.Backlog, DeadLetters: s.DeadLetters}
	if r.held.Streams, err = w.store.openStreams(ctx, r.sink); err != nil {
		return err
	}
	// Its cursor may be the only one that tells the number of the newest webhook.
	if _, err := w.store.conn.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ('head', ?1)
		ON CONFLICT (name) DO UPDATE SET value = ?1`, p.head); err != nil {
		return err
	}
	for _, statement := range []string{
		`DELETE FROM sinks WHERE sink = ?`, `DELETE FROM absences WHERE sink = ?`,
		`DELETE FROM dead_letters WHERE sink = ?`, `DELETE FROM streams WHERE sink = ?`,
		`DELETE FROM checkpoints WHERE sink = ?`, `DELETE FROM dropped_letters WHERE sink = ?`,
	} {
		if _, err := w.store.conn.ExecContext(ctx, statement, r.sink); err != nil {
			return err
		}
	}
	return nil
}

// openStreams counts the streams of a sink that have not ended.
func (s *store) openStreams(ctx context.Context, sink string) (n int64, err error) {
	err = s.conn.QueryRowContext(ctx, `SELECT count(*) FROM streams WHERE sink = ? AND ended_at = 0`, sink).Scan(&n)
	return n, err
}

// RenameSink gives what the journal holds for a sink to another name, durably when it returns no error, and returns
// what that is. The other name may be that of a sink which began when or after this one had left: it then gets what
// waits for this one, and goes on where it is. Neither may be configured, unless the journal was opened with KeepSinks.
// Dead letters go in steps: after an error, some may have the new name; renaming again is right.
func (j *Journal) RenameSink(ctx context.Context, sink, to string) (Held, error) {
	s, err := j.views.status(ctx)
	if err != nil {
		return Held{}, j.readFailure("read the sinks", err)
	}
	if err := j.checkRename(s.Sinks, sink, to); err != nil {
		return Held{}, err
	}
	letters, err := j.renameLetters(ctx, sink, to)
	if err != nil {
		return Held{DeadLetters: letters}, err
	}
	r := newRequest(kindRenameSink)
	r.sink, r.to = sink, to
	err = j.submit(ctx, r)
	r.held.DeadLetters += letters
	return r.held, err
}

// checkRename says why a sink cannot be renamed.
func (j *Journal) checkRename(sinks []SinkStatus, sink, to string) error {
	from, other := sinkNamed(sinks, sink), sinkNamed(sinks, to)
	switch {
	case from == nil:
		return unknownSink(sink)
	case to == "" || sink == to:
		return fmt.Errorf("sink %q needs another name", sink)
	}
	if !j.keepSinks {
		for _, name := range []string{sink, to} {
			if j.cursors[name] != nil {
				return fmt.Errorf("sink %q is configured in the bridge that runs: stop it, rename, and start it again", name)
			}
		}
	}
	if other != nil && other.began < from.left() {
		return fmt.Errorf("there is a sink %q already, and it did not come after %q had left: each has webhooks of its own. "+
			"Give another name, or drop what one of them has: fnbridge sinks forget", to, sink)
	}
	return nil
}

func (j *Journal) renameLetters(ctx context.Context, sink, to string) (renamed int64, err error) {
	f := DeadLetterFilter{Sink: sink, Limit: maxChangedLetters}
	for {
		ids, bytes, err := j.views.nextLetters(ctx, f)
		if err != nil {
			return renamed, j.readFailure("read the dead letters", err)
		}
		if len(ids) == 0 {
			return renamed, nil
		}
		r := newRequest(kindRenameLetters)
		r.sink, r.to, r.filter, r.letterBytes = sink, to, &DeadLetterFilter{IDs: ids}, bytes
		if err := j.submit(ctx, r); err != nil {
			return renamed, err
		}
		renamed += int64(len(ids))
		f.AfterID = ids[len(ids)-1]
	}
}

// renameLetters gives dead letters of a sink, or with nil all of them, to another name.
func (s *store) renameLetters(ctx context.Context, sink, to string, ids []int64) error {
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	// Of one event each name can have a letter, if a replay reached back to before the other one began.
	for _, statement := range []string{
		`DELETE FROM dead_letters WHERE sink = ?2 AND (?3 = 'null' OR id IN (SELECT value FROM json_each(?3)))
			AND EXISTS (SELECT 1 FROM dead_letters AS other WHERE other.sink = ?1
			AND other.webhook_seq = dead_letters.webhook_seq AND other.event_index = dead_letters.event_index)`,
		`UPDATE dead_letters SET sink = ?1 WHERE sink = ?2 AND (?3 = 'null' OR id IN (SELECT value FROM json_each(?3)))`,
	} {
		if _, err := s.conn.ExecContext(ctx, statement, to, sink, string(list)); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) renameSink(ctx context.Context, r *request) error {
	p, sinks, err := w.readSinks(ctx)
	if err != nil {
		return err
	}
	if r.refused(w.journal.checkRename(sinks, r.sink, r.to)) {
		return nil
	}
	from, other := sinkNamed(sinks, r.sink), sinkNamed(sinks, r.to)
	r.held = Held{Webhooks: from.Backlog, DeadLetters: from.DeadLetters}
	if r.held.Streams, err = w.store.openStreams(ctx, r.sink); err != nil {
		return err
	}
	if other != nil {
		if err := w.mergeSinks(ctx, from, other, p.absences[r.sink]); err != nil {
			return err
		}
	}
	if err := w.store.renameLetters(ctx, r.sink, r.to, nil); err != nil {
		return err
	}
	for _, statement := range []string{
		`UPDATE streams SET sink = ? WHERE sink = ?`,
		`UPDATE absences SET sink = ? WHERE sink = ?`, `UPDATE checkpoints SET sink = ? WHERE sink = ?`,
		`UPDATE sinks SET sink = ? WHERE sink = ?`, `UPDATE OR REPLACE dropped_letters SET sink = ? WHERE sink = ?`,
	} {
		if _, err := w.store.conn.ExecContext(ctx, statement, r.to, r.sink); err != nil {
			return err
		}
	}
	return nil
}

// mergeSinks lets a sink that began after another had left wait for what waits for that one, too. It then gets what the
// other one still has to get, and nothing again of what it has got itself.
func (w *writer) mergeSinks(ctx context.Context, from, into *SinkStatus, absences []span) error {
	exec := func(query string, args ...any) error {
		_, err := w.store.conn.ExecContext(ctx, query, args...)
		return err
	}
	err := exec(`DELETE FROM absences WHERE sink = ? AND through <= ?`, into.Sink, into.Cursor)
	if err == nil && from.Backlog > 0 {
		_, err = w.store.cutCheckpoints.ExecContext(ctx, into.Sink, from.Cursor+1)
	}
	if err == nil && from.Backlog > 0 {
		err = exec(`UPDATE sinks SET cursor = ?1, finished = (SELECT finished FROM sinks WHERE sink = ?2), began = ?3
			WHERE sink = ?4`, from.Cursor, from.Sink, from.began, into.Sink)
		for i := range absences {
			a := &absences[i]
			a.through = min(a.through, into.Cursor)
			if err == nil && a.after < a.through {
				err = exec(`INSERT INTO absences (sink, after, through, since) VALUES (?, ?, ?, 0)`,
					into.Sink, a.after, a.through)
			}
		}
	}
	if err == nil && from.Missing != nil {
		m := *from.Missing
		if into.Missing != nil {
			m = *into.Missing
			m.join(from.Missing)
		}
		var text []byte
		if text, err = json.Marshal(m); err == nil {
			err = exec(`UPDATE sinks SET missing = ? WHERE sink = ?`, string(text), into.Sink)
		}
	}
	return errors.Join(err, exec(`DELETE FROM absences WHERE sink = ?`, from.Sink),
		exec(`DELETE FROM checkpoints WHERE sink = ?`, from.Sink),
		exec(`DELETE FROM sinks WHERE sink = ?`, from.Sink))
}
