package nats

import (
	"context"
	"net"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
)

// Guard puts a guard before a connection.
func Guard(conn net.Conn) net.Conn { return newGuard(conn) }

// WebSocketGuard puts a guard before a connection on which a WebSocket has been asked for.
func WebSocketGuard(conn net.Conn) net.Conn {
	g := newGuard(conn)
	g.web.Store(true)
	return g
}

// StorageOf tells how full a stream is that has not been looked at before, and what is warned of.
func StorageOf(now time.Time, info natsjs.StreamInfo, tier natsjs.Tier) (bridge.Storage, []bridge.Warning) {
	storage := storageOf(new(bridge.Growth), now, &info, tier)
	return *storage, filling(storage, nil, now)
}

// Reconnect has another session take the place of the one that there is.
func (s *Sink) Reconnect(ctx context.Context) error {
	session, err := s.conn.session(ctx)
	if err == nil {
		_, err = s.conn.renew(ctx, session)
	}
	return err
}
