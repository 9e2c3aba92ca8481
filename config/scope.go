package config

import (
	"fmt"
	"slices"
)

// scope is a setting.Scope: the variables of one sink, or those of the bridge.
type scope struct {
	loader *loader
	prefix string
}

// scope returns the variables of a sink. An empty name means the bridge itself.
func (l *loader) scope(sink string) scope { return scope{l, prefixOf(sink)} }

func (s scope) Variable(name string) string { return s.prefix + name }

func (s scope) Given(name string) bool {
	_, ok := s.loader.config.given[s.prefix+name]
	return ok
}

func (s scope) As(name string) string { return s.loader.config.as(s.prefix + name) }

func (s scope) Bad(name string) bool {
	name = s.prefix + name
	return slices.ContainsFunc(s.loader.errs, func(p Problem) bool {
		return p.Variable == name || p.Variable == name+fileSuffix
	})
}

func (s scope) Both(first, second string) {
	for range 2 {
		if s.Given(first) && !s.Given(second) {
			s.Problem(second, "is not set, and %s is: give both or none", s.As(first))
		}
		first, second = second, first
	}
}

func (s scope) Problem(name, format string, args ...any) {
	s.loader.problem(s.As(name), format, args...)
}

func (s scope) Warn(name, format string, args ...any) {
	s.loader.warnings = append(s.loader.warnings, Warning{Variable: s.As(name), Message: fmt.Sprintf(format, args...)})
}
