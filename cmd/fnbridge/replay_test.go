package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// delivered waits until everything that was accepted has reached every sink.
func (s *shell) delivered() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		var status struct {
			Sinks []struct {
				Backlog int64 `json:"backlog_webhooks"`
				Cursor  int64
			}
		}
		require.NoError(s.t, json.Unmarshal([]byte(s.mustRun("status", "--json")), &status))
		for _, sink := range status.Sinks {
			if sink.Backlog > 0 || sink.Cursor == 0 {
				return false
			}
		}
		return len(status.Sinks) > 0
	}, within, 50*time.Millisecond)
}

func TestWhatWasDeliveredIsPublishedAgain(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	s.mustRun("send", "--count", "30")
	out, errs, exit := s.runWith(`{"workflow_name":"other","invocation_id":"invocation_1","fn_status":{"fn_A":"success"}}`,
		"send", "-")
	require.Equal(t, 0, exit, out+errs)
	s.delivered()
	nc, js := s.jetStream()
	defer nc.Close()
	seen, err := nc.SubscribeSync("tensorlake.>")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	require.Equal(t, "61 events, from 31 webhooks in that time, would be published to sink nats again.\n",
		s.mustRun("replay", "--since", "1h", "--dry-run"))
	require.JSONEq(t, `{"sink":"nats","webhooks":31,"events":31}`,
		s.mustRun("replay", "--all", "--type", "tensorlake.workflow.function.succ*", "--dry-run", "--json"))

	out = s.mustRun("replay", "--since", "1h", "--workflow", "other", "--wait")
	require.Regexp(t, `^1 event published, to sink nats, in \S+\.\n$`, out)
	m, err := seen.NextMsg(within)
	require.NoError(t, err)
	require.Equal(t, "tensorlake.workflow.other.fn_A.success", m.Subject)

	lines := strings.Split(strings.TrimSpace(s.mustRun("replay", "--all", "--wait", "--json")), "\n")
	var last struct {
		Replay            int64
		Sink, State       string
		Left              *int64 `json:"webhooks_left"`
		Events, Published int64
		DeadLetters       *int64 `json:"dead_letters"`
	}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	require.Equal(t, []any{int64(2), "nats", "done", int64(61), int64(61)},
		[]any{last.Replay, last.Sink, last.State, last.Events, last.Published})
	require.Zero(t, *last.Left)
	require.Zero(t, *last.DeadLetters)
	ids := map[string]int{}
	for range 61 {
		m, err := seen.NextMsg(within)
		require.NoError(t, err)
		ids[m.Header.Get("ce-id")]++
	}
	require.Len(t, ids, 61, "each once, with an id of its own")
	stream, err := js.Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	require.EqualValues(t, 61+1+61, stream.CachedInfo().State.Msgs, "the stream has stored what was replayed")

	require.Contains(t, s.mustRun("replay", "--all", "--until", "1h", "--wait"), "0 events published")
	_, errs, exit = s.run("replay", "--sink", "kafka", "--since", "1h")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, `no sink "kafka"; there is nats`)

	// Without a bridge the next one does it.
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	require.Equal(t, "Replay 4 to sink nats begins when \"fnbridge serve\" starts: it does not run now.\n",
		s.mustRun("replay", "--since", "1h"))
	require.Contains(t, s.mustRun("replay", "--since", "1h", "--dry-run"), "61 events, from 31 webhooks")
	bridge = s.serve()
	bridge.line("a replay is through")
	s.replayed(`(?m)^4 +nats +done +\S+ \S+ +61 +61 +0 +0$`)
}

// replayed waits until the list of replays has a line, and returns the list: the log says first that one is through.
func (s *shell) replayed(line string) (list string) {
	s.t.Helper()
	want := regexp.MustCompile(line)
	require.Eventually(s.t, func() bool {
		list = s.mustRun("replay", "list")
		return want.MatchString(list)
	}, within, 50*time.Millisecond, "%s", line)
	return list
}

// What cannot go on waits, over a restart too, until it can or somebody cancels it.
func TestAReplayToASinkThatIsAway(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	s.mustRun("send", "--count", "20")
	s.delivered()
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	// Nobody listens where the sink's server is said to be now, and what it was sent is behind its cursor.
	home := s.env
	s.env = append(slices.Clone(home), "FNBRIDGE_NATS_URL=nats://127.0.0.1:1")
	bridge = s.start("serve")
	bridge.line("fnbridge is ready")

	first := s.start("replay", "--all", "--wait", "--json")
	first.line(`"state":"running".*"webhooks_left":20.*"published":0`)
	require.NoError(t, first.cmd.Process.Signal(syscall.SIGINT))
	first.line(`interrupted, but replay 1 goes on: "fnbridge replay cancel 1" ends it`)
	require.Equal(t, 1, first.wait(t))
	require.Contains(t, s.mustRun("replay", "--all", "--rate", "1000"), "Replay 2 to sink nats has begun.")
	require.Equal(t, "Replay 1 was cancelled.\n", s.mustRun("replay", "cancel", "1"))
	_, errs, exit := s.run("replay", "cancel", "1")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "no replay 1 runs")
	out, errs, exit := s.run("replay", "cancel", "1", "--json")
	require.Equal(t, 1, exit)
	require.JSONEq(t, `{"replay":1,"cancelled":false}`, out)
	require.Contains(t, errs, "no replay 1 runs")
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

	s.env = home
	bridge = s.serve()
	bridge.line("a replay is through")
	list := s.replayed(`(?m)^2 +nats +done .* 40 +40 +0 +0$`)
	require.Regexp(t, `(?m)^1 +nats +cancelled `, list)
}

func TestWhoWaitsForAReplayIsToldThatItsSinkWasForgotten(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	bridge := s.serve()
	s.mustRun("send")
	s.delivered()
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	p := s.start("replay", "--all", "--wait")
	p.line("Replay 1 begins when")
	s.env = append(s.env, "FNBRIDGE_SINKS=other=nats")
	s.serve()
	s.mustRun("sinks", "forget", "nats", "--yes")
	p.line("replay 1 is gone: the sink nats was forgotten")
	require.Equal(t, 1, p.wait(t))
}

// lineOfExport is one line of journal export.
type lineOfExport struct {
	Seq       int64
	WebhookID string `json:"webhook_id"`
	Body      string
}

func exportLines(t *testing.T, text string) (lines []lineOfExport) {
	t.Helper()
	for line := range strings.Lines(text) {
		var l lineOfExport
		require.NoError(t, json.Unmarshal([]byte(line), &l))
		lines = append(lines, l)
	}
	return lines
}

// events returns the ids of all events in the stream by their subject, once there are n.
func (s *shell) events(n int) map[string]string {
	s.t.Helper()
	require.Len(s.t, s.stored(n), n)
	ids := map[string]string{}
	for line := range strings.Lines(s.mustRun("tail", "--all", "--json", "--count", fmt.Sprint(n))) {
		var r struct {
			Event struct{ ID, Subject, WebhookID string }
		}
		require.NoError(s.t, json.Unmarshal([]byte(line), &r))
		ids[r.Event.Subject] = r.Event.ID + " of " + r.Event.WebhookID
	}
	return ids
}

func TestWhatOneBridgeExportsAnotherTakes(t *testing.T) {
	t.Parallel()
	from, to := newShell(t), newShell(t)
	bridge := from.serve()
	from.mustRun("send", "--count", "20")
	odd := " {\"job_id\":\"job_<&>\\u2028\u2028\",\r\n\"status\" : \"successful\", \"n\": 1.50e+3}\n"
	out, errs, exit := from.runWith(odd, "send", "--id", "msg_odd", "-")
	require.Equal(t, 0, exit, out+errs)
	ids := from.events(41)

	file := filepath.Join(from.dir, "webhooks.jsonl")
	_, errs, exit = from.run("journal", "export", "--output", file)
	require.Equal(t, 0, exit, errs)
	require.Contains(t, errs, "21 webhooks exported")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	out, errs, exit = from.run("journal", "export")
	require.Equal(t, 0, exit, errs)
	require.Equal(t, string(text), out, "the same on standard output")
	require.Equal(t, "21 webhooks exported\n", errs)
	lines := exportLines(t, string(text))
	require.Len(t, lines, 21)
	require.Equal(t, lineOfExport{21, "msg_odd", odd}, lines[20], "byte for byte")

	from.delivered()
	require.Empty(t, from.mustRun("journal", "export", "--undelivered", "nats"))
	require.Len(t, exportLines(t, from.mustRun("journal", "export", "--after", "15")), 6)
	require.Empty(t, from.mustRun("journal", "export", "--until", "1h"))
	_, errs, exit = from.run("journal", "export", "--undelivered", "kafka")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, `no sink "kafka"; there is nats`)
	_, errs, exit = from.run("journal", "export", "--output", filepath.Join(from.dir, "nowhere", "webhooks.jsonl"))
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "the export cannot be written: open "+filepath.Join(from.dir, "nowhere", "webhooks.jsonl"))
	_, errs, exit = from.run("journal", "export", "--output", file)
	require.Equal(t, 1, exit)
	require.Contains(t, errs, file+" is there already", "nothing is replaced")
	link := filepath.Join(from.dir, "link")
	require.NoError(t, os.Symlink(filepath.Join(from.dir, "elsewhere"), link))
	_, errs, exit = from.run("journal", "export", "--output", link)
	require.Equal(t, 1, exit)
	require.Contains(t, errs, link+" is there already", "no link is followed")
	require.Equal(t, 0, bridge.signal(syscall.SIGKILL)+1)
	require.Len(t, exportLines(t, from.mustRun("journal", "export")), 21, "without a bridge, and after a crash")

	to.serve()
	out = to.mustRun("send", "--from-export", file)
	require.Regexp(t, `^21 webhooks in .*: 21 accepted \(41 events\), 0 known already, 0 refused`, out)
	require.Equal(t, ids, to.events(41), "the same events, with the same ids")

	damaged := string(text[:len(text)-10]) + "\n" + strings.Split(string(text), "\n")[0] +
		"\n{\"webhook_id\":\"no spaces\",\"body\":\"{}\"}\n"
	out, errs, exit = to.runWith(damaged, "send", "--from-export", "-", "--from-line", "20", "--rate", "500")
	require.Equal(t, 1, exit, errs)
	require.Contains(t, out, "line 21: not sent    not an exported webhook")
	require.Contains(t, out, "line 23: not sent")
	require.Contains(t, out, "0 accepted (0 events), 2 known already, 2 refused")
}

func TestSendingAnExportSaysWhereToGoOn(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	s.mustRun("send", "--count", "5")
	file := filepath.Join(s.dir, "webhooks.jsonl")
	s.mustRun("journal", "export", "-o", file)
	p := s.start("send", "--from-export", file, "--rate", "0.1", "--json")
	p.line(`"duplicate":true`)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	p.line("interrupted")
	p.line("1 webhook sent; --from-line 2 goes on")
	require.Equal(t, 1, p.wait(t))

	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	_, errs, exit := s.run("send", "--from-export", file, "--from-line", "3")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "--from-line 3 goes on")

	s.env = append(s.env, "FNBRIDGE_WEBHOOK_SECRETS=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	s.serve()
	s.env = append(s.env, "FNBRIDGE_WEBHOOK_SECRETS=whsec_QSBzZWNyZXQgZm9yIGEgdGVzdCBhbG9uZS4h")
	out, errs, exit := s.run("send", "--from-export", file)
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "answers 401", "no other webhook would fare better")
	require.Contains(t, errs, "--from-line 1 goes on")
	require.Empty(t, out)
}

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	s.mustRun("send", "--count", "10")
	require.Regexp(t, `^10 webhooks and 0 dead letters read, .*: all is well\.\n$`, s.mustRun("journal", "verify"))
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	var report struct {
		Webhooks int64
		Findings []string
	}
	require.NoError(t, json.Unmarshal([]byte(s.mustRun("journal", "verify", "--json")), &report))
	require.EqualValues(t, 10, report.Webhooks)
	require.NotNil(t, report.Findings)

	path := filepath.Join(s.dir, "data", "journal.db")
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	at := strings.Index(string(text), `{"workflow_name"`)
	require.Positive(t, at)
	_, err = file.WriteAt([]byte("?"), int64(at)) // what no checksum of SQLite's would tell
	require.NoError(t, err)
	out, errs, exit := s.run("journal", "verify")
	require.Equal(t, 1, exit, errs)
	require.Contains(t, out, "1 finding.")
	_, err = file.WriteAt(make([]byte, 200), 4096)
	require.NoError(t, err)
	_, errs, exit = s.run("journal", "verify")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "damaged")
}
