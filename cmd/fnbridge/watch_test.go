package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatusIsWatchedWithoutATerminal(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--count", "3")
	p := s.start("status", "--watch")
	for range 2 {
		p.line(`^fnbridge  running, at `)
		p.line(`^accepted  \S+ webhooks/s, 3 in all, the last one \d+s ago$`)
		p.line(`^nats +up +\S+ +\d+ +\S+ +0$`)
		p.line(`^$`)
	}
	require.Equal(t, 0, p.signal(syscall.SIGINT))
	for line := range p.lines {
		require.NotContains(t, line, "\x1b")
	}

	p = s.start("status", "--watch", "--json")
	for range 2 {
		var status shownStatus
		require.NoError(t, json.NewDecoder(strings.NewReader(p.line(`^\{"live":true`))).Decode(&status))
		require.EqualValues(t, 3, status.Head)
	}
	require.Equal(t, 0, p.signal(syscall.SIGINT))

	s.env = append(s.env, "FNBRIDGE_DATA_DIR="+t.TempDir())
	_, errs, exit := s.run("status", "--watch")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "there is no journal in ")
}

// The pod of docs/examples/kubernetes/journal.yaml stays beside a bridge that does not start, for the commands that
// docs/deploy.md has kubectl run in it.
func TestTheJournalOfAPodThatDoesNotStart(t *testing.T) {
	t.Parallel()
	docs := filepath.Join("..", "..", "docs")
	pod, err := os.ReadFile(filepath.Join(docs, "examples", "kubernetes", "journal.yaml"))
	require.NoError(t, err)
	args := regexp.MustCompile(`(?m)^ +args: \[(.*)\]$`).FindStringSubmatch(string(pod))
	require.NotNil(t, args)
	page, err := os.ReadFile(filepath.Join(docs, "deploy.md"))
	require.NoError(t, err)
	commands := regexp.MustCompile(`(?m)^kubectl .* exec journal -- /(fnbridge .*)$`).FindAllStringSubmatch(string(page), -1)
	require.Len(t, commands, 2)

	s := newShell(t, "FNBRIDGE_NATS_URL=nats://127.0.0.1:1")
	bridge := s.serve()
	s.mustRun("send", "--count", "5")
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	p := s.start(strings.Split(args[1], ", ")...)
	p.line("^fnbridge  not running")
	require.Contains(t, s.types(commands[0][1]), "all is well")
	require.Contains(t, s.types(commands[1][1]), "5 webhooks exported")
	file, err := os.ReadFile(filepath.Join(s.dir, "backlog.jsonl"))
	require.NoError(t, err)
	require.Len(t, exportLines(t, string(file)), 5)
	p.line("^fnbridge  not running")
	require.Equal(t, 0, p.signal(syscall.SIGTERM), "it ends when the pod is deleted")
}
