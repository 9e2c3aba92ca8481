package nats_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// With its domain, or its prefix, JetStream behind a leaf node is like any other.
func TestJetStreamOfAnotherDomain(t *testing.T) {
	hub := natsserver.Single(t, natsserver.ForLeaves(t), func(o *server.Options) { o.JetStreamDomain = "hub" })
	leaf := natsserver.Leaf(t, hub)
	o := options(t, leaf.URL())
	o.APIPrefix = "$JS.hub.API"
	logs := &logbook{}
	o.Logger = logs.logger()
	sink := open(t, o)
	requirePublishes(t, sink, "domain")
	require.Contains(t, logs.String(), "created the stream")
	require.NotContains(t, logs.String(), "WARN")
	require.Equal(t, "domain-0", startTail(t, o, bridge.TailStart{All: true}).next(t).Event.ID)
}
