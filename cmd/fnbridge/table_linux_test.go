package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// drawn is what a terminal does not show: how the cursor moves, and a line of progress that was written over.
var drawn = regexp.MustCompile(`(?m)^.*\r\x1b\[K|\x1b\[[0-9;]*[A-Za-z]`)

// screen is what a person sees on the terminal at the end.
func (p *terminal) screen() string {
	return drawn.ReplaceAllString(strings.ReplaceAll(p.text(), "\r\n", "\n"), "")
}

func TestWhatCommandsPrintFitsATerminal(t *testing.T) {
	t.Parallel()
	const (
		workflow   = "msg_2yk4ZcMdMsGcV9xE7gPkAhfQ1Tb"
		large      = "msg_2yk4ZcXQ8JtB5nWzD3rLmUvS6Ye"
		invocation = "01932f4e-8a5c-7c2b-9d41-5b7c0e6fa312"
		job        = "parse_9tq6wJ2mKzRfLhC8vXbNd"
		subject    = "tensorlake.workflow.order-fulfilment.reserve_inventory.success"
	)
	down := []string{"FNBRIDGE_AUDIT_BROKERS=127.0.0.1:1"} // nobody listens there
	s := newShell(t, append(down, "FNBRIDGE_SINKS=nats,audit=kafka")...)
	s.serve()
	s.maxMessage(4096)
	pages := strings.TrimSuffix(strings.Repeat(`"A page of this document.",`, 250), ",")
	for _, w := range [][2]string{
		{workflow, fmt.Sprintf(`{"workflow_name": "order-fulfilment", "invocation_id": "%s", "fn_status": {
			"reserve_inventory": "success", "charge_credit_card": "failure"}}`, invocation)},
		{large, fmt.Sprintf(`{"job_id": "%s", "status": "successful", "pages": [%s]}`, job, pages)},
	} {
		out, errs, exit := s.runWith(w[1], "send", "--id", w[0], "-")
		require.Equal(t, 0, exit, out+errs)
	}
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "refused.json"), []byte(`["not an object"]`), 0o600))
	reason := s.awaitLetters(count(1))[0].Reason
	s.mustRun("replay", "--sink", "nats", "--all", "--application", "order-fulfilment", "--wait")
	isDown := func(out string) bool { return strings.Contains(out, "audit  down") }
	piped := s.awaitStatus(isDown)
	require.Regexp(t, `(?m)^audit  down \S+s .* ago: .*connection refused$`, piped,
		"a row is a line where no person reads it")
	require.Contains(t, piped, "\naudit: It takes nothing. Every event is kept, and tried again by itself.")
	require.Contains(t, s.mustRun("dead-letters", "list"), "  "+large+"  "+reason+"\n")
	var stored struct{ Event struct{ ID string } }
	first, _, _ := strings.Cut(s.mustRun("tail", "--all", "--end", "--json"), "\n")
	require.NoError(t, json.Unmarshal([]byte(first), &stored))
	queue := newShell(t, append(down, "FNBRIDGE_SINKS=audit=kafka", "FNBRIDGE_ACK=sinks",
		"FNBRIDGE_WEBHOOK_SECRETS=whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0")...)
	queue.serve()
	queue.awaitStatus(isDown)

	type run struct {
		at   *shell
		args string
		// shown are what can be copied, each in one line.
		shown []string
	}
	runs := []run{
		{s, "status", []string{"audit  down ", "connection refused"}},
		{queue, "status", []string{"running (" + queue.ops + ")", "audit  down "}},
		{s, "sinks list", []string{"audit  yes "}},
		{s, "dead-letters list", []string{large, "tensorlake.document_ingestion.job.completed"}},
		{s, "dead-letters show 1", []string{large, job, `"fnbridge dead-letters retry 1"`}},
		{s, "replay list", []string{" done "}},
		{s, "find " + invocation, []string{workflow, invocation, stored.Event.ID, subject}},
		{s, "find " + job, []string{large, job}},
		{s, "tail --all --end", []string{subject, invocation}},
		{s, "check --timeout 1s", []string{"127.0.0.1:1", "FNBRIDGE_WEBHOOK_SECRETS"}},
		{s, "send --id " + large, []string{large, "2 events"}},
		{s, "send --repeat", []string{"200 OK"}},
		{s, "send refused.json", []string{"400 Bad Request"}},
		{s, "send --list", []string{"tensorlake.document_ingestion.job.processing"}},
		{s, "journal verify", []string{"all is well"}},
		{s, "env", []string{"FNBRIDGE_EMBEDDED_NATS_MONITOR_LISTEN", "/webhooks/tensorlake"}},
		{s, "version", []string{"fnbridge "}},
	}
	for _, command := range []string{
		"", "serve", "send", "tail", "find", "check", "status", "dead-letters", "dead-letters list", "dead-letters show",
		"dead-letters retry", "dead-letters drop", "sinks", "sinks list", "sinks rename", "sinks forget", "replay",
		"replay list", "replay cancel", "journal", "journal verify", "journal export", "env", "version",
	} {
		runs = append(runs, run{s, command + " --help", []string{"Usage:"}})
	}
	for _, r := range runs {
		p := r.at.onTerminal(strings.Fields(r.args)...)
		p.exit()
		screen := p.screen()
		for line := range strings.Lines(screen) {
			require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 80, "%s: %s", r.args, line)
		}
		for _, text := range r.shown {
			require.Contains(t, screen, text, r.args)
		}
	}
}
