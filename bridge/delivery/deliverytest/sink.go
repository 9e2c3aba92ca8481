// Package deliverytest has a sink and a log for tests of delivery: the faults must hit single events at a chosen time,
// which no real broker can be made to do. Real brokers are under test in the sinks' packages.
package deliverytest

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// Bound is how long a test waits for what comes to an end, on a busy machine.
const Bound = time.Minute

// ScriptedSink stores events in memory and fails as a test tells it to. Its fields may be used within Set, and freely
// while nothing is published.
type ScriptedSink struct {
	mu         sync.Mutex
	Partitions int
	OneBroker  bool                         // that stores all of them; else each has its own
	Key        func(e *bridge.Event) string // by which it keeps events in order; nil: their partition key
	Stored     []bridge.Event
	Published  int // events handed to Publish
	Batches    []int
	Fail       func(e bridge.Event) error
	Hang       func(e bridge.Event) bool // Publish waits until release or its context ends
	Release    chan struct{}
	Unwell     error // what Check says
	changed    chan struct{}
}

// NewScriptedSink returns a sink that takes everything.
func NewScriptedSink() *ScriptedSink {
	return &ScriptedSink{changed: make(chan struct{}), Release: make(chan struct{})}
}

// Name is scripted.
func (s *ScriptedSink) Name() string { return "scripted" }

// Partition follows the number in keys such as k12.
func (s *ScriptedSink) Partition(e bridge.Event) int {
	if s.Partitions == 0 {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimPrefix(e.PartitionKey, "k"))
	return n % s.Partitions
}

// PartitionCount is Partitions, or one.
func (s *ScriptedSink) PartitionCount() int { return max(1, s.Partitions) }

// Leader follows OneBroker.
func (s *ScriptedSink) Leader(partition int) int {
	if s.OneBroker {
		return 0
	}
	return partition
}

// OrderingKey is Key.
func (s *ScriptedSink) OrderingKey() func(*bridge.Event) string { return s.Key }

// Publish stores what Fail lets through, and nothing behind what it does not of the same key.
func (s *ScriptedSink) Publish(ctx context.Context, events []bridge.Event) []error {
	s.mu.Lock()
	s.Published += len(events)
	s.Batches = append(s.Batches, len(events))
	hang := s.Hang != nil && slices.ContainsFunc(events, s.Hang)
	release := s.Release
	s.mu.Unlock()
	errs := make([]error, len(events))
	if hang {
		select {
		case <-release:
		case <-ctx.Done():
			for i := range errs {
				errs[i] = bridge.Retry(ctx.Err())
			}
			return errs
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	behind := map[string]bool{}
	for i, e := range events {
		key := e.PartitionKey
		if s.Key != nil {
			key = s.Key(&e)
		}
		if behind[key] {
			errs[i] = bridge.Retry(errors.New("not sent: an earlier event of the key failed"))
			continue
		}
		if s.Fail != nil {
			errs[i] = s.Fail(e)
		}
		switch {
		case errs[i] == nil:
			s.Stored = append(s.Stored, e)
		case bridge.KindOf(errs[i]) != bridge.FailureReject:
			behind[key] = true
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return errs
}

// Check says what Unwell says.
func (s *ScriptedSink) Check(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Unwell
}

// Close does nothing.
func (s *ScriptedSink) Close(context.Context) error { return nil }

// Set calls f while nothing else touches the sink.
func (s *ScriptedSink) Set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Await waits until what is stored satisfies ok, and returns it.
func (s *ScriptedSink) Await(t *testing.T, ok func(stored []bridge.Event) bool) []bridge.Event {
	t.Helper()
	deadline := time.NewTimer(Bound)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		stored, changed := slices.Clone(s.Stored), s.changed
		s.mu.Unlock()
		if ok(stored) {
			return stored
		}
		select {
		case <-changed:
		case <-deadline.C:
			require.FailNow(t, "what was awaited did not come", "stored: %v", Subjects(stored))
		}
	}
}

// Subjects returns the subjects of events.
func Subjects(events []bridge.Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.Subject
	}
	return out
}

// Records is a slog.Handler that keeps messages and their attributes.
type Records struct {
	mu    sync.Mutex
	lines []string
}

// Enabled is true.
func (r *Records) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs forgets attributes.
func (r *Records) WithAttrs([]slog.Attr) slog.Handler { return r }

// WithGroup forgets groups.
func (r *Records) WithGroup(string) slog.Handler { return r }

// Handle keeps a line.
func (r *Records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := rec.Message
	rec.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	r.lines = append(r.lines, line)
	return nil
}

// Count counts the lines with such a part.
func (r *Records) Count(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, l := range r.lines {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// Firsts returns the subjects of events in the order of their first time.
func Firsts(stored []bridge.Event) []string {
	var first []string
	seen := map[string]bool{}
	for _, e := range stored {
		if !seen[e.Subject] {
			seen[e.Subject] = true
			first = append(first, e.Subject)
		}
	}
	return first
}

// ByKey splits subjects by their keys, in the order given.
func ByKey(subjects []string) map[string][]string {
	out := map[string][]string{}
	for _, s := range subjects {
		key := s[:slices.Index([]byte(s), '/')]
		out[key] = append(out[key], s)
	}
	return out
}
