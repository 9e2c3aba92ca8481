package app_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/sinks/embeddednats"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// sample is the value of a series, and 0 while there is none.
func (r *running) sample(series string) float64 {
	r.t.Helper()
	_, text := r.get("/metrics")
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (.*)$`).FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	value, err := strconv.ParseFloat(found[1], 64)
	require.NoError(r.t, err)
	return value
}

func (r *running) awaitSample(series string, value float64) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.sample(series) == value }, bound, 10*time.Millisecond, series)
}

const journalDeadLetters = `fnbridge_dead_letters{sink="nats"}`

// longName is a workflow's whose name has 11,000 letters of two bytes, and of six where they are escaped.
func longName(functions int) string {
	statuses := make([]string, functions)
	for i := range statuses {
		statuses[i] = fmt.Sprintf(`"f%04d":"success"`, i)
	}
	return fmt.Sprintf(`{"workflow_name":%q,"invocation_id":"inv","fn_status":{%s}}`,
		strings.Repeat("ж", 11_000), strings.Join(statuses, ","))
}

func TestOneSmallWebhookMakesNoMountain(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, map[string]string{"JOURNAL_MAX_BYTES": "8MiB"})
	// Its events would be 400 MB: it is taken as it is.
	require.JSONEq(t, `{"webhook_id":"msg_1","events":1}`, r.mustPost("msg_1", longName(3000), http.StatusAccepted))
	require.Equal(t, "tensorlake.unrecognized", r.inStream(1)[0].Headers().Get("ce-type"))

	// As many as are within bounds, 63 MiB, are too large for the server one by one.
	r.mustPost("msg_2", longName(500), http.StatusAccepted)
	r.awaitSample(journalDeadLetters, 500)
	r.mustPost("msg_3", workflow, http.StatusAccepted)
	r.inStream(3)
	require.NoError(t, r.stop())

	j, err := journal.Open(t.Context(), journal.Options{Dir: dir, KeepSinks: true})
	require.NoError(t, err)
	s, err := j.Status(t.Context())
	require.NoError(t, err)
	require.Less(t, s.Bytes, int64(1<<20))
	letters, err := j.DeadLetters(t.Context(), journal.DeadLetterFilter{})
	require.NoError(t, err)
	require.Len(t, letters, 500)
	for i := range letters {
		e := &letters[i].Event
		require.Equal(t, "inv/"+e.Function, e.Subject)
		require.Equal(t, strings.Repeat("ж", 11_000), e.Application)
		require.Equal(t, "/tensorlake/workflows/"+strings.Repeat("%D0%B6", 11_000), e.Source)
		require.Contains(t, string(e.Data), `"function":"`+e.Function+`"`)
	}
	require.NoError(t, j.Close(t.Context()))
}

func TestDeadLettersThatFillTheJournalAreToldToTheSender(t *testing.T) {
	srv := natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	r := start(t, t.TempDir(), map[string]string{
		"NATS_URL": srv.URL(), "JOURNAL_MAX_BYTES": "2MiB", "MAX_BODY": "256KiB",
	})
	var answer string
	for i := 0; answer == ""; i++ {
		require.Less(t, i, 40, "2 MiB does not hold this much")
		status, text, err := r.post(fmt.Sprintf("msg_%d", i),
			fmt.Sprintf(`{"job_id":"job_%d","status":"success","text":%q}`, i, strings.Repeat("x", 100_000)))
		require.NoError(t, err)
		if status != http.StatusAccepted {
			require.Equal(t, http.StatusServiceUnavailable, status)
			answer = text
			break
		}
		r.awaitSample(journalDeadLetters, float64(i+1))
	}
	require.Contains(t, answer, "Dead letters")
	require.Contains(t, answer, `fnbridge dead-letters drop`)
	require.LessOrEqual(t, r.sample("fnbridge_journal_bytes"), float64(2<<20))
}

// What waits while a sink is away can become many times as much as it takes.
func TestDeadLettersStayWithinTheJournal(t *testing.T) {
	srv, err := embeddednats.Start(t.Context(), embeddednats.Options{Listen: "127.0.0.1:0", Dir: t.TempDir()})
	require.NoError(t, err)
	proxy := faultproxy.New(t, srv.Addr().String())
	proxy.Stall()
	dir := t.TempDir()
	r := start(t, dir, map[string]string{
		"NATS_URL": "nats://" + proxy.Addr(), "JOURNAL_MAX_BYTES": "1MiB", "MAX_BODY": "256KiB",
	})
	t.Cleanup(func() {
		require.NoError(t, r.stop())
		require.NoError(t, srv.Shutdown(context.WithoutCancel(t.Context())))
	})
	const webhooks, functions = 8, 500 // 240 kB, and as letters 2.5 MB
	for i := range webhooks {
		r.mustPost(fmt.Sprintf("msg_%d", i),
			strings.Replace(longName(functions), `"inv"`, fmt.Sprintf(`"inv_%d"`, i), 1), http.StatusAccepted)
	}
	proxy.Resume()
	r.awaitLog("dead letters fill it")
	dropped, largest := int64(0), int64(0)
	require.Eventually(t, func() bool {
		s, err := admin.ReadStatus(t.Context(), dir)
		require.NoError(t, err)
		largest = max(largest, s.JournalBytes)
		change, err := admin.DropDeadLetters(t.Context(), dir, admin.DeadLetterFilter{})
		require.NoError(t, err)
		dropped += change.Letters
		return dropped == webhooks*functions
	}, bound, 50*time.Millisecond, "every event becomes a dead letter once there is room")
	require.Less(t, largest, int64(9<<18),
		"the limit, at most half of it and a batch beyond, in the log as well, and the marks of what was dropped")
	r.mustPost("msg_last", workflow, http.StatusAccepted)
	inStream(t, srv.ClientURL(), "TENSORLAKE", 2)
}
