package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fnbridge/fnbridge/bridge/admin"
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

// defaultWait is the limit of a --wait that has none.
const defaultWait = "10s"

// await waits until the events of a webhook are at every sink, at all of them at once, and says of each when they were,
// or that they are not.
func (s *sender) await(ctx context.Context, limit time.Duration, a admin.Answer) error {
	cfg := s.cfg
	log := slog.New(slog.NewTextHandler(s.err, nil))
	var waits sync.WaitGroup
	defer waits.Wait()
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	arrivals := make([]chan arrival, len(cfg.Sinks))
	for i, sink := range cfg.Sinks {
		arrivals[i] = make(chan arrival, 1)
		waits.Go(func() {
			arrived, wanted, err := admin.AwaitEvents(waiting, app.AdminSink(cfg, sink, log), app.EventOptions(cfg), a)
			r := arrival{Sink: sink.Name, Events: arrived, Missing: wanted - arrived, Seconds: time.Since(a.SentAt).Seconds()}
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				r.Error = fmt.Sprintf("not there after %s. \"fnbridge status\" and \"fnbridge check\" say what is wrong", limit)
			case err != nil:
				r.Error = err.Error()
			}
			arrivals[i] <- r
		})
	}
	failed := false
	for i, sink := range cfg.Sinks {
		r := <-arrivals[i]
		if ctx.Err() != nil {
			return errors.New("interrupted while the events were waited for")
		}
		mayMiss := cfg.AcksFromSinks() && !sink.Required
		failed = failed || r.Error != "" && !mayMiss
		if err := s.showArrival(r); err != nil {
			return err
		}
	}
	if failed {
		return errReported
	}
	return nil
}

func (s *sender) showArrival(r arrival) error {
	if s.json {
		return encoder(s.out).Encode(r)
	}
	text := fmt.Sprintf("has %s after %.3f s", plural(r.Events, "event"), r.Seconds)
	if r.Error != "" {
		text = fmt.Sprintf("has %d of %s: %s", r.Events, plural(r.Events+r.Missing, "event"), printable(r.Error))
	}
	_, err := fmt.Fprintln(s.out, s.wrap(2, "sink "+r.Sink+" "+text))
	return err
}
