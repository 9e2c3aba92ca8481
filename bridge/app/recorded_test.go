package app_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sendRecorded sends one request as it was recorded at a time.
func (r *running) sendRecorded(at time.Time, status int) {
	r.t.Helper()
	resp, err := r.http.Do(r.signedAt("msg_1", workflow, at))
	require.NoError(r.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	require.Equal(r.t, status, resp.StatusCode, string(text))
}

func TestARecordedRequestIsTakenOnce(t *testing.T) {
	t.Run("whatever the retention", func(t *testing.T) {
		dir, changes := t.TempDir(), map[string]string{"RETENTION": "1s", "WEBHOOK_TOLERANCE": "24h"}
		recorded := time.Now()
		r := start(t, dir, changes)
		r.sendRecorded(recorded, http.StatusAccepted)
		r.awaitSample("fnbridge_journal_webhooks", 0)
		r.sendRecorded(recorded, http.StatusOK)
		require.NoError(t, r.stop())

		r = start(t, dir, changes)
		for range 2 {
			r.sendRecorded(recorded, http.StatusOK)
		}
		require.Zero(t, r.sample("fnbridge_journal_webhooks"))
		r.inStream(2)
	})
	t.Run("however small the journal", func(t *testing.T) {
		recorded := time.Now()
		r := start(t, t.TempDir(), map[string]string{"JOURNAL_MAX_BYTES": "1MiB", "MAX_BODY": "256KiB"})
		r.sendRecorded(recorded, http.StatusAccepted)
		const sent = 20
		for i := range sent {
			body := fmt.Sprintf(`{"job_id":"job_%d","status":"success","text":%q}`, i, strings.Repeat("x", 100_000))
			require.Eventually(t, func() bool {
				status, _, err := r.post(fmt.Sprintf("msg_other_%d", i), body)
				return err == nil && status == http.StatusAccepted
			}, bound, 10*time.Millisecond)
		}
		require.Less(t, r.sample("fnbridge_journal_webhooks"), float64(sent))
		r.sendRecorded(recorded, http.StatusOK)
	})
}
