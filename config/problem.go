package config

import (
	"reflect"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Variable string // full name, such as FNBRIDGE_NATS_MAX_AGE
	Message  string // what is wrong, and what is allowed; never the value of a secret
}

// Error returns the problem as one line.
func (p Problem) Error() string { return p.Variable + ": " + p.Message }

// Errors is everything that is wrong with a configuration. Callers add what they find themselves.
type Errors []Problem

// Error returns one line for each problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// For returns those that concern what uses these variables of the bridge itself, and of each sink those in sinks, or
// with nil all of them and whatever else decides where events go. Names are as Config.Variable takes them.
func (e Errors) For(c *Config, bridge, sinks []string) Errors {
	own := namesOf(prefix, fieldsOf(reflect.TypeFor[Config]()))
	among := func(names []string, start, variable string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return variable == start+name || variable == start+name+fileSuffix
		})
	}
	var some Errors
	for _, p := range e {
		concerns := sinks == nil || slices.ContainsFunc(c.Sinks, func(s Sink) bool {
			return among(sinks, prefixOf(s.Name), p.Variable)
		})
		if slices.Contains(own, p.Variable) {
			concerns = among(bridge, prefix, p.Variable)
		}
		if concerns {
			some = append(some, p)
		}
	}
	return some
}

// Err returns e as an error, nil when there is no problem.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// Warning is something that the bridge can run with, and that is probably not meant.
type Warning struct {
	Variable string
	Message  string
}

// String returns the warning as one line.
func (w Warning) String() string { return w.Variable + ": " + w.Message }
