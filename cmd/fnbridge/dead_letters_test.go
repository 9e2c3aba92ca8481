package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// maxMessage sets the size of a message that the embedded server's stream takes, -1 for any.
func (s *shell) maxMessage(size int32) {
	s.t.Helper()
	nc, js := s.jetStream()
	defer nc.Close()
	var stream natsjs.Stream
	require.Eventually(s.t, func() (there bool) {
		var err error
		stream, err = js.Stream(s.t.Context(), "TENSORLAKE")
		return err == nil
	}, within, 10*time.Millisecond)
	config := stream.CachedInfo().Config
	config.MaxMsgSize = size
	_, err := js.UpdateStream(s.t.Context(), config)
	require.NoError(s.t, err)
}

// mustRun runs a command that ends with 0.
func (s *shell) mustRun(args ...string) string {
	s.t.Helper()
	out, errs, exit := s.run(args...)
	require.Equal(s.t, 0, exit, "%v: %s%s", args, out, errs)
	return out
}

// letter is a line of dead-letters list --json.
type letter struct {
	ID        int64
	Sink      string
	Attempts  int
	Reason    string
	RetryAt   *time.Time `json:"retry_at"`
	LastAt    time.Time  `json:"last_at"`
	WebhookID string     `json:"webhook_id"`
	Subject   string
	Data      json.RawMessage
}

func (s *shell) letters(args ...string) (letters []letter) {
	s.t.Helper()
	for line := range strings.Lines(s.mustRun(append([]string{"dead-letters", "list", "--json"}, args...)...)) {
		var l letter
		require.NoError(s.t, json.Unmarshal([]byte(line), &l))
		letters = append(letters, l)
	}
	return letters
}

// awaitLetters waits until the dead letters are as they shall be, and returns them.
func (s *shell) awaitLetters(as func([]letter) bool) (letters []letter) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		letters = s.letters()
		return as(letters)
	}, within, 50*time.Millisecond)
	return letters
}

func count(n int) func([]letter) bool {
	return func(letters []letter) bool { return len(letters) == n }
}

// sendLarge has n document jobs published whose events are larger than 4 KiB.
func (s *shell) sendLarge(n int) {
	s.t.Helper()
	for i := range n {
		body := fmt.Sprintf(`{"job_id":"job_%d","status":"successful","note":"%s"}`, i, strings.Repeat("large ", 1000))
		out, errs, exit := s.runWith(body, "send", "--id", fmt.Sprintf("msg_%d", i), "-")
		require.Equal(s.t, 0, exit, out+errs)
	}
}

func TestDeadLettersAreSentAgainOnceTheCauseIsMended(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.maxMessage(4096)
	s.sendLarge(3)
	before := s.awaitLetters(count(3))
	require.Contains(t, s.mustRun("dead-letters", "list"), "document_ingestion.job.completed")

	shown := s.mustRun("dead-letters", "show", fmt.Sprint(before[0].ID))
	require.Regexp(t, `(?m)^webhook\s+msg_0, event 1 of it$`, shown)
	require.Regexp(t, `(?m)^retry asked for\s+no$`, shown)
	require.Contains(t, shown, `{"job_id":"job_0","status":"successful","note":"large large`)
	require.Contains(t, shown, before[0].Reason)

	out := s.mustRun("dead-letters", "retry", fmt.Sprint(before[0].ID))
	require.Contains(t, out, "Asked for another try of 1 dead letter.")
	after := s.awaitLetters(func(l []letter) bool {
		return len(l) == 3 && l[0].Attempts > before[0].Attempts && l[0].RetryAt == nil
	})
	require.Equal(t, before[0].ID, after[0].ID, "it stays what it was")
	require.True(t, after[0].LastAt.After(before[0].LastAt))
	require.Equal(t, before[1:], after[1:], "nobody asked for these")
	require.Regexp(t, `: number \d+, \d+ tries, last `, s.mustRun("find", "job_0"))

	s.maxMessage(-1)
	require.JSONEq(t, `{"dead_letters":2,"running":true}`,
		s.mustRun("dead-letters", "retry", "--json", fmt.Sprint(before[0].ID), fmt.Sprint(before[1].ID)))
	left := s.awaitLetters(count(1))
	require.Equal(t, "msg_2", left[0].WebhookID)
	require.Contains(t, s.mustRun("dead-letters", "retry", "--all"), "1 dead letter")
	s.awaitLetters(count(0))
	require.Equal(t, map[string]bool{"job_0": true, "job_1": true, "job_2": true}, s.stored(3))

	require.Equal(t, "No dead letter matches.\n", s.mustRun("dead-letters", "retry", "--all", "--wait"))
	_, errs, exit := s.run("dead-letters", "show", fmt.Sprint(before[0].ID))
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "there is no dead letter "+fmt.Sprint(before[0].ID))
	_, errs, exit = s.run("dead-letters", "retry", "99", "98")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "there is no dead letter 99, 98")
}

func TestARetryOfDeadLettersIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	bridge := s.serve()
	s.maxMessage(4096)
	s.sendLarge(3)
	s.awaitLetters(count(3))
	out, errs, exit := s.run("dead-letters", "retry", "1", "--wait")
	require.Equal(t, 1, exit, errs)
	require.Equal(t, "0 dead letters sent, 1 failed again.\n", out)
	s.maxMessage(-1)
	require.JSONEq(t, `{"published":1,"failed_again":0}`, s.mustRun("dead-letters", "retry", "2", "--wait", "--json"))
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	s.mustRun("dead-letters", "retry", "1") // is waited for below, too
	p := s.start("dead-letters", "retry", "--all", "--wait")
	p.line("are sent again when \"fnbridge serve\" starts")
	bridge = s.serve()
	p.line("^2 dead letters sent, 0 failed again")
	require.Equal(t, 0, p.wait(t))
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
}

func TestDeadLettersMarkedWithoutABridgeAreSentWhenItStarts(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	bridge := s.serve()
	s.maxMessage(4096)
	s.sendLarge(2)
	s.awaitLetters(count(2))
	s.maxMessage(-1)
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

	require.Contains(t, s.mustRun("dead-letters", "retry", "--all"),
		"2 dead letters will be sent again when \"fnbridge serve\" starts")
	require.Regexp(t, `asked for \d+s ago`, s.mustRun("dead-letters", "list"))
	require.Contains(t, s.mustRun("dead-letters", "retry", "--all"), "Another try was asked for already")
	s.serve()
	s.awaitLetters(count(0))
	require.Equal(t, map[string]bool{"job_0": true, "job_1": true}, s.stored(2))
}

func TestDeadLettersAreSelectedByWhatTheyAre(t *testing.T) {
	s := newShell(t)
	s.serve()
	s.maxMessage(4096)
	s.sendLarge(2)
	large := strings.Repeat("x", 5000)
	out, errs, exit := s.runWith(
		`{"workflow_name":"`+large+`","invocation_id":"invocation_1","fn_status":{"fn_A":"success"}}`, "send", "-")
	require.Equal(t, 0, exit, out+errs)
	s.awaitLetters(count(3))
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"--sink", "nats"}, 3},
		{[]string{"--type", "tensorlake.workflow.*"}, 1},
		{[]string{"--type", "tensorlake.workflow."}, 0},
		{[]string{"--type", "tensorlake.document_ingestion.job.completed"}, 2},
		{[]string{"--workflow", large}, 1},
		{[]string{"--since", "1h"}, 3},
		{[]string{"--until", "1h"}, 0},
		{[]string{"--since", "1d", "--until", time.Now().Add(time.Hour).Format(time.RFC3339)}, 3},
		{[]string{"2", "3", "77"}, 2},
		{[]string{"--limit", "2"}, 2},
	} {
		require.Len(t, s.letters(tt.args...), tt.want, tt.args)
	}
	require.Equal(t, "No dead letter matches.\n", s.mustRun("dead-letters", "list", "--until", "1h"))
	for _, args := range [][]string{{"list"}, {"retry"}, {"drop", "--yes"}} {
		_, errs, exit := s.run(append([]string{"dead-letters"}, append(args, "--sink", "kafka")...)...)
		require.Equal(t, 2, exit)
		require.Contains(t, errs, `there is no sink "kafka"; there is nats`)
	}
	require.Contains(t, s.mustRun("dead-letters", "list", "--limit", "2"), "Shown are the first 2; --limit shows more.")
	require.NotContains(t, s.mustRun("dead-letters", "list", "--limit", "3"), "Shown are", "these are all")

	require.JSONEq(t, `{"dead_letters":1,"running":true}`,
		s.mustRun("dead-letters", "drop", "--type", "tensorlake.workflow.*", "--yes", "--json"))
	require.Len(t, s.letters(), 2)
}

func TestDroppedDeadLettersAreGone(t *testing.T) {
	for name, running := range map[string]bool{"beside a bridge": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			s := newShell(t)
			bridge := s.serve()
			s.maxMessage(4096)
			s.sendLarge(3)
			letters := s.awaitLetters(count(3))
			if !running {
				require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
			}
			_, errs, exit := s.run("dead-letters", "drop", "--all")
			require.Equal(t, 2, exit, "nobody can be asked")
			require.Contains(t, errs, "--yes")
			require.Len(t, s.letters(), 3)

			require.Equal(t, "Dropped 1 dead letter.\n", s.mustRun("dead-letters", "drop", "--yes", fmt.Sprint(letters[1].ID)))
			require.Equal(t, "Dropped 2 dead letters.\n", s.mustRun("dead-letters", "drop", "--yes", "--sink", "nats"))
			require.Empty(t, s.letters())
			require.Equal(t, "No dead letter matches.\n", s.mustRun("dead-letters", "drop", "--yes", "--all"))
			if running {
				require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
			}
			s.serve()
			require.Empty(t, s.letters())
		})
	}
}

func TestABridgeWithoutItsControlSocketIsTold(t *testing.T) {
	s := newShell(t)
	require.NoError(t, os.MkdirAll(filepath.Join(s.dir, "data"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "data", "fnbridge.sock"), []byte("mine"), 0o600))
	p := s.start("serve")
	require.Contains(t, p.line("control socket"), "no socket: move it away")
	var ready struct {
		Webhooks     string
		EmbeddedNATS string `json:"embedded_nats"`
	}
	require.NoError(t, json.Unmarshal([]byte(p.line("fnbridge is ready")), &ready))
	s.listen(portOf(t, ready.Webhooks), 0, 0)
	s.nats = fmt.Sprintf("127.0.0.1:%d", portOf(t, ready.EmbeddedNATS))
	s.maxMessage(4096)
	s.sendLarge(1)
	s.awaitLetters(count(1))
	for _, args := range [][]string{{"dead-letters", "retry", "--all"}, {"dead-letters", "drop", "--all", "--yes"}} {
		_, errs, exit := s.run(args...)
		require.Equal(t, 1, exit)
		require.Regexp(t, fmt.Sprintf(`pid %d .*no bridge answers at its control socket`, p.cmd.Process.Pid), errs)
	}
	require.Equal(t, 0, p.signal(syscall.SIGTERM))
	text, err := os.ReadFile(filepath.Join(s.dir, "data", "fnbridge.sock"))
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
}

func TestTheTextOfADeadLetterDrivesNoTerminal(t *testing.T) {
	s := newShell(t)
	s.serve()
	s.maxMessage(4096)
	out, errs, exit := s.runWith(`{"job_id":"\u001b[2Jjob","status":"\u001b]0;title\u0007",`+
		`"note":"`+"\u202e\u009b"+strings.Repeat("x", 5000)+`"}`, "send", "-")
	require.Equal(t, 0, exit, out+errs)
	id := s.awaitLetters(count(1))[0].ID
	for _, args := range [][]string{
		{"dead-letters", "list"},
		{"dead-letters", "show", fmt.Sprint(id)},
		{"dead-letters", "show", fmt.Sprint(id), "--json"},
		{"status"},
		{"status", "--json"},
		{"journal", "export"},
	} {
		require.NotRegexp(t, "[\x00-\x09\x0b-\x1f\u007f-\u009f\u202e]", s.mustRun(args...), args)
	}
	var letter struct {
		Data struct {
			Note string `json:"note"`
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal([]byte(s.mustRun("dead-letters", "show", fmt.Sprint(id), "--json")), &letter))
	require.Equal(t, "\u202e\u009b", strings.TrimRight(letter.Data.Note, "x"), "a program reads the same")
}
