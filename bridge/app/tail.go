package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
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

// Tail calls f with every event that the sink's broker has stored, from start on, until ctx ends or f returns an error,
// which it returns. A broker that is away is waited for, and log, which may be nil, hears of it. cfg must have passed Validate.
func Tail(ctx context.Context, cfg *config.Config, s config.Sink, start TailStart, log *slog.Logger, f func(Received) error) error {
	return sinks.Tail(ctx, SinkOptions(cfg, s, log), start, func(r bridge.Received) error {
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
