package ingest_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/ingest"
)

// clock stands still until it is moved on.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

func (c *clock) move() { c.advance(time.Second) }

func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func TestRefusalsCannotFloodTheLog(t *testing.T) {
	t.Parallel()
	clock := newClock()
	e := start(t, setup{options: ingest.Options{Now: clock.now}})
	for range 30 {
		require.Equal(t, http.StatusUnauthorized, e.do(t, request{body: "{}"}).status)
	}
	lines := e.log.at(slog.LevelWarn)
	require.Len(t, lines, 5)
	require.NotContains(t, lines[4], "suppressed")
	require.Contains(t, lines[0], "reason=missing_header")
	require.Contains(t, lines[0], "remote_addr=127.0.0.1:")

	require.Equal(t, http.StatusUnsupportedMediaType, e.do(t, request{}.with("Content-Type", "x")).status)
	require.Len(t, e.log.at(slog.LevelWarn), 6, "other kinds of refusals are counted apart")

	clock.move()
	require.Equal(t, http.StatusUnauthorized, e.do(t, request{body: "{}"}).status)
	lines = e.log.at(slog.LevelWarn)
	require.Len(t, lines, 7)
	require.Contains(t, lines[6], "suppressed=25")
	require.InDelta(t, 31, e.result(t, "unauthorized"), 0)
}

func TestLevels(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	e.do(t, r)
	e.do(t, r)
	e.do(t, request{}.to("POST", "/wp-login.php"))
	e.do(t, request{}.to("GET", ingest.Path))
	require.Empty(t, e.log.at(slog.LevelInfo))
	lines := e.log.at(slog.LevelDebug)
	require.Len(t, lines, 4)
	require.Contains(t, lines[0], "result=accepted")
	require.Contains(t, lines[0], "events=2")
	require.Contains(t, lines[1], "result=duplicate")
	require.Contains(t, lines[2], "/wp-login.php")
	require.Contains(t, lines[3], "method=GET")
}

// TestAWebhookAtAWrongAddressIsSaid: what a passing scanner sends is not.
func TestAWebhookAtAWrongAddressIsSaid(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	for i, r := range []request{
		signed(t, "Svix", "msg_1", workflowPayload, time.Now()).to("POST", "/webhooks"),
		signed(t, "Webhook", "msg_1", workflowPayload, time.Now()).to("POST", "/"),
		signed(t, "Svix", "msg_1", workflowPayload, time.Now()).to("PUT", ingest.Path),
		signed(t, "Svix", "msg_1", workflowPayload, time.Now()).with("Content-Type", "text/plain"),
	} {
		status := e.do(t, r).status
		lines := e.log.at(slog.LevelWarn)
		require.Len(t, lines, i+1)
		require.Contains(t, lines[i], "webhook_id=msg_1")
		require.Contains(t, lines[i], fmt.Sprintf("status=%d", status))
	}
}

func TestNothingForgesALogLine(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	long := strings.Repeat("A", 2<<10)
	for _, r := range []request{
		request{}.to("POST", "/%0alevel=ERROR%20msg=forged"),
		request{}.to("POST", "/"+long),
		request{}.to(long, ingest.Path),
		request{}.with("Svix-Id", long).with("Svix-Timestamp", long).with("Svix-Signature", long),
		request{}.with("Svix-Id", "x\tlevel=ERROR msg=forged").with("Svix-Timestamp", "1").with("Svix-Signature", "\x80"),
		request{}.with("Content-Type", "level=ERROR \xff"+long),
		request{}.with("Content-Encoding", long),
		signed(t, "Svix", "\u202elevel=ERROR", "{}", time.Now()),
		signed(t, "Svix", "msg_1", `{"job_id":1,"status":"\nlevel=ERROR msg=forged","`+long+`":1}`, time.Now()),
		signed(t, "Svix", "msg_2", `{"\nlevel=ERROR msg=forged`+long+`":1}`, time.Now()),
		signed(t, "Svix", "msg_3", "\nlevel=ERROR msg=forged", time.Now()),
	} {
		e.do(t, r)
	}
	require.Empty(t, e.log.at(slog.LevelError))
	lines := e.log.at(slog.LevelDebug)
	require.GreaterOrEqual(t, len(lines), 11)
	for _, line := range lines {
		require.Equal(t, 1, strings.Count(line, "\n"), line)
		require.Less(t, len(line), 1500, line)
		require.NotContains(t, line, "\u202e")
	}
}

func TestMetricsAreThereFromTheStart(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	problems, err := testutil.GatherAndLint(e.registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.NoError(t, testutil.GatherAndCompare(e.registry, strings.NewReader(`
# HELP fnbridge_webhooks_total Requests to the public listener, by how they ended: accepted, duplicate, or why they were not taken.
# TYPE fnbridge_webhooks_total counter
fnbridge_webhooks_total{result="accepted"} 0
fnbridge_webhooks_total{result="draining"} 0
fnbridge_webhooks_total{result="duplicate"} 0
fnbridge_webhooks_total{result="incomplete"} 0
fnbridge_webhooks_total{result="internal_error"} 0
fnbridge_webhooks_total{result="invalid"} 0
fnbridge_webhooks_total{result="method_not_allowed"} 0
fnbridge_webhooks_total{result="not_found"} 0
fnbridge_webhooks_total{result="overloaded"} 0
fnbridge_webhooks_total{result="rejected"} 0
fnbridge_webhooks_total{result="too_large"} 0
fnbridge_webhooks_total{result="unauthorized"} 0
fnbridge_webhooks_total{result="unavailable"} 0
fnbridge_webhooks_total{result="unsupported_media_type"} 0
# HELP fnbridge_webhooks_unauthorized_total Requests whose signature was refused, by why: missing_header (nobody has signed), no_match (with another secret, or another body), timestamp_out_of_tolerance (a clock is off, or it is a replay), bad_timestamp, bad_signature or repeated_header (not as the sender makes them).
# TYPE fnbridge_webhooks_unauthorized_total counter
fnbridge_webhooks_unauthorized_total{reason="bad_signature"} 0
fnbridge_webhooks_unauthorized_total{reason="bad_timestamp"} 0
fnbridge_webhooks_unauthorized_total{reason="missing_header"} 0
fnbridge_webhooks_unauthorized_total{reason="no_match"} 0
fnbridge_webhooks_unauthorized_total{reason="repeated_header"} 0
fnbridge_webhooks_unauthorized_total{reason="timestamp_out_of_tolerance"} 0
# HELP fnbridge_webhook_secret_matches_total Verified webhooks, by the place (from 1) that the secret which signed them has in the configured list.
# TYPE fnbridge_webhook_secret_matches_total counter
fnbridge_webhook_secret_matches_total{secret="1"} 0
# HELP fnbridge_webhook_id_reused_total Accepted webhooks whose id was known with another body: a sender gives an id twice.
# TYPE fnbridge_webhook_id_reused_total counter
fnbridge_webhook_id_reused_total 0
# HELP fnbridge_webhooks_unrecognized_total Accepted webhooks whose payload has none of the known shapes, or is an envelope that goes under other.
# TYPE fnbridge_webhooks_unrecognized_total counter
fnbridge_webhooks_unrecognized_total 0
# HELP fnbridge_webhooks_in_flight Webhooks that are being read, checked or stored right now, or wait for their turn.
# TYPE fnbridge_webhooks_in_flight gauge
fnbridge_webhooks_in_flight 0
`), "fnbridge_webhooks_total", "fnbridge_webhooks_unauthorized_total", "fnbridge_webhook_secret_matches_total", "fnbridge_webhook_id_reused_total",
		"fnbridge_webhooks_unrecognized_total", "fnbridge_webhooks_in_flight"))
}
