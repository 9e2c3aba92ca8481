package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// noDir is a data directory that is not there, and must not be there at the end either.
func noDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	t.Cleanup(func() { require.NoDirExists(t, dir) })
	return dir
}

// overSinks is an environment for a bridge that stores nothing, with a NATS server of its own.
func overSinks(s *natsserver.Server, more map[string]string) map[string]string {
	changes := map[string]string{"ACK": "sinks", "NATS_URL": s.URL(), "EMBEDDED_NATS_LISTEN": ""}
	maps.Copy(changes, more)
	return changes
}

func (r *running) awaitReady(status int) (body string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		var got int
		got, body = r.get("/readyz")
		return got == status
	}, bound, 10*time.Millisecond)
	return body
}

func subjectsIn(t *testing.T, url string) map[string]int {
	t.Helper()
	nc := natsserver.Connect(t, url)
	found := map[string]int{}
	for _, m := range natsserver.Messages(t, nc, "TENSORLAKE") {
		found[m.Headers().Get("ce-subject")]++
	}
	return found
}

func TestWithoutAJournalAWebhookIsAnsweredWhenEverySinkHasIt(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "tensorlake-events"))
	require.NoError(t, err)
	defer cluster.Close()
	broker := natsserver.Single(t)
	r := start(t, noDir(t), overSinks(broker,
		map[string]string{"SINKS": "nats,kafka", "KAFKA_BROKERS": strings.Join(cluster.ListenAddrs(), ",")}))
	r.awaitReady(http.StatusOK)
	for i := range 20 {
		body := workflowOf(fmt.Sprintf("invocation_%d", i))
		require.JSONEq(t, fmt.Sprintf(`{"webhook_id":"msg_%d","events":2}`, i),
			r.mustPost(fmt.Sprintf("msg_%d", i), body, http.StatusOK))
		require.Equal(t, 1, subjectsIn(t, broker.URL())[fmt.Sprintf("invocation_%d/fn_B", i)],
			"it was answered, and the broker has not got it")
	}
	require.JSONEq(t, `{"webhook_id":"msg_3","duplicate":true}`,
		r.mustPost("msg_3", workflowOf("invocation_3"), http.StatusOK))
	_, metrics := r.get("/metrics")
	require.Contains(t, metrics, `fnbridge_events_total{result="acknowledged",sink="kafka"} 40`)
	require.Contains(t, metrics, `fnbridge_events_total{result="acknowledged",sink="nats"} 40`)
	require.Contains(t, metrics, `fnbridge_queue_webhooks 0`)
	status, body := r.get("/api/status")
	require.Equal(t, http.StatusOK, status)
	var live admin.LiveStatus
	require.NoError(t, json.Unmarshal([]byte(body), &live))
	require.True(t, live.Ready)
	require.Len(t, live.Sinks, 2)
	require.Equal(t, "up", live.Sinks[1].State)
	require.NoError(t, r.stop())
	require.Contains(t, r.log.String(), "nothing waits here")
}

func TestWithoutAJournalTheEmbeddedServerWorksAndItsDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, map[string]string{"ACK": "sinks", "WEBHOOK_SECRETS": ""})
	cfg := load(t, r.environ)
	s, err := app.SendingSecret(cfg)
	require.NoError(t, err, "the secret that it made is there")
	require.NotEmpty(t, s)
	_, err = app.New(t.Context(), app.Options{Config: cfg})
	require.ErrorContains(t, err, "is in use by the process")
	require.NoError(t, r.stop())
	require.NoFileExists(t, filepath.Join(dir, "journal.db"))

	r = start(t, dir, map[string]string{"ACK": "sinks", "WEBHOOK_SECRETS": secret})
	r.mustPost("msg_1", workflow, http.StatusOK)
	require.Len(t, r.inStream(2), 2)
}

func TestAnEventThatNoBrokerStoresIsToldToTheSender(t *testing.T) {
	large := strings.ReplaceAll(workflow, "fn_B", strings.Repeat("x", 5000))
	broker := natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 8192 })
	r := start(t, noDir(t), overSinks(broker, nil))
	answer := r.mustPost("msg_1", large, http.StatusUnprocessableEntity)
	var problem struct {
		Detail string `json:"detail"`
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &problem))
	require.Contains(t, problem.Detail,
		"1 of the events of this webhook can never be stored by the sink nats (the others were published)")
	require.Contains(t, problem.Detail, "FNBRIDGE_NATS_DEAD_LETTER")
	require.Equal(t, map[string]int{"invocation_XXXX/fn_A": 1}, subjectsIn(t, broker.URL()))
	_, metrics := r.get("/metrics")
	require.Contains(t, metrics, `fnbridge_webhooks_total{result="rejected"} 1`)
	require.Contains(t, metrics, `fnbridge_events_total{result="rejected",sink="nats"} 1`)
	require.NoError(t, r.stop())

	// With an address for dead letters, the same webhook is taken.
	broker = natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 8192 })
	r = start(t, noDir(t), overSinks(broker, map[string]string{"NATS_DEAD_LETTER": "dead.letters"}))
	require.JSONEq(t, `{"webhook_id":"msg_2","events":2}`, r.mustPost("msg_2", large, http.StatusOK))
	nc := natsserver.Connect(t, broker.URL())
	js := natsserver.JetStream(t, nc)
	name, err := js.StreamNameBySubject(t.Context(), "dead.letters")
	require.NoError(t, err)
	var dead int
	for _, m := range natsserver.Messages(t, nc, name) {
		if m.Subject() == "dead.letters" {
			dead++
		}
	}
	require.Equal(t, 1, dead)
	require.NoError(t, r.stop())

	// One that rejects the event, too, is not told to be set.
	broker = natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 4096 })
	r = start(t, noDir(t), overSinks(broker, map[string]string{"NATS_DEAD_LETTER": "dead.letters"}))
	answer = r.mustPost("msg_3", large, http.StatusUnprocessableEntity)
	require.Contains(t, answer, "the dead-letter address dead.letters rejected it, too")
	require.NotContains(t, answer, "FNBRIDGE_NATS_DEAD_LETTER")
}

func TestNothingIsFinalWhileARequiredSinkHasNotStoredIt(t *testing.T) {
	broker := natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 8192 })
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts there: a Kafka that hangs
	require.NoError(t, err)
	defer l.Close()
	r := start(t, noDir(t), overSinks(broker,
		map[string]string{"SINKS": "nats,kafka", "KAFKA_BROKERS": l.Addr().String()}))
	r.mustPost("msg_1", strings.ReplaceAll(workflow, "fn_B", strings.Repeat("x", 5000)), http.StatusServiceUnavailable)
	_, metrics := r.get("/metrics")
	require.Contains(t, metrics, `fnbridge_events_total{result="rejected",sink="nats"} 1`)
	require.Contains(t, metrics, `fnbridge_webhooks_total{result="rejected"} 0`)
}

func TestAKnownOutageIsAnsweredAtOnceAndEndsByItself(t *testing.T) {
	t.Parallel()
	broker := natsserver.Single(t)
	r := start(t, noDir(t), overSinks(broker, nil))
	r.awaitReady(http.StatusOK)
	r.mustPost("msg_0", workflow, http.StatusOK)
	broker.Stop(t)
	require.Contains(t, r.awaitReady(http.StatusServiceUnavailable), "sink nats cannot be reached")
	// One request asks whether the broker is still gone; the others do not wait.
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		_, _, _ = r.post("msg_probe", workflow)
	}()
	require.Eventually(t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, "fnbridge_queue_webhooks 1")
	}, bound, 10*time.Millisecond)
	for i := range 20 {
		resp, err := r.http.Do(r.signed(fmt.Sprintf("msg_%d", i+1), workflow))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.Equal(t, "5", resp.Header.Get("Retry-After"))
	}
	select {
	case <-probed:
		require.Fail(t, "all have waited as long as the first")
	default:
	}
	broker.Start(t)
	r.awaitReady(http.StatusOK)
	r.mustPost("msg_back", workflow, http.StatusOK)
	<-probed
}

func TestAStopFinishesWhatIsUnderWay(t *testing.T) {
	broker := natsserver.Single(t)
	r := start(t, noDir(t), overSinks(broker, nil))
	r.awaitReady(http.StatusOK)
	var answered, stored atomic.Int64
	var senders sync.WaitGroup
	enough := make(chan struct{})
	for s := range 8 {
		senders.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("k%d_%d", s, i)
				status, _, err := r.post("msg_"+id, workflowOf(id))
				if err != nil || status == http.StatusServiceUnavailable {
					return // it has stopped
				}
				if status != http.StatusOK {
					t.Errorf("answered %d", status)
					return
				}
				stored.Add(2)
				if answered.Add(1) == 100 {
					close(enough)
				}
			}
		})
	}
	<-enough
	require.NoError(t, r.stop())
	senders.Wait()
	nc := natsserver.Connect(t, broker.URL())
	require.GreaterOrEqual(t, int64(len(natsserver.Messages(t, nc, "TENSORLAKE"))), stored.Load())
}

func TestAJournalThatStillOwesEventsIsRefused(t *testing.T) {
	broker := natsserver.Single(t)
	dir := t.TempDir()
	r := start(t, dir, overSinks(broker, map[string]string{"ACK": "journal"}))
	broker.Stop(t)
	for i := range 3 {
		r.mustPost(fmt.Sprintf("msg_%d", i), workflow, http.StatusAccepted)
	}
	require.NoError(t, r.stop())
	_, err := app.New(t.Context(), app.Options{Config: load(t, environment(dir, overSinks(broker, nil)))})
	require.ErrorContains(t, err, "still owes to sinks: 3 to nats")
	require.ErrorContains(t, err, "Start once with FNBRIDGE_ACK=journal")
	renamed := map[string]string{"SINKS": "events=nats", "EVENTS_URL": broker.URL()}
	_, err = app.New(t.Context(), app.Options{Config: load(t, environment(dir, overSinks(broker, renamed)))})
	require.ErrorContains(t, err, "still owes to sinks: 3 to nats", "also to one that has left the configuration")

	broker.Start(t)
	r = start(t, dir, overSinks(broker, map[string]string{"ACK": "journal"}))
	require.Eventually(t, func() bool {
		s, err := admin.ReadStatus(t.Context(), dir)
		return err == nil && s.Sinks[0].BacklogWebhooks == 0
	}, bound, 20*time.Millisecond)
	require.NoError(t, r.stop())
	r = start(t, dir, overSinks(broker, nil))
	r.awaitReady(http.StatusOK)
	require.Len(t, subjectsIn(t, broker.URL()), 2)
}

func TestDeadLettersOfAJournalFromBeforeAreSaid(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(t.Context(), journal.Options{Dir: dir, Sinks: []string{"nats"}})
	require.NoError(t, err)
	require.NoError(t, j.AddDeadLetters(t.Context(), []journal.DeadLetter{{
		Sink: "nats", WebhookSeq: 1, DeadLetter: bridge.DeadLetter{Event: bridge.Event{Data: []byte("{}")}},
	}}))
	require.NoError(t, j.Close(context.WithoutCancel(t.Context())))
	r := start(t, dir, overSinks(natsserver.Single(t), nil))
	r.awaitReady(http.StatusOK)
	require.Contains(t, r.log.String(), "has dead letters, which stay there")
	require.Contains(t, r.log.String(), "dead_letters=1")
}

func TestASinkThatIsNotRequiredHoldsUpNobody(t *testing.T) {
	t.Parallel()
	broker := natsserver.Single(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts there: a Kafka that hangs
	require.NoError(t, err)
	defer l.Close()
	r := start(t, noDir(t), overSinks(broker, map[string]string{
		"SINKS": "nats,kafka", "KAFKA_BROKERS": l.Addr().String(), "KAFKA_REQUIRED": "false",
	}))
	r.awaitReady(http.StatusOK)
	for i := range 5 {
		r.mustPost(fmt.Sprintf("msg_%d", i), workflow, http.StatusOK)
	}
	require.Eventually(t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, `fnbridge_sink_missed_events_total{sink="kafka"} 10`)
	}, bound, 20*time.Millisecond)
	status, _ := r.get("/readyz")
	require.Equal(t, http.StatusOK, status)
	var s admin.LiveStatus
	_, text := r.get("/api/status")
	require.NoError(t, json.Unmarshal([]byte(text), &s))
	require.EqualValues(t, 5, s.AcceptedWebhooks)
	require.EqualValues(t, 10, s.Sinks[1].MissedEvents)
	require.Contains(t, s.Sinks[1].Advice, "It is not required: what it does not take, it never gets.")
	_, text = r.get("/api/webhooks/1")
	require.Contains(t, text, `{"sink":"kafka","configured":true,"events":{"not_known":2}}`)
}

func TestConcurrentWebhooksSharePublications(t *testing.T) {
	broker := natsserver.Single(t)
	proxy := faultproxy.New(t, broker.Addr())
	r := start(t, noDir(t), overSinks(broker, map[string]string{"NATS_URL": "nats://" + proxy.Addr()}))
	r.awaitReady(http.StatusOK)
	const webhooks = 64
	proxy.Stall() // until all are there
	var all sync.WaitGroup
	for i := range webhooks {
		all.Go(func() {
			id := fmt.Sprintf("k%d", i)
			status, answer, err := r.post("msg_"+id, workflowOf(id))
			if err != nil || status != http.StatusOK {
				t.Errorf("%d %s %v", status, answer, err)
			}
		})
	}
	r.awaitSample("fnbridge_queue_webhooks", webhooks)
	proxy.Resume()
	all.Wait()
	calls := r.sample(`fnbridge_publish_duration_seconds_count{sink="nats"}`)
	require.Positive(t, calls)
	require.Less(t, calls, webhooks/2., "every webhook had a publication of its own, or nearly so")
}
