// Package sinks knows every kind of sink: what it is called, and how one is made. A new broker is a package beside
// nats and kafka, and one more case here.
package sinks

import (
	"context"
	"fmt"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/kafka"
	"github.com/fnbridge/fnbridge/sinks/nats"
)

// Options of one sink: those of exactly one kind are set.
type Options struct {
	NATS  *nats.Options
	Kafka *kafka.Options
}

// New makes the sink that o describes. It does not need the broker: an error is one of the options.
func New(o Options) (bridge.Sink, error) {
	switch {
	case o.NATS != nil:
		return nats.New(*o.NATS)
	case o.Kafka != nil:
		return kafka.New(*o.Kafka)
	default:
		return nil, fmt.Errorf("sink options name no kind")
	}
}

// Start says from where a Tail reads. The zero Start reads what comes from now on.
type Start struct {
	All   bool      // everything that is stored
	Since time.Time // what was stored from this time on
}

// Tail calls f with every event that the sink's broker has stored, from start on, until ctx ends or f returns an
// error, which it returns. A broker that is away is waited for.
func Tail(ctx context.Context, o Options, start Start, f func(bridge.Received) error) error {
	switch {
	case o.NATS != nil:
		return nats.Tail(ctx, *o.NATS, nats.TailOptions(start), f)
	case o.Kafka != nil:
		return kafka.Tail(ctx, *o.Kafka, kafka.TailOptions(start), f)
	default:
		return fmt.Errorf("sink options name no kind")
	}
}
