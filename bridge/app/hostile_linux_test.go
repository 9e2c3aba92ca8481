package app_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// maxBody is what these bridges take, in bytes.
const maxBody = 4 << 20

// TestHostileInput plays strangers and senders gone mad against the program as it ships, in a process whose memory can
// be measured.
func TestHostileInput(t *testing.T) {
	t.Parallel()
	program := buildBridge(t)
	t.Run("requests", func(t *testing.T) { hostileRequests(t, program) })
	t.Run("100,000 functions", func(t *testing.T) { aHundredThousandFunctions(t, program) })
	t.Run("strangers hold on", func(t *testing.T) { strangersHoldOn(t, program) })
	t.Run("connections", func(t *testing.T) { connectionFloods(t, program) })
}

// hostileRequests sends one bridge one request after the other. Each case says which answer is right.
func hostileRequests(t *testing.T, program string) {
	t.Helper()
	p := serveProcess(t, program, "FNBRIDGE_MAX_BODY=4MiB", "FNBRIDGE_LOG_LEVEL=debug")
	now := fmt.Sprint(time.Now().Unix())
	number := 0
	// good is a webhook of its own that is taken as it is.
	good := func(body string) wireRequest {
		number++
		return wireRequest{headers: signedHeaders(fmt.Sprintf("msg_%d", number), body, now), body: body}
	}
	raw := func(line string, headers ...string) wireRequest {
		return wireRequest{line: line, headers: headers, length: "none"}
	}
	changed := func(change func(*wireRequest)) wireRequest {
		r := good(workflow)
		change(&r)
		return r
	}
	chunked := func(r wireRequest, n int, encodings ...string) wireRequest { //nolint:unparam // it misses the calls within the table
		if len(encodings) == 0 {
			encodings = []string{"Transfer-Encoding: chunked"}
		}
		r.headers, r.length, r.body = append(r.headers, encodings...), "none", inChunks(r.body, n)
		return r
	}
	at := func(timestamp string) wireRequest {
		number++
		return wireRequest{headers: signedHeaders(fmt.Sprintf("msg_%d", number), workflow, timestamp), body: workflow}
	}
	after := func(d time.Duration) wireRequest { return at(fmt.Sprint(time.Now().Add(d).Unix())) }
	object := func(size int) string { return `{"a":"` + strings.Repeat("x", size-len(`{"a":""}`)) + `"}` }
	insert := func(r wireRequest, headers ...string) wireRequest {
		r.headers = append(r.headers, headers...)
		return r
	}
	events := func(n int) string { return fmt.Sprintf(`"events":%d`, n) }

	again := good(workflow)
	withHeaders := func(headers ...string) wireRequest { return wireRequest{headers: headers, body: workflow} }

	tests := []struct {
		name   string
		text   string
		status int
		part   string // of the answer
	}{
		{"as it should be", good(workflow).text(), 202, events(2)},
		{
			"with a slash behind the path",
			changed(func(r *wireRequest) { r.line = "POST /webhooks/tensorlake/ HTTP/1.1" }).text(), 202, events(2),
		},
		{"a load balancer's question", raw("GET / HTTP/1.1").text(), 200, "ok"},
		{"9 kB of small headers", insert(good(workflow), strings.Repeat("A: b\r\n", 1500)+"A: b").text(), 431, ""},

		// The request line.
		{"HTTP/0.9", "GET /webhooks/tensorlake\r\n\r\n", 400, ""},
		{"HTTP/1.0", changed(func(r *wireRequest) { r.line = "POST /webhooks/tensorlake HTTP/1.0" }).text(), 202, events(2)},
		{"HTTP/1.2", raw("POST /webhooks/tensorlake HTTP/1.2").text(), 401, ""},
		{"HTTP/3.0", raw("POST /webhooks/tensorlake HTTP/3.0").text(), 505, ""},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 404, ""},
		{
			"an upgrade to HTTP/2",
			insert(good(workflow), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
				"HTTP2-Settings: AAMAAABkAAQAAP__").text(), 202, events(2),
		},
		{"TLS", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + strings.Repeat("\x00", 160) + "\r\n\r\n", 400, ""},
		{"nothing but line ends", strings.Repeat("\r\n", 1000), 400, ""},
		{"noise", strings.Repeat("\xff\xfe\x00\x01", 500) + "\r\n\r\n", 400, ""},
		{
			"absolute form, another host",
			changed(func(r *wireRequest) { r.line = "POST http://evil.test/webhooks/tensorlake HTTP/1.1" }).text(), 202,
			events(2),
		},
		{"a target of no form", raw("POST webhooks/tensorlake HTTP/1.1").text(), 400, ""},
		{"a target of another scheme", raw("POST file:///webhooks/tensorlake HTTP/1.1").text(), 401, ""},
		{"a target with a NUL", raw("POST /webhooks/tensorlake\x00 HTTP/1.1").text(), 400, ""},
		{"a target with an escaped NUL", raw("POST /webhooks/tensorlake%00 HTTP/1.1").text(), 404, ""},
		{"a target with a broken escape", raw("POST /webhooks/tensorlake%zz HTTP/1.1").text(), 400, ""},
		{"a target with dots", raw("POST /webhooks/x/../tensorlake HTTP/1.1").text(), 404, ""},
		{"a target with escaped line ends", raw("GET /%0d%0aSet-Cookie:%20a=b HTTP/1.1").text(), 404, ""},
		{"two spaces", raw("POST  /webhooks/tensorlake HTTP/1.1").text(), 400, ""},
		{"HEAD", raw("HEAD /webhooks/tensorlake HTTP/1.1").text(), 405, ""},
		{"OPTIONS", raw("OPTIONS /webhooks/tensorlake HTTP/1.1").text(), 405, "POST"},
		{"OPTIONS *", raw("OPTIONS * HTTP/1.1").text(), 404, ""},
		{"TRACE", raw("TRACE /webhooks/tensorlake HTTP/1.1", "X-Secret: shown").text(), 405, "POST"},
		{"CONNECT", raw("CONNECT 127.0.0.1:22 HTTP/1.1").text(), 404, ""},
		{"a method of control characters", raw("PO\x01ST /webhooks/tensorlake HTTP/1.1").text(), 400, ""},
		{"a method of 5 kB", raw(strings.Repeat("A", 5_000) + " /webhooks/tensorlake HTTP/1.1").text(), 405, "bytes"},
		{"a target of 5 kB", raw("POST /" + strings.Repeat("a", 5_000) + " HTTP/1.1").text(), 404, ""},
		{"a query of 5 kB", changed(func(r *wireRequest) {
			r.line = "POST /webhooks/tensorlake?" + strings.Repeat("a", 5_000) + " HTTP/1.1"
		}).text(), 202, events(2)},
		{"a target of 1 MB", raw("POST /" + strings.Repeat("a", 1<<20) + " HTTP/1.1").text(), 431, ""},

		// Headers.
		{"a header of 5 kB", insert(good(workflow), "X-Large: "+strings.Repeat("x", 5_000)).text(), 202, events(2)},
		{"a header of 1 MB", insert(good(workflow), "X-Large: "+strings.Repeat("x", 1<<20)).text(), 431, ""},
		{"100,000 headers", insert(good(workflow), strings.Repeat("A: b\r\n", 100_000)+"A: b").text(), 431, ""},
		{"a header name of 1 MB", insert(good(workflow), strings.Repeat("x", 1<<20)+": 1").text(), 431, ""},
		{
			"a folded header",
			changed(func(r *wireRequest) { r.headers[0] = strings.Replace(r.headers[0], "msg", "\r\n msg", 1) }).text(), 202,
			events(2),
		},
		{"a folded id", changed(func(r *wireRequest) { r.headers[0] += "\r\n\tx" }).text(), 401, "no signature matches"},
		{
			"a folded length", changed(func(r *wireRequest) { r.length = fmt.Sprintf("\r\n %d", len(r.body)) }).text(), 202,
			events(2),
		},
		{"a header folded at the start", raw("POST /webhooks/tensorlake HTTP/1.1\r\n X: y").text(), 400, ""},
		{"bare line feeds", strings.ReplaceAll(good(`{"a":1}`).text(), "\r\n", "\n"), 202, events(1)},
		{"a bare carriage return", insert(good(workflow), "X: a\rSvix-Id: other").text(), 400, ""},
		{"a NUL in a value", insert(good(workflow), "X: a\x00b").text(), 400, ""},
		{"a NUL in a name", insert(good(workflow), "X\x00: a").text(), 400, ""},
		{"a name with a space", insert(good(workflow), "Svix-Id : other").text(), 400, ""},
		{"an empty name", insert(good(workflow), ": other").text(), 400, ""},
		{"a name of UTF-8", insert(good(workflow), "Svix-Íd: other").text(), 400, ""},
		{"a value of Latin-1", insert(good(workflow), "X: \xe9").text(), 202, events(2)},
		{"no host", changed(func(r *wireRequest) { r.host = "X-No: host" }).text(), 400, ""},
		{"two hosts", insert(good(workflow), "Host: other").text(), 400, ""},
		{"a host with a slash", changed(func(r *wireRequest) { r.host = "Host: a/../b" }).text(), 400, ""},

		// Where the body ends.
		{"two lengths", insert(good(workflow), "Content-Length: 5").text(), 400, ""},
		{
			"the same length twice", insert(good(workflow), fmt.Sprintf("Content-Length: %d", len(workflow))).text(), 202,
			events(2),
		},
		{"a length of -1", changed(func(r *wireRequest) { r.length = "-1" }).text(), 400, ""},
		{"a length of +5", changed(func(r *wireRequest) { r.length = "+5" }).text(), 400, ""},
		{"a length of 0x5", changed(func(r *wireRequest) { r.length = "0x5" }).text(), 400, ""},
		{"a length of 1e3", changed(func(r *wireRequest) { r.length = "1e3" }).text(), 400, ""},
		{"a length beyond 64 bits", changed(func(r *wireRequest) { r.length = "18446744073709551617" }).text(), 400, ""},
		{"a length of 2^63-1", changed(func(r *wireRequest) { r.length = "9223372036854775807" }).text(), 413, "4194304"},
		{"a length too short", changed(func(r *wireRequest) { r.length = "5" }).text(), 401, "no signature matches"},
		{"a length too long", changed(func(r *wireRequest) { r.length = "500" }).text(), 400, "broke off"},
		{"no length", changed(func(r *wireRequest) { r.length = "none" }).text(), 401, "body was empty"},
		{"a length beside chunks", insert(chunked(good(workflow), 9), "Content-Length: 5").text(), 202, events(2)},
		{"chunks, in upper case", chunked(good(workflow), 9, "transfer-encoding: CHUNKED").text(), 202, events(2)},
		{"chunks twice", chunked(good(workflow), 9, "Transfer-Encoding: chunked, chunked").text(), 501, ""},
		{
			"chunks in two headers",
			chunked(good(workflow), 9, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked").text(), 501, "",
		},
		{"chunks and identity", chunked(good(workflow), 9, "Transfer-Encoding: identity, chunked").text(), 501, ""},
		{"chunks with a parameter", chunked(good(workflow), 9, "Transfer-Encoding: chunked;q=1").text(), 501, ""},
		{"chunks after a vertical tab", chunked(good(workflow), 9, "Transfer-Encoding:\x0bchunked").text(), 400, ""},
		{"chunks of gzip", chunked(good(workflow), 9, "Transfer-Encoding: gzip, chunked").text(), 501, ""},
		{"a chunk of many zeros", changed(func(r *wireRequest) {
			*r = chunked(*r, 9)
			r.body = strings.Repeat("0", 5000) + r.body
		}).text(), 400, ""},
		{"a chunk of -1", changed(func(r *wireRequest) { *r = chunked(*r, 9); r.body = "-" + r.body }).text(), 400, ""},
		{
			"a chunk of 2^64", changed(func(r *wireRequest) { *r = chunked(*r, 9); r.body = "10000000000000000\r\n" }).text(),
			400, "",
		},
		{
			"a chunk of 2^63-1",
			changed(func(r *wireRequest) { *r = chunked(*r, 9); r.body = "7fffffffffffffff\r\n" + object(5<<20) }).text(), 413,
			"4194304",
		},
		{"a chunk with an extension of 1 MB", changed(func(r *wireRequest) {
			*r = chunked(*r, 9)
			r.body = "9;x=" + strings.Repeat("y", 1<<20) + r.body[1:]
		}).text(), 400, ""},
		{"bytes in chunks of one, with long extensions", changed(func(r *wireRequest) {
			*r = chunked(*r, 1)
			r.body = strings.ReplaceAll(r.body, "1\r\n", "1;"+strings.Repeat("y", 1000)+"\r\n")
		}).text(), 400, ""},
		{"a trailer of 1 MB", changed(func(r *wireRequest) {
			*r = chunked(*r, 9)
			r.body = strings.TrimSuffix(r.body, "\r\n") + "X: " + strings.Repeat("y", 1<<20) + "\r\n\r\n"
		}).text(), 400, ""},
		{
			"a signature in a trailer", chunked(wireRequest{headers: []string{"Trailer: Svix-Id"}, body: workflow}, 9).text(),
			401, "missing",
		},

		// Expectations, encodings, types.
		{"a body that waits for 100", insert(good(workflow), "Expect: 100-continue").text(), 202, events(2)},
		{"an expectation of another kind", insert(good(workflow), "Expect: 200-ok").text(), 417, ""},
		{"gzip", insert(good(workflow), "Content-Encoding: gzip").text(), 415, "compressed"},
		{"gzip of gzip", insert(good(workflow), "Content-Encoding: gzip, gzip").text(), 415, "compressed"},
		{"two types", insert(good(workflow), "Content-Type: text/plain").text(), 415, "more than one"},
		{
			"a type of 5 kB", strings.Replace(good(workflow).text(), "application/json", strings.Repeat("x", 5_000), 1), 415,
			"5000 bytes",
		},

		// Ids, signatures and their times.
		{
			"two ids", changed(func(r *wireRequest) { r.headers = append([]string{"Svix-Id: other"}, r.headers...) }).text(),
			401, "more than once",
		},
		{"two timestamps", insert(good(workflow), "svix-timestamp: 1").text(), 401, "more than once"},
		{"two signatures", insert(good(workflow), "SVIX-SIGNATURE: v1,x").text(), 401, "more than once"},
		{
			"both families, the other one wrong",
			insert(good(workflow), "Webhook-Id: other", "Webhook-Timestamp: "+now, "Webhook-Signature: v1,AAAA").text(), 202,
			`"msg_`,
		},
		{"both families, this one wrong", wireRequest{
			headers: []string{
				"Webhook-Id: msg_w", "Webhook-Timestamp: " + now, "Webhook-Signature: " + signature("msg_w", workflow, now),
				"Svix-Id: other", "Svix-Timestamp: " + now, "Svix-Signature: v1,AAAA",
			}, body: workflow,
		}.text(), 401, ""},
		{"both families, each one half", wireRequest{
			headers: []string{
				"Svix-Id: msg_h", "Svix-Timestamp: " + now, "Webhook-Signature: " + signature("msg_h", workflow, now),
			}, body: workflow,
		}.text(), 401, "missing"},
		{"underscores", wireRequest{
			headers: []string{
				"Svix_Id: msg_u", "Svix_Timestamp: " + now, "Svix_Signature: " + signature("msg_u", workflow, now),
			}, body: workflow,
		}.text(), 401, "missing"},
		{"70 signatures, the last one right", wireRequest{
			headers: []string{"Svix-Id: msg_s", "Svix-Timestamp: " + now, "Svix-Signature: " +
				strings.Repeat("v1,"+strings.Repeat("A", 43)+"= ", 70) + signature("msg_s", workflow, now)}, body: workflow,
		}.text(), 401, "no signature matches"},
		{"a webhook", again.text(), 202, events(2)},
		{"replayed", again.text(), 200, `"duplicate":true`},
		{
			"replayed with another body", changed(func(r *wireRequest) { r.headers, r.body = again.headers, `{"a":1}` }).text(),
			401, "no signature matches",
		},
		{
			"replayed under another id", withHeaders("Svix-Id: msg_other", again.headers[1], again.headers[2]).text(), 401,
			"no signature matches",
		},
		{
			"replayed at another time",
			withHeaders(again.headers[0], "Svix-Timestamp: "+fmt.Sprint(time.Now().Add(time.Minute).Unix()),
				again.headers[2]).text(),
			401, "no signature matches",
		},
		// To the second they are in bridge/tensorlake; here the machine may be slow.
		{"within the tolerance, past", after(-2 * time.Minute).text(), 202, events(2)},
		{"within the tolerance, future", after(4 * time.Minute).text(), 202, events(2)},
		{"out of the tolerance, past", after(-5*time.Minute - time.Second).text(), 401, "clock"},
		{"out of the tolerance, future", after(9 * time.Minute).text(), 401, "clock"},
		{"the end of time", at("253402300799").text(), 401, ""},
		{"before time", at("-1").text(), 401, "timestamp"},
		{"time zero", at("0").text(), 401, "clock"},
		{"time in milliseconds", at(now + "000").text(), 401, ""},
		{"time beyond 64 bits", at("18446744073709551616").text(), 401, "timestamp"},
		{"time that overflows to now", at("1844674407" + now).text(), 401, "timestamp"},
		{"time with a sign", at("+" + now).text(), 401, "timestamp"},
		{"time with a fraction", at(now + ".0").text(), 401, "timestamp"},
		{"time in hex", at("0x6a").text(), 401, "timestamp"},
		{"time in words", at("now").text(), 401, "timestamp"},
		{"time in Arabic digits", at("١٧٠٠٠٠٠٠٠٠").text(), 401, "timestamp"},

		// Sizes.
		{"a body one byte under the limit", good(object(maxBody - 1)).text(), 202, events(1)},
		{"a body as large as the limit", good(object(maxBody)).text(), 202, events(1)},
		{"a body one byte over the limit", good(object(maxBody + 1)).text(), 413, "4194304"},
		{"the same in chunks, under", chunked(good(object(maxBody-1)), 1<<16).text(), 202, events(1)},
		{"the same in chunks, at", chunked(good(object(maxBody)), 1<<16).text(), 202, events(1)},
		{"the same in chunks, over", chunked(good(object(maxBody+1)), 1<<16).text(), 413, "4194304"},
		{"chunks without an end", changed(func(r *wireRequest) {
			*r = chunked(*r, 9)
			r.body = strings.Repeat("1000\r\n"+strings.Repeat(" ", 0x1000)+"\r\n", 3*maxBody>>12)
		}).text(), 413, "4194304"},

		// JSON.
		{"empty", good("").text(), 400, "empty"},
		{"invalid UTF-8", good("{\"a\":\"\xc3\x28\"}").text(), 400, "UTF-8"},
		{"UTF-16", good("\xff\xfe{\x00}\x00").text(), 400, "UTF-8"},
		{"a byte order mark", good("\xef\xbb\xbf{}").text(), 400, "byte order mark"},
		{
			"a surrogate on its own",
			good(`{"workflow_name":"\ud800","invocation_id":"\udfff","fn_status":{"\ud800":"success"}}`).text(), 202, events(1),
		},
		{
			"a key twice",
			good(`{"workflow_name":"a","workflow_name":"b","invocation_id":"i",` +
				`"fn_status":{"f":"success","g":"success"}}`).text(), 202, events(1),
		},
		{
			"fn_status twice",
			good(`{"workflow_name":"a","invocation_id":"i","fn_status":{"f":"success"},` +
				`"fn_status":{"g":"success","h":"failure"}}`).text(), 202, events(1),
		},
		{
			"a function twice",
			good(`{"workflow_name":"a","invocation_id":"i","fn_status":{"f":"success","f":"failure"}}`).text(), 202, events(2),
		},
		{
			"a key twice, once escaped",
			good(`{"workflow_name":"a","workflow\u005fname":"b","invocation_id":"i",` +
				`"fn_status":{"f":"success","g":"failure"}}`).text(), 202, events(1),
		},
		{
			"an unknown key twice",
			good(`{"x":1,"x":2,"workflow_name":"a","invocation_id":"i","fn_status":{"f":"success","g":"failure"}}`).text(), 202,
			events(2),
		},
		{
			"nested 9,000 deep", good(`{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`).text(), 202,
			events(1),
		},
		{
			"nested 100,000 deep", good(`{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`).text(), 400,
			"not JSON",
		},
		{"nested without an end", good(strings.Repeat(`{"a":`, 800_000)).text(), 400, "not JSON"},
		{"a number of a million digits", good(`{"a":` + strings.Repeat("9", 1_000_000) + `}`).text(), 202, events(1)},
		{
			"a number with a huge exponent",
			good(`{"job_id":"j","status":"success","usage":{"a":1e` + strings.Repeat("9", 1000) + `}}`).text(), 202, events(1),
		},
		{"a string of a million escapes", good(`{"a":"` + strings.Repeat(`\u0000`, 600_000) + `"}`).text(), 202, events(1)},
		{"a million keys", good(`{` + strings.Repeat(`"":1,`, 800_000) + `"":1}`).text(), 202, events(1)},
		{"JSON behind JSON", good(`{}{}`).text(), 400, "not JSON"},
		{"JSON and a NUL", good("{}\x00").text(), 400, "not JSON"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			status, answer, err := exchange(t, p.public, test.text, true)
			if errors.Is(err, syscall.ECONNRESET) && test.status >= 400 && len(test.text) > 256<<10 {
				return // the reset of what was never read has overtaken the answer
			}
			require.NoError(t, err)
			require.Equal(t, test.status, status, answer)
			require.Contains(t, answer, test.part)
			require.NotContains(t, answer, "shown")
		})
	}
	p.stillWell()
	require.NotContains(t, p.log.String(), `"level":"ERROR"`)
	require.Less(t, p.peakMemory(), int64(256<<20))
	t.Logf("most memory: %d MiB", p.peakMemory()>>20)
	require.Eventually(t, func() bool { return p.metric("fnbridge_webhooks_in_flight") == 0 },
		bound, 10*time.Millisecond)
	require.Equal(t, 0, p.end(syscall.SIGTERM))
}

// aHundredThousandFunctions in one payload: memory does not grow with the number of events, and all of them arrive.
func aHundredThousandFunctions(t *testing.T, program string) {
	t.Helper()
	const functions = 100_000
	broker := natsserver.Single(t)
	p := serveProcess(t, program, "FNBRIDGE_MAX_BODY=4MiB", "FNBRIDGE_NATS_URL="+broker.URL())
	p.stillWell()
	before := p.peakMemory()
	var body strings.Builder
	body.WriteString(`{"workflow_name":"w","invocation_id":"i","fn_status":{`)
	for i := range functions {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `"f%d":"success"`, i)
	}
	body.WriteString(`}}`)
	now := fmt.Sprint(time.Now().Unix())
	status, answer, err := exchange(t, p.public,
		wireRequest{headers: signedHeaders("msg_many", body.String(), now), body: body.String()}.text(), false)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, status, answer)
	require.Contains(t, answer, fmt.Sprintf(`"events":%d`, functions))
	awaitCount(t, functions+2, func() int {
		return int(p.metric(`fnbridge_events_total{result="acknowledged",sink="nats"}`))
	}, "all of them arrive")
	nc := natsserver.Connect(t, broker.URL())
	stream, err := natsserver.JetStream(t, nc).Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	require.Equal(t, uint64(functions+2), stream.CachedInfo().State.Msgs)
	t.Logf("most memory: %d MiB before, %d MiB after", before>>20, p.peakMemory()>>20)
	require.Less(t, p.peakMemory(), before+128<<20)
}

// tries is how many signed webhooks are sent while strangers hold on.
const tries = 20

// strangersHoldOn plays what strangers can hold against a bridge with the chart's memory, which must not be killed for
// it. Who is sent away comes again. Signed webhooks, and the probes, are answered all the while.
func strangersHoldOn(t *testing.T, program string) {
	t.Helper()
	const memory = 512 << 20 // the chart's limit, of which GOMEMLIMIT is nine tenths
	certificates := testcert.New(t)
	certFile, keyFile := certificates.Issue(t, "fnbridge", "127.0.0.1")
	small := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%x:\n", 0x1000+i) // six bytes, each with a name of its own
		}
		return b.String()
	}
	body := func(line string) string { return line + " HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" }
	const webhook = "POST /webhooks/tensorlake"
	for name, test := range map[string]struct {
		text      string        // what each sends, and no more
		strangers int           // at once
		hold      time.Duration // until a stranger goes by itself; 0: never
		ops, tls  bool
	}{
		"no word":              {"", 4000, 0, false, false},
		"a body for a 404 [8]": {body("GET /x"), 4000, 0, false, false},
		"a body of another type [8]": {
			strings.Replace(body(webhook), "Host", "Content-Type: text/plain\r\nHost", 1), 4000, 0, false, false,
		},
		"a body for a probe [9]": {body("GET /livez"), 100, 0, true, false},
		"metrics that nobody reads": {
			strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 100), 100, 0, true, false,
		},
		"small headers [10]": {
			webhook + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n" + small(1300) + "\r\n",
			4096, 0, false, false,
		},
		"small headers without an end": {webhook + " HTTP/1.1\r\nHost: x\r\n" + small(1300), 4096, 0, false, false},
		"more headers than are taken":  {webhook + " HTTP/1.1\r\nHost: x\r\n" + small(2900), 4096, 0, false, false},
		"one byte of a body [38]": {
			wireRequest{body: "{", length: "100"}.text(), 1400, 950 * time.Millisecond, false, false,
		},
		"half a body of 1 MiB": {
			wireRequest{body: strings.Repeat(" ", 1<<19+1), length: "1048576"}.text(), 500, 0, false, false,
		},
		"headers over TLS [39]": {
			webhook + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n" + small(1300) + "\r\n", 600, 0, false, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			environment := []string{fmt.Sprintf("GOMEMLIMIT=%d", memory/10*9)}
			if test.tls {
				environment = append(environment, "FNBRIDGE_TLS_CERT_FILE="+certFile, "FNBRIDGE_TLS_KEY_FILE="+keyFile)
			}
			p := serveProcess(t, program, environment...)
			address := p.public
			if test.ops {
				address = p.ops
			}
			var client *tls.Config
			if test.tls {
				client = certificates.ClientTLS(t)
				client.ServerName, client.NextProtos = "127.0.0.1", []string{"h2", "http/1.1"}
			}
			held := holdOn(t, address, client, test.text, test.strangers, test.hold)
			require.Eventually(t, func() bool { return held.Load() >= int64(test.strangers) }, bound, time.Millisecond)

			sender := &http.Client{
				Transport: &http.Transport{TLSClientConfig: client, DisableKeepAlives: true}, Timeout: 15 * time.Second,
			}
			var webhooks, probes []time.Duration
			var again int
			for i := range tries {
				begun := time.Now()
				again += p.mustTake(t, sender, test.tls, fmt.Sprintf("signed_%d", i))
				webhooks = append(webhooks, time.Since(begun))
				begun = time.Now()
				for _, path := range []string{"/livez", "/readyz"} {
					status, answer, err := exchange(t, p.ops, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", false)
					require.NoError(t, err)
					require.Equal(t, http.StatusOK, status, answer)
				}
				probes = append(probes, time.Since(begun))
			}
			slices.Sort(webhooks)
			slices.Sort(probes)
			t.Logf("%d strangers held on, %d times; of %d webhooks the slowest took %v, with %d sent again; both "+
				"probes %v; most memory %d MiB",
				test.strangers, held.Load(), tries, webhooks[tries-1], again, probes[tries-1], p.peakMemory()>>20)
			// What keeps out one keeps out all; a single one may meet a busy machine.
			require.Less(t, webhooks[tries/2], 10*time.Second)
			require.Less(t, probes[tries/2], 10*time.Second)
			require.Less(t, p.peakMemory(), int64(memory))
		})
	}
}

// mustTake sends a signed webhook as a sender does, who sends it again when the connection ends, and returns how often.
func (p *hostileProcess) mustTake(t *testing.T, client *http.Client, withTLS bool, id string) (again int) {
	t.Helper()
	scheme := "http://"
	if withTLS {
		scheme = "https://"
	}
	for until := time.Now().Add(60 * time.Second); ; again++ {
		timestamp := fmt.Sprint(time.Now().Unix())
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			scheme+p.public+"/webhooks/tensorlake", strings.NewReader(workflow))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Svix-Id", id)
		r.Header.Set("Svix-Timestamp", timestamp)
		r.Header.Set("Svix-Signature", signature(id, workflow, timestamp))
		response, err := client.Do(r)
		if err == nil {
			_ = response.Body.Close()
			require.Less(t, response.StatusCode, 300)
			return again
		}
		require.Less(t, time.Now(), until, err)
	}
}

// holdOn has so many strangers connect, send text and wait, until the test ends. One who is sent away, or has held on
// for so long, comes again, every five seconds or that long. It returns how often they have sent it.
func holdOn(
	t *testing.T, address string, over *tls.Config, text string, strangers int, hold time.Duration,
) *atomic.Int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	again := 5 * time.Second
	if hold > 0 {
		again = hold
	}
	held := &atomic.Int64{}
	for range strangers {
		all.Go(func() {
			pace := time.NewTicker(again)
			defer pace.Stop()
			for ; ctx.Err() == nil; <-pace.C {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
				if err != nil {
					continue
				}
				if over != nil {
					conn = tls.Client(conn, over)
				}
				if hold > 0 {
					_ = conn.SetDeadline(time.Now().Add(hold))
				}
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				if _, err := io.WriteString(conn, text); err == nil {
					held.Add(1)
					_, _ = io.Copy(io.Discard, conn) // until it is closed, or its time is up
				}
				stop()
				_ = conn.Close()
			}
		})
	}
	return held
}

// connectionFloods: what is opened and left holds no more than the bridge means to give, keeps nobody out, and is
// forgotten.
func connectionFloods(t *testing.T, program string) {
	t.Helper()
	var files syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	flood := int(min(10_000, files.Cur-files.Cur/4)) // this process needs some for itself
	p := serveProcess(t, program)
	p.stillWell()
	calm, memory := p.metric("go_goroutines"), p.peakMemory()

	for name, first := range map[string]string{
		"silent":                 "",
		"half a head":            "POST /webhooks/tensorlake HTTP/1.1\r\nX-Slow: ",
		"idle after an answer":   "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"a body that never ends": wireRequest{headers: signedHeaders("never", "x", "1"), length: "1000000"}.text() + "{",
	} {
		t.Run(name, func(t *testing.T) {
			var left []net.Conn
			defer func() {
				for _, conn := range left {
					_ = conn.Close()
				}
			}()
			for range flood {
				conn := dialBridge(t, p.public)
				left = append(left, conn)
				if _, err := io.WriteString(conn, first); err != nil {
					require.NotErrorIs(t, err, os.ErrDeadlineExceeded) // it was closed for another
				}
			}
			// As a sender does, that tries again when it is told to.
			require.Eventually(t, func() bool {
				id := fmt.Sprintf("flood_%d", time.Now().UnixNano())
				status, _, err := exchange(t, p.public, wireRequest{
					headers: signedHeaders(id, workflow, fmt.Sprint(time.Now().Unix())), body: workflow,
				}.text(), false)
				return err == nil && status == http.StatusAccepted
			}, bound, 100*time.Millisecond)
			require.LessOrEqual(t, p.metric("process_open_fds"), 4096.0+200)
		})
		require.Eventually(t, func() bool { return p.metric("go_goroutines") <= calm+10 },
			bound, 50*time.Millisecond)
		p.stillWell()
	}
	t.Logf("%d connections; most memory: %d MiB before, %d MiB after", flood, memory>>20, p.peakMemory()>>20)
	require.Less(t, p.peakMemory(), memory+384<<20)
	require.Contains(t, p.log.String(), "all connections are in use")
	require.Equal(t, 0, p.end(syscall.SIGTERM))
}
