// Package setting is what package config and those who declare settings know of each other: what a kind of sink is, how
// its settings are checked, and the types of values that Go has none for.
package setting

// Kind is a kind of sink.
type Kind struct {
	// Name is what FNBRIDGE_SINKS calls it. Title is its name in headings.
	Name, Title string
	// New returns settings to be filled.
	New func() Settings
}

// Settings are the settings of one sink: a pointer to a struct. Each field with an envconfig tag is a variable. Package
// config says which tags there are.
type Settings interface {
	// Check reports what is wrong with the settings of sink beside each other, and beside those of the sinks that stand
	// before it in the list, which may be of other kinds. What a value cannot be by itself, its Decode has refused.
	Check(sink *Sink, earlier []*Sink)
}

// Embeddable are Settings of a kind whose server can run within the bridge.
type Embeddable interface {
	Settings
	// Embedded tells whether the sink uses the embedded server.
	Embedded(sink Scope) bool
	// StreamBytes returns how much the sink's stream is to keep at most, in bytes; 0: that is not said.
	StreamBytes() int64
}

// Sink is one sink while its settings are checked. Its Scope has its own variables.
type Sink struct {
	Scope
	Name     string
	Settings Settings
	// DeadLetter is where dead letters are published to, and empty for nowhere. Every sink has the variable, and only
	// its kind can check it.
	DeadLetter string
	// Embedded tells whether the sink uses the embedded server.
	Embedded bool
	// Bridge has the variables of the bridge itself. MaxBody is the largest webhook that the bridge takes.
	Bridge  Scope
	MaxBody Bytes
}

// Scope has the variables of one sink, or of the bridge. A variable goes by the name in its envconfig tag.
type Scope interface {
	// Variable returns the full name: FNBRIDGE_AUDIT_URL for the URL of the sink audit.
	Variable(name string) string
	// Given tells whether the variable was given, right or wrong.
	Given(name string) bool
	// As is Variable, with _FILE after it if the variable was given as a file.
	As(name string) string
	// Bad tells whether the variable has a problem already, which another one would only repeat.
	Bad(name string) bool
	// Both demands that of two variables none or both are given.
	Both(first, second string)
	// Problem reports what is wrong with a variable, and what to give instead. The bridge does not start.
	Problem(name, format string, args ...any)
	// Warn reports what the bridge can run with, and what is probably not meant.
	Warn(name, format string, args ...any)
}
