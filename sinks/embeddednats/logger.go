package embeddednats

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge/loglimit"
)

// logger writes the server's lines to slog. A server says a lot that is of no use to whoever runs a bridge, so what it
// calls a notice is for debugging here.
type logger struct {
	log *slog.Logger
	// limited is log for what anybody can cause by connecting.
	limited *slog.Logger
	// fatal gets the first line after which a server of its own would have exited.
	fatal chan string
}

func newLogger(log *slog.Logger) *logger {
	log = log.With("component", "nats-server")
	return &logger{
		log: log, limited: loglimit.New(log, time.Now), fatal: make(chan string, 1),
	}
}

func (l *logger) line(format string, args ...any) slog.Attr {
	return slog.String("line", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, args ...any) {
	l.log.Debug("the embedded NATS server says", l.line(format, args...))
}

// Warnf implements server.Logger.
func (l *logger) Warnf(format string, args ...any) {
	l.limited.Warn("the embedded NATS server warns", l.line(format, args...))
}

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, args ...any) {
	l.limited.Error("the embedded NATS server reports an error", l.line(format, args...))
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
