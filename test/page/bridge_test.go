package page

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

const (
	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	token  = "a-token-for-the-page"
)

// bridge runs in this process, with a sink called events and one called audit, whose broker takes small messages only.
type bridge struct {
	*app.App
	t    testing.TB
	http *http.Client

	dir           string
	events, audit *natsserver.Server
	mu            sync.Mutex
	sent          int
}

func smallMessages(o *server.Options) { o.MaxPayload = 8 << 10 }

func start(tb testing.TB, changes map[string]string) *bridge {
	tb.Helper()
	b := &bridge{t: tb, http: &http.Client{Transport: &http.Transport{}}}
	b.events, b.audit = natsserver.Single(tb), natsserver.Single(tb, smallMessages)
	variables := map[string]string{
		"DATA_DIR": tb.TempDir(), "LISTEN": "127.0.0.1:0", "OPS_LISTEN": "127.0.0.1:0", "WEBHOOK_SECRETS": secret,
		"DRAIN": "0s", "SINKS": "events=nats,audit=nats", "EVENTS_URL": b.events.URL(), "AUDIT_URL": b.audit.URL(),
	}
	maps.Copy(variables, changes)
	b.dir = variables["DATA_DIR"]
	var environ []string
	for name, value := range variables {
		environ = append(environ, "FNBRIDGE_"+name+"="+value)
	}
	cfg, _, err := app.LoadConfig(environ)
	require.NoError(tb, err)
	b.App, err = app.New(tb.Context(), app.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Version: "test"})
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	tb.Cleanup(func() {
		b.http.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("the bridge ended with: %v", err)
		}
	})
	require.Eventually(tb, func() bool {
		resp, err := b.http.Get(b.url("/readyz"))
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}, time.Minute, 10*time.Millisecond, "the bridge does not become ready")
	return b
}

func (b *bridge) url(path string) string { return "http://" + b.OpsAddr().String() + path }

// post sends a body, signed as Svix does, and returns the status of the answer.
func (b *bridge) post(id, body string) int {
	b.t.Helper()
	wh, err := svix.NewWebhook(secret)
	require.NoError(b.t, err)
	now := time.Now()
	signature, err := wh.Sign(id, now, []byte(body))
	require.NoError(b.t, err)
	return b.postSigned(id, body, now, signature)
}

func (b *bridge) postSigned(id, body string, at time.Time, signature string) int {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost,
		"http://"+b.Addr().String()+"/webhooks/tensorlake", strings.NewReader(body))
	require.NoError(b.t, err)
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Svix-Id": id, "Svix-Signature": signature,
		"Svix-Timestamp": strconv.FormatInt(at.Unix(), 10),
	} {
		req.Header.Set(name, value)
	}
	resp, err := b.http.Do(req)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(b.t, err)
	return resp.StatusCode
}

// send sends a request's webhook, another each time, and returns the request's id.
func (b *bridge) send() (request string) {
	b.t.Helper()
	b.mu.Lock()
	b.sent++
	n := b.sent
	b.mu.Unlock()
	request = fmt.Sprintf("req_%d", n)
	kinds := []string{"created", "completed", "completed", "failed"}
	applications := []string{"invoices", "transcripts", "embeddings"}
	require.Equal(b.t, http.StatusAccepted, b.post(fmt.Sprintf("msg_%08d", n),
		envelope(applications[n%len(applications)], request, kinds[n%len(kinds)], "")))
	return request
}

// envelope is a payload of today's service, with something more in its data.
func envelope(application, request, kind, more string) string {
	quoted := func(s string) string {
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		_ = e.Encode(s) // a string can always be
		return strings.TrimSpace(text.String())
	}
	return fmt.Sprintf(`{"event_id":"evt_%s_%s","event_type":"tensorlake.application.request.%s","event_version":"1",`+
		`"occurred_at":"2026-01-02T15:04:05Z","project_id":"project_1","source_id":"source_1","source_revision":"41",`+
		`"source_ordinal":1,"data":{"application":{"name":%s,"version":"3"},"request":{"id":%s},"note":%s}}`,
		request, kind, kind, quoted(application), quoted(request), quoted(more))
}

func (b *bridge) get(path string, header http.Header) (status int, body []byte) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.url(path), http.NoBody)
	require.NoError(b.t, err)
	if header != nil {
		req.Header = header
	}
	resp, err := b.http.Do(req)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(resp.Body)
	require.NoError(b.t, err)
	return resp.StatusCode, text.Bytes()
}
