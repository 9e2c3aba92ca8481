package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// answers are the commands of docs/what-to-do-when.md, by heading.
type answers struct {
	t    *testing.T
	left map[string][]string
}

func readAnswers(t *testing.T) *answers {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "what-to-do-when.md"))
	require.NoError(t, err)
	a := &answers{t, make(map[string][]string)}
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		for _, line := range regexp.MustCompile(`(?m)^    (fnbridge .*)$`).FindAllStringSubmatch(text, -1) {
			a.left[heading] = append(a.left[heading], line[1])
		}
		require.NotEmpty(t, a.left[heading], heading)
		require.LessOrEqual(t, len(a.left[heading]), 3, "%s: at most three commands", heading)
	}
	require.Len(t, a.left, 10)
	return a
}

// next returns the next command of an answer, as a reader types it, with words replaced by those of the test.
func (a *answers) next(heading string, replaced ...string) string {
	a.t.Helper()
	require.NotEmpty(a.t, a.left[heading], "%s: the page has no such command", heading)
	command := a.left[heading][0]
	a.left[heading] = a.left[heading][1:]
	for i := 0; i < len(replaced); i += 2 {
		require.Contains(a.t, command, replaced[i])
	}
	return strings.NewReplacer(replaced...).Replace(command)
}

// done holds that every command of the answer was tried.
func (a *answers) done(heading string) {
	a.t.Helper()
	require.Empty(a.t, a.left[heading], heading)
}

// types runs a line with fnbridge in it as a shell does, and returns all that it prints.
func (s *shell) types(line string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "sh", "-c", `fnbridge() { "$0" "$@"; }; `+line, os.Args[0])
	cmd.Dir, cmd.Env = s.dir, s.env
	out, err := cmd.CombinedOutput()
	require.NoError(s.t, err, "%s: %s", line, out)
	return string(out)
}

func (s *shell) storedCount() int {
	s.t.Helper()
	return strings.Count(s.mustRun("tail", "--all", "--end"), "\n")
}

func TestTheAnswersToTheQuestionsOfAnOperator(t *testing.T) {
	a := readAnswers(t)

	t.Run("secret", func(t *testing.T) {
		const heading = "The signing secret was rotated"
		s := newShell(t, "FNBRIDGE_WEBHOOK_SECRETS="+tensorlake.GenerateSecret()+" "+tensorlake.GenerateSecret())
		s.serve()
		s.types(a.next(heading))
		a.done(heading)
	})

	t.Run("moved and added", func(t *testing.T) {
		const moved, added = "The broker has moved", "A sink is added"
		before, after := natsserver.Single(t), natsserver.Single(t)
		s := newShell(t, "FNBRIDGE_NATS_URL="+before.URL())
		bridge := s.serve()
		s.mustRun("send", "--wait=60s")
		want := s.storedCount()
		before.Stop(t)
		s.mustRun("send")
		require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

		s.env = append(s.env, "FNBRIDGE_NATS_URL="+after.URL())
		bridge = s.serve()
		s.delivered()
		require.Contains(t, s.types(a.next(moved)), "nats")
		waited := s.storedCount()
		s.types(a.next(moved))
		require.Equal(t, waited+want+waited, s.storedCount(), "all of it again")
		a.done(moved)
		require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

		s.env = append(s.env, "FNBRIDGE_SINKS=nats,audit=nats", "FNBRIDGE_AUDIT_URL="+after.URL(),
			"FNBRIDGE_AUDIT_STREAM=AUDIT", "FNBRIDGE_AUDIT_SUBJECT=audit.{route}")
		s.serve()
		s.mustRun("send", "--wait=60s")
		s.types(a.next(added))
		require.Greater(t, strings.Count(s.mustRun("tail", "--sink", "audit", "--all", "--end"), "\n"), want+waited)
		a.done(added)
	})

	t.Run("removed and renamed", func(t *testing.T) {
		const removed, renamed = "A sink is removed", "A sink is renamed"
		broker := natsserver.Single(t)
		broker.Stop(t)
		s := newShell(t, "FNBRIDGE_SINKS=nats,audit=nats", "FNBRIDGE_NATS_URL="+broker.URL(),
			"FNBRIDGE_AUDIT_URL="+broker.URL(), "FNBRIDGE_AUDIT_STREAM=AUDIT", "FNBRIDGE_AUDIT_SUBJECT=audit.{route}")
		bridge := s.serve()
		s.mustRun("send", "--count", "5")
		require.Regexp(t, `(?m)^audit .* 5 `, s.types(a.next(removed)))
		require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
		s.env = append(s.env, "FNBRIDGE_SINKS=nats")
		bridge = s.serve()
		require.Regexp(t, `(?m)^audit +no, for .* 5 webhooks`, s.types(a.next(removed)))
		s.types(a.next(removed))
		require.NotContains(t, s.mustRun("sinks", "list"), "audit")
		a.done(removed)
		require.Equal(t, 0, bridge.signal(syscall.SIGTERM))

		s.types(a.next(renamed))
		a.done(renamed)
		s.env = append(s.env, "FNBRIDGE_SINKS=events=nats", "FNBRIDGE_EVENTS_URL="+broker.URL())
		s.serve()
		broker.Start(t)
		require.Eventually(t, func() bool { return s.backlog() == 0 }, within, 100*time.Millisecond)
		require.GreaterOrEqual(t, s.storedCount(), 5, "the new name has what waited for the old one")
	})

	t.Run("disk", func(t *testing.T) { // TestAFullDiskIsSaidEverywhere fills one
		const heading = "The disk is full"
		s := newShell(t)
		s.serve()
		require.Contains(t, s.types(a.next(heading)), "journal")
		a.done(heading)
	})

	t.Run("dead letters", func(t *testing.T) {
		const heading = "There are dead letters"
		s := newShell(t)
		s.serve()
		s.maxMessage(4096)
		large := `{"job_id":"job_1","status":"success","note":"` + strings.Repeat("x", 5000) + `"}`
		out, errs, exit := s.runWith(large, "send", "-")
		require.Equal(t, 0, exit, out+errs)
		id := s.awaitLetters(count(1))[0].ID
		require.Equal(t, int64(1), id)
		require.Contains(t, s.types(a.next(heading)), "document_ingestion")
		require.Contains(t, s.types(a.next(heading)), "job_1")
		s.maxMessage(-1)
		s.types(a.next(heading))
		s.awaitLetters(count(0))
		a.done(heading)
	})

	t.Run("backlog and version", func(t *testing.T) {
		const elsewhere, back = "A backlog has to go to another machine", "A version has to be taken back"
		broker := natsserver.Single(t)
		broker.Stop(t)
		s := newShell(t, "FNBRIDGE_NATS_URL="+broker.URL())
		bridge := s.serve()
		s.mustRun("send", "--count", "5")
		other := newShell(t)
		other.serve()
		const file = "backlog.jsonl"
		require.Contains(t, s.types(a.next(elsewhere)), "5 webhooks exported")
		require.NoError(t, os.Rename(filepath.Join(s.dir, file), filepath.Join(other.dir, file)))
		require.Contains(t, other.types(a.next(elsewhere)), "5 accepted")
		a.done(elsewhere)

		s.types(a.next(back))
		require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
		s.types(a.next(back))
		s.env = append(s.env, "FNBRIDGE_DATA_DIR="+filepath.Join(s.dir, "empty"))
		s.serve() // the older version
		require.Contains(t, s.types(a.next(back)), "5 accepted")
		a.done(back)
	})

	t.Run("never got it", func(t *testing.T) {
		const heading = "A consumer says that it never got something"
		s := newShell(t)
		s.serve()
		out := s.mustRun("send", "--sample", "request-failed", "--wait=60s", "--json")
		require.NotEmpty(t, out)
		line := s.mustRun("tail", "--all", "--end", "--json")
		var r struct {
			Event struct {
				Subject string
				Data    struct {
					Data struct {
						Application struct{ Name string }
						Request     struct{ ID string }
					}
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		request, application := r.Event.Data.Data.Request.ID, r.Event.Data.Data.Application.Name
		s.delivered() // and the journal knows it
		found := s.types(a.next(heading, "req_41", request))
		require.Contains(t, found, request)
		require.Contains(t, found, "acknowledged")
		before := s.storedCount()
		s.types(a.next(heading, "invoices", application))
		require.Equal(t, 2*before, s.storedCount())
		a.done(heading)
	})
}

// backlog is how many webhooks wait for the first sink.
func (s *shell) backlog() int64 {
	s.t.Helper()
	var status struct {
		Sinks []struct {
			Backlog int64 `json:"backlog_webhooks"`
		}
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.mustRun("status", "--json")), &status))
	require.NotEmpty(s.t, status.Sinks)
	return status.Sinks[0].Backlog
}
