package ingest

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// linesPerSecond is how many log lines of one kind strangers can cause in a second. The metrics count everything.
const linesPerSecond = 5

// lineLimit lets a few log lines a second pass, and counts the others. The zero value is ready. It is safe for
// concurrent use.
type lineLimit struct {
	mu         sync.Mutex
	second     time.Time // when the present second began
	lines      int       // that passed in it
	suppressed int       // since the last that passed
}

// pass tells whether a line may be written, and how many were not since the last one.
func (l *lineLimit) pass(now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
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

// suppressedAttr tells of lines that were not written; nothing is added when there were none.
func suppressedAttr(n int) slog.Attr {
	if n == 0 {
		return slog.Attr{} // handlers leave out the zero Attr
	}
	return slog.Int("suppressed", n)
}

// limitedHandler is a slog.Handler for http.Server's own messages: anybody can cause one with each connection.
type limitedHandler struct {
	slog.Handler

	limit *lineLimit
}

// Handle passes record on, unless there were too many.
func (h limitedHandler) Handle(ctx context.Context, record slog.Record) error {
	suppressed, ok := h.limit.pass(record.Time)
	if !ok {
		return nil
	}
	if suppressed > 0 {
		record.AddAttrs(suppressedAttr(suppressed))
	}
	return h.Handler.Handle(ctx, record)
}
