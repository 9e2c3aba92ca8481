package app_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A line of the log about a webhook has its id, and of an event its id too: whoever asks after one finds it.
func TestLinesOfTheLogHaveIDs(t *testing.T) {
	r := start(t, t.TempDir(), map[string]string{"NATS_DEAD_LETTER": "letters.nats"})
	r.mustPost("msg_stored", workflow, http.StatusAccepted)
	r.mustPost("msg_stored", workflow, http.StatusOK)
	r.mustPost("msg_stored", workflowOf("another"), http.StatusAccepted)
	r.mustPost("msg_unknown", `{"x":1}`, http.StatusAccepted)
	r.mustPost("msg_long", strings.Replace(workflow, "workflow_XXXX", strings.Repeat("n", 70_000), 1), http.StatusAccepted)
	request := r.signed("msg_forged", workflow)
	request.Header.Set("Svix-Signature", "v1,"+strings.Repeat("A", 43)+"=")
	response, err := r.http.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	r.awaitLog("events rejected by the sink's broker are in the dead letters")
	r.awaitLog("rejected at the sink's dead-letter address, too")
	for text, ids := range map[string][]string{
		`msg="webhook stored" result=accepted`:                                   {"webhook_id=msg_stored"},
		`msg="webhook stored" result=duplicate`:                                  {"webhook_id=msg_stored"},
		`msg="webhook accepted under an id that another body has"`:               {"webhook_id=msg_stored"},
		`msg="webhook accepted that is not recognized`:                           {"webhook_id=msg_unknown"},
		`msg="webhook refused" result=unauthorized`:                              {"webhook_id=msg_forged"},
		`msg="events rejected by the sink's broker are in the dead letters"`:     {"last_webhook_id=msg_long", "last_event_id="},
		`msg="a dead letter was rejected at the sink's dead-letter address, too`: {"webhook_id=msg_long", "event_id="},
	} {
		line := ""
		for l := range strings.Lines(r.log.String()) {
			if strings.Contains(l, text) {
				line = l
				break
			}
		}
		require.NotEmpty(t, line, "no line says %s", text)
		for _, id := range ids {
			require.Contains(t, line, id)
		}
	}
}
