package nats

import (
	"net"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
)

// Guard puts a guard before a connection.
func Guard(conn net.Conn) net.Conn { return newGuard(conn) }

// StorageOf tells how full a stream is that has not been looked at before, and what is warned of.
func StorageOf(now time.Time, info natsjs.StreamInfo, tier natsjs.Tier) (bridge.Storage, []bridge.Warning) {
	storage := storageOf(new(bridge.Growth), now, &info, tier)
	return *storage, filling(storage, nil, now)
}
