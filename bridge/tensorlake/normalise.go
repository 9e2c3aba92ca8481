package tensorlake

import (
	"crypto/sha256"
	"iter"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	unrecognizedType   = typePrefix + "unrecognized"
	unrecognizedSource = "/tensorlake"
)

// newEvent returns an event with what comes from the webhook: its id, its origin, and a partition key made of key.
// Where a payload has an empty key there is no order to keep, and the webhook's id spreads such events.
func newEvent(w bridge.Webhook, key string) bridge.Event {
	webhookID := bridge.AttributeText(w.ID)
	partitionKey := bridge.AttributeText(key)
	if partitionKey == "" {
		partitionKey = webhookID
	}
	return bridge.Event{
		WebhookID: webhookID, PartitionKey: partitionKey, Origin: bridge.Origin{Webhook: bridge.WebhookDigest(w.ID, w.Body)},
	}
}

// firstTime returns the first of the JSON strings that holds a time, else the webhook's timestamp. A time is what
// RFC 3339 says, in the years 1 to 9999 that it can write in UTC. The first instant of year 1 stands for no time
// in Go and in .NET and is passed over.
func firstTime(w bridge.Webhook, literals ...[]byte) time.Time {
	for _, literal := range literals {
		if literal == nil {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, unquote(literal))
		if err != nil {
			continue
		}
		if t = t.UTC(); !t.IsZero() && 1 <= t.Year() && t.Year() <= 9999 {
			return t
		}
	}
	return w.Timestamp.UTC()
}

// routeOfType is the place of an event that has no other in the hierarchy of addresses.
func routeOfType(eventType string) []string {
	return strings.Split(strings.TrimPrefix(eventType, typePrefix), ".")
}

// unrecognized is any other object.
type unrecognized struct{ body []byte }

func (unrecognized) len(Options) int { return 1 }

func (p unrecognized) events(w bridge.Webhook, _ Options) iter.Seq[bridge.Event] {
	return func(yield func(bridge.Event) bool) {
		body := sha256.Sum256(p.body)
		e := newEvent(w, "")
		e.ID = eventID(digest("unrecognized", string(body[:])))
		e.Type = unrecognizedType
		e.Source = unrecognizedSource
		e.Time = w.Timestamp.UTC()
		e.Data = p.body
		e.Route = routeOfType(e.Type)
		yield(e)
	}
}
