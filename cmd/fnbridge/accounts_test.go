package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// One bridge publishes to two accounts of the same servers, in which stream and subjects have the same names.
func TestTwoAccountsBehindAWebSocket(t *testing.T) {
	t.Parallel()
	ca, operator := testcert.New(t), natsserver.NewOperator(t)
	broker := natsserver.Single(t, operator.Configure, func(o *server.Options) {
		o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, TLSConfig: ca.ServerTLS(t, false)}
	})
	s := newShell(t, "FNBRIDGE_SINKS=all=nats,failures=nats", "FNBRIDGE_FAILURES_ROUTES=workflow.*.*.failure")
	for _, sink := range []string{"ALL", "FAILURES"} {
		s.env = append(s.env,
			"FNBRIDGE_"+sink+"_URL="+broker.Running().WebsocketURL(), "FNBRIDGE_"+sink+"_TLS_CA_FILE="+ca.CAFile,
			"FNBRIDGE_"+sink+"_CREDS_FILE="+operator.Account(t).Creds(t, time.Hour))
	}
	s.serve()
	s.mustRun("send", "--wait=60s")
	out := s.mustRun("check")
	require.Equal(t, 2, strings.Count(out, "✓ authentication         accepted"), out)
	require.Equal(t, 2, strings.Count(s.mustRun("tail", "--sink", "all", "--all", "--end"), "\n"))
	require.Regexp(t, `^\S+  tensorlake\.workflow\.workflow_XXXX\.fn_B\.failure  .*\n$`,
		s.mustRun("tail", "--sink", "failures", "--all", "--end"))
}
