package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks"
)

// TailStart says where a Tail begins. The zero TailStart begins with what is stored from now on.
type TailStart = sinks.Start

// Received is an event as a consumer finds it at a sink's broker.
type Received struct {
	// Address is the subject, or topic/partition@offset; Key is the partitioning key, empty for NATS.
	Address  string    `json:"address"`
	Key      string    `json:"key,omitempty"`
	StoredAt time.Time `json:"stored_at"`
	// Event is the whole event as a structured CloudEvent. In the plain format there is none.
	Event json.RawMessage `json:"event,omitempty"`
	// Data is the event's data, which in the plain format may be any bytes.
	Data []byte `json:"-"`
}

// MarshalJSON writes the event, or its data in base64 where there is nothing else.
func (r Received) MarshalJSON() ([]byte, error) {
	type fields Received
	line := struct {
		fields
		Data []byte `json:"data,omitempty"`
	}{fields: fields(r)}
	if r.Event == nil {
		line.Data = r.Data
	}
	return json.Marshal(line)
}

// Tail calls f with every event that the sink's broker has stored and filter selects, from start on, until ctx ends or f returns an error,
// which it returns. A broker that is away is waited for, and log, which may be nil, hears of it. cfg must have passed Validate.
func Tail(ctx context.Context, cfg *config.Config, s config.Sink, start TailStart, filter EventFilter, log *slog.Logger, f func(Received) error) error {
	return sinks.Tail(ctx, SinkOptions(cfg, s, log), start, func(r bridge.Received) error {
		if !filter.IsZero() {
			tensorlake.Describe(&r.Event)
			if !filter.Match(&r.Event) {
				return nil
			}
		}
		out := Received{Address: r.Address, Key: r.Key, StoredAt: r.StoredAt, Data: r.Event.Data}
		if r.Event.Type != "" {
			_, body, err := cloudevents.Structured.Encode(r.Event, "")
			if err != nil {
				return err
			}
			out.Event = body
		}
		return f(out)
	})
}

// errPlain is the error of asking for a webhook's events where they do not say whose they are.
var errPlain = errors.New("in the plain format events do not tell which webhook they come from")

// clockSkew is how far the clocks of a sink's broker and of this machine may be apart for AwaitEvents.
const clockSkew = time.Minute

var errArrived = errors.New("arrived")

// AwaitEvents returns once the sink's broker has stored all events that it wants of the webhook that a bridge has answered with a, and
// how many have arrived if ctx ends before. An id that the webhook has twice is wanted twice; what is repeated beyond that does not count. A broker that
// is away is waited for, and log, which may be nil, hears of it. cfg must have passed Validate.
func AwaitEvents(ctx context.Context, cfg *config.Config, s config.Sink, a Answer, log *slog.Logger) (arrived, wanted int, err error) {
	if s.Format == cloudevents.Plain.String() {
		return 0, a.Events, errPlain
	}
	payload, err := tensorlake.Parse(a.Body)
	if err != nil {
		return 0, a.Events, err
	}
	o := tensorlake.Options{SummaryEvents: cfg.SummaryEvents}
	if n := payload.Len(o); n != a.Events {
		return 0, a.Events, fmt.Errorf("the bridge makes %d events of this webhook, and this command %d: "+
			"give both the same FNBRIDGE_SUMMARY_EVENTS and the same version of fnbridge", a.Events, n)
	}
	routes, err := ParseRoutes(s.Routes)
	if err != nil {
		return 0, a.Events, err
	}
	missing := make(map[string]int) // how often each id is still to come
	for e := range payload.Events(bridge.Webhook{ID: a.WebhookID, Timestamp: a.SentAt, Body: a.Body}, o) {
		if routes.Match(&e) {
			missing[e.ID]++
			wanted++
		}
	}
	if wanted == 0 {
		return 0, 0, nil
	}
	err = Tail(ctx, cfg, s, TailStart{Since: a.SentAt.Add(-clockSkew)}, EventFilter{}, log, func(r Received) error {
		var e struct {
			ID        string `json:"id"`
			WebhookID string `json:"webhookid"`
		}
		if r.Event == nil {
			return nil // of somebody else
		}
		if err := json.Unmarshal(r.Event, &e); err != nil {
			return fmt.Errorf("an event at %s: %w", r.Address, err)
		}
		if e.WebhookID != a.WebhookID || missing[e.ID] == 0 {
			return nil
		}
		missing[e.ID]--
		if arrived++; arrived == wanted {
			return errArrived
		}
		return nil
	})
	switch {
	case errors.Is(err, errArrived):
		err = nil
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return arrived, wanted, err
}
