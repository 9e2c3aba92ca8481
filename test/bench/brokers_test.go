//go:build linux

package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// broker is a server of its own beside the bridge.
type broker interface {
	kind() string
	// cpu is the processor time that the server has used.
	cpu(t *testing.T) time.Duration
	// open makes a new place to publish to.
	open(t *testing.T) outlet
}

// outlet is a place at a broker that a sink publishes to.
type outlet interface {
	// env is what the bridge needs to know of it, by the names of the variables behind the sink's own.
	env() map[string]string
	// stored is how many events the broker has.
	stored(t *testing.T) int
	// consume hands on the webhook's id of each event, as an ordinary consumer gets it, until ctx ends.
	consume(ctx context.Context, t *testing.T, received func(webhookID string))
	// bare publishes count messages like those that the outlet holds, with the client library that the sink uses and with
	// nothing else to do, and returns how long that took.
	bare(t *testing.T, count int) time.Duration
	// drop removes it with all that it holds.
	drop(t *testing.T)
}

// environment is that of a bridge with the outlets as its sinks.
func environment(outlets ...outlet) map[string]string {
	env := map[string]string{}
	names := ""
	for i, o := range outlets {
		name := sinkName(i)
		if i > 0 {
			names += ","
		}
		for variable, value := range o.env() {
			if variable == "" {
				names += name + "=" + value
				continue
			}
			env[upper(name)+"_"+variable] = value
		}
	}
	env["SINKS"] = names
	return env
}

func sinkName(i int) string { return "sink" + string(rune('a'+i)) }

func upper(name string) string { return "SINK" + string(rune(name[len(name)-1]-'a'+'A')) }

// pollInterval is how often a broker is asked how many events it has.
const pollInterval = 20 * time.Millisecond

// awaitStored waits until every outlet has that many events, and returns when that was.
func awaitStored(t *testing.T, outlets []outlet, events int) time.Time {
	t.Helper()
	deadline := time.Now().Add(deliverLimit)
	for {
		least := leastStored(t, outlets)
		if least >= events {
			return time.Now()
		}
		require.True(t, time.Now().Before(deadline), "after %v there are %d events of %d", deliverLimit, least, events)
		last(t, pollInterval)
	}
}

func leastStored(t *testing.T, outlets []outlet) int {
	t.Helper()
	least := outlets[0].stored(t)
	for _, o := range outlets[1:] {
		least = min(least, o.stored(t))
	}
	return least
}
