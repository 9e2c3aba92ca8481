package ingest_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/ingest"
)

func TestHTTP2(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tls: true})
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	a := e.postHTTP2(t, r, strings.NewReader(r.body), int64(len(r.body)))
	require.Equal(t, http.StatusAccepted, a.status, a.body)
	a = e.postHTTP2(t, r, strings.NewReader(r.body), -1)
	require.Equal(t, http.StatusOK, a.status, a.body)
	requireProblem(t, e.postHTTP2(t, r, strings.NewReader(pad(1<<20+1)), -1), http.StatusRequestEntityTooLarge, "at most")
	requireProblem(t, e.postHTTP2(t, r, strings.NewReader(pad(1<<20+1)), 1<<20+1), http.StatusRequestEntityTooLarge, "has 1048577 bytes")
}

func TestSlowBodyOverHTTP2(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tls: true, server: shortBody})
	body, writer := io.Pipe()
	t.Cleanup(func() { _ = writer.Close() })
	requireProblem(t, e.postHTTP2(t, request{header: http.Header{}}, body, -1), http.StatusRequestTimeout, "in time")
}

// postHTTP2 sends r's headers with a body of that length, or of unknown length (-1), over HTTP/2.
func (e *endpoint) postHTTP2(t *testing.T, r request, body io.Reader, length int64) answer {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(e.server.Certificate())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	sent, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.server.URL+ingest.Path, body)
	require.NoError(t, err)
	sent.Header = r.header.Clone()
	sent.Header.Set("Content-Type", "application/json")
	sent.ContentLength = length
	response, err := transport.RoundTrip(sent)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, 2, response.ProtoMajor)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{response.StatusCode, response.Header, response.Close, string(text)}
}
