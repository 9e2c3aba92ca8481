package journal

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/fnbridge/fnbridge/bridge"
)

// letterColumn is a column of dead_letters that is written once, with the letter.
type letterColumn struct {
	name string
	// field is where a letter has the value, for reading and for writing.
	field func(l *DeadLetter) any
}

// letterColumns returns the columns that a version of the schema has. Some keep the names that they had when Tensorlake
// knew workflows alone, since a command may be reading while the journal is brought to a new version.
func letterColumns(version int) []letterColumn {
	columns := []letterColumn{
		{"sink", func(l *DeadLetter) any { return &l.Sink }},
		{"webhook_seq", func(l *DeadLetter) any { return &l.WebhookSeq }},
		{"event_index", func(l *DeadLetter) any { return &l.Event.Origin.Index }},
		{"webhook_id", func(l *DeadLetter) any { return &l.Event.WebhookID }},
		{"event_id", func(l *DeadLetter) any { return &l.Event.ID }},
		{"event_type", func(l *DeadLetter) any { return &l.Event.Type }},
		{"event_source", func(l *DeadLetter) any { return &l.Event.Source }},
		{"event_subject", func(l *DeadLetter) any { return &l.Event.Subject }},
		{"event_time", func(l *DeadLetter) any { return textTime{&l.Event.Time} }},
		{"partition_key", func(l *DeadLetter) any { return &l.Event.PartitionKey }},
		{"workflow", func(l *DeadLetter) any { return &l.Event.Application }},
		{"function", func(l *DeadLetter) any { return &l.Event.Function }},
		{"status", func(l *DeadLetter) any { return &l.Event.Status }},
		{"invocation", func(l *DeadLetter) any { return &l.Event.Request }},
		{"project", func(l *DeadLetter) any { return &l.Event.Project }},
		{"route", func(l *DeadLetter) any { return jsonList{&l.Event.Route} }},
		{"reason", func(l *DeadLetter) any { return &l.Reason }},
		{"attempts", func(l *DeadLetter) any { return &l.Attempts }},
		{"first_at", func(l *DeadLetter) any { return nanoTime{&l.FirstAt} }},
		{"last_at", func(l *DeadLetter) any { return nanoTime{&l.LastAt} }},
		{"data", func(l *DeadLetter) any { return blob{&l.Event.Data} }},
	}
	if version < 3 {
		return columns
	}
	return append(columns, []letterColumn{
		{"version", func(l *DeadLetter) any { return &l.Event.Version }},
		{"sandbox", func(l *DeadLetter) any { return &l.Event.Sandbox }},
		{"sandbox_name", func(l *DeadLetter) any { return &l.Event.SandboxName }},
		{"outcome", func(l *DeadLetter) any { return &l.Event.Outcome }},
		{"event_reason", func(l *DeadLetter) any { return &l.Event.Reason }},
		{"source_id", func(l *DeadLetter) any { return &l.Event.SourceID }},
		{"sequence", func(l *DeadLetter) any { return &l.Event.Sequence }},
		{"webhook_digest", func(l *DeadLetter) any { return digest{&l.Event.Origin.Webhook} }},
		{"replay", func(l *DeadLetter) any { return &l.Event.Origin.Replay }},
	}...)
}

func columnNames(columns []letterColumn) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return names
}

// insertLetter is the statement that letterValues are for.
func insertLetter() string {
	names := columnNames(letterColumns(schemaVersion))
	return fmt.Sprintf("INSERT INTO dead_letters (%s) VALUES (%s)",
		strings.Join(names, ", "), strings.Join(slices.Repeat([]string{"?"}, len(names)), ", "))
}

func letterValues(l *DeadLetter) []any {
	columns := letterColumns(schemaVersion)
	values := make([]any, len(columns))
	for i, c := range columns {
		values[i] = c.field(l)
	}
	return values
}

// selectLetters begins a statement whose rows scanLetter reads.
func selectLetters(version int) string {
	names := append([]string{"id"}, columnNames(letterColumns(version))...)
	retry, published := marks(version)
	return "SELECT " + strings.Join(append(names, retry, published), ", ") + " FROM dead_letters"
}

// marks returns the expressions for when somebody asked for another try of a letter that has not been made, and for
// when it was published to its sink's dead-letter address. 0: not.
func marks(version int) (retry, published string) {
	switch {
	case version < 2:
		return "0", "0"
	case version < 4:
		return "retry_at", "published_at"
	default:
		return `coalesce((SELECT max(asked_at) FROM streams
			WHERE kind = 'retry' AND ended_at = 0 AND streams.sink = dead_letters.sink
			AND dead_letters.id > cursor AND dead_letters.id <= through
			AND dead_letters.last_at >= since AND dead_letters.last_at < until AND dead_letters.last_at <= asked_at
			AND (ids = '' OR (streams.id, dead_letters.id) IN (SELECT some.id, value FROM streams AS some, json_each(some.ids)
				WHERE some.ended_at = 0 AND some.ids <> ''))
			AND ` + eventMatches + `(events, event_type, workflow, route)), 0)`, "published_at"
	}
}

func scanLetter(version int, row interface{ Scan(into ...any) error }) (l DeadLetter, err error) {
	into := []any{&l.ID}
	for _, c := range letterColumns(version) {
		into = append(into, c.field(&l))
	}
	if err := row.Scan(append(into, nanoTime{&l.RetryAt}, nanoTime{&l.PublishedAt})...); err != nil {
		return DeadLetter{}, err
	}
	if l.Event.Origin.Webhook == (bridge.Digest{}) {
		// Of a version that did not keep it. No body of a webhook is this one.
		l.Event.Origin.Webhook = bridge.WebhookDigest(l.Event.WebhookID, fmt.Appendf(nil, "webhook %d", l.WebhookSeq))
	}
	return l, nil
}

// The types below write a field of a letter into a column and read it from there.
type (
	textTime struct{ *time.Time }
	nanoTime struct{ *time.Time }
	jsonList struct{ list *[]string }
	blob     struct{ bytes *[]byte }
	digest   struct{ sum *bridge.Digest }
)

func (t textTime) Value() (driver.Value, error) { return toText(*t.Time), nil }

func (t textTime) Scan(value any) error {
	s, _ := value.(string)
	*t.Time = fromText(s)
	return nil
}

func (t nanoTime) Value() (driver.Value, error) { return toNanos(*t.Time), nil }

func (t nanoTime) Scan(value any) error {
	n, ok := value.(int64)
	if !ok {
		return fmt.Errorf("%v is no time", value)
	}
	*t.Time = fromNanos(n)
	return nil
}

func (l jsonList) Value() (driver.Value, error) {
	text, err := json.Marshal(append([]string{}, *l.list...))
	return string(text), err
}

func (l jsonList) Scan(value any) error {
	s, _ := value.(string)
	return json.Unmarshal([]byte(s), l.list)
}

func (b blob) Value() (driver.Value, error) { return append([]byte{}, *b.bytes...), nil } // nil would be NULL

func (b blob) Scan(value any) error {
	data, _ := value.([]byte)
	*b.bytes = bytes.Clone(data)
	return nil
}

func (d digest) Value() (driver.Value, error) { return d.sum[:], nil }

func (d digest) Scan(value any) error {
	sum, _ := value.([]byte)
	copy(d.sum[:], sum)
	return nil
}

// eventMatches is the name of an SQL function that applies a bridge.Filter, as JSON, to an event's type, application
// and route: event_matches(filter, type, application, route).
const eventMatches = "event_matches"

// registerFunctions makes eventMatches known to the connections that are opened from then on.
//
//nolint:gochecknoglobals // the driver keeps its functions in a global, too
var registerFunctions = sync.OnceValue(func() error {
	matches := func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		var (
			f     bridge.Filter
			e     bridge.Event
			texts [4]string
		)
		for i, arg := range args {
			text, ok := arg.(string)
			if !ok {
				return nil, fmt.Errorf("%s takes texts", eventMatches)
			}
			texts[i] = text
		}
		e.Type, e.Application = texts[1], texts[2]
		if err := errors.Join(json.Unmarshal([]byte(texts[0]), &f), json.Unmarshal([]byte(texts[3]), &e.Route)); err != nil {
			return nil, err
		}
		return f.Match(&e), nil
	}
	return sqlite.RegisterDeterministicScalarFunction(eventMatches, 4, matches)
})
