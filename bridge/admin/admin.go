// Package admin is what commands ask of a bridge. Some of it the data directory answers, beside a running bridge or
// without one; some the running bridge does, through its control socket or its operations listener; some the brokers.
package admin

import (
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/delivery/queue"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks"
)

// Parts of a running bridge that commands reach.
type Parts struct {
	DataDir string
	Journal *journal.Journal // nil with FNBRIDGE_ACK=sinks
	Queue   *queue.Queue     // nil with FNBRIDGE_ACK=journal
	Sinks   []RunningSink
	// Events is how the bridge makes events, and Configured are its sinks as commands know them.
	Events     tensorlake.Options
	Configured []Sink
	Finder     *Finder // nil with FNBRIDGE_ACK=sinks
	// Ready says why webhooks should not be sent here now.
	Ready func() error
	// Warnings are those of the bridge itself; its sinks tell their own.
	Warnings []bridge.Warning
	// Files are those that may change. Nil: none.
	Files  *reload.Files
	Logger *slog.Logger
}

// RunningSink is a sink of a running bridge.
type RunningSink struct {
	Name, Kind string
	Required   bool
	Sink       bridge.Sink
	Dispatcher *delivery.Dispatcher
}

// Sink is a configured sink, for commands that go to its broker themselves.
type Sink struct {
	Name, Kind string
	Options    sinks.Options
	// Format is the wire format's name, and Routes are the patterns of what it gets.
	Format, Routes string
	// Embedded tells whether its broker is the server in the bridge's own process.
	Embedded bool
}

// EventFilter selects events: those to which every field that is set applies. The zero filter selects all.
type EventFilter = bridge.Filter

// Sample is a payload that can be sent by its name.
type Sample = tensorlake.Sample

// Samples returns the samples that there are. The first is the one to send when none is named.
func Samples() []Sample { return tensorlake.Samples() }

// optional is how JSON shows a time that may not be there.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
