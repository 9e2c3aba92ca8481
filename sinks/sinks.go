// Package sinks is the registry of the kinds of sinks. A new kind is a folder beside nats and kafka, and one line here.
package sinks

import (
	"context"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/config/setting"
	"github.com/fnbridge/fnbridge/sinks/kafka"
	"github.com/fnbridge/fnbridge/sinks/nats"
)

// Kinds returns every kind of sink, in the order of the documents. FNBRIDGE_SINKS defaults to the first.
func Kinds() []setting.Kind {
	return []setting.Kind{
		Kind[nats.Settings]("nats", "NATS"),
		Kind[kafka.Settings]("kafka", "Kafka"),
	}
}

// Settings are what a kind of sink declares: its variables, how they are checked, and what is made of them.
type Settings interface {
	setting.Settings
	// New makes the sink. It does not need the broker: an error is one of the settings, or of a file that they name.
	New(o bridge.SinkOptions) (bridge.Sink, error)
	// Address returns where the sink publishes an event, such as a subject or a topic, and the event's key there; empty:
	// it has none.
	Address(e bridge.Event) (address, key string)
	// Tail calls f with every event that the sink's broker has stored, from start on, until ctx ends or f returns an
	// error, which it returns. A broker that is away is waited for, with start.Patience.
	Tail(ctx context.Context, o bridge.SinkOptions, start bridge.TailStart, f func(bridge.Received) error) error
}

// Kind returns the kind whose settings are the struct S. The name is what FNBRIDGE_SINKS calls it, and the title what
// documents do.
func Kind[S any, P interface {
	*S
	Settings
}](name, title string) setting.Kind {
	return setting.Kind{Name: name, Title: title, New: func() setting.Settings { return P(new(S)) }}
}

// Options of one sink. Settings come from one of the kinds, and have been checked.
type Options struct {
	bridge.SinkOptions
	Settings setting.Settings
}

// New makes the sink that o describes.
func New(o Options) (bridge.Sink, error) { return kindOf(o).New(o.SinkOptions) }

// Address returns where the sink that o describes publishes an event, and the event's key there; empty: it has none.
func Address(o Options, e bridge.Event) (address, key string) { return kindOf(o).Address(e) }

// Tail reads the events of the sink that o describes.
func Tail(ctx context.Context, o Options, start bridge.TailStart, f func(bridge.Received) error) error {
	return kindOf(o).Tail(ctx, o.SinkOptions, start, f)
}

// kindOf returns what a kind declared: Kind lets nothing else through.
func kindOf(o Options) Settings { return o.Settings.(Settings) } //nolint:forcetypeassert // see above
