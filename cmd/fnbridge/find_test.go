package main

import (
	"encoding/json"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
)

func TestFindTellsWhatBecameOfAWebhook(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	bridge := s.serve()
	s.maxMessage(4096)
	s.sendLarge(1)
	letter := s.awaitLetters(count(1))[0]
	body := `{"workflow_name":"hostile\u001b[2J","invocation_id":"inv_7","fn_status":{"f":"success","g":"failure"}}`
	_, errs, exit := s.runWith(body, "send", "--id", "msg_7", "--wait", "-")
	require.Equal(t, 0, exit, errs)

	s.delivered() // and the journal knows it

	requireFound := func() {
		t.Helper()
		out := s.mustRun("find", "job_0")
		require.Regexp(t, `(?m)^webhook msg_0\n  received \S+ \S+, number 1, 5\.\d KiB, 1 event\n\n`+
			`  event 1 of 1: tensorlake\.document_ingestion\.job\.completed\n    id [0-9a-f]{32}, subject job_0\n`+
			`    nats: dead letter at tensorlake\.document_ingestion\.job\.completed: number 1, 1 try, last .*: \S+`, out)
		require.Contains(t, out, letter.Reason)
		out = s.mustRun("find", "inv_7")
		require.Contains(t, out, "nats: acknowledged at tensorlake.workflow.hostile")
		require.NotContains(t, out, "\x1b", "a payload does not drive the terminal")
		require.Contains(t, s.mustRun("find", "--text", "large large", "--limit", "1"), "msg_0")
		var found admin.Found
		require.NoError(t, json.Unmarshal([]byte(s.mustRun("find", "msg_7", "--json", "--since", "1h")), &found))
		require.Equal(t, 2, found.EventCount)
		require.Equal(t, map[admin.Fate]int{admin.Acknowledged: 2}, found.Sinks[0].Events)

		out, errs, exit := s.run("find", "req_nowhere")
		require.Equal(t, 1, exit)
		require.Empty(t, out)
		require.Equal(t, "Nothing in the journal matches.\n", errs)
	}
	requireFound()
	s.mustRun("dead-letters", "drop", "1", "--yes")
	require.Contains(t, s.mustRun("find", "job_0"),
		"nats: dropped at tensorlake.document_ingestion.job.completed: number 1, ")
	s.sendLarge(2) // a duplicate, and one more
	s.awaitLetters(count(1))
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	require.Contains(t, s.mustRun("find", "job_0"), "nats: dropped", "without a bridge it is the same")
	require.Contains(t, s.mustRun("find", "job_1"), "nats: dead letter")
	require.Contains(t, s.mustRun("find", "inv_7"), "nats: acknowledged")

	_, errs, exit = s.run("find")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, "say what to find: an id, or --text and a text")
}
