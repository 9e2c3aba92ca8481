package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file that was changed into what cannot be used is named by status, with a journal and without one.
func TestStatusNamesAFileThatIsNotInUse(t *testing.T) {
	for name, variables := range map[string][]string{"journal": nil, "sinks": {"FNBRIDGE_ACK=sinks"}} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "secrets")
			require.NoError(t, os.WriteFile(file, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), 0o600))
			s := newShell(t, append(variables, "FNBRIDGE_WEBHOOK_SECRETS_FILE="+file)...)
			bridge := s.serve()
			stdout, stderr, exit := s.run("status")
			require.Zero(t, exit, stderr)
			require.NotContains(t, stdout, file)

			require.NoError(t, os.WriteFile(file, []byte("whsec_hidden"), 0o600))
			bridge.line("cannot be used")
			stdout, _, _ = s.run("status")
			require.Contains(t, stdout, "FNBRIDGE_WEBHOOK_SECRETS_FILE: what the file "+file+" holds now is not in use")
			require.NotContains(t, stdout, "hidden")
			stdout, _, _ = s.run("status", "--json")
			var status struct {
				RefusedFiles []struct{ Variable string } `json:"refused_files"`
			}
			require.NoError(t, json.Unmarshal([]byte(stdout), &status), stdout)
			require.Len(t, status.RefusedFiles, 1)
			require.Equal(t, "FNBRIDGE_WEBHOOK_SECRETS_FILE", status.RefusedFiles[0].Variable)
		})
	}
}

// The bridge at the port is another one's than that of the directory.
func TestStatusOfACopyIsThatOfNoBridge(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--wait=60s")
	copied := t.TempDir()
	for _, name := range []string{"journal.db", "journal.db-wal"} {
		content, err := os.ReadFile(filepath.Join(s.dir, "data", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(copied, name), content, 0o600))
	}
	require.Contains(t, s.mustRun("status"), "bridge    running")
	s.env = append(s.env, "FNBRIDGE_DATA_DIR="+copied)
	require.Contains(t, s.mustRun("status"), "bridge    not running on "+copied)
}
