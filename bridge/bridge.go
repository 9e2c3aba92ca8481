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

// Event is one CloudEvents 1.0 event, and what it is about.
// An Event and the bytes it holds are not changed once it is made, so it can be shared between goroutines.
type Event struct {
	// ID is the same whenever the same fact is delivered: with Source it is what consumers dedupe on.
	ID string
	// Type, Source and Subject are the CloudEvents attributes of these names. Subject may be empty (absent).
	Type    string
	Source  string
	Subject string
	// Time is when what the event tells of happened, as well as the payload says.
	Time time.Time
	// PartitionKey orders events: those with one key reach each sink in the order in which they were accepted.
	PartitionKey string
	// Sequence orders the events that have one SourceID: of two, the one whose Sequence is greater as text is the later
	// one. Both may be empty (absent).
	Sequence string
	SourceID string
	// WebhookID is the ID of the webhook that the event came with.
	WebhookID string
	// Origin tells the event from every other one that a webhook has become, for brokers that drop repeats.
	Origin Origin
	// Concludes says that the event sums up those of its webhook, and so comes after them.
	Concludes bool
	// Data is the event's payload, always JSON (application/json).
	Data []byte

	About
}

// About is what templates, routes and people know an event by beside its attributes. No message carries it.
type About struct {
	// Route is the event's place in a hierarchy of addresses, a part an element, for {route}: such as application, its
	// name, request and completed.
	Route []string
	// The values of the placeholders of these names, empty where the payload has none. A workflow is an application,
	// and an invocation of it a request.
	Project     string
	Application string
	Version     string // of the application
	Request     string
	Function    string
	Sandbox     string // its id
	SandboxName string
	// Status is a word as it may stand in a type: lower case, and nothing but a-z, 0-9, _ and -.
	Status string
	// Outcome is success or failure of what has finished, and a word of the sender's own for a sandbox.
	Outcome string
	// Reason is why something failed or ended, as the payload says it.
	Reason string
}
