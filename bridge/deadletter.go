package bridge

import "context"

// DeadLetter is an event that a sink could not store, on its way to the sink's dead-letter address.
type DeadLetter struct {
	Event Event
	// Reason says why the sink could not store it, for people.
	Reason string
	// Attempts counts the tries.
	Attempts int
}

// DeadLetterPublisher is a Sink that can also publish its dead letters, to a subject or topic of their own.
type DeadLetterPublisher interface {
	Sink
	// DeadLetterAddress is the subject or topic, and empty when none is configured: then PublishDeadLetters is not called.
	DeadLetterAddress() string
	// PublishDeadLetters publishes to that address, with reason, attempts and the address at which the event could not be
	// stored as headers. It returns one result a letter, in order, as Publish does. A letter whose event is too large for
	// the broker is published without its data and says so.
	PublishDeadLetters(ctx context.Context, letters []DeadLetter) []error
}

// PublishLetters is how a sink makes its PublishDeadLetters of a way to publish letters: those that the broker refuses
// with their data are published once more, without.
func PublishLetters(letters []DeadLetter, publish func(letters []DeadLetter, withData bool) []error) []error {
	results := publish(letters, true)
	var refused []int
	var again []DeadLetter
	for i, err := range results {
		if KindOf(err) == FailureReject {
			refused, again = append(refused, i), append(again, letters[i])
		}
	}
	if len(again) > 0 {
		for i, err := range publish(again, false) {
			results[refused[i]] = err
		}
	}
	return results
}
