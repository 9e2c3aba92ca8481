//go:build linux

package recovery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/app"
)

const (
	// loadInterval is how long after one webhook the next one comes, where the load is light.
	loadInterval = 20 * time.Millisecond
	// postLimit is longer than an answer takes with ACK=sinks.
	postLimit = 20 * time.Second
	// readyLimit is how long a bridge may take until it could publish.
	readyLimit = time.Minute
)

// runningBridge is a bridge, to which webhooks can be sent.
type runningBridge struct {
	name   string
	url    string // of the endpoint
	ops    string // URL of the operations listener
	client *http.Client
	sent   atomic.Int64
	// restart kills the process that it is, and starts it again; nil: it is in this one.
	restart func(t *testing.T)

	mu       sync.Mutex
	accepted map[string]time.Time // when webhooks were answered, by id
}

func newRunningBridge(t *testing.T, name, public, ops string) *runningBridge {
	t.Helper()
	b := &runningBridge{
		name: name, url: "http://" + public + "/webhooks/tensorlake", ops: "http://" + ops,
		client:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}, Timeout: postLimit},
		accepted: make(map[string]time.Time),
	}
	t.Cleanup(b.client.CloseIdleConnections)
	return b
}

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

// startBridge runs a bridge in this process until the test ends. Its events have name in their subject or key. Of its
// log, what is below level costs nothing.
func startBridge(t *testing.T, name string, env map[string]string, level slog.Level) *runningBridge {
	t.Helper()
	settings := map[string]string{
		"DATA_DIR": t.TempDir(), "LISTEN": "127.0.0.1:0", "OPS_LISTEN": "127.0.0.1:0", "INSECURE_UNSIGNED": "true",
	}
	maps.Copy(settings, env)
	cfg, _, err := app.LoadConfig(environment(settings))
	require.NoError(t, err)
	log := &logText{}
	a, err := app.New(t.Context(), app.Options{
		Config: cfg, Version: "test",
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level})),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the bridge ended with: %v", err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return newRunningBridge(t, name, a.Addr().String(), a.OpsAddr().String())
}

func environment(settings map[string]string) []string {
	environ := make([]string, 0, len(settings))
	for variable, value := range settings {
		environ = append(environ, "FNBRIDGE_"+variable+"="+value)
	}
	return environ
}

// awaitReady waits until the bridge could publish.
func (b *runningBridge) awaitReady(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		values, err := b.metrics(t.Context())
		return err == nil && values["fnbridge_sink_up"] == 1
	}, readyLimit, 20*time.Millisecond, "the bridge does not say that its sink is up")
}

// awaitDelivered waits until nothing is left of what was accepted.
func (b *runningBridge) awaitDelivered(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		values, err := b.metrics(t.Context())
		return err == nil && values["fnbridge_sink_backlog_webhooks"] == 0
	}, awayLimit, 20*time.Millisecond, "a backlog remains")
}

// metrics returns the values of the bridge's metrics, each summed over its labels.
func (b *runningBridge) metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.ops+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ = strings.Cut(name, "{")
		number, err := strconv.ParseFloat(value[strings.LastIndexByte(value, ' ')+1:], 64)
		if err != nil {
			return nil, err
		}
		values[name] += number
	}
	return values, nil
}

// metric is one of them, which is 0 while the bridge has not got it.
func (b *runningBridge) metric(t *testing.T, name string) int {
	t.Helper()
	values, err := b.metrics(t.Context())
	require.NoError(t, err)
	return int(values[name])
}

// dropped is how many events the broker has dropped as repeats.
func (b *runningBridge) dropped(t *testing.T) int {
	t.Helper()
	return b.metric(t, "fnbridge_sink_duplicate_events_total")
}

// senders are how many webhooks of a load wait for their answers at most: one that has to wait is sent late.
const senders = 512

// load is webhooks that come at fixed times, whatever becomes of those before.
type load struct {
	interval time.Duration
	body     func(name string, n int64) string
}

// light is of one event a webhook.
func light() load {
	return load{loadInterval, func(name string, n int64) string {
		return fmt.Sprintf(`{"job_id":"%s-%d","status":"success"}`, name, n)
	}}
}

// start sends the load's webhooks until the returned function is called, which waits for the last answers, or until the
// test ends.
func (l load) start(t *testing.T, b *runningBridge) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	places := make(chan struct{}, senders)
	all.Go(func() {
		wake := time.NewTimer(0)
		defer wake.Stop()
		for due := time.Now(); ; due = due.Add(l.interval) {
			wake.Reset(time.Until(due))
			select {
			case <-ctx.Done():
				return
			case <-wake.C:
			}
			select {
			case <-ctx.Done():
				return
			case places <- struct{}{}:
			}
			n := b.sent.Add(1)
			all.Go(func() {
				_, _ = b.post(context.WithoutCancel(ctx), n, l.body(b.name, n))
				<-places
			})
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func (b *runningBridge) webhookID(n int64) string { return fmt.Sprintf("msg_%s_%d", b.name, n) }

// post sends the n-th webhook, and returns when it was accepted. With ACK=sinks none is while the broker is away.
func (b *runningBridge) post(ctx context.Context, n int64, body string) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url, strings.NewReader(body))
	if err != nil {
		return time.Time{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Svix-Id", b.webhookID(n))
	req.Header.Set("Svix-Timestamp", strconv.FormatInt(time.Now().Unix(), 10))
	resp, err := b.client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return time.Time{}, err
	case resp.StatusCode >= http.StatusMultipleChoices:
		return time.Time{}, fmt.Errorf("%s: %s", resp.Status, text)
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accepted[b.webhookID(n)] = now
	return now, nil
}
