package tensorlake

import (
	"iter"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
)

const projectSource = "/tensorlake/projects/"

func envelopeKeys() []key { return []key{keyEventID, keyEventType, keyData} }

// envelope is the payload {"event_id", "event_type", "event_version", "occurred_at", "project_id", "source_id",
// "source_revision", "source_ordinal", "data"}.
type envelope struct {
	id, eventType, project, source string
	// occurredAt is JSON as it stands in the payload.
	occurredAt []byte
	body       []byte
}

// readEnvelope wants the fields that attributes are made of to be strings: event_id, event_type, project_id,
// source_id and occurred_at. event_version, source_revision and source_ordinal become no attribute, so they may be
// absent or null; otherwise event_version is a string or a number, source_revision a string of digits, and
// source_ordinal an integer or a string of digits. data can be anything.
func readEnvelope(f *fields, body []byte) (content, string) {
	var problem string
	r := fieldReader{fields: f, problem: &problem}
	var (
		eventID    = r.required(keyEventID, '"')
		eventType  = r.required(keyEventType, '"')
		project    = r.required(keyProjectID, '"')
		source     = r.required(keySourceID, '"')
		occurredAt = r.required(keyOccurredAt, '"')
	)
	r.value(keyData) // for appearing twice
	r.checkVersion()
	r.checkRevision()
	r.checkOrdinal()
	if problem != "" {
		return nil, problem
	}
	e := envelope{
		id:         r.attribute(keyEventID, eventID),
		eventType:  r.attribute(keyEventType, eventType),
		project:    unquote(project),
		source:     unquote(source),
		occurredAt: occurredAt,
		body:       body,
	}
	if problem != "" {
		return nil, problem
	}
	return e, ""
}

// attribute reads a string that becomes an attribute unchanged, which is why it must be one that CloudEvents allows
// and that no reader trims: two ids must never become one.
func (r *fieldReader) attribute(k key, literal []byte) string {
	text := unquote(literal)
	switch {
	case text == "":
		r.fail("%s is empty", k)
	case strings.TrimSpace(text) != text:
		r.fail("%s %s begins or ends with white space", k, quote(text))
	case !legalAttribute(text), identity(literal, text) != text:
		r.fail("%s %s holds a character that no CloudEvents attribute can hold", k, quote(text))
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

func (r *fieldReader) checkRevision() {
	value := r.optional(keySourceRevision, '"')
	if value != nil && *r.problem == "" && !isInteger(unquote(value)) {
		r.fail("%s is not a decimal number", keySourceRevision)
	}
}

func (r *fieldReader) checkOrdinal() {
	value := r.value(keySourceOrdinal)
	switch {
	case value == nil, value[0] == 'n':
	case value[0] == '"':
		if !isInteger(unquote(value)) {
			r.fail("%s is not a decimal number", keySourceOrdinal)
		}
	case !isNumber(value):
		r.fail("%s is %s, not a number", keySourceOrdinal, kindOf(value))
	case !isInteger(string(value)):
		r.fail("%s is not an integer", keySourceOrdinal)
	}
}

func isNumber(value []byte) bool { return value[0] == '-' || '0' <= value[0] && value[0] <= '9' }

// isInteger reports whether s is an optional minus and digits. They are not read: a number may have a million.
func isInteger(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

func (envelope) len(Options) int { return 1 }

func (p envelope) events(w bridge.Webhook, _ Options) iter.Seq[bridge.Event] {
	return func(yield func(bridge.Event) bool) {
		e := newEvent(w, p.source)
		e.ID = p.id
		e.Type = p.eventType
		e.Source = projectSource + escapePart(p.project)
		e.Subject = escapePart(p.source)
		e.Time = firstTime(w, p.occurredAt)
		e.Data = p.body
		e.Route = routeOfType(e.Type)
		e.Project = p.project
		yield(e)
	}
}
