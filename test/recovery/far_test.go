//go:build linux

package recovery

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// distance is how long a byte takes from the bridge to a broker that is in another region, and back as long.
	distance = 75 * time.Millisecond
	// functions is how many events the one webhook has whose way is measured.
	functions = 1000
	// farSoon is the goal for all of them. The quick run, on a machine that does much else, allows farQuick, which is far
	// less than a round trip for each event.
	farSoon, farQuick = time.Second, functions * 2 * distance / 10
	// busyInterval is how long after one webhook the next one comes, where the load is heavy, and busyFor how long it goes
	// on. After steady of it, what each webhook takes has to stay as it is.
	busyInterval   = time.Millisecond
	busyFor        = 10 * time.Second
	steady         = 3 * time.Second
	fewFunctions   = 2
	farAwayForEver = 2 * farSoon
)

// heavy is of two events a webhook.
func heavy() load {
	return load{busyInterval, func(name string, n int64) string { return workflow(name, n, fewFunctions) }}
}

// workflow is a payload with so many functions.
func workflow(name string, n int64, functions int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"workflow_name":"%s","invocation_id":"%s-%d","fn_status":{`, name, name, n)
	for i := range functions {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"step%d":"success"`, i)
	}
	b.WriteString("}}")
	return b.String()
}

// farResult is how long something took at a distance.
type farResult struct {
	name         string
	bridge, bare []time.Duration // bare is empty where a client has nothing to compare
	limit        time.Duration
	refused      int // webhooks, since too many waited already
}

// measureFar measures what it costs that the broker is far away.
func measureFar(t *testing.T, s site, name string, number, tries int, full bool) []farResult {
	t.Helper()
	b := s.through()
	s.line.proxy.Distance(distance)
	defer s.line.proxy.Distance(0)
	var results []farResult
	for _, ack := range []string{"journal", "sinks"} {
		who := fmt.Sprintf("far%d-%s", number, ack)
		env := b.env(who)
		env["ACK"] = ack
		bridge := startBridge(t, who, env, slog.LevelInfo)
		bridge.awaitReady(t)
		what := "stored after its acceptance"
		if ack == "sinks" {
			what = "acknowledged, ACK=sinks"
		}
		one := farResult{name: fmt.Sprintf("%s: a workflow of %d functions %s", name, functions, what), limit: farSoon}
		for range tries {
			one.bridge = append(one.bridge, wholeWorkflow(t, b, bridge, ack))
		}
		one.bare = bareWorkflow(t, b, tries)
		results = append(results, one)
		if full {
			results = append(results, steadyLoad(t, b, bridge, name, ack))
		}
	}
	for _, r := range results {
		limit := awayLimit
		if !full {
			limit = farQuick
		}
		require.Less(t, part(r.bridge, 1), limit, r.name)
	}
	return results
}

// wholeWorkflow sends one workflow, and returns how long it took: from its acceptance until all of it was stored, or
// with ACK=sinks until it was acknowledged.
func wholeWorkflow(t *testing.T, b broker, bridge *runningBridge, ack string) time.Duration {
	t.Helper()
	began := time.Now()
	n := bridge.sent.Add(1)
	accepted, err := bridge.post(t.Context(), n, workflow(bridge.name, n, functions))
	require.NoError(t, err)
	bridge.awaitDelivered(t)
	last, seen := accepted, make(map[string]bool)
	for _, s := range b.read(t, began.Add(-quiet)) {
		if s.webhook != bridge.webhookID(n) || seen[s.id] { // on a busy machine one may be stored twice
			continue
		}
		if seen[s.id] = true; s.at.After(last) {
			last = s.at
		}
	}
	require.Len(t, seen, functions)
	if ack == "sinks" {
		return accepted.Sub(began)
	}
	return last.Sub(accepted)
}

// bareWorkflow is how long the library of the sink takes to have as many messages acknowledged.
func bareWorkflow(t *testing.T, b broker, tries int) (all []time.Duration) {
	t.Helper()
	client := b.patient(t)
	defer client.close()
	ctx, cancel := context.WithTimeout(t.Context(), awayLimit)
	defer cancel()
	require.NoError(t, client.publish(ctx, functions)) // once it knows the broker
	for range tries {
		began := time.Now()
		require.NoError(t, client.publish(ctx, functions))
		all = append(all, time.Since(began))
	}
	return all
}

// steadyLoad is how long each webhook of a heavy load takes from its acceptance until all of it is stored, or with
// ACK=sinks from when it was due until it was acknowledged, once that goes on for ever.
func steadyLoad(t *testing.T, b broker, bridge *runningBridge, name, ack string) farResult {
	t.Helper()
	before := bridge.sent.Load()
	began := time.Now()
	stop := heavy().start(t, bridge)
	last(t, busyFor)
	stop()
	sent := bridge.sent.Load() - before
	took := time.Since(began)
	r := farResult{
		name:  fmt.Sprintf("%s: %.0f webhooks/s of %d events, ACK=%s", name, float64(sent)/took.Seconds(), fewFunctions, ack),
		limit: farAwayForEver,
	}
	bridge.awaitDelivered(t)
	count, whole := make(map[string]int), make(map[string]time.Time)
	for _, s := range b.read(t, began.Add(-quiet)) {
		if count[s.webhook]++; count[s.webhook] == fewFunctions {
			whole[s.webhook] = s.at
		}
	}
	bridge.mu.Lock()
	defer bridge.mu.Unlock()
	for n := before + 1; n <= before+sent; n++ {
		accepted, ok := bridge.accepted[bridge.webhookID(n)]
		if !ok {
			r.refused++
			continue
		}
		due := began.Add(time.Duration(n-before-1) * busyInterval)
		if due.Sub(began) < steady {
			continue
		}
		if ack == "sinks" {
			r.bridge = append(r.bridge, accepted.Sub(due))
			continue
		}
		at, ok := whole[bridge.webhookID(n)]
		require.True(t, ok, "webhook %d of %d was accepted and is not stored", n-before, sent)
		r.bridge = append(r.bridge, max(0, at.Sub(accepted)))
	}
	return r
}
