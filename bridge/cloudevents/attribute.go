package cloudevents

import (
	"time"
	"unicode/utf8"

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
	return [...]string{"specversion", "id", "source", "type", "subject", "time", "partitionkey", "sequence", "sourceid", "webhookid"}[a]
}

// headerName returns the name of a's header. For the prefixes that are known it allocates nothing.
func (a attribute) headerName(prefix string) string {
	switch prefix {
	case NATSPrefix:
		return [...]string{
			"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-partitionkey",
			"ce-sequence", "ce-sourceid", "ce-webhookid",
		}[a]
	case KafkaPrefix:
		return [...]string{
			"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_partitionkey",
			"ce_sequence", "ce_sourceid", "ce_webhookid",
		}[a]
	default:
		return prefix + a.String()
	}
}

// isURI reports whether a is percent-encoded in itself, so that a reader must leave its percent signs alone. A
// subject is no URI to CloudEvents, but is made of percent-encoded parts here.
func (a attribute) isURI() bool { return a == attrSource || a == attrSubject }

// attributes returns the values of e's attributes. Empty ones are absent.
func attributes(e *bridge.Event) [attrCount]string {
	return [...]string{
		attrSpecVersion:  specVersion,
		attrID:           legal(e.ID),
		attrSource:       legal(e.Source),
		attrType:         legal(e.Type),
		attrSubject:      legal(e.Subject),
		attrTime:         formatTime(e.Time),
		attrPartitionKey: legal(e.PartitionKey),
		attrSequence:     legal(e.Sequence),
		attrSourceID:     legal(e.SourceID),
		attrWebhookID:    legal(e.WebhookID),
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

// legal makes s a string that CloudEvents allows: bytes that are no UTF-8, control characters and noncharacters are
// percent-encoded. The events of webhooks hold none, but a header must be safe whatever an event holds.
func legal(s string) string {
	i := 0
	for i < len(s) && ' ' <= s[i] && s[i] < 0x7f {
		i++
	}
	if i == len(s) {
		return s
	}
	clean := make([]byte, 0, len(s)+16)
	clean = append(clean, s[:i]...)
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || !legalRune(r) {
			for _, c := range []byte(s[i : i+size]) {
				clean = appendPercent(clean, c)
			}
		} else {
			clean = append(clean, s[i:i+size]...)
		}
		i += size
	}
	return string(clean)
}

// legalRune follows the type String of CloudEvents 1.0.
func legalRune(r rune) bool {
	switch {
	case r < 0x20, 0x7f <= r && r <= 0x9f: // control characters
		return false
	case 0xfdd0 <= r && r <= 0xfdef, r&0xfffe == 0xfffe: // noncharacters
		return false
	default:
		return true
	}
}
