package nats_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// Accounts of one operator are reached through a WebSocket as through any other connection, each with a stream of its
// own that may have the same name, also after the server was away.
func TestAccountsBehindAWebSocket(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	for scheme, websocket := range map[string]server.WebsocketOpts{
		"ws":  {NoTLS: true},
		"wss": {TLSConfig: ca.ServerTLS(t, false)},
	} {
		t.Run(scheme, func(t *testing.T) {
			tls := "not used"
			if scheme == "wss" {
				tls = "certificate until "
			}
			operator := natsserver.NewOperator(t)
			srv := natsserver.Single(t, operator.Configure, func(o *server.Options) {
				o.Websocket = websocket
				o.Websocket.Host, o.Websocket.Port, o.Websocket.HandshakeTimeout = "127.0.0.1", natsserver.Port(t), bound
			})

			type account struct {
				name    string
				options nats.Options
				sink    *nats.Sink
			}
			accounts := []*account{{name: "orders"}, {name: "billing"}}
			for _, a := range accounts {
				a.options = options(t, srv.Running().WebsocketURL())
				a.options.CredsFile = operator.Account(t).Creds(t, time.Hour)
				if scheme == "wss" {
					a.options.TLSCAFile = ca.CAFile
				}
				a.sink = open(t, a.options)
				requirePublishes(t, a.sink, a.name)
				for _, step := range a.sink.Examine(t.Context(), bridge.Largest{Bytes: 1 << 20}) {
					require.NoError(t, step.Err, step.Name)
					if step.Name == "TLS" {
						require.Contains(t, step.Detail, tls, "what check says of it")
					}
				}
			}
			stranger := accounts[0].options
			stranger.CredsFile = natsserver.NewOperator(t).Account(t).Creds(t, time.Hour)
			requireBlocked(t, open(t, stranger), "refuses the credentials")

			srv.Stop(t)
			for _, a := range accounts {
				failure := a.sink.Publish(t.Context(), sinktest.Events(a.name+"-away", 1, 1))[0]
				require.Equal(t, bridge.FailureRetry, bridge.KindOf(failure), "%v", failure)
			}
			srv.Start(t)
			for _, a := range accounts {
				requirePublishes(t, a.sink, a.name+"-again")
				tail := startTail(t, a.options, bridge.TailStart{All: true})
				require.Equal(t, a.name+"-0", tail.next(t).Event.ID)
				require.Equal(t, a.name+"-again-0", tail.next(t).Event.ID)
				require.Len(t, natsserver.Records(t, srv.URL(), "TENSORLAKE", natsgo.UserCredentials(a.options.CredsFile)), 2)
			}
		})
	}
}

func TestAWebSocketURLThatLeadsToNATS(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t)
	for scheme, plain := range map[string]string{"ws": "nats", "wss": "tls"} {
		sink := open(t, options(t, scheme+"://"+srv.Addr()))
		requireBlockedWith(t, sink, "it speaks NATS, not WebSocket: write "+plain+":// in URL, or give the WebSocket port")
		require.NotContains(t, sink.Check(t.Context()).Error(), "server_id")
	}
}
