package nats

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge/wire"
)

// The time limits of a sink, beside those of its connections, which all kinds share: see wire. They are not for users
// to turn.
const (
	// defaultAckTimeout is for an acknowledgement, or any other answer: those of a cluster that elects a leader take
	// seconds, and nobody knows whether what was not acknowledged is stored.
	defaultAckTimeout = wire.Silence
	// doubtAfter is how long a call may take before it asks who leads the stream, and doubtEvery how often: a server that
	// leaves drops what it has been sent, which the one that the connection is to does not tell.
	doubtAfter = 500 * time.Millisecond
	doubtEvery = 250 * time.Millisecond
	// pingInterval is often enough that a connection is never silent for wire.Silence, while the server is there. What it
	// answers of the rest of what it is sent counts as much: a slow line that is full delays the answer to a ping.
	pingInterval = wire.Silence * 2 / 5
	// kickPause is the least time between two reconnects because a server does not acknowledge.
	kickPause = 10 * time.Second
	// inspectPause is the least time between two looks at a stream that is not right.
	inspectPause = 500 * time.Millisecond
	// askTimeout is how long a server is asked who leads the stream, or what the account may use.
	askTimeout = time.Second

	// sendTimeouts, times the timeout of one acknowledgement, is for how long a call of Publish sends, so that it ends
	// although a server is very slow.
	sendTimeouts = 4
	// callTimeouts, times it, is when such a call has ended. Before it sends, it waits for a session and looks at the
	// stream. Its last event may go alone: it waits until nothing else is in flight, asks, and has its answer.
	callTimeouts = 1 + sendTimeouts + 3
	// patienceTimeouts, times it, is how long a stream may give no answer before that is called blocked: elections take
	// seconds.
	patienceTimeouts = 3
	// limitTimeouts, times it, is how long the sink relies on the greatest size that a server takes. It tells that to a
	// new connection only, and to reject an event for a limit that has been raised since would lose it.
	limitTimeouts = 12
)
