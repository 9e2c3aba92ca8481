package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// Whoever runs a command as another user than the bridge is told so, and not that the journal is damaged or forged.
func TestAnotherUserIsToldOfTheDataDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		machine.Lacks(t, "root, to run commands as another user")
	}
	for name, mode := range map[string]os.FileMode{"closed": 0o700, "open": 0o755} {
		t.Run(name, func(t *testing.T) {
			s := newShell(t)
			s.serve().signal(syscall.SIGTERM)
			data := filepath.Join(s.dir, "data")
			require.NoError(t, os.Chmod(data, mode))
			for at := s.dir; at != os.TempDir(); at = filepath.Dir(at) {
				require.NoError(t, os.Chmod(at, 0o755))
			}
			for _, args := range [][]string{
				{"serve"}, {"status"}, {"sinks", "list"}, {"journal", "verify"}, {"dead-letters", "list"},
			} {
				cmd := s.command(args...)
				cmd.Path = "/proc/self/exe" // which the other user may run wherever it is
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
				out, err := cmd.CombinedOutput()
				require.Error(t, err)
				require.Equal(t, 1, cmd.ProcessState.ExitCode(), "%s", out)
				require.Contains(t, string(out), "FNBRIDGE_DATA_DIR ("+data+"): this user may not use it: run fnbridge as")
			}
		})
	}
}

func TestADataDirectoryThatCannotBeMadeIsNamed(t *testing.T) {
	t.Parallel()
	s := newShell(t, "FNBRIDGE_DATA_DIR=/proc/fnbridge")
	for _, ack := range []string{"journal", "sinks"} {
		s.env = append(s.env, "FNBRIDGE_ACK="+ack)
		out, errs, exit := s.run("serve")
		require.Equal(t, 1, exit, out+errs)
		require.Contains(t, errs, "FNBRIDGE_DATA_DIR (/proc/fnbridge): create it: ")
	}
}
