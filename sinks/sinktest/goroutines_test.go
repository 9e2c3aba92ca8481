package sinktest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// leaking starts a goroutine with each call, which ends with the test.
type leaking struct {
	scripted
	end <-chan struct{}
}

func (l *leaking) Publish(ctx context.Context, events []bridge.Event) []error {
	go l.wait()
	return l.scripted.Publish(ctx, events)
}

func (l *leaking) Check(context.Context) error { go l.wait(); return nil }

func (l *leaking) Close(context.Context) error { go l.wait(); return nil }

func (l *leaking) DeadLetterAddress() string { return "" }

func (l *leaking) PublishDeadLetters(context.Context, []bridge.DeadLetter) []error {
	go l.wait()
	return nil
}

func (l *leaking) wait() { <-l.end }

// TestGoroutinesOfASinkAreFound: those that it starts, in whatever call, and nobody else's.
func TestGoroutinesOfASinkAreFound(t *testing.T) {
	end := make(chan struct{})
	newLeaking := func(*testing.T) *leaking { return &leaking{end: end} }
	sink, _ := watch(t, newLeaking)
	for name, call := range map[string]func(w watched, sink *leaking){
		"New":                func(watched, *leaking) {},
		"Publish":            func(w watched, _ *leaking) { w.Publish(t.Context(), nil) },
		"Check":              func(w watched, _ *leaking) { _ = w.Check(t.Context()) },
		"Close":              func(w watched, _ *leaking) { _ = w.Close(t.Context()) },
		"PublishDeadLetters": func(w watched, l *leaking) { watchedForLetters{w, l}.PublishDeadLetters(t.Context(), nil) },
	} {
		w, l := watch(t, func(t *testing.T) *leaking {
			l := newLeaking(t)
			if name == "New" {
				go l.wait()
			}
			return l
		})
		call(w, l)
		require.Eventually(t, func() bool { // until it runs, it has no stack
			found := w.goroutines(t)
			return len(found) == 1 && strings.Contains(found[0], "(*leaking).wait")
		}, slack, time.Millisecond, name)
	}
	require.Empty(t, sink.goroutines(t), "those of others")
	close(end)
	require.Eventually(t, func() bool { return len(sink.goroutines(t)) == 0 }, slack, time.Millisecond)
	sink.requireNoGoroutines(t)
}
