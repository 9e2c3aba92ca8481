package journal

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"modernc.org/sqlite"

	"github.com/fnbridge/fnbridge/bridge"
)

// packedLetters brings the schema to letters whose events are packed. Letters that are there stay as they are, with an
// empty event, since there may be many. letter_events has the base of each webhook that has letters, and loses it with
// the last of them. What all of it takes, about, is in settings, as letter_bytes: 200 bytes for a row, the event, and
// twice the data where the event is not packed, since it is told how long a blob is without reading it.
const packedLetters = `
ALTER TABLE dead_letters ADD COLUMN event BLOB NOT NULL DEFAULT x'';
ALTER TABLE dead_letters ADD COLUMN data_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN bytes INTEGER GENERATED ALWAYS AS
	(200 + length(event) + 2 * length(data)) VIRTUAL;
CREATE INDEX dead_letters_by_webhook ON dead_letters (webhook_seq) WHERE event <> x'';
CREATE TABLE letter_events (
	webhook_seq INTEGER PRIMARY KEY,
	event BLOB NOT NULL
) STRICT;
INSERT INTO settings (name, value) SELECT 'letter_bytes', coalesce(sum(bytes), 0) FROM dead_letters;
CREATE TRIGGER dead_letter_added AFTER INSERT ON dead_letters BEGIN
	UPDATE settings SET value = value + new.bytes WHERE name = 'letter_bytes';
END;
CREATE TRIGGER dead_letter_removed AFTER DELETE ON dead_letters BEGIN
	UPDATE settings SET value = value - old.bytes WHERE name = 'letter_bytes';
	DELETE FROM letter_events WHERE webhook_seq = old.webhook_seq AND NOT EXISTS
		(SELECT 1 FROM dead_letters WHERE webhook_seq = old.webhook_seq AND event <> x'');
END;
CREATE TRIGGER letter_event_added AFTER INSERT ON letter_events BEGIN
	UPDATE settings SET value = value + length(new.event) WHERE name = 'letter_bytes';
END;
CREATE TRIGGER letter_event_removed AFTER DELETE ON letter_events BEGIN
	UPDATE settings SET value = value - length(old.event) WHERE name = 'letter_bytes';
END;
`

// packedColumns returns the expressions for a letter's packed event and for its base, each empty where it has none.
func packedColumns(version int) (packed, base string) {
	if version < 5 {
		return "x''", "x''"
	}
	return "event", `coalesce((SELECT base.event FROM letter_events AS base
		WHERE base.webhook_seq = dead_letters.webhook_seq), x'')`
}

// sizeColumns returns the expressions for how much data a letter's event has, and for what the letter takes.
func sizeColumns(version int) (data, stored string) {
	if version < 5 {
		return "length(data)", "length(data)"
	}
	return "length(data) + data_bytes", "bytes"
}

// matchesEvent returns the condition that a letter's event is one that a filter selects, which is an SQL expression.
func matchesEvent(version int, filter string) string {
	if version < 5 {
		return fmt.Sprintf("%s(%s, event_type, workflow, route)", eventMatches, filter)
	}
	packed, base := packedColumns(version)
	return fmt.Sprintf("%s(%s, event_type, workflow, route, %s, %s)", packedMatches, filter, packed, base)
}

const insertLetter = `INSERT INTO dead_letters
	(sink, webhook_seq, event_index, replay, reason, attempts, first_at, last_at, event, data_bytes,
	webhook_id, event_id, event_type, event_source, event_subject, event_time, partition_key,
	workflow, function, status, invocation, project, route, data)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', '', '', '', '', '', '', '', '', '', '', '[]', x'')`

func letterValues(l *DeadLetter, packed []byte) []any {
	return []any{
		l.Sink, l.WebhookSeq, l.Event.Origin.Index, l.Event.Origin.Replay, l.Reason, l.Attempts,
		toNanos(l.FirstAt), toNanos(l.LastAt), packed, len(l.Event.Data),
	}
}

// base returns what the letters of a webhook have in common, and makes it of the event of l if l is the first.
func (s *store) base(ctx context.Context, l *DeadLetter) (base bridge.Event, err error) {
	var packed []byte
	err = s.findBase.QueryRowContext(ctx, l.WebhookSeq).Scan(&packed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err := s.insertBase.ExecContext(ctx, l.WebhookSeq, packEvent(&l.Event, &bridge.Event{}))
		return l.Event, err
	case err != nil:
		return bridge.Event{}, err
	default:
		return unpackEvent(packed, &bridge.Event{})
	}
}

// letterCost is about what storing letters takes, if their webhooks have none yet.
func letterCost(letters []DeadLetter) (n int64) {
	bases := make(map[int64]*bridge.Event)
	for i := range letters {
		l := &letters[i]
		base := bases[l.WebhookSeq]
		if base == nil {
			base = &bridge.Event{}
			bases[l.WebhookSeq] = &l.Event
		}
		n += int64(200 + len(l.Reason) + len(packEvent(&l.Event, base)))
	}
	return n
}

// letterBytes is what dead letters take.
func (s *store) letterBytes(ctx context.Context) (n int64, err error) {
	err = s.letterSum.QueryRowContext(ctx).Scan(&n)
	return n, err
}

// These are the names of SQL functions that apply a bridge.Filter, as JSON, to the event of a letter: to its type,
// application and route, and to the same or, where the event is packed, to that and its base.
const (
	eventMatches  = "event_matches"
	packedMatches = "packed_matches"
)

// registerFunctions makes them known to the connections that are opened from then on.
//
//nolint:gochecknoglobals // the driver keeps its functions in a global, too
var registerFunctions = sync.OnceValue(func() error {
	return errors.Join(
		sqlite.RegisterDeterministicScalarFunction(eventMatches, 4, matchEvent),
		sqlite.RegisterDeterministicScalarFunction(packedMatches, 6, matchEvent))
})

func matchEvent(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
	var texts [4]string
	for i, arg := range args[:4] {
		text, ok := arg.(string)
		if !ok {
			return nil, fmt.Errorf("%s takes texts", eventMatches)
		}
		texts[i] = text
	}
	var f bridge.Filter
	if err := json.Unmarshal([]byte(texts[0]), &f); err != nil {
		return nil, err
	}
	if len(args) > 4 {
		packed, _ := args[4].([]byte)
		base, _ := args[5].([]byte)
		if len(packed) > 0 {
			shared, err := unpackEvent(base, &bridge.Event{})
			if err != nil {
				return nil, err
			}
			e, err := unpackEvent(packed, &shared)
			return f.Match(&e), err
		}
	}
	e := bridge.Event{Type: texts[1], About: bridge.About{Application: texts[2]}}
	err := json.Unmarshal([]byte(texts[3]), &e.Route)
	return f.Match(&e), err
}
