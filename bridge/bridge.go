// Package bridge is the domain of fnbridge: a verified webhook, the events that it becomes, and the
// sinks that publish them. It imports the standard library only; everything else depends on it.
package bridge

import "time"

// Webhook is one delivery whose sender has been verified (or, with unsigned webhooks allowed, taken at its word).
type Webhook struct {
	// ID identifies the delivery. The sender repeats it when it tries again.
	ID string
	// Timestamp is when the sender signed this try; for an unsigned webhook, when it was received.
	Timestamp time.Time
	// ReceivedAt is when fnbridge had read the whole body.
	ReceivedAt time.Time
	// Body is the request body, byte for byte. It is never changed.
	Body []byte
}

// Event is one CloudEvents 1.0 event, with what address templates need beside it.
// An Event and the bytes it holds are not changed once it is made, so it can be shared between goroutines.
type Event struct {
	// ID is the same whenever the same fact is delivered: it is what consumers dedupe on.
	ID string
	// Type, Source and Subject are the CloudEvents attributes of these names. Subject may be empty (absent).
	Type    string
	Source  string
	Subject string
	// Time is when what the event tells of happened, as well as the payload says.
	Time time.Time
	// PartitionKey orders events: those with one key reach each sink in the order in which they were accepted.
	PartitionKey string
	// WebhookID is the ID of the webhook that the event came with.
	WebhookID string
	// Data is the event's payload, always JSON (application/json).
	Data []byte

	// Route is the event's place in a hierarchy of addresses, a part an element, for {route}:
	// workflow, its name, the function and the status; or the parts of the type.
	Route []string
	// Workflow, Function, Status, Invocation and Project are the template values of these names, empty
	// where the payload has none. Status is the word as it stands in the type.
	Workflow   string
	Function   string
	Status     string
	Invocation string
	Project    string
}
