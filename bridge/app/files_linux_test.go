package app_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A file on a server that is away is read for ever. A pipe that nobody writes to plays it.
func TestAFileThatIsNeverReadToItsEndHoldsNothingUp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secrets")
	require.NoError(t, os.WriteFile(path, []byte(secret), 0o600))
	r := start(t, t.TempDir(), map[string]string{"WEBHOOK_SECRETS": "", "WEBHOOK_SECRETS_FILE": path})
	require.NoError(t, unix.Mkfifo(path+".new", 0o600))
	require.NoError(t, os.Rename(path+".new", path))
	var writer int
	require.Eventually(t, func() (reads bool) {
		var err error
		writer, err = unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err == nil
	}, bound, 5*time.Millisecond)
	defer unix.Close(writer)

	status, metrics := r.get("/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, metrics, `fnbridge_file_refused{variable="FNBRIDGE_WEBHOOK_SECRETS_FILE"} 0`)
	r.mustPost("msg_1", workflowOf("invocation_1"), http.StatusAccepted)
	require.NoError(t, r.stop())
	require.Contains(t, r.log.String(), "is not read to its end")
}
