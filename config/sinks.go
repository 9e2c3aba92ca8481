package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/config/setting"
)

// Sinks is the list of sinks.
type Sinks []Sink

// decode reads a comma-separated list of name or name=kind into sinks with a Name and a Kind. With an
// error, it has the entries that are right.
func (s *Sinks) decode(value string, kinds kinds) error {
	entries := setting.List(value)
	if len(entries) == 0 {
		return fmt.Errorf("there is no sink in it: give name or name=kind, several separated by commas; kinds are %s",
			orList(kinds.names()))
	}
	var (
		sinks Sinks
		errs  []error
	)
	for _, entry := range entries {
		sink, err := parseSink(entry, kinds)
		if err == nil && slices.ContainsFunc(sinks, func(other Sink) bool { return other.Name == sink.Name }) {
			err = fmt.Errorf("%s: there are two sinks with the name %s: give each a name of its own, such as %s2=%s",
				setting.Quote(entry), sink.Name, sink.Name, sink.Kind)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sinks = append(sinks, sink)
	}
	errs = append(errs, clashes(sinks, kinds)...)
	*s = sinks
	return errors.Join(errs...)
}

var sinkName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)

// CheckSinkName says what is wrong with a name that a sink is to have.
func CheckSinkName(name string) error {
	if sinkName.MatchString(name) {
		return nil
	}
	return fmt.Errorf("%s is not a name of a sink: give a lower-case letter and then at most 30 of a-z, 0-9 and _, "+
		"such as audit (no dashes: the name is part of variables' names)", setting.Quote(name))
}

func parseSink(entry string, kinds kinds) (Sink, error) {
	name, kind, hasKind := strings.Cut(entry, "=")
	name, kind = strings.TrimSpace(name), strings.ToLower(strings.TrimSpace(kind))
	isKind := kinds.has(name)
	switch {
	case !sinkName.MatchString(name):
		return Sink{}, fmt.Errorf("%s: %w", setting.Quote(entry), CheckSinkName(name))
	case !hasKind && !isKind:
		return Sink{}, fmt.Errorf("%s has no kind: give %s", setting.Quote(entry), orList(prefixed(name+"=", kinds.names())))
	case hasKind && !kinds.has(kind):
		return Sink{}, fmt.Errorf("%s: %s is not a kind of sink: give %s",
			setting.Quote(entry), setting.Quote(kind), orList(prefixed(name+"=", kinds.names())))
	case hasKind && isKind && name != kind:
		return Sink{}, fmt.Errorf("%s: a sink with the name of another kind would mislead: give it another name, such as "+
			"audit=%s", setting.Quote(entry), kind)
	case kinds.reserve(name) != "":
		return Sink{}, fmt.Errorf("%s: the name %s is reserved, because variables such as %s have another meaning: give "+
			"it another name, such as %s_sink",
			setting.Quote(entry), name, kinds.reserve(name), name)
	case !hasKind:
		kind = name
	}
	return Sink{Name: name, Kind: kind}, nil
}

// reserve returns a variable of the bridge itself, or one that Kubernetes sets for a service called
// fnbridge, that a sink of this name could be taken to own. Empty when there is none.
func (k kinds) reserve(sink string) string {
	taken := append(namesOf(prefix, k.bridgeFields()), prefix+"PORT", prefix+"SERVICE_HOST")
	for _, name := range taken {
		if strings.HasPrefix(name+"_", prefixOf(sink)) {
			return name
		}
	}
	return ""
}

// clashes finds two sinks for which one name would be a variable of each: with the Kafka sinks a and a_tls,
// FNBRIDGE_A_TLS_KEY_FILE is the TLS_KEY_FILE of a, and the file of the KEY of a_tls.
func clashes(sinks Sinks, kinds kinds) []error {
	var errs []error
	for i, s := range sinks {
		names := namesOf(prefixOf(s.Name), kinds.sinkFields(s.Kind))
		for _, other := range sinks[:i] {
			others := namesOf(prefixOf(other.Name), kinds.sinkFields(other.Kind))
			if at := slices.IndexFunc(names, func(name string) bool { return slices.Contains(others, name) }); at >= 0 {
				errs = append(errs, fmt.Errorf("the sinks %s and %s would both have a variable %s: rename one",
					other.Name, s.Name, names[at]))
			}
		}
	}
	return errs
}

func prefixed(start string, words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = start + w
	}
	return out
}

// orList writes words as text: a, b or c.
func orList(words []string) string { return list(words, "or") }

func list(words []string, conjunction string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " " + conjunction + " " + words[last]
}
