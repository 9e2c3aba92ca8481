package config

import "strings"

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
