// Package loglimit bounds the log lines that strangers can cause. Metrics count what it leaves out.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// linesPerSecond is how many lines of one kind are written in a second.
const linesPerSecond = 5

// New returns a logger for lines of one kind: it writes five a second to logger, and leaves out the others. The next
// line that it writes says how many those were, as "suppressed". now is the clock. Each call starts a count of its own.
func New(logger *slog.Logger, now func() time.Time) *slog.Logger {
	return slog.New(handler{logger.Handler(), &limit{now: now}})
}

// limit is the count that a logger shares with those made of it by With.
type limit struct {
	now func() time.Time

	mu         sync.Mutex
	second     time.Time // when the present second began
	lines      int       // that passed in it
	suppressed int       // since the last that passed
}

// pass tells whether a line may be written, and how many were not since the last one.
func (l *limit) pass() (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	// A clock that was set back begins a new second too.
	if since := now.Sub(l.second); since >= time.Second || since < 0 {
		l.second, l.lines = now, 0
	}
	if l.lines >= linesPerSecond {
		l.suppressed++
		return 0, false
	}
	l.lines++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

type handler struct {
	slog.Handler

	limit *limit
}

// Handle passes record on, unless there were too many.
func (h handler) Handle(ctx context.Context, record slog.Record) error {
	suppressed, ok := h.limit.pass()
	if !ok {
		return nil
	}
	if suppressed > 0 {
		record.AddAttrs(slog.Int("suppressed", suppressed))
	}
	return h.Handler.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.limit}
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.limit}
}
