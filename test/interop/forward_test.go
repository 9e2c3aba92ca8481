package interop

import (
	"net/http/httptest"
	"testing"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
)

// The CloudEvents SDK for Go receives what "tail --forward" posts.
func TestOfficialSDKReceivesHTTP(t *testing.T) {
	protocol, err := cehttp.New()
	require.NoError(t, err)
	service := httptest.NewServer(protocol)
	t.Cleanup(service.Close)
	forwarder, err := admin.NewForwarder(service.URL)
	require.NoError(t, err)
	t.Cleanup(forwarder.Close)
	for name, e := range sinktest.LegalEvents() {
		t.Run(name, func(t *testing.T) {
			taken := make(chan bool, 1)
			go func() {
				ok, err := forwarder.Forward(t.Context(), admin.Received{Event: e}, func(admin.Forwarded) {})
				taken <- ok && err == nil
			}()
			m, respond, err := protocol.Respond(t.Context())
			require.NoError(t, err)
			require.Equal(t, binding.EncodingBinary, m.ReadEncoding())
			requireSDKReads(t, e, m, decodedFor(cloudevents.Binary))
			require.NoError(t, respond(t.Context(), nil, nil))
			require.True(t, <-taken)
		})
	}
}
