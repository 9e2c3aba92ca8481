package page

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const document = "../../bridge/ops/page/openapi.yaml"

// schemas are those of the OpenAPI document, whose version takes them from JSON Schema as they are.
func schemas(t *testing.T) func(name string) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(document))
	require.NoError(t, err)
	var tree any
	require.NoError(t, yaml.Unmarshal(text, &tree))
	plain, err := json.Marshal(tree)
	require.NoError(t, err)
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(plain)))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	require.NoError(t, c.AddResource("api.json", value))
	return func(name string) *jsonschema.Schema {
		t.Helper()
		s, err := c.Compile("api.json#/components/schemas/" + name)
		require.NoError(t, err)
		return s
	}
}

func holds(t *testing.T, s *jsonschema.Schema, what string, body []byte) {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(body)))
	require.NoError(t, err, "%s: %s", what, body)
	require.NoError(t, s.Validate(value), "%s: %s", what, body)
}

// message is one of a stream of server-sent events.
type message struct{ name, data string }

// follow reads the stream until enough says so.
func (b *bridge) follow(header http.Header, enough func(message) bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url("/api/events"), http.NoBody)
	require.NoError(b.t, err)
	req.Header = header
	resp, err := b.http.Do(req)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	require.Equal(b.t, http.StatusOK, resp.StatusCode)
	require.Equal(b.t, "text/event-stream", resp.Header.Get("Content-Type"))
	var m message
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "event: "):
			m.name = strings.TrimPrefix(line, "event: ")
		case strings.HasPrefix(line, "data: "):
			m.data = strings.TrimPrefix(line, "data: ")
		case line == "" && m.name != "":
			if enough(m) {
				return
			}
			m = message{}
		}
	}
	b.t.Fatal("the stream ended before enough was in it")
}

func TestTheAnswersAreAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	schema := schemas(t)
	for _, ack := range []string{"journal", "sinks"} {
		t.Run(ack, func(t *testing.T) {
			t.Parallel()
			b := start(t, map[string]string{"PAGE_TOKEN": token, "ACK": ack, "AUDIT_MAX_BYTES": "64MiB"})
			header := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(":"+token))}}
			accepted := map[string]int{"journal": http.StatusAccepted, "sinks": http.StatusOK}[ack]
			for i := range 3 {
				body := envelope("invoices", fmt.Sprintf("req_%d", i), "failed", "")
				require.Equal(t, accepted, b.post(fmt.Sprintf("msg_%d", i), body))
			}
			require.Equal(t, http.StatusOK, b.post("msg_0", envelope("invoices", "req_0", "failed", "")))
			require.Equal(t, http.StatusUnauthorized, b.postSigned("msg_forged", "{}", time.Now(), "v1,AAAA"))
			if ack == "journal" {
				for i := range 2 {
					b.post(fmt.Sprintf("msg_large%d", i), envelope("invoices", "req_large", "failed", strings.Repeat("x", 9000+i)))
				}
			}
			of := map[string]string{"second": "Second", "status": "Status", "letters": "Letters"}
			seen := make(map[string]bool)
			b.follow(header, func(m message) bool {
				if len(seen) == 0 { // of what came before the stream was open it tells nothing
					require.Equal(t, accepted, b.post("msg_live", envelope("invoices", "req_live", "failed", "")))
				}
				seen[m.name] = true
				switch m.name {
				case "webhooks":
					holds(t, schema("Arrivals"), m.name, []byte(`{"webhooks":`+m.data+`}`))
				case "cursors":
					var cursors map[string]int64
					require.NoError(t, json.Unmarshal([]byte(m.data), &cursors))
				default:
					require.Contains(t, of, m.name)
					holds(t, schema(of[m.name]), m.name, []byte(m.data))
				}
				return seen["webhooks"] && seen["second"] && seen["status"] && seen["cursors"]
			})
			require.Eventually(t, func() bool {
				_, body := b.get("/api/dead-letters", header)
				return ack == "sinks" || strings.Contains(string(body), `"dead_letters":2`)
			}, patience, 20*time.Millisecond, "the dead letters are not there")
			for path, want := range map[string]string{
				"/api/status": "Status", "/api/series": "Series", "/api/webhooks": "Arrivals", "/api/webhooks/1": "Webhook",
				"/api/find?id=req_1": "Found", "/api/find?text=req&limit=1": "Found", "/api/dead-letters": "LetterGroups",
				"/api/webhooks?limit=0": "Problem", "/api/webhooks/99999": "Problem", "/api/webhooks/x": "Problem",
				"/api/find": "Problem", "/api/nothing": "Problem", "/api/find?id=x&since=yesterday": "Problem",
			} {
				status, body := b.get(path, header)
				if ack == "sinks" && strings.HasPrefix(path, "/api/find") {
					want = "Problem" // nothing is stored
				}
				require.Equal(t, want == "Problem", status != http.StatusOK, "%s: %d %s", path, status, body)
				holds(t, schema(want), path, body)
			}
			_, body := b.get("/api/webhooks", header)
			require.Contains(t, string(body), `"unauthorized"`)
			require.Contains(t, string(body), `"duplicate"`)
			status, _ := b.get("/api/status", nil)
			require.Equal(t, http.StatusUnauthorized, status)
		})
	}
}

// TestPagesKeepNobodyOut opens all the streams that there may be, none of which reads.
func TestPagesKeepNobodyOut(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	address := b.OpsAddr().String()
	var d net.Dialer
	openStream := func() (status string) {
		conn, err := d.DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
		require.NoError(t, err)
		return strings.TrimSpace(line)
	}
	for range 128 {
		require.Equal(t, "HTTP/1.1 200 OK", openStream())
	}
	require.Equal(t, "HTTP/1.1 503 Service Unavailable", openStream())
	for range 500 { // and connections that ask nothing
		conn, err := d.DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/api/status"} {
		code, _ := b.get(path, nil)
		require.Equal(t, http.StatusOK, code, path)
	}
	require.Equal(t, http.StatusAccepted, b.post("msg_1", envelope("invoices", "req_1", "failed", "")))
}
