package tensorlake

import (
	"iter"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

const projectSource = "/tensorlake/projects/"

func envelopeKeys() []key { return []key{keyEventID, keyEventType, keyData} }

// envelope is the payload {"event_id", "event_type", "event_version", "occurred_at", "project_id", "source_id",
// "source_revision", "source_ordinal", "data"}.
type envelope struct {
	id, eventType, project, source string
	sequence                       string
	// occurredAt is JSON as it stands in the payload.
	occurredAt []byte
	body       []byte
	about      about
}

// readEnvelope wants the fields that attributes are made of to be strings: event_id, event_type, project_id,
// source_id and occurred_at. event_version, source_revision and source_ordinal may be absent or null; otherwise
// event_version is a string or a number, source_revision a string of digits, and source_ordinal an integer or a string
// of digits. data can be anything. It also returns why the envelope goes under other, empty where it does not.
func readEnvelope(f *fields, body []byte) (c content, other, problem string) {
	r := fieldReader{fields: f}
	var (
		eventID    = r.required(keyEventID, '"')
		eventType  = r.required(keyEventType, '"')
		project    = r.required(keyProjectID, '"')
		source     = r.required(keySourceID, '"')
		occurredAt = r.required(keyOccurredAt, '"')
		data       = r.value(keyData)
	)
	r.checkVersion()
	revision, ordinal := r.revision(), r.ordinal()
	if r.problem != "" {
		return nil, "", r.problem
	}
	e := envelope{
		id:         r.attribute(keyEventID, eventID),
		eventType:  r.attribute(keyEventType, eventType),
		project:    unquote(project),
		source:     unquote(source),
		sequence:   sequence(revision, ordinal),
		occurredAt: occurredAt,
		body:       body,
	}
	if r.problem != "" {
		return nil, "", r.problem
	}
	e.about, other, problem = readAbout(e.eventType, data)
	return e, other, problem
}

// attribute reads a string that becomes an attribute unchanged, which is why it must be one that CloudEvents allows
// and that no reader trims: two ids must never become one.
func (r *fieldReader) attribute(k key, literal []byte) string {
	text := unquote(literal)
	switch {
	case text == "":
		r.fail("%s is empty", k)
	case strings.TrimSpace(text) != text:
		r.fail("%s %s begins or ends with white space", k, excerpt.Quote(text))
	case !bridge.IsAttributeText(text), identity(literal, text) != text:
		r.fail("%s %s holds a character that no CloudEvents attribute can hold", k, excerpt.Quote(text))
	}
	return text
}

func (r *fieldReader) checkVersion() {
	value := r.value(keyEventVersion)
	if value == nil || value[0] == 'n' || value[0] == '"' || isNumber(value) {
		return
	}
	r.fail("%s is %s, not a string", keyEventVersion, kindOf(value))
}

// revision returns the decimal number that source_revision is, and nothing where there is none.
func (r *fieldReader) revision() string {
	value := r.optional(keySourceRevision, '"')
	if value == nil || r.problem != "" {
		return ""
	}
	number := unquote(value)
	if !isInteger(number) {
		r.fail("%s is not a decimal number", keySourceRevision)
	}
	return number
}

// ordinal returns the decimal number that source_ordinal is, and nothing where there is none.
func (r *fieldReader) ordinal() string {
	value := r.value(keySourceOrdinal)
	switch {
	case value == nil, value[0] == 'n':
		return ""
	case value[0] == '"':
		number := unquote(value)
		if !isInteger(number) {
			r.fail("%s is not a decimal number", keySourceOrdinal)
		}
		return number
	case !isNumber(value):
		r.fail("%s is %s, not a number", keySourceOrdinal, kindOf(value))
	case !isInteger(string(value)):
		r.fail("%s is not an integer", keySourceOrdinal)
	}
	return string(value)
}

func isNumber(value []byte) bool { return value[0] == '-' || '0' <= value[0] && value[0] <= '9' }

// isInteger reports whether s is an optional minus and digits. They are not read: a number may have a million.
func isInteger(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

// How many digits a sequence has of each of its numbers. A revision is one of 64 bits without a sign.
const (
	revisionDigits = 20
	ordinalDigits  = 10
)

// sequence returns a text that orders the events of one source as revision and ordinal do, and nothing where one of
// them is missing or does not fit.
func sequence(revision, ordinal string) string {
	revision, fits := padded(revision, revisionDigits)
	if !fits {
		return ""
	}
	ordinal, fits = padded(ordinal, ordinalDigits)
	if !fits {
		return ""
	}
	return revision + "." + ordinal
}

// padded returns a decimal number with zeros before it, and false if it is none, is negative, or has more digits.
func padded(number string, digits int) (string, bool) {
	if number == "" || number[0] == '-' {
		return "", false
	}
	number = strings.TrimLeft(number, "0")
	if len(number) > digits {
		return "", false
	}
	return strings.Repeat("0", digits-len(number)) + number, true
}

func (envelope) len(Options) int { return 1 }

func (p envelope) events(w bridge.Webhook, _ Options) iter.Seq[bridge.Event] {
	return func(yield func(bridge.Event) bool) {
		key, subject := p.source, escapePart(p.source)
		if p.about.key != "" {
			key, subject = p.about.key, p.about.subject
		}
		e := newEvent(w, key)
		e.ID = p.id
		e.Type = p.eventType
		e.Source = projectSource + escapePart(p.project)
		e.Subject = subject
		e.Time = firstTime(w, p.occurredAt)
		e.Sequence = p.sequence
		e.SourceID = bridge.AttributeText(p.source)
		e.Data = p.body
		e.About = p.about.About
		e.Project = p.project
		yield(e)
	}
}
