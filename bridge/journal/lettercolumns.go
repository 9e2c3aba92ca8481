package journal

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// letterColumn is a column of dead_letters that is written once, with the letter.
type letterColumn struct {
	name string
	// field is where a letter has the value.
	field func(l *DeadLetter) any
}

// letterColumns returns the columns that a version of the schema has. From version 5 on the event is packed; those of
// letters that are older stay where they were, so that no migration has to read them all.
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

// selectLetters begins a statement whose rows a letterScanner reads.
func selectLetters(version int) string {
	names := append([]string{"id"}, columnNames(letterColumns(version))...)
	retry, published := marks(version)
	packed, base := packedColumns(version)
	return "SELECT " + strings.Join(append(names, retry, published, packed, base), ", ") + " FROM dead_letters"
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
			AND ` + matchesEvent(version, "events") + `), 0)`, "published_at"
	}
}

// letterScanner reads letters, and has the letters of a webhook share what their events have in common.
type letterScanner struct {
	version int
	seq     int64 // whose base that is
	base    bridge.Event
}

func (s *letterScanner) scan(row interface{ Scan(into ...any) error }) (l DeadLetter, err error) {
	var packed, base sql.RawBytes
	into := []any{&l.ID}
	for _, c := range letterColumns(s.version) {
		into = append(into, c.field(&l))
	}
	if err := row.Scan(append(into, nanoTime{&l.RetryAt}, nanoTime{&l.PublishedAt}, &packed, &base)...); err != nil {
		return DeadLetter{}, err
	}
	if len(packed) > 0 {
		if s.seq != l.WebhookSeq {
			if s.base, err = unpackEvent(base, &bridge.Event{}); err != nil {
				return DeadLetter{}, fmt.Errorf("dead letter %d: %w", l.ID, err)
			}
			s.seq = l.WebhookSeq
		}
		origin := l.Event.Origin
		if l.Event, err = unpackEvent(packed, &s.base); err != nil {
			return DeadLetter{}, fmt.Errorf("dead letter %d: %w", l.ID, err)
		}
		l.Event.Origin.Index, l.Event.Origin.Replay = origin.Index, origin.Replay
	}
	if l.Event.Origin.Webhook == (bridge.Digest{}) {
		// Of a version that did not keep it. No body of a webhook is this one.
		l.Event.Origin.Webhook = bridge.WebhookDigest(l.Event.WebhookID, fmt.Appendf(nil, "webhook %d", l.WebhookSeq))
	}
	return l, nil
}

// The types below read a field of a letter from a column.
type (
	textTime struct{ *time.Time }
	nanoTime struct{ *time.Time }
	jsonList struct{ list *[]string }
	blob     struct{ bytes *[]byte }
	digest   struct{ sum *bridge.Digest }
)

func (t textTime) Scan(value any) error {
	s, _ := value.(string)
	*t.Time = fromText(s)
	return nil
}

func (t nanoTime) Scan(value any) error {
	n, ok := value.(int64)
	if !ok {
		return fmt.Errorf("%v is no time", value)
	}
	*t.Time = fromNanos(n)
	return nil
}

func (l jsonList) Scan(value any) error {
	s, _ := value.(string)
	return json.Unmarshal([]byte(s), l.list)
}

func (b blob) Scan(value any) error {
	data, _ := value.([]byte)
	*b.bytes = bytes.Clone(data)
	return nil
}

func (d digest) Scan(value any) error {
	sum, _ := value.([]byte)
	copy(d.sum[:], sum)
	return nil
}
