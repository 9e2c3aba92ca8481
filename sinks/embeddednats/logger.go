package embeddednats

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// logger writes the server's lines to slog. A server says a lot that is of no use to whoever runs a bridge, so what it
// calls a notice is for debugging here.
type logger struct {
	log *slog.Logger
	// fatal gets the first line after which a server of its own would have exited.
	fatal chan string
	// stuck gets a word when a stream, or all of JetStream, takes nothing more because of an error of the disk.
	stuck chan struct{}
	// full gets a word when all streams together have stored what they may.
	full chan struct{}
}

func newLogger(log *slog.Logger) *logger {
	return &logger{
		log: log.With("component", "nats-server"), fatal: make(chan string, 1), stuck: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
}

// stuckLines are parts of what the server says when it is stuck, and fullLine of what it says when it is full. There is no
// other way to learn of it.
var stuckLines = []string{"critical write error", "jetstream out of", "disabling jetstream"} //nolint:gochecknoglobals // a constant

const fullLine = "jetstream file resource limits exceeded for server"

func (l *logger) line(format string, args ...any) slog.Attr {
	return slog.String("line", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, args ...any) {
	l.log.Debug("the embedded NATS server says", l.line(format, args...))
}

// Warnf implements server.Logger.
func (l *logger) Warnf(format string, args ...any) {
	line := l.line(format, args...)
	l.noteTrouble(line.Value.String())
	l.log.Warn("the embedded NATS server warns", line)
}

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, args ...any) {
	line := l.line(format, args...)
	l.noteTrouble(line.Value.String())
	l.log.Error("the embedded NATS server reports an error", line)
}

func (l *logger) noteTrouble(line string) {
	line = strings.ToLower(line)
	if strings.Contains(line, fullLine) {
		tell(l.full)
	}
	if slices.ContainsFunc(stuckLines, func(part string) bool { return strings.Contains(line, part) }) {
		tell(l.stuck)
	}
}

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is known
	}
}

// Fatalf implements server.Logger. It returns, although the server expects the process to end: Start reports it.
func (l *logger) Fatalf(format string, args ...any) {
	line := l.line(format, args...)
	l.log.Error("the embedded NATS server cannot go on", line)
	select {
	case l.fatal <- line.Value.String():
	default:
	}
}

// Debugf implements server.Logger.
func (l *logger) Debugf(format string, args ...any) {
	l.log.Debug("the embedded NATS server debugs", l.line(format, args...))
}

// Tracef implements server.Logger.
func (l *logger) Tracef(format string, args ...any) {
	l.log.Debug("the embedded NATS server traces", l.line(format, args...))
}
