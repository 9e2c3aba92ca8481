package ingest_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// nowhere is a Store that is always done.
type nowhere struct{}

func (nowhere) Append(context.Context, bridge.Webhook) (bridge.Acceptance, error) {
	return bridge.Stored, nil
}

// discard is a response that nobody reads.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHandler shows what a webhook costs here, without network and store, beside an echo handler that does
// nothing.
func BenchmarkHandler(b *testing.B) {
	verifier, err := tensorlake.NewVerifier([]string{secret}, time.Hour)
	require.NoError(b, err)
	verified, err := ingest.New(ingest.Options{
		Verifier: func() *tensorlake.Verifier { return verifier }, Store: nowhere{},
	})
	require.NoError(b, err)
	unsigned, err := ingest.New(ingest.Options{Store: nowhere{}})
	require.NoError(b, err)
	empty := echo.New()
	empty.POST(ingest.Path, func(c echo.Context) error { return c.NoContent(http.StatusAccepted) })

	sent := signed(b, "Svix", "msg_1", workflowPayload, time.Now())
	for name, handler := range map[string]http.Handler{"verified": verified, "unsigned": unsigned, "empty-echo": empty} {
		b.Run(name, func(b *testing.B) {
			r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, ingest.Path, nil)
			require.NoError(b, err)
			r.Header = sent.header
			r.Header.Set("Content-Type", "application/json")
			r.ContentLength = int64(len(sent.body))
			body := bytes.NewReader(nil)
			r.Body = io.NopCloser(body)
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				body.Reset([]byte(sent.body))
				handler.ServeHTTP(w, r)
			}
		})
	}
}
