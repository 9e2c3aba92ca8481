//go:build linux

package torture

import (
	"context"
	"math/rand/v2"
	"testing"
)

// fault is one kind of trouble.
type fault struct {
	// kind is its name in the schedule and in the report: "kafka: leader killed".
	kind string
	// play makes the trouble, keeps it up for a while, and mends it before it returns; the load goes on meanwhile.
	// It returns early when ctx ends, and mends even then. What must not happen it reports to r.failf.
	play func(ctx context.Context, r *run)
}

// side is a part of what surrounds the bridge.
type side interface {
	// env is what the bridge needs to know of it: NAME=value, NAME without FNBRIDGE_.
	env() []string
	faults() []fault
}

// broker is a side that holds events.
type broker interface {
	side
	// consume feeds the ledger with all that the broker stores, until ctx ends. It survives every fault.
	consume(ctx context.Context, l *ledger)
}

// run is one torture run. Faults get it.
type run struct {
	t      *testing.T
	rand   *rand.Rand // for the fault that is being played, and its goroutine alone
	bridge *bridgeProcess
	load   *load
	ledger *ledger
	nats   *natsSide
	kafka  *kafkaSide
	disk   *diskSide
	// logf prints a line of the schedule.
	logf func(format string, args ...any)
	// failf notes a violation. The run goes on, and fails.
	failf func(format string, args ...any)
}
