package tensorlake

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

// What the types of the known kinds of envelopes begin with.
const (
	requestTypePrefix     = typePrefix + "application.request."
	applicationTypePrefix = typePrefix + "application."
	sandboxTypePrefix     = typePrefix + "sandbox."
)

// The first parts of routes that have a meaning here. No family of events may take one of them by its type alone.
const (
	routeOfWorkflow     = "workflow"
	routeOfApplication  = "application"
	routeOfSandbox      = "sandbox"
	routeOfUnrecognized = "unrecognized"
	routeOfOther        = "other"
)

// about is what an envelope's event is about, from the names and words in its data.
type about struct {
	bridge.About

	key, subject string // empty: the envelope's source is all that is known
}

// readAbout tells what an envelope is about by its type, and reads the names from its data. What lacks the names of its
// kind, or is of no kind, goes under other, and the second result says why. The problem is a key that appears twice on
// the way to a name: readers of the data may disagree on what it says.
func readAbout(eventType string, data []byte) (a about, other, problem string) {
	d := names{path: "data", object: data}
	var lacks string
	switch {
	case strings.HasPrefix(eventType, requestTypePrefix):
		lacks = a.readRequest(&d, strings.TrimPrefix(eventType, requestTypePrefix))
	case strings.HasPrefix(eventType, applicationTypePrefix):
		lacks = a.readApplication(&d, strings.TrimPrefix(eventType, applicationTypePrefix))
	case strings.HasPrefix(eventType, sandboxTypePrefix):
		lacks = a.readSandbox(&d, strings.TrimPrefix(eventType, sandboxTypePrefix))
	case isFamily(eventType):
		a.Route = routeOfType(eventType)
		return a, "", ""
	default:
		lacks = "an event_type of a family that it could belong to"
	}
	if d.problem != "" {
		return about{}, "", d.problem
	}
	if lacks != "" {
		route := append([]string{routeOfOther}, routeOfType(eventType)...)
		return about{About: bridge.About{Route: route}},
			fmt.Sprintf("an envelope of the type %s lacks %s", excerpt.Quote(eventType), lacks), ""
	}
	return a, "", ""
}

// isFamily tells whether a type that is of no known kind begins with tensorlake and a word that has no meaning here.
func isFamily(eventType string) bool {
	rest, ok := strings.CutPrefix(eventType, typePrefix)
	word, _, _ := strings.Cut(rest, ".")
	return ok && IsFamily(word)
}

// IsFamily tells whether a word can be the first part of the route of events of a kind that fnbridge does not know.
func IsFamily(word string) bool {
	switch word {
	case "", routeOfWorkflow, routeOfApplication, routeOfSandbox, routeOfUnrecognized, routeOfOther:
		return false
	}
	return strings.IndexFunc(word, func(r rune) bool { return !statusRune(r) && (r < 'A' || 'Z' < r) }) < 0
}

func (a *about) readRequest(data *names, rest string) (lacks string) {
	both := data.read("application", "request")
	application := data.in("application", both[0]).read("name", "version")
	request := data.in("request", both[1]).read("id", "status", "failure_reason")
	a.Application, a.Version = text(application[0]), text(application[1])
	a.Request, a.Status, a.Reason = text(request[0]), word(request[1]), text(request[2])
	a.Outcome = outcomeOf(a.Status)
	if a.Application == "" {
		return "data.application.name"
	}
	if a.Request == "" {
		return "data.request.id"
	}
	a.key, a.subject = a.Request, escapePart(a.Application)+"/"+escapePart(a.Request)
	a.Route = append([]string{routeOfApplication, a.Application, "request"}, strings.Split(rest, ".")...)
	return ""
}

func (a *about) readApplication(data *names, rest string) (lacks string) {
	object := data.read("application")
	application := data.in("application", object[0]).read("name", "version", "state", "disabled_reason")
	a.Application, a.Version = text(application[0]), text(application[1])
	a.Status, a.Reason = word(application[2]), text(application[3])
	if a.Application == "" {
		return "data.application.name"
	}
	a.key, a.subject = a.Application, escapePart(a.Application)
	a.Route = append([]string{routeOfApplication, a.Application}, strings.Split(rest, ".")...)
	return ""
}

func (a *about) readSandbox(data *names, rest string) (lacks string) {
	object := data.read("sandbox")
	sandbox := data.in("sandbox", object[0]).read("id", "name", "status", "outcome", "outcome_reason")
	a.Sandbox, a.SandboxName = text(sandbox[0]), text(sandbox[1])
	a.Status, a.Outcome, a.Reason = word(sandbox[2]), word(sandbox[3]), text(sandbox[4])
	if a.Sandbox == "" {
		return "data.sandbox.id"
	}
	a.key, a.subject = a.Sandbox, escapePart(a.Sandbox)
	a.Route = append([]string{routeOfSandbox, a.SandboxName}, strings.Split(rest, ".")...)
	return ""
}

// names reads the members of an object in an envelope's data.
type names struct {
	path    string
	object  []byte
	problem string // the first key that appears twice
	parent  *names
}

// in returns the names of an object within.
func (n *names) in(key string, object []byte) *names {
	return &names{path: n.path + "." + key, object: object, parent: n}
}

// maxNames is how many members of one object are read.
const maxNames = 5

// read returns the values of some keys as they stand in the object, nil where there is none, or no object.
func (n *names) read(keys ...string) (values [maxNames][]byte) {
	if len(n.object) == 0 || n.object[0] != '{' {
		return values
	}
	for literal, value := range members(n.object) {
		name := literal[1 : len(literal)-1]
		for i, key := range keys {
			if string(name) != key && !escapedAs(literal, key) {
				continue
			}
			if values[i] != nil {
				n.fail(n.path + "." + key + " appears twice")
			}
			values[i] = value
			break
		}
	}
	return values
}

// escapedAs tells whether a JSON string with escapes in it says key.
func escapedAs(literal []byte, key string) bool {
	return bytes.IndexByte(literal, '\\') >= 0 && unquote(literal) == key
}

func (n *names) fail(problem string) {
	for n.parent != nil {
		n = n.parent
	}
	if n.problem == "" {
		n.problem = problem
	}
}

// text returns the text of a JSON string, and nothing of any other value.
func text(value []byte) string {
	if len(value) == 0 || value[0] != '"' {
		return ""
	}
	return unquote(value)
}

// word returns the text of a JSON string as it may stand in a type, and nothing of any other value.
func word(value []byte) string {
	if status := text(value); status != "" {
		return statusWord(status)
	}
	return ""
}
