package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge/app"
)

// arrival is what became of a webhook's events at one sink.
type arrival struct {
	Sink    string  `json:"sink"`
	Events  int     `json:"events"` // that are there
	Missing int     `json:"missing"`
	Seconds float64 `json:"seconds"` // since the webhook was sent
	Error   string  `json:"error,omitempty"`
}

// await waits until the events of a webhook are at every sink, and says of each when they were, or that they are not.
func (s *sender) await(ctx context.Context, limit time.Duration, a app.Answer, sent time.Time) error {
	cfg, warnings, err := loadConfig(s.console)
	if err != nil {
		return err
	}
	printWarnings(s.err, warnings)
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	log := slog.New(slog.NewTextHandler(s.err, nil))
	failed := false
	for _, sink := range cfg.Sinks {
		arrived, err := app.AwaitEvents(waiting, cfg, sink, a.WebhookID, a.Events, sent, log)
		if ctx.Err() != nil {
			return errors.New("interrupted while the events were waited for")
		}
		r := arrival{Sink: sink.Name, Events: arrived, Missing: a.Events - arrived, Seconds: time.Since(sent).Seconds()}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			r.Error = fmt.Sprintf("not there after %s. Was the same payload sent before? JetStream drops what it has; --fresh makes a new one. "+
				"Else \"fnbridge status\" and \"fnbridge check\" say what is wrong", limit)
		case err != nil:
			r.Error = err.Error()
		}
		mayMiss := cfg.AcksFromSinks() && !sink.Required
		failed = failed || r.Error != "" && !mayMiss
		if err := s.showArrival(r, a.Events); err != nil {
			return err
		}
	}
	if failed {
		return errReported
	}
	return nil
}

func (s *sender) showArrival(r arrival, events int) error {
	if s.json {
		return json.NewEncoder(s.out).Encode(r)
	}
	text := fmt.Sprintf("has %s after %.3f s", plural(r.Events, "event"), r.Seconds)
	if r.Error != "" {
		text = fmt.Sprintf("has %d of %s: %s", r.Events, plural(events, "event"), printable(r.Error))
	}
	_, err := fmt.Fprintf(s.out, "sink %s %s\n", r.Sink, text)
	return err
}
