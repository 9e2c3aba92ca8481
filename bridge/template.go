package bridge

import (
	"fmt"
	"slices"
	"strings"
)

// placeholders are the names that a Template knows.
//
//nolint:gochecknoglobals // a constant list; Go has no constant slices.
var placeholders = []string{
	"route", "type", "project", "source_id", "partitionkey", "application", "workflow", "request", "invocation",
	"function", "version", "sandbox", "sandbox_name", "status", "outcome", "reason",
}

// Placeholders returns the names that a Template knows, in the order in which documents list them.
func Placeholders() []string { return slices.Clone(placeholders) }

// Template makes an address or a key out of an event: text with placeholders such as {workflow}.
// The zero Template expands to the empty string. A Template is safe for concurrent use.
type Template struct {
	text  string
	parts []templatePart
}

// templatePart is either literal text or, with placeholder set, the value of that name.
type templatePart struct {
	literal     string
	placeholder string
}

// ParseTemplate reads a template. The error names the placeholder that is unknown, or the brace that has no partner.
func ParseTemplate(text string) (Template, error) {
	t := Template{text: text}
	rest := text
	for rest != "" {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			t.parts = append(t.parts, templatePart{literal: rest})
			break
		}
		if rest[open] == '}' {
			return Template{}, fmt.Errorf("%q has a } without a { before it", text)
		}
		if open > 0 {
			t.parts = append(t.parts, templatePart{literal: rest[:open]})
		}
		end := strings.IndexByte(rest, '}')
		if end < open {
			return Template{}, fmt.Errorf("%q has a { without a } after it", text)
		}
		name := rest[open+1 : end]
		if !slices.Contains(placeholders, name) {
			return Template{}, fmt.Errorf("%q has the unknown placeholder %q; known are {%s}",
				text, name, strings.Join(placeholders, "}, {"))
		}
		t.parts = append(t.parts, templatePart{placeholder: name})
		rest = rest[end+1:]
	}
	return t, nil
}

// String returns the template as it was written.
func (t Template) String() string { return t.text }

// Expand returns the template with e's values. Each value goes through escape first, which may be nil;
// the parts of {route} go through it one by one and are then joined with dots.
func (t Template) Expand(e Event, escape func(string) string) string {
	if escape == nil {
		if len(t.parts) == 1 && t.parts[0].placeholder == "partitionkey" { // nearly every key of a record
			return e.PartitionKey
		}
		escape = func(s string) string { return s }
	}
	var b strings.Builder
	for _, p := range t.parts {
		switch p.placeholder {
		case "":
			b.WriteString(p.literal)
		case "route":
			for i, part := range e.Route {
				if i > 0 {
					b.WriteByte('.')
				}
				b.WriteString(escape(part))
			}
		default:
			b.WriteString(escape(e.value(p.placeholder)))
		}
	}
	return b.String()
}

// value returns what stands for a placeholder other than {route}. Each of two generations of Tensorlake has its words:
// a workflow is an application, and an invocation a request.
func (e *Event) value(placeholder string) string {
	switch placeholder {
	case "type":
		return e.Type
	case "project":
		return e.Project
	case "source_id":
		return e.SourceID
	case "partitionkey":
		return e.PartitionKey
	case "application", "workflow":
		return e.Application
	case "request", "invocation":
		return e.Request
	case "function":
		return e.Function
	case "version":
		return e.Version
	case "sandbox":
		return e.Sandbox
	case "sandbox_name":
		return e.SandboxName
	case "status":
		return e.Status
	case "outcome":
		return e.Outcome
	case "reason":
		return e.Reason
	default:
		return ""
	}
}
