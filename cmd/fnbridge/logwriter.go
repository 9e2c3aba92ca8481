package main

import (
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// waitingLines bounds the log lines that wait to be written: some seconds of a bridge in trouble.
	waitingLines = 4096
	// flushTime is how long the end of the process waits for lines that nobody takes.
	flushTime = time.Second
)

// logWriter hands lines to a writer that may stand still, as a pipe does whose reader does, or fail, as one does whose
// reader has ended. Neither holds up whoever logs: what does not fit is left out, and counted. It is safe for
// concurrent use.
type logWriter struct {
	lines chan []byte
	ended chan struct{}

	mu      sync.Mutex
	closed  bool
	leftOut int
}

// newLogWriter starts the goroutine that writes to w. It ends with Close.
func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{lines: make(chan []byte, waitingLines), ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		for line := range l.lines {
			_, _ = w.Write(line) // there is no other place to say that it cannot be written
		}
	}()
	return l
}

// Write takes one line. It never waits and never fails.
func (l *logWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return len(line), nil
	}
	select {
	case l.lines <- append([]byte(nil), line...):
	default:
		l.leftOut++
	}
	return len(line), nil
}

// takeLeftOut returns how many lines were left out since the last call, once there is room again.
func (l *logWriter) takeLeftOut() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) > waitingLines/2 {
		return 0
	}
	n := l.leftOut
	l.leftOut = 0
	return n
}

// sayLeftOut logs now and then how many lines were left out, until stop is closed.
func (l *logWriter) sayLeftOut(log *slog.Logger, stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			if n := l.takeLeftOut(); n > 0 {
				log.Warn("log lines were left out, since what reads the log did not take them", "lines", n)
			}
		}
	}
}

// Close waits until what was taken is written, but not long. It returns an error if some is not.
func (l *logWriter) Close() error {
	l.mu.Lock()
	l.closed = true
	close(l.lines)
	l.mu.Unlock()
	timer := time.NewTimer(flushTime)
	defer timer.Stop()
	select {
	case <-l.ended:
		return nil
	case <-timer.C:
		return fmt.Errorf("%d log lines could not be written", len(l.lines))
	}
}

// briefWriter writes to a writer that may stand still, and waits no longer for it than the end of the process does. It
// is for last words: what is written may still be under way when Write returns.
type briefWriter struct{ to io.Writer }

// Write never fails: there is nobody to tell.
func (w briefWriter) Write(text []byte) (int, error) {
	written := make(chan struct{})
	copied := append([]byte(nil), text...)
	go func() {
		defer close(written)
		_, _ = w.to.Write(copied)
	}()
	timer := time.NewTimer(flushTime)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
	}
	return len(text), nil
}
