package admin

import (
	"context"
	"errors"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks"
)

// BridgeCheck is what a check found of the bridge itself and of its machine.
type BridgeCheck struct {
	// Bridge is where its operations listener is to be.
	Bridge string `json:"bridge"`
	OK     bool   `json:"ok"`
	// Error says why the bridge that runs refuses webhooks, as NotReady does, or else what failed first.
	Error    string           `json:"error,omitempty"`
	NotReady string           `json:"-"`
	Warnings []bridge.Warning `json:"warnings,omitempty"`
	Steps    []CheckStep      `json:"steps"`
}

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
	// Warnings are about how the broker is set up, where that endangers events.
	Warnings []bridge.Warning `json:"warnings,omitempty"`
	// Storage is how full the broker is, as far as it tells.
	Storage *bridge.Storage `json:"storage,omitempty"`
	// Steps are what was looked at, up to the first that failed.
	Steps []CheckStep `json:"steps,omitempty"`
}

// Step is one thing that a check looked at.
type Step = bridge.Step

// CheckStep is a Step for people and programs.
type CheckStep struct {
	Step string `json:"step"`
	// State is ok, warning, failed, or skipped where nothing could be said.
	State string `json:"state"`
	// Detail is what was found or, unless the state is ok, what to do.
	Detail string `json:"detail,omitempty"`
}

// ShownStep returns a step as people and programs see it.
func ShownStep(s Step) CheckStep {
	switch {
	case s.Err != nil:
		return CheckStep{s.Name, "failed", s.Err.Error()}
	case s.Warning != "":
		return CheckStep{s.Name, "warning", s.Warning}
	case s.Skipped:
		return CheckStep{s.Name, "skipped", s.Detail}
	default:
		return CheckStep{s.Name, "ok", s.Detail}
	}
}

// deadLetterChecker is a sink that can tell whether its dead letters could be published to their own address now, and
// that says yes when it has none.
type deadLetterChecker interface {
	CheckDeadLetters(ctx context.Context) error
}

// CheckSink asks a sink's broker whether events could be published now, and goes through what that takes step by step,
// each for at most timeout.
func CheckSink(ctx context.Context, s Sink, largest bridge.Largest, timeout time.Duration) SinkCheck {
	r := SinkCheck{Sink: s.Name, Kind: s.Kind}
	sink, err := sinks.New(s.Options)
	if err != nil {
		err = bridge.Blocked(err) // one of the settings, or a file that they name
	} else {
		limited, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		err = sink.Check(limited)
		if letters, ok := sink.(deadLetterChecker); ok && err == nil {
			if warning := letters.CheckDeadLetters(limited); warning != nil {
				r.Warning = warning.Error()
			}
		}
		if examined, ok := sink.(bridge.Examined); ok {
			again, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			for _, step := range examined.Examine(again, largest) {
				r.Steps = append(r.Steps, ShownStep(step))
				// What somebody has to mend says more than that no answer came in time.
				blocked := bridge.KindOf(step.Err) == bridge.FailureBlocked
				if err == nil || blocked && bridge.KindOf(err) == bridge.FailureRetry {
					err = step.Err
				}
			}
		}
		if w, ok := sink.(bridge.Warner); ok {
			r.Warnings = w.Warnings()
		}
		if s, ok := sink.(bridge.Storing); ok {
			if storage, known := s.Storage(); known {
				r.Storage = &storage
			}
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
