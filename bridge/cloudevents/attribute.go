package cloudevents

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const specVersion = "1.0"

// attribute is one of the context attributes that fnbridge writes.
type attribute int

const (
	attrSpecVersion attribute = iota
	attrID
	attrSource
	attrType
	attrSubject
	attrTime
	attrPartitionKey
	attrSequence
	attrSourceID
	attrWebhookID

	attrCount
)

func (a attribute) String() string {
	return [...]string{
		"specversion", "id", "source", "type", "subject", "time", "partitionkey", "sequence", "sourceid", "webhookid",
	}[a]
}

// headerNames are those of the attributes with either prefix, so that a message need not put them together.
var headerNames = map[string][attrCount]string{ //nolint:gochecknoglobals // it is a table
	NATSPrefix: namesWith(NATSPrefix), KafkaPrefix: namesWith(KafkaPrefix),
}

func namesWith(prefix string) (names [attrCount]string) {
	for a := range attrCount {
		names[a] = prefix + a.String()
	}
	return names
}

// isURI reports whether a is percent-encoded in itself, so that a reader must leave its percent signs alone. A
// subject is no URI to CloudEvents, but is made of percent-encoded parts here.
func (a attribute) isURI() bool { return a == attrSource || a == attrSubject }

// attributes returns the values of e's attributes. Empty ones are absent. Those of a webhook's events are legal
// already, but a header must be safe whatever an event holds.
func attributes(e *bridge.Event) [attrCount]string {
	return [...]string{
		attrSpecVersion:  specVersion,
		attrID:           bridge.AttributeText(e.ID),
		attrSource:       bridge.AttributeText(e.Source),
		attrType:         bridge.AttributeText(e.Type),
		attrSubject:      bridge.AttributeText(e.Subject),
		attrTime:         formatTime(e.Time),
		attrPartitionKey: bridge.AttributeText(e.PartitionKey),
		attrSequence:     bridge.AttributeText(e.Sequence),
		attrSourceID:     bridge.AttributeText(e.SourceID),
		attrWebhookID:    bridge.AttributeText(e.WebhookID),
	}
}

// formatTime returns t as RFC 3339 writes it, in UTC. A time that it cannot write is absent, and so is the zero time.
func formatTime(t time.Time) string {
	t = t.UTC()
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}
