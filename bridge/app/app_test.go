package app_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestMain(m *testing.M) {
	// A nats-server that is stopped in the midst of making a stream forgets that stream's store; some tests stop a bridge
	// as soon as it has started.
	goleak.VerifyTestMain(m, natsserver.Leftovers()...)
}

// bound is for whatever the machine may be slow to do.
const bound = 3 * time.Minute

const (
	secret   = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	workflow = `{"workflow_name": "workflow_XXXX", "invocation_id": "invocation_XXXX",
 "fn_status": {"fn_A": "success", "fn_B": "failure"}}`
)

// workflowOf is the same of another invocation.
func workflowOf(invocation string) string {
	return strings.ReplaceAll(workflow, "invocation_XXXX", invocation)
}

// logText collects what the bridge logs.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// running is a bridge in this process.
type running struct {
	*app.App
	t       *testing.T
	environ []string
	log     *logText
	stop    func() error
	http    *http.Client
	scheme  string
}

// environment is what every bridge of these tests has, changed.
func environment(dir string, changes map[string]string) []string {
	variables := map[string]string{
		"DATA_DIR": dir, "LISTEN": "127.0.0.1:0", "OPS_LISTEN": "127.0.0.1:0",
		"EMBEDDED_NATS_LISTEN": "127.0.0.1:0", "WEBHOOK_SECRETS": secret, "DRAIN": "0s",
	}
	maps.Copy(variables, changes)
	var environ []string
	for name, value := range variables {
		environ = append(environ, "FNBRIDGE_"+name+"="+value)
	}
	return environ
}

func load(t *testing.T, environ []string) *config.Config {
	t.Helper()
	cfg, _, err := app.LoadConfig(environ)
	require.NoError(t, err)
	return cfg
}

// start runs a bridge until the test ends or stop is called.
func start(t *testing.T, dir string, changes map[string]string) *running {
	t.Helper()
	return startAt(t, dir, changes, time.Now)
}

// startAt is start with another clock.
func startAt(t *testing.T, dir string, changes map[string]string, now func() time.Time) *running {
	t.Helper()
	environ := environment(dir, changes)
	log := &logText{}
	a, err := app.New(t.Context(), app.Options{
		Config: load(t, environ),
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "test", Now: now,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	r := &running{
		App: a, t: t, environ: environ, log: log, http: &http.Client{Transport: &http.Transport{}}, scheme: "http",
	}
	r.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		r.http.CloseIdleConnections()
		return err
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the bridge ended with: %v", err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return r
}

// signed is the request that Svix makes of a body.
func (r *running) signed(id, body string) *http.Request { return r.signedAt(id, body, time.Now()) }

func (r *running) signedAt(id, body string, at time.Time) *http.Request {
	wh, err := svix.NewWebhook(secret)
	if err != nil {
		panic(err)
	}
	signature, err := wh.Sign(id, at, []byte(body))
	if err != nil {
		panic(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost,
		r.scheme+"://"+r.Addr().String()+"/webhooks/tensorlake", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Svix-Id", id)
	req.Header.Set("Svix-Timestamp", fmt.Sprint(at.Unix()))
	req.Header.Set("Svix-Signature", signature)
	return req
}

// post sends a body as Svix does and returns the status and the answer. It may be called from any goroutine.
func (r *running) post(id, body string) (status int, answer string, err error) {
	resp, err := r.http.Do(r.signed(id, body))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func (r *running) mustPost(id, body string, status int) string {
	r.t.Helper()
	got, answer, err := r.post(id, body)
	require.NoError(r.t, err)
	require.Equal(r.t, status, got, answer)
	return answer
}

func (r *running) get(path string) (status int, body string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+r.OpsAddr().String()+path, http.NoBody)
	require.NoError(r.t, err)
	resp, err := r.http.Do(req)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, string(text)
}

// awaitLog waits until a text stands in the log.
func (r *running) awaitLog(text string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return strings.Contains(r.log.String(), text) },
		bound, time.Millisecond)
}

// awaitCount waits until as many are counted as are wanted, for as long as there are more and more.
func awaitCount(t *testing.T, want int, count func() int, what string) {
	t.Helper()
	for have := 0; have < want; {
		before := have
		require.Eventually(t, func() bool {
			have = count()
			return have > before
		}, bound, 10*time.Millisecond, what)
	}
	require.Equal(t, want, count(), what)
}

// inStream reads the first n messages of the embedded server's stream.
func (r *running) inStream(n int) []natsjs.Msg {
	r.t.Helper()
	return inStream(r.t, r.NATSURL(), "TENSORLAKE", n)
}

func inStream(t *testing.T, url, stream string, n int) []natsjs.Msg {
	t.Helper()
	nc := natsserver.Connect(t, url)
	defer nc.Close()
	js := natsserver.JetStream(t, nc)
	require.Eventually(t, func() bool {
		s, err := js.Stream(t.Context(), stream)
		return err == nil && s.CachedInfo().State.Msgs >= uint64(n)
	}, bound, 5*time.Millisecond)
	msgs := natsserver.Messages(t, nc, stream)
	require.GreaterOrEqual(t, len(msgs), n)
	return msgs[:n]
}

func TestASignedWebhookReachesAnyNATSClient(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	nc := natsserver.Connect(t, r.NATSURL())
	sub, err := nc.SubscribeSync("tensorlake.>")
	require.NoError(t, err)
	require.NoError(t, nc.FlushTimeout(bound))

	r.awaitLog("http://" + r.Addr().String() + "/webhooks/tensorlake")
	answer := r.mustPost("msg_1", workflow, http.StatusAccepted)
	require.JSONEq(t, `{"webhook_id":"msg_1","events":2}`, answer)

	for _, want := range []struct{ function, status string }{{"fn_A", "success"}, {"fn_B", "failure"}} {
		m, err := sub.NextMsg(bound)
		require.NoError(t, err)
		require.Equal(t, "tensorlake.workflow.workflow_XXXX."+want.function+"."+want.status, m.Subject)
		require.Equal(t, "tensorlake.workflow.function."+want.status, m.Header.Get("ce-type"))
		require.Equal(t, "/tensorlake/workflows/workflow_XXXX", m.Header.Get("ce-source"))
		require.Equal(t, "invocation_XXXX/"+want.function, m.Header.Get("ce-subject"))
		require.Equal(t, "invocation_XXXX", m.Header.Get("ce-partitionkey"))
		require.Equal(t, "msg_1", m.Header.Get("ce-webhookid"))
		require.Regexp(t, "^[0-9a-f]{32}$", m.Header.Get("Nats-Msg-Id"))
		require.JSONEq(t, fmt.Sprintf(
			`{"workflow_name":"workflow_XXXX","invocation_id":"invocation_XXXX","function":%q,"status":%q,"functions_total":2}`,
			want.function, want.status), string(m.Data))
	}

	require.JSONEq(t, `{"webhook_id":"msg_1","duplicate":true}`, r.mustPost("msg_1", workflow, http.StatusOK))
}

func TestEveryWebhookReachesBothBrokers(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(4, "tensorlake-events"))
	require.NoError(t, err)
	defer cluster.Close()
	r := start(t, t.TempDir(), map[string]string{
		"SINKS": "nats,kafka", "KAFKA_BROKERS": strings.Join(cluster.ListenAddrs(), ","),
	})
	const webhooks = 50
	want := map[string]bool{}
	for i := range webhooks {
		body := workflowOf(fmt.Sprintf("invocation_%d", i))
		r.mustPost(fmt.Sprintf("msg_%d", i), body, http.StatusAccepted)
		want[fmt.Sprintf("invocation_%d/fn_A", i)], want[fmt.Sprintf("invocation_%d/fn_B", i)] = true, true
	}
	inNATS := map[string]bool{}
	for _, m := range r.inStream(2 * webhooks) {
		inNATS[m.Headers().Get("ce-subject")] = true
	}
	require.Equal(t, want, inNATS)

	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("tensorlake-events"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	inKafka := map[string]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	for len(inKafka) < len(want) {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(rec *kgo.Record) {
			for _, h := range rec.Headers {
				if h.Key == "ce_subject" {
					inKafka[string(h.Value)] = true
				}
			}
		})
	}
	require.Equal(t, want, inKafka)
}

func TestTwoSinksOfOneKindGoTheirOwnWays(t *testing.T) {
	r := start(t, t.TempDir(), map[string]string{
		"SINKS": "nats,audit=nats", "AUDIT_STREAM": "AUDIT",
		"AUDIT_SUBJECT": "audit.{workflow}.{function}", "AUDIT_FORMAT": "plain",
	})
	r.mustPost("msg_1", workflow, http.StatusAccepted)
	require.Equal(t, "tensorlake.workflow.workflow_XXXX.fn_A.success", r.inStream(2)[0].Subject())
	audit := inStream(t, r.NATSURL(), "AUDIT", 2)
	require.Equal(t, "audit.workflow_XXXX.fn_A", audit[0].Subject())
	require.Empty(t, audit[0].Headers().Get("ce-id"))
	require.Eventually(t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, `fnbridge_events_total{result="acknowledged",sink="nats"} 2`) &&
			strings.Contains(metrics, `fnbridge_events_total{result="acknowledged",sink="audit"} 2`)
	}, bound, 10*time.Millisecond)
}

func TestASummaryFollowsTheFunctionEvents(t *testing.T) {
	r := start(t, t.TempDir(), map[string]string{"SUMMARY_EVENTS": "true"})
	require.JSONEq(t, `{"webhook_id":"msg_1","events":3}`, r.mustPost("msg_1", workflow, http.StatusAccepted))
	last := r.inStream(3)[2]
	require.Equal(t, "tensorlake.workflow.invocation.finished", last.Subject())
	require.Equal(t, "tensorlake.workflow.invocation.finished", last.Headers().Get("ce-type"))
	require.JSONEq(t,
		`{"workflow_name":"workflow_XXXX","invocation_id":"invocation_XXXX","functions_total":2,`+
			`"succeeded":1,"failed":1,"status":"failure"}`,
		string(last.Data()))
}

func TestAStopUnderLoadLosesNothing(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var accepted []string
	r := start(t, dir, nil)
	var senders sync.WaitGroup
	enough := make(chan struct{})
	for s := range 8 {
		senders.Go(func() {
			for i := range 10_000 {
				invocation := fmt.Sprintf("invocation_%d_%d", s, i)
				status, _, err := r.post("msg_"+invocation, workflowOf(invocation))
				if err != nil {
					return // the listener is gone
				}
				if status/100 != 2 {
					continue
				}
				mu.Lock()
				accepted = append(accepted, invocation)
				if len(accepted) == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	require.NoError(t, r.stop())
	senders.Wait()

	again := start(t, dir, nil)
	want := map[string]bool{}
	for _, invocation := range accepted {
		want[invocation+"/fn_A"], want[invocation+"/fn_B"] = true, true
	}
	got := map[string]bool{}
	for _, m := range again.inStream(len(want)) {
		got[m.Headers().Get("ce-subject")] = true
	}
	for subject := range want {
		require.True(t, got[subject], "%s was accepted and is not in the stream", subject)
	}
}

func TestASecondBridgeOnTheSameDataIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, nil)
	_, err := app.New(t.Context(), app.Options{Config: load(t, first.environ)})
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, fmt.Sprint(os.Getpid()))
}

func TestABridgeWhoseLockIsTakenAwayEnds(t *testing.T) {
	for _, ack := range []string{"journal", "sinks"} {
		t.Run(ack, func(t *testing.T) {
			dir := t.TempDir()
			environ := environment(dir, map[string]string{"ACK": ack})
			a, err := app.New(t.Context(), app.Options{Config: load(t, environ), Version: "test"})
			require.NoError(t, err)
			require.NoError(t, os.Remove(filepath.Join(dir, "fnbridge.lock")))
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			// The first that is written to a journal is how the sink is.
			err = a.Run(ctx)
			require.NoError(t, ctx.Err(), "it ends by itself")
			require.ErrorAs(t, err, new(*journal.OwnershipError))
		})
	}
}

func TestABridgeThatNeverRunsLeavesNoSocket(t *testing.T) {
	dir := t.TempDir()
	a, err := app.New(t.Context(), app.Options{Config: load(t, environment(dir, nil))})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "fnbridge.sock"))
	require.NoError(t, a.Close(context.WithoutCancel(t.Context())))
	require.NoFileExists(t, filepath.Join(dir, "fnbridge.sock"))
}

func TestAnAddressInUseIsToldWithItsVariable(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for variable, name := range map[string]string{
		"LISTEN": "FNBRIDGE_LISTEN", "OPS_LISTEN": "FNBRIDGE_OPS_LISTEN",
		"EMBEDDED_NATS_LISTEN": "FNBRIDGE_EMBEDDED_NATS_LISTEN",
	} {
		t.Run(variable, func(t *testing.T) {
			environ := environment(t.TempDir(), map[string]string{variable: taken.Addr().String()})
			_, err := app.New(t.Context(), app.Options{Config: load(t, environ)})
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, taken.Addr().String())
		})
	}
}

func TestADirectoryThatTheEmbeddedServerCannotUseIsToldWithItsVariable(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nats"), nil, 0o600))
	_, err := app.New(t.Context(), app.Options{Config: load(t, environment(dir, nil))})
	require.ErrorContains(t, err, "not a directory (FNBRIDGE_DATA_DIR)")
}

func TestASecretIsMadeOnFirstStartAndKept(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, map[string]string{"WEBHOOK_SECRETS": ""})
	made, err := app.SendingSecret(load(t, r.environ))
	require.NoError(t, err)
	path := filepath.Join(dir, "webhook-secret")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Contains(t, r.log.String(), "FNBRIDGE_WEBHOOK_SECRETS")
	require.NotContains(t, r.log.String(), made, "the log must not tell the secret")
	r.mustPost("msg_1", workflow, http.StatusUnauthorized)
	require.NoError(t, r.stop())

	r = start(t, dir, map[string]string{"WEBHOOK_SECRETS": ""})
	again, err := app.SendingSecret(load(t, r.environ))
	require.NoError(t, err)
	require.Equal(t, made, again)
}

func TestSettingsThatOnlyAPartUnderstandsAreChecked(t *testing.T) {
	_, _, err := app.LoadConfig(environment(t.TempDir(), map[string]string{
		"SINKS": "nats,audit=kafka", "AUDIT_BROKERS": "127.0.0.1:9092",
		"NATS_SUBJECT": "tensorlake.{rout}", "AUDIT_KEY": "{partitionkey", "AUDIT_ROUTES": "a..b",
	}))
	var problems config.Errors
	require.ErrorAs(t, err, &problems)
	require.Len(t, problems, 3)
	require.ErrorContains(t, problems, "FNBRIDGE_NATS_SUBJECT")
	require.ErrorContains(t, problems, "{rout}")
	require.ErrorContains(t, problems, "FNBRIDGE_AUDIT_KEY")
	require.ErrorContains(t, problems, "FNBRIDGE_AUDIT_ROUTES")
}

func TestSecretsAreWhatTheVerifierTakes(t *testing.T) {
	of := func(bytes int) string {
		return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", bytes)))
	}
	_, _, err := app.LoadConfig(environment(t.TempDir(), map[string]string{"WEBHOOK_SECRETS": of(24) + " " + of(75)}))
	require.NoError(t, err, "Svix takes up to 75 bytes")

	_, _, err = app.LoadConfig(environment(t.TempDir(),
		map[string]string{"WEBHOOK_SECRETS": of(23) + ",c2VjcmV0," + of(24) + " whsec_*"}))
	var problems config.Errors
	require.ErrorAs(t, err, &problems)
	require.Len(t, problems, 3)
	require.ErrorContains(t, problems[0], "FNBRIDGE_WEBHOOK_SECRETS: secret 1 of 4 holds 23 bytes")
	require.ErrorContains(t, problems[1], "FNBRIDGE_WEBHOOK_SECRETS: secret 2 of 4 does not begin with whsec_ or whpk_")
	require.ErrorContains(t, problems[2], "FNBRIDGE_WEBHOOK_SECRETS: secret 4 of 4 is not valid base64")
	require.NotContains(t, err.Error(), of(24)[:12])
	require.NotContains(t, err.Error(), "c2VjcmV0")
}

func TestTheOperationsListenerTellsHowTheBridgeIs(t *testing.T) {
	r := start(t, t.TempDir(), nil)
	status, _ := r.get("/livez")
	require.Equal(t, http.StatusOK, status)
	status, _ = r.get("/readyz")
	require.Equal(t, http.StatusOK, status)
	r.mustPost("msg_1", workflow, http.StatusAccepted)
	r.inStream(2)
	require.Eventually(t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, `fnbridge_events_total{result="acknowledged",sink="nats"} 2`) &&
			strings.Contains(metrics, `fnbridge_sink_backlog_webhooks{sink="nats"} 0`) &&
			strings.Contains(metrics, `fnbridge_sink_up{sink="nats"} 1`)
	}, bound, 10*time.Millisecond)
}

func TestNothingInAPayloadForgesALogLine(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			log := &logText{}
			var handler slog.Handler = slog.NewTextHandler(log, nil)
			if format == "json" {
				handler = slog.NewJSONHandler(log, nil)
			}
			a, err := app.New(t.Context(),
				app.Options{Config: load(t, environment(t.TempDir(), nil)), Logger: slog.New(handler)})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- a.Run(ctx) }()
			r := &running{App: a, t: t, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, scheme: "http"}
			name, err := json.Marshal("x\nlevel=ERROR msg=forged\r\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\x00\u2028")
			require.NoError(t, err)
			r.mustPost("msg_1",
				fmt.Sprintf(`{"workflow_name":%s,"invocation_id":%s,"fn_status":{%s:1}}`, name, name, name), http.StatusAccepted)
			r.mustPost("msg_2",
				fmt.Sprintf(`{"workflow_name":%s,"invocation_id":%s,"fn_status":{%s:%s}}`,
					name, name, name, name), http.StatusAccepted)
			r.mustPost("msg_3", fmt.Sprintf(`{%s:1}`, name), http.StatusAccepted)
			r.inStream(3)
			cancel()
			require.NoError(t, <-ended)
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			require.False(t, slices.ContainsFunc(lines, func(line string) bool {
				return strings.HasPrefix(line, "level=ERROR") || strings.HasPrefix(line, `{"level":"ERROR"`)
			}), log.String())
			require.Contains(t, log.String(), "unrecognized")
		})
	}
}
