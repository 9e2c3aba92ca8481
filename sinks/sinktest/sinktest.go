// Package sinktest is the conformance suite that every sink passes against every server that it supports.
// It says in tests what bridge.Sink says in words, and adds what only faults can show: whatever the
// server does, what is acknowledged is stored, a key keeps its order, and no call hangs.
//
// A sink's own tests describe the server in a Broker and call Run.
package sinktest

import (
	"testing"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Broker is a server under test, with an empty place to publish to (a stream, a topic) and what the
// suite needs to do to it. The functions are called from the test's own goroutine, except NewSink's sinks.
type Broker struct {
	// NewSink returns a sink that publishes to the place, in the binary format. It must not need the
	// server to be up. It may be called several times; the suite closes what it gets.
	NewSink func(t *testing.T) bridge.Sink
	// Stored returns everything that the place holds, partition by partition, each in stored order.
	// It is called when the server is up and all faults are undone, and fails the test when it cannot read.
	Stored func(t *testing.T) []Record
	// DeadLetters is about the sink's dead letters, and nil when it publishes none.
	DeadLetters *DeadLetterTest
	// TooLarge is a size of Event.Data, in bytes, that the place can never store, nor that of the dead letters.
	TooLarge int
	// PublishBound is how long a Publish without a deadline may take while the server does not answer.
	// Sinks whose timeouts can be set should be given short ones, for quick tests. Zero means 15 s.
	PublishBound time.Duration
	// RecoverBound is how long it may take from the end of a fault until everything is published. Zero means 3 minutes.
	RecoverBound time.Duration
	// Faults is what this server can be made to do.
	Faults Faults
}

// Record is one message as the place holds it, read by something other than the sink.
type Record struct {
	// Partition is where it is stored; 0 for a broker without partitions.
	Partition int
	// Event is the message read as a CloudEvent: ID, Type, Source, Subject, Time, PartitionKey, WebhookID and Data.
	Event bridge.Event
}

// Faults is what a server can be made to do. A fault that a broker cannot play is nil, and the suite skips
// its test with a line that says so. Each function returns once the fault is in force, or undone. Faults need not
// be undone at the end of a test for the test to be torn down.
type Faults struct {
	// Stop ends the server, and Start brings it back at the same address with what it had stored.
	// With a cluster: the whole of it.
	Stop, Start func(t *testing.T)
	// Unreachable says that NewSink can be called while the server is stopped. Needs Stop and Start.
	Unreachable bool

	// Stall makes the server fall silent both ways: connections stay open, and nothing passes.
	Stall func(t *testing.T)
	// StallMidResponse lets requests through and goes silent a few bytes into the next answer, so that
	// what was sent is stored and the answer never ends.
	StallMidResponse func(t *testing.T)
	// Resume ends Stall or StallMidResponse. Connections may be cut by it or go on.
	Resume func(t *testing.T)

	// DropConnections closes every connection at once. The server goes on, and takes new ones.
	DropConnections func(t *testing.T)
	// CutMidResponse lets requests through, and closes the connection a few bytes into its next answer. Once.
	CutMidResponse func(t *testing.T)

	// ChangeLeader moves the place to another server, by an election or by killing the leader.
	ChangeLeader func(t *testing.T)

	// AnswerLate makes the server store the next event or events and answer with an error, or not until the
	// sink has given up, at least once. AnswerInTime ends it, and may be nil if the fault ends by itself.
	AnswerLate, AnswerInTime func(t *testing.T)
}

func (b *Broker) setDefaults() {
	if b.PublishBound == 0 {
		b.PublishBound = 15 * time.Second
	}
	if b.RecoverBound == 0 {
		b.RecoverBound = 3 * time.Minute
	}
}
