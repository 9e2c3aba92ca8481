// Package memory is a kind of sink that exists for tests: it keeps events in this process. All that it takes to be one
// stands in this file, and so it is also the shortest example of a kind.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/config/setting"
)

// Settings are those of a sink that keeps events in memory.
type Settings struct {
	Place    string        `envconfig:"PLACE" required:"any name, such as attic" first:"true" desc:"Place that keeps the events."`
	MaxEvent setting.Bytes `envconfig:"MAX_EVENT" default:"1MiB" min:"1KiB" desc:"Largest event that the place keeps, at least 1KiB."`
}

// Check implements setting.Settings.
func (s *Settings) Check(sink *setting.Sink, earlier []*setting.Sink) {
	for _, other := range earlier {
		if theirs, ok := other.Settings.(*Settings); ok && theirs.Place == s.Place && !sink.Bad("PLACE") {
			sink.Problem("PLACE", "the sink %s keeps its events in %s: give each sink a place of its own",
				other.Name, s.Place)
		}
	}
}

// New implements sinks.Settings.
func (s *Settings) New(o bridge.SinkOptions) (bridge.Sink, error) {
	format, err := cloudevents.ParseFormat(o.Format)
	if err != nil {
		return nil, err
	}
	return &sink{name: o.Name, format: format, limit: int(s.MaxEvent), place: placeOf(s.Place)}, nil
}

// Address implements sinks.Settings.
func (s *Settings) Address(bridge.Event) (address, key string) { return s.Place, "" }

// Tail implements sinks.Settings.
func (s *Settings) Tail(
	ctx context.Context, _ bridge.SinkOptions, start bridge.TailStart, f func(bridge.Received) error,
) error {
	p := placeOf(s.Place)
	next := 0
	if !start.All && start.Since.IsZero() {
		stored, _ := p.from(0)
		next = len(stored)
	}
	for {
		stored, more := p.from(next)
		for _, r := range stored {
			if next++; r.StoredAt.Before(start.Since) && !start.All {
				continue
			}
			if err := f(r); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

// Stored returns what a place keeps.
func Stored(name string) []bridge.Received {
	stored, _ := placeOf(name).from(0)
	return stored
}

type place struct {
	mu     sync.Mutex
	stored []bridge.Received
	more   chan struct{} // closed and replaced when there is more
}

//nolint:gochecknoglobals // the memory that the sinks of one place share, as they would share a broker
var places sync.Map

func placeOf(name string) *place {
	p, _ := places.LoadOrStore(name, &place{more: make(chan struct{})})
	return p.(*place) //nolint:forcetypeassert // nothing else is stored
}

// from returns what is stored from a number on, and what tells of more.
func (p *place) from(next int) (stored []bridge.Received, more <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.stored[next:]), p.more
}

func (p *place) store(e bridge.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stored = append(p.stored, bridge.Received{Address: fmt.Sprint(len(p.stored)), StoredAt: time.Now(), Event: e})
	close(p.more)
	p.more = make(chan struct{})
}

type sink struct {
	name   string
	format cloudevents.Format
	limit  int
	place  *place
	closed atomic.Bool
}

var errClosed = errors.New("the sink is closed")

func (s *sink) Name() string { return s.name }

func (s *sink) Publish(ctx context.Context, events []bridge.Event) []error {
	results := make([]error, len(events))
	for i, e := range events {
		if err := s.refused(ctx); err != nil {
			results[i] = err
			continue
		}
		headers, body, err := s.format.Encode(e, "ce-")
		if err == nil && len(body) > s.limit {
			err = fmt.Errorf("the event has %d bytes, and the place keeps %d", len(body), s.limit)
		}
		if err == nil {
			e, err = cloudevents.Decode(headers, "ce-", body)
		}
		if err != nil {
			results[i] = bridge.Reject(err)
			continue
		}
		s.place.store(e)
	}
	return results
}

func (s *sink) refused(ctx context.Context) error {
	if s.closed.Load() {
		return bridge.Retry(errClosed)
	}
	if err := ctx.Err(); err != nil {
		return bridge.Retry(err)
	}
	return nil
}

func (s *sink) Check(ctx context.Context) error { return s.refused(ctx) }

func (s *sink) Close(context.Context) error {
	s.closed.Store(true)
	return nil
}
