package interop

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestMain(m *testing.M) {
	// Sarama's metrics never end theirs.
	meters := goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick")
	goleak.VerifyTestMain(m, append(natsserver.Leftovers(), meters)...)
}
