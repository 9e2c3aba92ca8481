package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

func TestAccepted(t *testing.T) {
	t.Parallel()
	now := time.Now()
	base := signed(t, "Svix", "msg_1", workflowPayload, now)
	accepted := `{"webhook_id":"msg_1","events":2}`
	long := "msg_" + strings.Repeat("x", 252)
	big := `{"workflow_name":"` + strings.Repeat("x", 300<<10) + `","invocation_id":"i","fn_status":{"a":"success"}}`
	tests := map[string]struct {
		request request
		want    string
	}{
		"svix headers":    {base, accepted},
		"webhook headers": {signed(t, "Webhook", "msg_1", workflowPayload, now), accepted},
		"two signatures": {
			base.with("Svix-Signature", "v1,AAAA v1a,x "+base.header.Get("Svix-Signature")), accepted,
		},
		"signed four minutes ago":   {signed(t, "Svix", "msg_1", workflowPayload, now.Add(-4*time.Minute)), accepted},
		"charset":                   {base.with("Content-Type", "application/json; charset=utf-8"), accepted},
		"upper case, quoted":        {base.with("Content-Type", `Application/JSON;Charset="UTF-8"`), accepted},
		"an unknown parameter":      {base.with("Content-Type", "application/json; profile=x"), accepted},
		"a broken parameter":        {base.with("Content-Type", "application/json; charset"), accepted},
		"a broken second parameter": {base.with("Content-Type", "application/json; a=b; a=c"), accepted},
		"not encoded, and said so":  {base.with("Content-Encoding", "identity"), accepted},
		"in chunks":                 {base.chunked(7), accepted},
		"query":                     {base.to(http.MethodPost, ingest.Path+"?x=/"), accepted},
		"trailing slash":            {base.to(http.MethodPost, ingest.Path+"/"), accepted},
		"absolute form":             {base.to(http.MethodPost, "http://fnbridge.test"+ingest.Path), accepted},
		"no functions": {
			signed(t, "Svix", "msg_1", `{"workflow_name":"w","invocation_id":"i","fn_status":{}}`, now),
			`{"webhook_id":"msg_1","events":0}`,
		},
		"unrecognized": {signed(t, "Svix", "msg_1", `{"surprise":1}`, now), `{"webhook_id":"msg_1","events":1}`},
		"an id that JSON escapes": {
			signed(t, "Svix", `m"s\g<`, workflowPayload, now), `{"webhook_id":"m\"s\\g<","events":2}`,
		},
		"the longest id":       {signed(t, "Svix", long, workflowPayload, now), `{"webhook_id":"` + long + `","events":2}`},
		"larger than a buffer": {signed(t, "Svix", "msg_1", big, now), `{"webhook_id":"msg_1","events":1}`},
		"large, and in chunks": {signed(t, "Svix", "msg_1", big, now).chunked(4096), `{"webhook_id":"msg_1","events":1}`},
		"as large as may be":   {signed(t, "Svix", "msg_1", pad(1<<20), now), `{"webhook_id":"msg_1","events":1}`},
		"so large, and chunked": {
			signed(t, "Svix", "msg_1", pad(1<<20), now).chunked(1 << 18), `{"webhook_id":"msg_1","events":1}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{})
			sent := test.request
			a := e.do(t, sent)
			require.Equal(t, http.StatusAccepted, a.status, a.body)
			require.Equal(t, test.want, a.body)
			require.Equal(t, "application/json", a.header.Get("Content-Type"))
			require.False(t, a.close)
			require.InDelta(t, 1, e.result(t, "accepted"), 0)
			require.InDelta(t, 1, e.gathered(t, "fnbridge_webhook_secret_matches_total", "secret=1"), 0)
			require.InDelta(t, 1, e.gathered(t, "fnbridge_webhook_duration_seconds", ""), 0)

			a = e.do(t, sent)
			require.Equal(t, http.StatusOK, a.status, a.body)
			id, _, _ := strings.Cut(test.want, `,"events"`)
			require.Equal(t, id+`,"duplicate":true}`, a.body)
			require.Equal(t, "application/json", a.header.Get("Content-Type"))
			require.InDelta(t, 1, e.result(t, "duplicate"), 0)
			require.Len(t, e.store.stored(), 1)
			require.InDelta(t, 0, e.gathered(t, "fnbridge_webhooks_in_flight", ""), 0)
		})
	}
}

// pad returns a JSON object of n bytes.
func pad(n int) string { return `{"x":"` + strings.Repeat("x", n-8) + `"}` }

func TestWhatIsStored(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	clock := now.Add(time.Minute + 5*time.Millisecond)
	e := start(t, setup{options: ingest.Options{Now: func() time.Time { return clock }}})
	body := "\n" + workflowPayload + "\r\n"
	require.Equal(t, http.StatusAccepted, e.do(t, signed(t, "Svix", "msg_1", body, now)).status)
	stored := e.store.stored()
	require.Len(t, stored, 1)
	require.Equal(t, "msg_1", stored[0].ID)
	require.True(t, stored[0].Timestamp.Equal(now), stored[0].Timestamp)
	require.True(t, stored[0].ReceivedAt.Equal(clock), stored[0].ReceivedAt)
	require.Equal(t, body, string(stored[0].Body))
}

func TestSummaryEventsAreCounted(t *testing.T) {
	t.Parallel()
	e := start(t, setup{options: ingest.Options{Events: tensorlake.Options{SummaryEvents: true}}})
	require.JSONEq(t, `{"webhook_id":"msg_1","events":3}`,
		e.do(t, signed(t, "Svix", "msg_1", workflowPayload, time.Now())).body)
}

func TestSecretsAreCountedByPlace(t *testing.T) {
	t.Parallel()
	verifier, err := tensorlake.NewVerifier([]string{otherSecret, secret}, time.Minute)
	require.NoError(t, err)
	e := start(t, setup{options: ingest.Options{Verifier: func() *tensorlake.Verifier { return verifier }}})
	require.Equal(t, http.StatusAccepted, e.do(t, signed(t, "Svix", "msg_1", workflowPayload, time.Now())).status)
	require.InDelta(t, 0, e.gathered(t, "fnbridge_webhook_secret_matches_total", "secret=1"), 0)
	require.InDelta(t, 1, e.gathered(t, "fnbridge_webhook_secret_matches_total", "secret=2"), 0)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := signed(t, "Svix", "msg_1", workflowPayload, now)
	tests := map[string]struct {
		request request
		status  int
		result  string
		detail  string
	}{
		"no signature":     {request{body: workflowPayload}, 401, "unauthorized", "svix-id"},
		"half a signature": {good.with("Svix-Signature"), 401, "unauthorized", "svix-signature"},
		"another body": {
			request{header: good.header, body: workflowPayload + " "}, 401, "unauthorized", "secret",
		},
		"another id": {good.with("Svix-Id", "msg_2"), 401, "unauthorized", "secret"},
		"another signature": {
			good.with("Svix-Signature", "v1,"+strings.Repeat("A", 43)+"="), 401, "unauthorized", "secret",
		},
		"a timestamp of no number": {good.with("Svix-Timestamp", "today"), 401, "unauthorized", "timestamp"},
		"too old": {
			signed(t, "Svix", "m", workflowPayload, now.Add(-6*time.Minute)), 401, "unauthorized", "clock",
		},
		"from the future": {
			signed(t, "Svix", "m", workflowPayload, now.Add(6*time.Minute)), 401, "unauthorized", "clock",
		},
		"two ids": {
			good.with("Svix-Id", "msg_1", "msg_2"), 401, "unauthorized", "svix-id is there more than once",
		},
		"the same id twice": {
			good.with("Svix-Id", "msg_1", "msg_1"), 401, "unauthorized", "svix-id is there more than once",
		},
		"two timestamps":        {good.with("Svix-Timestamp", "1", "2"), 401, "unauthorized", "svix-timestamp is"},
		"two signature headers": {good.with("Svix-Signature", "v1,a", "v1,b"), 401, "unauthorized", "svix-signature is"},
		"two ids beside": {
			good.with("Webhook-Id", "a", "b"), 401, "unauthorized", "webhook-id is there more than once",
		},
		"body lost on the way": {request{header: good.header}, 401, "unauthorized", "body was empty"},
		"no length at all":     {good.with("Content-Length"), 401, "unauthorized", "body was empty"},

		"not JSON":          {signed(t, "Svix", "m", "hello", now), 400, "invalid", "not JSON"},
		"JSON cut off":      {signed(t, "Svix", "m", workflowPayload[:20], now), 400, "invalid", "not JSON"},
		"two JSON values":   {signed(t, "Svix", "m", "{}{}", now), 400, "invalid", "not JSON"},
		"a JSON array":      {signed(t, "Svix", "m", "[{}]", now), 400, "invalid", "array"},
		"a JSON null":       {signed(t, "Svix", "m", "null", now), 400, "invalid", "null"},
		"empty, and signed": {signed(t, "Svix", "m", "", now), 400, "invalid", "empty"},
		"not UTF-8":         {signed(t, "Svix", "m", "{\"a\":\"\xff\"}", now), 400, "invalid", "UTF-8"},
		"id too long":       {signed(t, "Svix", strings.Repeat("x", 257), "{}", now), 400, "invalid", "has 257 bytes"},
		"id with a space":   {signed(t, "Svix", "a b", "{}", now), 400, "invalid", "visible ASCII"},
		"id not ASCII":      {signed(t, "Svix", "é", "{}", now), 400, "invalid", "visible ASCII"},

		"no content type":    {good.with("Content-Type"), 415, "unsupported_media_type", "no Content-Type"},
		"empty content type": {good.with("Content-Type", ""), 415, "unsupported_media_type", "application/json"},
		"text":               {good.with("Content-Type", "text/plain"), 415, "unsupported_media_type", `"text/plain"`},
		"a form": {
			good.with("Content-Type", "application/x-www-form-urlencoded"), 415, "unsupported_media_type", "x-www",
		},
		"other JSON": {
			good.with("Content-Type", "application/cloudevents+json"), 415, "unsupported_media_type", "cloudevents",
		},
		"nearly JSON": {good.with("Content-Type", "application/jsonp"), 415, "unsupported_media_type", "jsonp"},
		"UTF-16": {
			good.with("Content-Type", "application/json; charset=UTF-16"), 415, "unsupported_media_type", `"utf-16"`,
		},
		"two content types": {
			good.with("Content-Type", "application/json", "text/html"), 415, "unsupported_media_type", "more than one",
		},
		"compressed":       {good.with("Content-Encoding", "gzip"), 415, "unsupported_media_type", `"gzip" is not taken`},
		"compressed twice": {good.with("Content-Encoding", "identity", "br"), 415, "unsupported_media_type", `"br"`},
		"a long content type": {
			good.with("Content-Type", strings.Repeat("y", 4999)), 415, "unsupported_media_type", "(4999 bytes)",
		},
		"declared too large": {
			good.with("Content-Length", "1048577"), 413, "too_large", "has 1048577 bytes; at most 1048576",
		},
		"declared far too big": {good.with("Content-Length", "9223372036854775807"), 413, "too_large", "FNBRIDGE_MAX_BODY"},
		"too large in chunks": {
			signed(t, "Svix", "m", pad(1<<20+1), now).chunked(1 << 16), 413, "too_large", "at most 1048576",
		},

		"GET":     {good.to("GET", ingest.Path), 405, "method_not_allowed", `"GET" is not taken`},
		"PUT":     {good.to("PUT", ingest.Path), 405, "method_not_allowed", "POST"},
		"PATCH":   {good.to("PATCH", ingest.Path), 405, "method_not_allowed", "POST"},
		"DELETE":  {good.to("DELETE", ingest.Path), 405, "method_not_allowed", "POST"},
		"OPTIONS": {good.to("OPTIONS", ingest.Path), 405, "method_not_allowed", "POST"},
		"TRACE":   {good.to("TRACE", ingest.Path), 405, "method_not_allowed", "POST"},
		"unknown": {good.to("BREW", ingest.Path), 405, "method_not_allowed", "POST"},
		"lower":   {good.to("post", ingest.Path), 405, "method_not_allowed", "POST"},

		"root":            {good.to("POST", "/"), 404, "not_found", ingest.Path},
		"two slashes":     {good.to("POST", ingest.Path+"//"), 404, "not_found", ingest.Path},
		"double slash":    {good.to("POST", "/"+ingest.Path), 404, "not_found", ingest.Path},
		"dots":            {good.to("POST", "/x/.."+ingest.Path), 404, "not_found", ingest.Path},
		"below":           {good.to("POST", ingest.Path+"/x"), 404, "not_found", ingest.Path},
		"above":           {good.to("POST", "/webhooks"), 404, "not_found", ingest.Path},
		"longer":          {good.to("POST", ingest.Path+"x"), 404, "not_found", ingest.Path},
		"another case":    {good.to("POST", "/Webhooks/Tensorlake"), 404, "not_found", ingest.Path},
		"escaped slash":   {good.to("POST", "/webhooks%2Ftensorlake"), 404, "not_found", ingest.Path},
		"metrics":         {request{}.to("GET", "/metrics"), 404, "not_found", ingest.Path},
		"OPTIONS *":       {request{}.to("OPTIONS", "*"), 404, "not_found", ingest.Path},
		"CONNECT":         {request{}.to("CONNECT", "fnbridge.test:80"), 404, "not_found", ingest.Path},
		"OPTIONS on root": {request{}.to("OPTIONS", "/"), 404, "not_found", ingest.Path},

		// The first check that fails decides.
		"path before method": {request{}.to("GET", "/x").with("Content-Type", "x"), 404, "not_found", ""},
		"method before type": {request{}.to("PUT", ingest.Path).with("Content-Type", "x"), 405, "method_not_allowed", ""},
		"type before length": {
			good.with("Content-Type", "x").with("Content-Length", "1048577"), 415, "unsupported_media_type", "",
		},
		"length before signed": {request{}.with("Content-Length", "1048577"), 413, "too_large", ""},
		"signed before JSON":   {request{body: "hello"}, 401, "unauthorized", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{})
			a := e.do(t, test.request)
			requireProblem(t, a, test.status, test.detail)
			require.InDelta(t, 1, e.result(t, test.result), 0)
			require.Equal(t, map[int]string{405: "POST"}[test.status], a.header.Get("Allow"))
			require.Equal(t, map[int]string{401: "Webhook-Signature"}[test.status], a.header.Get("WWW-Authenticate"))
			require.Equal(t, map[int]string{415: "application/json"}[test.status], a.header.Get("Accept"))
			require.Equal(t, map[int]string{415: "identity"}[test.status], a.header.Get("Accept-Encoding"))
			require.Empty(t, a.header.Get("Retry-After"))
			if strings.HasPrefix(test.detail, "has ") && test.status == http.StatusRequestEntityTooLarge {
				require.True(t, a.close, "it was not read")
			}
			require.Empty(t, e.store.stored())
			require.InDelta(t, 0, e.gathered(t, "fnbridge_webhooks_in_flight", ""), 0)
		})
	}
}

func TestHeadHasNoBody(t *testing.T) {
	t.Parallel()
	a := start(t, setup{}).do(t, request{}.to(http.MethodHead, ingest.Path))
	require.Equal(t, http.StatusMethodNotAllowed, a.status)
	require.Equal(t, "POST", a.header.Get("Allow"))
	require.Empty(t, a.body)
}

func TestUnsigned(t *testing.T) {
	t.Parallel()
	e := start(t, setup{unsigned: true})
	plain := request{body: workflowPayload}
	require.JSONEq(t, `{"webhook_id":"a","events":2}`, e.do(t, plain.with("Svix-Id", "a")).body)
	require.JSONEq(t, `{"webhook_id":"b","events":2}`, e.do(t, plain.with("Webhook-Id", "b")).body)
	require.JSONEq(t, `{"webhook_id":"c","events":2}`, e.do(t, plain.with("Webhook-Id", "d").with("Svix-Id", "c")).body)
	require.JSONEq(t, `{"webhook_id":"a","duplicate":true}`, e.do(t, plain.with("Webhook-Id", "a")).body)
	for range 2 {
		require.Regexp(t, `^{"webhook_id":"msg_[A-Z2-7]{26}","events":2}$`, e.do(t, plain).body)
	}
	stored := e.store.stored()
	require.Len(t, stored, 5)
	require.NotEqual(t, stored[3].ID, stored[4].ID)
	require.True(t, stored[0].Timestamp.Equal(stored[0].ReceivedAt))

	requireProblem(t, e.do(t, plain.with("Svix-Id", "a", "b")), 401, "svix-id is there more than once")
	requireProblem(t, e.do(t, plain.with("Svix-Id", strings.Repeat("x", 257))), 400, "has 257 bytes")
	requireProblem(t, e.do(t, request{body: "[]"}), 400, "array")
	require.InDelta(t, 0, e.gathered(t, "fnbridge_webhook_secret_matches_total", "secret=1"), 0)
}

func TestStoreUnavailable(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err        error
		detail     string
		retryAfter string
	}{
		"with a time and a detail": {
			&ingest.UnavailableError{
				RetryAfter: 1200 * time.Millisecond, Detail: "The journal is full.", Err: errors.New("full"),
			},
			"The journal is full.", "2",
		},
		"wrapped": {
			fmt.Errorf("append: %w", &ingest.UnavailableError{RetryAfter: time.Minute}), "could not be stored", "60",
		},
		"nothing set": {&ingest.UnavailableError{}, "could not be stored", "10"},
		"any error":   {errors.New("disk on fire at /secret/path"), "could not be stored; send it again", "10"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{inTheWay: func(context.Context, bridge.Webhook) error { return test.err }})
			a := e.do(t, signed(t, "Svix", "msg_1", workflowPayload, time.Now()))
			requireProblem(t, a, http.StatusServiceUnavailable, test.detail)
			require.Equal(t, test.retryAfter, a.header.Get("Retry-After"))
			require.NotContains(t, a.body, "/secret/path")
			require.False(t, a.close)
			require.InDelta(t, 1, e.result(t, "unavailable"), 0)
			require.InDelta(t, 1, e.gathered(t, "fnbridge_webhook_duration_seconds", ""), 0)
			lines := e.log.at(slog.LevelWarn)
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], "result=unavailable")
			require.Contains(t, lines[0], "webhook_id=msg_1")
			require.Contains(t, lines[0], "error=")
		})
	}
}

func TestStoreTimeout(t *testing.T) {
	t.Parallel()
	e := start(t, setup{
		options: ingest.Options{StoreTimeout: 20 * time.Millisecond},
		inTheWay: func(ctx context.Context, _ bridge.Webhook) error {
			<-ctx.Done()
			return ctx.Err()
		},
	})
	a := e.do(t, signed(t, "Svix", "msg_1", workflowPayload, time.Now()))
	requireProblem(t, a, http.StatusServiceUnavailable, "could not be stored in time")
	require.Equal(t, "10", a.header.Get("Retry-After"))
}

func TestAnswerTimeoutCountsFromTheArrival(t *testing.T) {
	t.Parallel()
	clock, left := newClock(), make(chan time.Duration, 1)
	e := start(t, setup{
		options: ingest.Options{StoreTimeout: time.Hour, AnswerTimeout: 4 * time.Minute, Now: clock.now},
		inTheWay: func(ctx context.Context, _ bridge.Webhook) error {
			deadline, ok := ctx.Deadline()
			if !ok {
				return errors.New("there is no deadline")
			}
			left <- time.Until(deadline)
			return nil
		},
	})
	// The body comes when some of the time has gone.
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	c := e.dial(t)
	defer c.Close()
	_, err := c.Write([]byte(r.head()))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return e.gathered(t, "fnbridge_webhooks_in_flight", "") == 1 },
		bound, time.Millisecond)
	clock.advance(3 * time.Minute)
	_, err = c.Write([]byte(r.body))
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, c.receive(t, http.MethodPost).status)
	require.LessOrEqual(t, <-left, time.Minute)
}

func TestStoredStatus(t *testing.T) {
	t.Parallel()
	e := start(t, setup{options: ingest.Options{StoredStatus: http.StatusOK}})
	a := e.do(t, signed(t, "Svix", "msg_1", workflowPayload, time.Now()))
	require.Equal(t, http.StatusOK, a.status)
	require.JSONEq(t, `{"webhook_id":"msg_1","events":2}`, a.body)
}

func TestWhatCanNeverBeStoredIsUnprocessable(t *testing.T) {
	t.Parallel()
	e := start(t, setup{inTheWay: func(context.Context, bridge.Webhook) error {
		return fmt.Errorf("wrapped: %w", &ingest.NeverError{
			Detail: "An event is too large.", Err: errors.New("max_payload of nats-1"),
		})
	}})
	a := e.do(t, signed(t, "Svix", "msg_1", workflowPayload, time.Now()))
	requireProblem(t, a, http.StatusUnprocessableEntity, "An event is too large.")
	require.NotContains(t, a.body, "nats-1")
	require.Empty(t, a.header.Get("Retry-After"), "trying again does not help")
}

func TestPanicIsAProblem(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{"a text": "boom", "an error": errors.New("boom")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var once sync.Once
			e := start(t, setup{inTheWay: func(context.Context, bridge.Webhook) error {
				once.Do(func() { panic(value) })
				return nil
			}})
			r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
			a := e.do(t, r)
			requireProblem(t, a, http.StatusInternalServerError, "send it again")
			require.NotContains(t, a.body, "boom")
			require.InDelta(t, 1, e.result(t, "internal_error"), 0)
			require.InDelta(t, 0, e.gathered(t, "fnbridge_webhooks_in_flight", ""), 0, "its place is free again")
			lines := e.log.at(slog.LevelError)
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], "boom")
			require.Contains(t, lines[0], "handler_test.go", "the stack")
			require.Equal(t, http.StatusAccepted, e.do(t, r).status)
		})
	}
}

func TestAbortIsLeftToTheServer(t *testing.T) {
	t.Parallel()
	e := start(t, setup{inTheWay: func(context.Context, bridge.Webhook) error { panic(http.ErrAbortHandler) }})
	c := e.dial(t)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	c.send(t, r.head()+r.body)
	c.ended(t)
	require.Empty(t, e.log.at(slog.LevelWarn))
}

// gate is a store's way that opens when the test says so.
type gate struct {
	arrived chan string
	open    chan struct{}
}

func newGate() gate { return gate{arrived: make(chan string, 16), open: make(chan struct{})} }

func (g gate) pass(ctx context.Context, w bridge.Webhook) error {
	g.arrived <- w.ID
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestLoadBalancersAreAnswered: as they ask by default, and without a word about what answers.
func TestLoadBalancersAreAnswered(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	for _, path := range []string{"/", "/livez"} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := e.do(t, request{}.to(method, path).with("Content-Type").with("Content-Length"))
			require.Equal(t, http.StatusOK, a.status)
			require.Equal(t, map[string]string{http.MethodGet: "ok\n"}[method], a.body)
			require.False(t, a.close)
		}
	}
	require.Empty(t, e.log.at(slog.LevelDebug))
}

// TestInFlightLimit: what is there waits for its turn, and for nothing whose body is still to come.
func TestInFlightLimit(t *testing.T) {
	t.Parallel()
	g := newGate()
	e := start(t, setup{options: ingest.Options{MaxInFlight: 1}, inTheWay: g.pass})
	inFlight := func() float64 { return e.gathered(t, "fnbridge_webhooks_in_flight", "") }
	reading := e.dial(t)
	slow := signed(t, "Svix", "slow", workflowPayload, time.Now())
	reading.send(t, slow.head())
	require.Eventually(t, func() bool { return inFlight() == 1 }, bound, time.Millisecond)

	send := func(id string) *connection {
		c := e.dial(t)
		r := signed(t, "Svix", id, workflowPayload, time.Now())
		c.send(t, r.head()+r.body)
		return c
	}
	stored := send("msg_1")
	require.Equal(t, "msg_1", <-g.arrived, "it does not wait for the one whose body is to come")
	a := send("msg_2").receive(t, "") // a second later
	requireProblem(t, a, http.StatusServiceUnavailable, "1 webhooks are being stored")
	require.Equal(t, "1", a.header.Get("Retry-After"))
	require.False(t, a.close)
	require.InDelta(t, 1, e.result(t, "overloaded"), 0)

	// Those that wait get their turn as they came.
	e.handler.SetPatience(bound)
	var waiting []*connection
	for i := range 3 {
		waiting = append(waiting, send(fmt.Sprintf("wait_%d", i)))
		require.Eventually(t, func() bool { return inFlight() == float64(3+i) }, bound, time.Millisecond)
		require.Eventually(t, func() bool { return e.handler.Waiting() == i+1 }, bound, time.Millisecond)
	}
	close(g.open)
	require.Equal(t, http.StatusAccepted, stored.receive(t, "").status)
	for i, c := range waiting {
		require.Equal(t, fmt.Sprintf("wait_%d", i), <-g.arrived)
		require.Equal(t, http.StatusAccepted, c.receive(t, "").status)
	}
	reading.send(t, slow.body)
	require.Equal(t, http.StatusAccepted, reading.receive(t, "").status)
	require.Eventually(t, func() bool { return inFlight() == 0 }, bound, time.Millisecond)
}

// TestManyAtOnceTakeTurns: 400 webhooks that come together, and a place for one.
func TestManyAtOnceTakeTurns(t *testing.T) {
	t.Parallel()
	e := start(t, setup{options: ingest.Options{MaxInFlight: 1}})
	e.handler.SetPatience(bound)
	var all sync.WaitGroup
	var accepted atomic.Int32
	for i := range 400 {
		c := e.dial(t)
		r := signed(t, "Svix", fmt.Sprintf("msg_%d", i), workflowPayload, time.Now())
		all.Go(func() {
			_, _ = io.WriteString(c, r.head()+r.body)
			response, err := http.ReadResponse(c.reader, nil)
			if err != nil {
				return
			}
			_ = response.Body.Close()
			if response.StatusCode == http.StatusAccepted {
				accepted.Add(1)
			}
		})
	}
	all.Wait()
	require.Equal(t, int32(400), accepted.Load())
}

func TestDrain(t *testing.T) {
	t.Parallel()
	g := newGate()
	e := start(t, setup{inTheWay: g.pass})
	before := e.dial(t)
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	before.send(t, r.head()+r.body)
	<-g.arrived
	idle := e.dial(t)
	idle.send(t, request{}.to("GET", ingest.Path).head())
	require.False(t, idle.receive(t, "").close)

	e.handler.Drain()
	idle.send(t, r.head()+r.body)
	a := idle.receive(t, "")
	requireProblem(t, a, http.StatusServiceUnavailable, "shutting down")
	require.Equal(t, "10", a.header.Get("Retry-After"))
	require.True(t, a.close)
	idle.ended(t)
	require.InDelta(t, 1, e.result(t, "draining"), 0)
	requireProblem(t, e.do(t, r.to("POST", "/x")), 404, "")

	close(g.open)
	require.Equal(t, http.StatusAccepted, before.receive(t, "").status, "what was let in is finished")
	require.NoError(t, e.server.Config.Shutdown(t.Context()))
}

func TestSameWebhookAtOnce(t *testing.T) {
	t.Parallel()
	e := start(t, setup{})
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	var accepted, duplicates atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		c := e.dial(t)
		all.Go(func() {
			c.send(t, r.head()+r.body)
			switch c.receive(t, "").status {
			case http.StatusAccepted:
				accepted.Add(1)
			case http.StatusOK:
				duplicates.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, accepted.Load())
	require.EqualValues(t, 7, duplicates.Load())
}

func TestUnrecognizedIsSaid(t *testing.T) {
	t.Parallel()
	clock := newClock()
	e := start(t, setup{options: ingest.Options{Now: clock.now}})
	for i := range 8 {
		r := signed(t, "Svix", fmt.Sprintf("msg_%d", i), `{"job_id":7,"status":"success"}`, clock.now())
		require.Equal(t, http.StatusAccepted, e.do(t, r).status)
		require.Equal(t, http.StatusOK, e.do(t, r).status)
	}
	require.InDelta(t, 8, e.gathered(t, "fnbridge_webhooks_unrecognized_total", ""), 0, "duplicates are not counted again")
	lines := e.log.at(slog.LevelWarn)
	require.Len(t, lines, 5)
	require.Contains(t, lines[0], "webhook_id=msg_0")
	require.Contains(t, lines[0], "reason=")
	require.Contains(t, lines[0], "job_id")
}

func TestAnIDThatAnotherBodyHasIsSaid(t *testing.T) {
	t.Parallel()
	clock := newClock()
	e := start(t, setup{options: ingest.Options{Now: clock.now}})
	for i := range 8 {
		r := signed(t, "Svix", "msg_1",
			fmt.Sprintf(`{"workflow_name":"w","invocation_id":"%d","fn_status":{"a":"success"}}`, i), clock.now())
		first := e.do(t, r)
		require.Equal(t, http.StatusAccepted, first.status)
		require.JSONEq(t, `{"webhook_id":"msg_1","events":1}`, first.body)
		require.JSONEq(t, `{"webhook_id":"msg_1","duplicate":true}`, e.do(t, r).body)
	}
	require.InDelta(t, 8, e.result(t, "accepted"), 0)
	require.InDelta(t, 7, e.gathered(t, "fnbridge_webhook_id_reused_total", ""), 0,
		"neither the first nor the duplicates count")
	lines := e.log.at(slog.LevelWarn)
	require.Len(t, lines, 5)
	require.Contains(t, lines[0], "webhook accepted under an id that another body has")
	require.Contains(t, lines[0], "webhook_id=msg_1")
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := ingest.New(ingest.Options{MaxBody: -1, MaxInFlight: -1, StoreTimeout: -1})
	require.ErrorContains(t, err, "a store is required")
	require.ErrorContains(t, err, "-1 bytes")
	require.ErrorContains(t, err, "-1 webhooks at once")
	require.ErrorContains(t, err, "-1ns")

	registry := prometheus.NewRegistry()
	o := ingest.Options{Store: &memory{}, Registerer: registry}
	_, err = ingest.New(o)
	require.NoError(t, err)
	_, err = ingest.New(o)
	require.ErrorContains(t, err, "metrics of the webhook endpoint", "two handlers cannot share a registry")

	o.Registerer = nil
	_, err = ingest.New(o)
	require.NoError(t, err)
}
