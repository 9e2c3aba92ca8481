package app

import (
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"

	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/ops/page"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/config/setting"
)

const (
	// More connections than webhooks in flight may be open, since most wait for their next webhook.
	connectionsPerWebhook = 4
	minConnections        = 256
	// Beside these the operations listener has connections for pages: each has a stream, and fetches beside it.
	probeConnections = 64
	pageConnections  = 3 * page.MaxStreams
	// maxNATSClients is how many clients nats-server takes by itself.
	maxNATSClients = 65536
	// recentBytes bounds the webhooks that the page has in memory where there is no journal, in bytes.
	recentBytes = 8 << 20

	// Strangers may take one part in strangersPart of the memory; the journal, the sinks and the collector have the rest.
	// Of theirs, bodies have at most one part in bodiesPart.
	strangersPart = 2
	bodiesPart    = 2
)

// bounds are what the public listener may take. Multiplied, they stay below the memory that the process has.
type bounds struct {
	memory      int64 // that the process may have, in bytes; 0: without a limit
	connections int   // open at once
	bodies      int64 // of all webhooks together, in bytes
}

// memoryLimit is the Go runtime's, in bytes, and 0 if it has none.
func memoryLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 { // a negative limit only reads
		return limit
	}
	return 0
}

// boundsOf returns the bounds of a bridge that may have so many bytes of memory and so many open files, without a limit
// where either is 0. The error says that the memory is not enough for the configuration.
func boundsOf(cfg *config.Config, memory int64, files int) (bounds, error) {
	b := bounds{
		memory:      memory,
		connections: max(minConnections, connectionsPerWebhook*cfg.MaxInFlight),
		bodies:      ingest.BodyMemory(int64(cfg.MaxBody)),
	}
	if files > 0 { // the journal and the sinks need some, too
		b.connections = min(b.connections, max(1, files/2))
	}
	if memory == 0 {
		return b, nil
	}
	share := memory / strangersPart
	b.bodies = min(b.bodies, share/bodiesPart)
	if least := ingest.LeastBodyMemory(int64(cfg.MaxBody)); b.bodies < least {
		return b, fmt.Errorf("FNBRIDGE_MAX_BODY: bodies of %s need a memory limit of at least %s, and this process has one "+
			"of %s (GOMEMLIMIT, or nine tenths of its cgroup's): raise it, or give a smaller FNBRIDGE_MAX_BODY",
			cfg.MaxBody, setting.Bytes(least*strangersPart*bodiesPart), mebibytes(memory))
	}
	b.connections = min(b.connections, max(1, int((share-b.bodies)/ingest.ConnectionMemory)))
	return b, nil
}

// opsConnections is how many connections the operations listener may have, given that many open files, 0 without a
// limit. A probe or a scrape gets a place however many pages are open: LimitConnections closes one of theirs for it.
func opsConnections(files int) int {
	most := probeConnections + pageConnections
	if files > 0 {
		most = max(min(most, files/4), 1)
	}
	return most
}

// natsClients is how many clients the embedded NATS server may have, given that many open files, 0 without a limit.
func natsClients(files int) int {
	if files > 0 {
		return max(min(maxNATSClients, files/8), 1)
	}
	return maxNATSClients
}

// monitorConnections is how many connections its monitoring may have.
func monitorConnections(files int) int {
	if files > 0 {
		return max(min(probeConnections, files/32), 1)
	}
	return probeConnections
}

func (b bounds) say(log *slog.Logger) {
	limit := "none"
	if b.memory > 0 {
		limit = mebibytes(b.memory).String()
	}
	log.Info("bounds of the public listener", "memory_limit", limit, "connections", b.connections,
		"each", setting.Bytes(ingest.ConnectionMemory).String(), "bodies", mebibytes(b.bodies).String())
}

// mebibytes leaves out what is less than one.
func mebibytes(n int64) setting.Bytes { return setting.Bytes(n >> 20 << 20) }
