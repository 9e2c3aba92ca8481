package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

func TestTailForwardsEachEventInOrderUntilTheServiceTakesIt(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send") // two events
	var tries atomic.Int64
	taken := make(chan http.Header, 10)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if tries.Add(1) == 1 {
			http.Error(w, "not yet \x1b[2J", http.StatusServiceUnavailable)
			return
		}
		if r.Header.Get("Content-Type") != "application/json" || !json.Valid(body) {
			w.WriteHeader(http.StatusBadRequest)
		}
		taken <- r.Header
	}))
	defer service.Close()

	out := s.mustRun("tail", "--all", "--count", "2", "--forward", service.URL+"/hook")
	require.EqualValues(t, 3, tries.Load())
	first, second := <-taken, <-taken
	require.Equal(t, "1.0", first.Get("Ce-Specversion"))
	require.Equal(t, "tensorlake.workflow.function.success", first.Get("Ce-Type"))
	require.NotEqual(t, first.Get("Ce-Subject"), second.Get("Ce-Subject"))
	require.Regexp(t, `(?m)^\S+  tensorlake\.workflow\.\S+  503 in \S+: not yet .\[2J \(try 1, again in 100ms\)\n`+
		`\S+  tensorlake\.workflow\.\S+  200 in \S+\n\S+  tensorlake\.workflow\.\S+  200 in \S+\n$`, out)
	require.NotContains(t, out, "\x1b")

	// Only what the route selects goes, and what the service refuses fails the command.
	refusing := httptest.NewServer(http.NotFoundHandler())
	defer refusing.Close()
	out, errs, exit := s.run("tail", "--all", "--count", "1", "--route", "workflow.*.*.failure", "--forward", refusing.URL,
		"--json")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "the service did not take 1 of 1 event")
	var line struct {
		Status, Try int
		OK          bool
		Type        string
		Problem     string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &line))
	require.Equal(t, "tensorlake.workflow.function.failure", line.Type)
	require.Equal(t, 404, line.Status)
	require.Equal(t, "404 page not found", line.Problem)

	nc, js := s.jetStream()
	defer nc.Close()
	stream, err := js.Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	require.EqualValues(t, 2, stream.CachedInfo().State.Msgs, "what others get is what it was")
	for c := range stream.ListConsumers(t.Context()).Info() {
		require.Empty(t, c.Config.Durable)
		require.Equal(t, natsjs.AckNonePolicy, c.Config.AckPolicy)
	}
}

func TestForwardWaitsForAServiceThatIsDown(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send")
	port, err := child.ReservePort() // which nobody else gets while nobody listens there
	require.NoError(t, err)
	defer port.Release()
	p := s.start("tail", "--all", "--count", "2", "--forward", "http://"+port.Address())
	p.line("no answer: .*refused")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", port.Address())
	require.NoError(t, err)
	service := &httptest.Server{
		Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})},
	}
	service.Start()
	defer service.Close()
	p.line("200 in")
	p.line("200 in")
	require.Equal(t, 0, p.wait(t))
}
