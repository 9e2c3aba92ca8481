package bridge

import "time"

// Received is one message as a consumer finds it at a broker.
type Received struct {
	// Address is the subject, or topic/partition@offset.
	Address string
	// Key is the partitioning key; empty for NATS.
	Key string
	// StoredAt is when the broker stored the message.
	StoredAt time.Time
	// Event is the message read as a CloudEvent. For one in the plain format only Data is set.
	Event Event
}
