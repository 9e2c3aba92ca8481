package app_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// bothModes runs a test with a journal and without one.
func bothModes(t *testing.T, test func(t *testing.T, changes map[string]string, stored int)) {
	t.Helper()
	for ack, stored := range map[string]int{"journal": http.StatusAccepted, "sinks": http.StatusOK} {
		t.Run(ack, func(t *testing.T) { test(t, map[string]string{"ACK": ack}, stored) })
	}
}

// kafkaTopic is a broker with a topic of one partition.
func kafkaTopic(t *testing.T) (brokers string) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "tensorlake-events"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return strings.Join(cluster.ListenAddrs(), ",")
}

// records returns everything that the topic holds, once that is so many records.
func records(t *testing.T, brokers string, n int) (read []*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ConsumeTopics("tensorlake-events"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	for len(read) < n {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		read = append(read, fetches.Records()...)
	}
	require.Len(t, read, n)
	return read
}

func header(m *kgo.Record, name string) string {
	for _, h := range m.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// An acceptance is a promise for each event: whatever ids, bodies, sources and secrets two webhooks have in common,
// each event of each is at each broker, once.
func TestEveryEventOfEveryAcceptedWebhookIsAtEveryBroker(t *testing.T) {
	const other = "whsec_b3RoZXItc2VjcmV0LW90aGVyLXNlY3JldC1vdGhlcg=="
	envelope := func(project, id, eventType, data string) string {
		return fmt.Sprintf(`{"event_id":%q,"event_type":%q,"event_version":1,"occurred_at":"2026-08-04T12:00:00Z",`+
			`"project_id":%q,"source_id":"src","source_revision":"1","source_ordinal":0,"data":%s}`,
			id, eventType, project, data)
	}
	functions := func(invocation, statuses string) string {
		return fmt.Sprintf(`{"workflow_name":"pay","invocation_id":%q,"fn_status":{%s}}`, invocation, statuses)
	}
	// What the id of the workflow's event is, for an envelope that would be taken for it.
	payload, err := tensorlake.Parse([]byte(functions("inv", `"charge":"success"`)))
	require.NoError(t, err)
	var workflowEvent bridge.Event
	for workflowEvent = range payload.Events(bridge.Webhook{}, tensorlake.Options{}) {
	}

	const request = `{"application":{"name":"invoices"},"request":{"id":"req_1"}}`
	bodies := []string{
		envelope("p1", "evt_1", "tensorlake.application.request.failed", request),
		envelope("p2", "evt_1", "tensorlake.application.request.failed", request),
		envelope("p1", "evt_1", "tensorlake.application.request.failed", strings.Replace(request, "req_1", "req_2", 1)),
		envelope("p1", "evt_1", "tensorlake.volume.created", `{}`),
		envelope("p1", workflowEvent.ID, "tensorlake.workflow.pay.charge.success", `{}`),
		envelope("p1", workflowEvent.ID, "tensorlake.application.created", `{"application":{"name":"pay"}}`),
		functions("inv", `"charge":"failure"`),
		functions("inv", `"charge":"success"`),
		functions("inv", `"charge":"failure","charge":"success","charge":"failure","charge":"failure"`),
		functions("inv", `"charge":"failure","mail":"success"`),
		functions("inv2", `"charge":"failure"`),
		functions("inv", ``),
		`{"job_id":"j","status":"success"}`,
		`{"job_id":"j","status":"success","usage":{"pages":1}}`,
		`{"job_id":"j","status":"successful"}`,
		`{"success":true}`,
		`{"success":true} `,
		`{"success":true,"success":true}`,
	}
	signers := make([]*svix.Webhook, 2)
	for i, s := range []string{secret, other} {
		signers[i], err = svix.NewWebhook(s)
		require.NoError(t, err)
	}
	const ids = 60

	bothModes(t, func(t *testing.T, changes map[string]string, stored int) {
		brokers, broker := kafkaTopic(t), natsserver.Single(t)
		maps.Copy(changes, map[string]string{
			"SINKS": "nats,kafka", "KAFKA_BROKERS": brokers, "NATS_URL": broker.URL(), "WEBHOOK_SECRETS": secret + "," + other,
		})
		r := start(t, t.TempDir(), changes)
		r.awaitReady(http.StatusOK)

		// Every id comes with every body, twice, each time by either secret, and many at once.
		var posts sync.WaitGroup
		places := make(chan struct{}, 64)
		for n := range 2 * ids * len(bodies) {
			places <- struct{}{}
			posts.Go(func() {
				defer func() { <-places }()
				id, body := fmt.Sprintf("msg_%d", n%ids), bodies[n/ids%len(bodies)]
				req := r.signed(id, body)
				at := time.Now()
				signature, err := signers[n%2].Sign(id, at, []byte(body))
				if err != nil {
					panic(err)
				}
				req.Header.Set("Svix-Timestamp", fmt.Sprint(at.Unix()))
				req.Header.Set("Svix-Signature", signature)
				resp, err := r.http.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
				if resp.StatusCode != stored && resp.StatusCode != http.StatusOK {
					t.Errorf("answered %s", resp.Status)
				}
			})
		}
		posts.Wait()

		want := map[string]int{}
		total := 0
		for id := range ids {
			for _, body := range bodies {
				payload, err := tensorlake.Parse([]byte(body))
				require.NoError(t, err)
				for e := range payload.Events(
					bridge.Webhook{ID: fmt.Sprintf("msg_%d", id), Body: []byte(body)}, tensorlake.Options{},
				) {
					want[e.WebhookID+" "+e.ID+" "+string(e.Data)]++
					total++
				}
			}
		}
		got := map[string]int{}
		for _, m := range records(t, brokers, total) {
			got[header(m, "ce_webhookid")+" "+header(m, "ce_id")+" "+string(m.Value)]++
		}
		require.Equal(t, want, got, "in Kafka")
		got = map[string]int{}
		for _, m := range inStream(t, broker.URL(), "TENSORLAKE", total) {
			got[m.Headers().Get("ce-webhookid")+" "+m.Headers().Get("ce-id")+" "+string(m.Data())]++
		}
		require.Equal(t, want, got, "in NATS")
		require.Len(t, natsserver.Messages(t, natsserver.Connect(t, broker.URL()), "TENSORLAKE"), total)
		_, metrics := r.get("/metrics")
		require.Contains(t, metrics, `fnbridge_sink_duplicate_events_total{sink="nats"} 0`)
	})
}

func TestSinksWithRoutesAreARoutingTable(t *testing.T) {
	failed, completed := `"request":{"id":"req_%d","status":"failed"}`, `"request":{"id":"req_%d","status":"completed"}`
	envelope := func(i int, application, word, request string) string {
		return fmt.Sprintf(`{"event_id":"evt_%d","event_type":"tensorlake.application.request.%s",`+
			`"event_version":1,"occurred_at":"2026-08-04T12:00:00Z",`+
			`"project_id":"p","source_id":"src","source_revision":"1","source_ordinal":0,`+
			`"data":{"application":{"name":%q},`+request+`}}`, i, word, application, i)
	}
	bothModes(t, func(t *testing.T, changes map[string]string, stored int) {
		all, failures, broker := kafkaTopic(t), kafkaTopic(t), natsserver.Single(t)
		maps.Copy(changes, map[string]string{
			"SINKS": "all=kafka,failures=kafka,billing=nats", "ALL_BROKERS": all,
			"FAILURES_BROKERS": failures, "BILLING_URL": broker.URL(),
			"FAILURES_ROUTES": "workflow.*.*.failure, application.*.request.failed", "BILLING_ROUTES": "application.billing.>",
		})
		r := start(t, t.TempDir(), changes)
		r.awaitReady(http.StatusOK)
		for i, body := range []string{
			envelope(0, "billing", "failed", failed), envelope(1, "billing", "completed", completed),
			envelope(2, "mail", "failed", failed), workflow,
		} {
			r.mustPost(fmt.Sprintf("msg_%d", i), body, stored)
		}
		require.Len(t, records(t, all, 5), 5)
		types := func(messages []*kgo.Record) (types []string) {
			for _, m := range messages {
				types = append(types, header(m, "ce_type"))
			}
			return slices.Sorted(slices.Values(types))
		}
		const requestFailed = "tensorlake.application.request.failed"
		require.Equal(t, []string{requestFailed, requestFailed, "tensorlake.workflow.function.failure"},
			types(records(t, failures, 3)))
		var subjects []string
		for _, m := range inStream(t, broker.URL(), "TENSORLAKE", 2) {
			subjects = append(subjects, m.Subject())
		}
		require.ElementsMatch(t,
			[]string{"tensorlake.application.billing.request.failed", "tensorlake.application.billing.request.completed"},
			subjects)
	})
}

// With FNBRIDGE_ACK=sinks a webhook waits for those sinks alone that want an event of it.
func TestASinkThatIsDownHoldsUpNoWebhookThatItDoesNotWant(t *testing.T) {
	broker := natsserver.Single(t)
	r := start(t, noDir(t), overSinks(broker, map[string]string{
		"SINKS": "nats,other=kafka", "OTHER_BROKERS": "127.0.0.1:1",
		"OTHER_ROUTES": "application.>", "NATS_ROUTES": "workflow.*.*.failure",
	}))
	require.Eventually(t, func() bool {
		return strings.Contains(r.awaitReady(http.StatusServiceUnavailable), "other cannot be reached")
	}, bound, 10*time.Millisecond)
	require.Eventually(t, func() bool { // NATS may not have been reached yet
		status, _, err := r.post("msg_1", workflow)
		return err == nil && status == http.StatusOK
	}, bound, 10*time.Millisecond)
	require.Equal(t, map[string]int{"invocation_XXXX/fn_B": 1}, subjectsIn(t, broker.URL()))
	r.mustPost("msg_2", `{"nobody":"wants this"}`, http.StatusOK)
}
