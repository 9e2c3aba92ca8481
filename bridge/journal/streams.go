package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// StreamKind tells what a Stream reads.
type StreamKind string

const (
	// Live reads the webhooks behind a sink's cursor, and has no end. Its row is the sink's own.
	Live StreamKind = "live"
	// Retry reads dead letters.
	Retry StreamKind = "retry"
	// Replay reads webhooks that the sink has been through with.
	Replay StreamKind = "replay"
)

// How a Stream ended.
const (
	// StreamDone is the end of one of which everything has been published or is a dead letter.
	StreamDone = "done"
	// StreamCancelled is the end of one that somebody no longer wanted.
	StreamCancelled = "cancelled"
	// StreamNoRoom is the end of a replay that kept webhooks in a journal that was nearly full.
	StreamNoRoom = "no room"
)

// keptStreams is how many streams are remembered, those that have ended among them.
const keptStreams = 100

// Stream is a cursor over the journal for one sink: where it stands, where it ends, and which events it wants.
type Stream struct {
	// ID is the stream's number, and 0 for a Live one. No other stream of the journal ever has it.
	ID   int64
	Kind StreamKind
	Sink string
	// Cursor is the number up to which everything is done with, of webhooks or, for a Retry, of dead letters. Through is
	// the number after which the stream has nothing more; a Live one has no end.
	Cursor, Through int64
	// Since and Until select by when the webhook was received or, for a Retry, the dead letter was tried last: at or after
	// Since, before Until. Zero: open.
	Since, Until time.Time
	// IDs are the dead letters of a Retry that is for some alone; nil: all.
	IDs []int64
	// Events selects by the event.
	Events bridge.Filter
	// Rate is the most events a second; 0: no bound.
	Rate float64
	// AskedAt is when somebody asked for the stream, EndedAt when it ended and End how. Zero and empty: it has not ended.
	AskedAt, EndedAt time.Time
	End              string
	// Drops differs once dead letters have been dropped: what was read of a Retry before may be gone. It is of this
	// process.
	Drops int64
	// Taken counts the events that it has had; of those Acknowledged reached the sink, and DeadLettered are dead letters.
	Taken, Acknowledged, DeadLettered int64
}

// letters selects what a Retry reads.
func (s *Stream) letters() DeadLetterFilter {
	return DeadLetterFilter{
		Sink: s.Sink, IDs: s.IDs, Filter: s.Events, Since: s.Since, Until: s.Until, AfterID: s.Cursor, throughID: s.Through,
	}
}

// Event names an event by its webhook's number and its place among the events of that.
type Event struct {
	WebhookSeq int64
	Index      int
}

// Move says how far a stream has come. Everything in it but Stored is what Stream has; it is written over what was
// there.
type Move struct {
	Stream Stream
	// Stored are events that reached the sink: if they have dead letters, these go.
	Stored []Event
	// Position is how far the sink's broker has acknowledged, for a Live stream: everything up to the cursor, and whatever
	// else was published. Nil: what is kept stays. With Checkpoint it is remembered together with the cursor.
	Position   bridge.Position
	Checkpoint bool
	// Finished is of a Live stream what it has finished beyond its cursor, in a form that the journal does not know; nil:
	// as it was.
	Finished []byte
}

// streamColumns are the columns of streams that scanStream reads.
const streamColumns = "id, kind, sink, cursor, through, since, until, ids, events, rate, asked_at, " +
	"ended_at, ended, taken, acknowledged, dead_lettered"

func scanStream(rows *sql.Rows) (s Stream, err error) {
	var ids, events string
	var since, until int64
	if err := rows.Scan(&s.ID, &s.Kind, &s.Sink, &s.Cursor, &s.Through, &since, &until, &ids, &events, &s.Rate,
		nanoTime{&s.AskedAt}, nanoTime{&s.EndedAt}, &s.End, &s.Taken, &s.Acknowledged, &s.DeadLettered); err != nil {
		return Stream{}, err
	}
	if since != math.MinInt64 {
		s.Since = fromNanos(since)
	}
	if until != math.MaxInt64 {
		s.Until = fromNanos(until)
	}
	if ids != "" {
		err = json.Unmarshal([]byte(ids), &s.IDs)
	}
	return s, errors.Join(err, json.Unmarshal([]byte(events), &s.Events))
}

// streams returns those that have not ended, or all that are remembered, in the order of their numbers.
func (v *views) streams(ctx context.Context, ended bool) ([]Stream, error) {
	if v.version < 4 {
		return nil, nil
	}
	return readStreams(ctx, v.db, ended)
}

func readStreams(ctx context.Context, q rowQuerier, ended bool) (all []Stream, err error) {
	rows, err := q.QueryContext(ctx, "SELECT "+streamColumns+" FROM streams WHERE ? OR ended_at = 0 ORDER BY id", ended)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		s, err := scanStream(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

// Streams returns the streams beside the live ones that have not ended, in the order in which they were asked for.
func (j *Journal) Streams(ctx context.Context) ([]Stream, error) {
	drops := j.drops.Load() // before they are read
	all, err := j.views.streams(ctx, false)
	if err != nil {
		return nil, j.readFailure("read the streams", err)
	}
	for i := range all {
		if all[i].Kind == Retry {
			all[i].Drops = drops
		}
	}
	return all, nil
}

// AllStreams returns those that have ended as well, as far as they are remembered.
func (j *Journal) AllStreams(ctx context.Context) ([]Stream, error) {
	all, err := j.views.streams(ctx, true)
	if err != nil {
		return nil, j.readFailure("read the streams", err)
	}
	return all, nil
}

// StreamsChanged returns a channel that is closed once a stream is asked for or ends, or dead letters are dropped,
// after the call. To miss nothing, take the channel, then Streams.
func (j *Journal) StreamsChanged() <-chan struct{} { return j.streamsChanged.wait() }

// AddReplay makes a stream of webhooks that its sink has been through with, durably when it returns no error: those up
// to the sink's cursor that s selects. The journal gives ID, Kind, Cursor, Through and AskedAt.
func (j *Journal) AddReplay(ctx context.Context, s Stream) (Stream, error) {
	if _, err := j.cursor(s.Sink); err != nil {
		return Stream{}, err
	}
	s.Kind = Replay
	r := newRequest(kindAddStreams)
	r.streams = []Stream{s}
	if err := j.submit(ctx, r); err != nil {
		return Stream{}, err
	}
	return r.streams[0], nil
}

// RetryDeadLetters makes a stream for each sink that has dead letters which f selects and no other retry is about to
// try, durably when it returns no error, and returns how many letters those are. Each stream is for what is there now,
// and IDs, Sink, Since, Until and the Filter of f are what selects. Everything must belong to configured sinks, or no
// stream is made and the error names the others.
func (j *Journal) RetryDeadLetters(ctx context.Context, f DeadLetterFilter) (letters int64, err error) {
	f.unmarked = true
	if f.Reason != "" { // which a stream does not keep: a letter that fails again has another
		if f.IDs, err = j.views.letterIDs(ctx, f); err != nil {
			return 0, j.readFailure("read the dead letters", err)
		}
	}
	sinks, err := j.views.letterSinks(ctx, f)
	if err != nil {
		return 0, j.readFailure("read the dead letters", err)
	}
	if len(sinks) == 0 && f.Sink != "" {
		sinks[f.Sink] = 0 // of which the journal may know nothing
	}
	r := newRequest(kindAddStreams)
	var unknown []string
	for _, sink := range slices.Sorted(maps.Keys(sinks)) {
		if j.cursors[sink] == nil {
			unknown = append(unknown, sink)
		}
		if sinks[sink] > 0 {
			letters += sinks[sink]
			r.streams = append(r.streams, Stream{
				Kind: Retry, Sink: sink, Since: f.Since, Until: f.Until, IDs: f.IDs, Events: f.Filter,
			})
		}
	}
	switch {
	case len(unknown) > 0:
		return 0, fmt.Errorf("dead letters of %s cannot be sent again: no such sink is configured; "+
			"configure it, give its letters to another name with \"fnbridge sinks rename\", or select those of another sink",
			strings.Join(unknown, ", "))
	case letters == 0:
		return 0, nil
	}
	return letters, j.submit(ctx, r)
}

// CancelReplay ends the replay of that number, durably when it returns no error, and tells whether it had not ended
// before.
func (j *Journal) CancelReplay(ctx context.Context, id int64) (cancelled bool, err error) {
	r := newRequest(kindCancelReplay)
	r.seq = id
	if err := j.submit(ctx, r); err != nil {
		return false, err
	}
	return r.changed > 0, nil
}

// Move moves streams of configured sinks, and stores how a sink is unless state is nil, all in one transaction: durably
// when it returns nil. The cursor of a Live stream never goes back. After an error the streams may or may not have
// moved; moving them again is right. A stream that has ended stays as it is.
func (j *Journal) Move(ctx context.Context, moves []Move, state *SinkState) error {
	r, err := j.newMove(moves, state)
	if err != nil {
		return err
	}
	return j.submit(ctx, r)
}

// MoveLazily is Move for what is worth no commit of its own: it waits for the next one, until hurry is closed, and for
// a quarter of a second at most.
func (j *Journal) MoveLazily(ctx context.Context, moves []Move, hurry <-chan struct{}) error {
	r, err := j.newMove(moves, nil)
	if err != nil {
		return err
	}
	r.patient, r.hurry = true, hurry
	return j.submit(ctx, r)
}

func (j *Journal) newMove(moves []Move, state *SinkState) (*request, error) {
	for i := range moves {
		if _, err := j.cursor(moves[i].Stream.Sink); err != nil {
			return nil, err
		}
	}
	if state != nil {
		if _, err := j.cursor(state.Sink); err != nil {
			return nil, err
		}
	}
	r := newRequest(kindMove)
	r.moves, r.state = moves, state
	return r, nil
}

// addStream stores s with what the journal gives it, and forgets old ones that have ended.
func (s *store) addStream(ctx context.Context, t *Stream, at time.Time) error {
	if t.Kind == Retry {
		if err := s.conn.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) FROM dead_letters`).Scan(&t.Through); err != nil {
			return err
		}
	}
	t.AskedAt = fromNanos(markedAt(at))
	ids := ""
	if t.IDs != nil {
		text, err := json.Marshal(t.IDs)
		if err != nil {
			return err
		}
		ids = string(text)
	}
	events, err := json.Marshal(t.Events)
	if err != nil {
		return err
	}
	since, until := int64(math.MinInt64), int64(math.MaxInt64)
	if !t.Since.IsZero() {
		since = toNanos(t.Since)
	}
	if !t.Until.IsZero() {
		until = toNanos(t.Until)
	}
	result, err := s.conn.ExecContext(ctx, `INSERT INTO streams
		(kind, sink, cursor, through, since, until, ids, events, rate, asked_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(t.Kind), t.Sink, t.Cursor, t.Through, since, until, ids, string(events), t.Rate, toNanos(t.AskedAt))
	if err != nil {
		return err
	}
	if t.ID, err = result.LastInsertId(); err != nil {
		return err
	}
	_, err = s.conn.ExecContext(ctx, `DELETE FROM streams WHERE ended_at <> 0 AND id <= ?`, t.ID-keptStreams)
	return err
}

// endReplay ends a replay, and tells whether it had not ended before.
func (s *store) endReplay(ctx context.Context, id int64, how string, at time.Time) (ended bool, err error) {
	result, err := s.conn.ExecContext(ctx, `UPDATE streams SET ended = ?, ended_at = ?
		WHERE id = ? AND kind = 'replay' AND ended_at = 0`, how, markedAt(at), id)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// move writes how far a stream has come, and removes the dead letters of what it stored: as many as it returns.
func (s *store) move(ctx context.Context, m *Move, hasLetters bool, at time.Time) (removed int64, err error) {
	t := &m.Stream
	if t.Kind == Live {
		err = s.keepLive(ctx, m)
	} else {
		var ended int64
		if t.End != "" {
			ended = markedAt(at)
		}
		_, err = s.moveStream.ExecContext(ctx, t.Cursor, t.Taken, t.Acknowledged, t.DeadLettered, t.End, ended, t.ID)
	}
	// What a live stream stored again lies beyond its cursor, and so beyond every checkpoint.
	if err == nil && t.Kind != Live && len(m.Stored) > 0 {
		err = s.forgetCheckpoints(ctx, t.Sink, m.Stored)
	}
	if err == nil && s.marked {
		err = s.removeMarks(ctx, t.Sink, m.Stored)
	}
	if err != nil || !hasLetters {
		return 0, err
	}
	for _, e := range m.Stored {
		result, err := s.removeLetter.ExecContext(ctx, t.Sink, e.WebhookSeq, e.Index)
		if err != nil {
			return removed, err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return removed, err
		}
		removed += n
	}
	return removed, nil
}

// Retried returns the first dead letters that a Retry still has to try, at most maxCount with maxBytes of data, and at
// least one if there is one.
func (j *Journal) Retried(
	ctx context.Context, s Stream, after int64, maxCount int, maxBytes int64,
) ([]DeadLetter, error) {
	if s.Kind != Retry {
		return nil, fmt.Errorf("stream %d is a %s and reads no dead letters", s.ID, s.Kind)
	}
	f := s.letters()
	f.AfterID, f.Limit, f.MaxBytes = after, maxCount, maxBytes
	return j.DeadLetters(ctx, f)
}
