package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks"
)

// TailStart says where a Tail begins. The zero TailStart begins with what is stored from now on.
type TailStart = bridge.TailStart

// Received is an event as a consumer finds it at a sink's broker.
type Received bridge.Received

// MarshalJSON writes where it was found and the whole event as a structured CloudEvent or, in the plain format, its
// data in base64.
func (r Received) MarshalJSON() ([]byte, error) {
	line := struct {
		Address  string          `json:"address"`
		Key      string          `json:"key,omitempty"`
		StoredAt time.Time       `json:"stored_at"`
		Event    json.RawMessage `json:"event,omitempty"`
		Data     []byte          `json:"data,omitempty"`
	}{Address: r.Address, Key: r.Key, StoredAt: r.StoredAt}
	if r.Event.Type == "" {
		line.Data = r.Event.Data
		return json.Marshal(line)
	}
	if len(r.Event.Data) > 0 {
		r.Event.Data = jsonData(r.Event.Data) // others publish there too
	}
	_, body, err := cloudevents.Structured.Encode(r.Event, "")
	if err != nil {
		return nil, err
	}
	line.Event = body
	return json.Marshal(line)
}

// Tail calls f with every event that the sink's broker has stored and filter selects, from start on, until ctx ends or
// f returns an error, which it returns. A broker that is away is waited for, with start.Patience.
func Tail(ctx context.Context, s Sink, start TailStart, filter EventFilter, f func(Received) error) error {
	return sinks.Tail(ctx, s.Options, start, func(r bridge.Received) error {
		if !filter.IsZero() {
			tensorlake.Describe(&r.Event)
			if !filter.Match(&r.Event) {
				return nil
			}
		}
		return f(Received(r))
	})
}

// errPlain is the error of asking for a webhook's events where they do not say whose they are.
var errPlain = errors.New("in the plain format events do not tell which webhook they come from")

// clockSkew is how far the clocks of a sink's broker and of this machine may be apart for AwaitEvents.
const clockSkew = time.Minute

var errArrived = errors.New("arrived")

// AwaitEvents returns once the sink's broker has stored all events that it wants of the webhook that a bridge has
// answered with a, and how many have arrived if ctx ends before. o is how that bridge makes events. An id that the
// webhook has twice is wanted twice; what is repeated beyond that does not count. A broker that is away is waited for.
func AwaitEvents(ctx context.Context, s Sink, o tensorlake.Options, a Answer) (arrived, wanted int, err error) {
	if s.Format == cloudevents.Plain.String() {
		return 0, a.Events, errPlain
	}
	payload, err := tensorlake.Parse(a.Body)
	if err != nil {
		return 0, a.Events, err
	}
	if n := payload.Len(o); n != a.Events {
		return 0, a.Events, fmt.Errorf("the bridge makes %d events of this webhook, and this command %d: "+
			"give both the same FNBRIDGE_SUMMARY_EVENTS and the same version of fnbridge", a.Events, n)
	}
	routes, err := bridge.ParseRoutes(s.Routes)
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
	err = Tail(ctx, s, TailStart{Since: a.SentAt.Add(-clockSkew)}, EventFilter{}, func(r Received) error {
		if r.Event.WebhookID != a.WebhookID || missing[r.Event.ID] == 0 {
			return nil
		}
		missing[r.Event.ID]--
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
