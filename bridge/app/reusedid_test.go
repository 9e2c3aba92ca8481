package app_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
)

// twoBodies are two webhooks that one id may come with.
func twoBodies() (first, second string) {
	return workflow, workflowOf("invocation_YYYY")
}

func (r *running) requireEventsOfTwoBodies() {
	r.t.Helper()
	came := map[string]int{}
	for _, m := range r.inStream(4) {
		require.Equal(r.t, "msg_1", m.Headers().Get("ce-webhookid"))
		came[m.Headers().Get("ce-subject")]++
	}
	require.Equal(r.t, map[string]int{
		"invocation_XXXX/fn_A": 1, "invocation_XXXX/fn_B": 1, "invocation_YYYY/fn_A": 1, "invocation_YYYY/fn_B": 1,
	}, came)
	_, metrics := r.get("/metrics")
	require.Contains(r.t, metrics, "fnbridge_webhook_id_reused_total 1\n")
	require.Equal(r.t, 1, strings.Count(r.log.String(), "webhook accepted under an id that another body has"))
}

func TestOneIDWithTwoBodiesIsTwoWebhooks(t *testing.T) {
	const accepted, duplicate = `{"webhook_id":"msg_1","events":2}`, `{"webhook_id":"msg_1","duplicate":true}`
	first, second := twoBodies()
	t.Run("journal", func(t *testing.T) {
		dir := t.TempDir()
		r := start(t, dir, nil)
		require.JSONEq(t, accepted, r.mustPost("msg_1", first, http.StatusAccepted))
		require.JSONEq(t, accepted, r.mustPost("msg_1", second, http.StatusAccepted))
		r.requireEventsOfTwoBodies()
		require.NoError(t, r.stop())

		r = start(t, dir, nil)
		require.JSONEq(t, duplicate, r.mustPost("msg_1", first, http.StatusOK))
		require.JSONEq(t, duplicate, r.mustPost("msg_1", second, http.StatusOK))
		var bodies []string
		require.NoError(t, admin.Export(t.Context(), dir, admin.ExportRequest{}, nil, func(w admin.ExportedWebhook) error {
			require.Equal(t, "msg_1", w.WebhookID)
			bodies = append(bodies, *w.Body)
			return nil
		}))
		require.Equal(t, []string{first, second}, bodies)
	})
	t.Run("sinks", func(t *testing.T) {
		r := start(t, t.TempDir(), map[string]string{"ACK": "sinks"})
		require.JSONEq(t, accepted, r.mustPost("msg_1", first, http.StatusOK))
		require.JSONEq(t, accepted, r.mustPost("msg_1", second, http.StatusOK))
		require.JSONEq(t, duplicate, r.mustPost("msg_1", first, http.StatusOK))
		require.JSONEq(t, duplicate, r.mustPost("msg_1", second, http.StatusOK))
		r.requireEventsOfTwoBodies()
	})
}
