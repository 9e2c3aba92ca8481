package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAMistakeIsToldWhatMayBeMeant(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"staus"}, `unknown command "staus" for "fnbridge": did you mean "status"?`},
		{[]string{"dead-letters", "lst"}, `unknown command "lst" for "fnbridge dead-letters": did you mean "list"?`},
		{[]string{"status", "--jsn"}, `unknown flag: --jsn: did you mean --json?`},
		{[]string{"something"}, "unknown command \"something\" for \"fnbridge\"\nRun"},
		{[]string{"tail", "--end"}, "--end needs --all or --since"},
	} {
		out, errs, exit := s.run(tt.args...)
		require.Equal(t, 2, exit, tt.args)
		require.Empty(t, out)
		require.Contains(t, errs, tt.want)
	}
}

func TestVersionIsAFlagToo(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	require.Equal(t, s.mustRun("version"), s.mustRun("--version"))
}

func TestAShellCompletesSinksAndSamples(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.env = append(s.env, "FNBRIDGE_SINKS=nats,audit=nats", "FNBRIDGE_AUDIT_STREAM=A", "FNBRIDGE_AUDIT_SUBJECT=a.{route}")
	require.Contains(t, s.mustRun("__complete", "tail", "--sink", ""), "nats\naudit\n")
	require.Contains(t, s.mustRun("__complete", "send", "--sample", ""), "workflow\n")
}

// A sink that has left the environment is completed where one of the journal's is meant.
func TestAShellCompletesTheJournalsSinks(t *testing.T) {
	t.Parallel()
	s := newShell(t, "FNBRIDGE_SINKS=nats,audit=nats", "FNBRIDGE_AUDIT_STREAM=A", "FNBRIDGE_AUDIT_SUBJECT=a.{route}")
	require.NotContains(t, s.mustRun("__complete", "sinks", "forget", ""), "audit", "there is no journal yet")
	require.Equal(t, 0, s.serve().signal(syscall.SIGTERM))
	s.env = append(s.env, "FNBRIDGE_SINKS=nats")
	for _, command := range []string{"sinks forget", "sinks rename", "journal export --undelivered"} {
		args := append([]string{"__complete"}, strings.Fields(command)...)
		require.Contains(t, s.mustRun(append(args, "")...), "audit\nnats\n:4\n", command)
	}
	require.Equal(t, ":4\n", s.mustRun("__complete", "sinks", "rename", "audit", ""))
}

func TestTailEndsWithWhatIsStored(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--wait=60s")
	all := s.mustRun("tail", "--all", "--end")
	require.NotEmpty(t, all)
	require.Equal(t, all, s.mustRun("tail", "--since", "3d", "--end"))
}

func TestTailEndsWhereNothingCanBeRead(t *testing.T) {
	for kind, address := range map[string]string{"nats": "URL=nats://127.0.0.1:1", "kafka": "BROKERS=127.0.0.1:1"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, "FNBRIDGE_SINKS=out="+kind, "FNBRIDGE_OUT_"+address)
			out, errs, exit := s.run("tail", "--all", "--end")
			require.Equal(t, 1, exit, errs)
			require.Empty(t, out)
			require.Regexp(t, "fnbridge: nothing could be read for 15s: .*127.0.0.1:1: connect: connection refused", errs)
		})
	}
}
