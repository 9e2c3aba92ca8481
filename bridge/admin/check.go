package admin

import (
	"context"
	"errors"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks"
)

// SinkCheck is what a check found of one sink.
type SinkCheck struct {
	Sink  string `json:"sink"`
	Kind  string `json:"kind"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Cause is "blocked" if somebody has to mend something, "retry" if it may pass by itself.
	Cause string `json:"cause,omitempty"`
	// Warning says why dead letters could not be published to their own address now. Events can be all the same.
	Warning string `json:"warning,omitempty"`
	// Warnings are about how the broker is set up, where that endangers events that it has acknowledged.
	Warnings []string `json:"warnings,omitempty"`
}

// deadLetterChecker is a sink that can tell whether its dead letters could be published to their own address now, and
// that says yes when it has none.
type deadLetterChecker interface {
	CheckDeadLetters(ctx context.Context) error
}

// warner is a sink that tells, after Check, how its broker's set-up endangers events.
type warner interface {
	Warnings() []string
}

// CheckSink asks a sink's broker whether events could be published now, until ctx ends.
func CheckSink(ctx context.Context, s Sink) SinkCheck {
	r := SinkCheck{Sink: s.Name, Kind: s.Kind}
	sink, err := sinks.New(s.Options)
	if err != nil {
		err = bridge.Blocked(err) // one of the settings, or a file that they name
	} else {
		err = sink.Check(ctx)
		if letters, ok := sink.(deadLetterChecker); ok && err == nil {
			if warning := letters.CheckDeadLetters(ctx); warning != nil {
				r.Warning = warning.Error()
			}
		}
		if w, ok := sink.(warner); ok {
			r.Warnings = w.Warnings()
		}
		err = errors.Join(err, sink.Close(context.WithoutCancel(ctx)))
	}
	if err == nil {
		r.OK = true
		return r
	}
	r.Error = err.Error()
	r.Cause = bridge.KindOf(err).String()
	if s.Embedded && bridge.KindOf(err) == bridge.FailureRetry {
		r.Error += "\nThis sink uses the embedded server, which runs while \"fnbridge serve\" does."
	}
	return r
}
