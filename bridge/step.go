package bridge

import "context"

// Step is one thing that a check looked at.
type Step struct {
	// Name says what it is, such as "name resolution".
	Name string
	// Detail is what was found. It holds no secrets.
	Detail string
	// Err is why events cannot be published, classified as Publish's errors are; nil: nothing of this step is in the way.
	Err error
	// Warning is what to mend although events can be published.
	Warning string
	// Skipped tells that nothing could be said; Detail says why.
	Skipped bool
}

// Examined is a Sink that can say step by step what publishing needs, and which of it is there.
type Examined interface {
	Sink
	// Examine looks at every step from the name of the broker to the permission to publish, and ends with the first
	// that fails. It stores nothing.
	Examine(ctx context.Context, largest Largest) []Step
}

// Largest is the largest webhook that a bridge takes.
type Largest struct {
	Bytes int64
	// TooLarge says what becomes of events that a broker does not take for their size, such as "become dead letters".
	TooLarge string
}
