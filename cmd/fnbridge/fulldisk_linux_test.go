package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// What could not be written is said, by find too, which writes in parts.
func TestFindSaysThatItCannotWrite(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--id", "msg_1")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	find := s.command("find", "msg_1")
	find.Stdout = full
	var exit *exec.ExitError
	require.ErrorAs(t, find.Run(), &exit)
	require.Equal(t, 1, exit.ExitCode())
}

// While a full disk keeps webhooks out, everything that tells how a bridge is says so; it stops and starts, and takes
// webhooks again once there is room.
func TestAFullDiskIsSaidEverywhere(t *testing.T) {
	disk := machine.SmallDisk(t, 40)
	s := newShell(t, "FNBRIDGE_DATA_DIR="+filepath.Join(disk, "data"))
	p := s.start("serve")
	require.Contains(t, p.line("FNBRIDGE_JOURNAL_MAX_BYTES"), "the journal takes less",
		"its default is more than the disk has")
	p.line("fnbridge is ready")
	require.Equal(t, 0, p.signal(syscall.SIGTERM))
	p = s.serve()

	ballast := filepath.Join(disk, "ballast")
	fillDisk(t, ballast)
	for range 2 {
		ops := "http://" + s.ops
		status, text := ask(t, ops+"/readyz")
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Contains(t, text, "the disk is full")
		_, text = ask(t, ops+"/metrics")
		require.Contains(t, text, `fnbridge_refusing{reason="disk_full"} 1`)
		require.Contains(t, text, `fnbridge_refusing{reason="journal_full"} 0`)
		require.Contains(t, text, "fnbridge_volume_size_bytes 4.194304e+07")
		out, _, exit := s.run("status")
		require.Zero(t, exit)
		require.Contains(t, out,
			"not ready: webhooks are refused, while those accepted are delivered: make room on the volume")
		out, _, exit = s.run("check")
		require.Equal(t, 1, exit)
		require.Contains(t, out, "the disk is full")
		text, _, exit = s.run("send")
		require.Equal(t, 1, exit)
		require.Contains(t, text, "The disk of the journal is full")

		require.Equal(t, 0, p.signal(syscall.SIGTERM), "a stop needs no space")
		fillDisk(t, ballast)
		// Nor do commands while no bridge runs.
		for _, args := range [][]string{
			{"journal", "verify"},
			{"dead-letters", "list"},
			{"sinks", "list"},
			{"replay", "list"},
			{"find", "msg_1"},
			{"replay", "--sink", "nats", "--all"},
			{"status"},
		} {
			_, errs, _ := s.run(args...)
			require.NotContains(t, errs, "full", "%v", args)
			require.NotContains(t, errs, "error", "%v", args)
			fillDisk(t, ballast)
		}
		out, _, _ = s.run("check")
		require.Contains(t, out, "nothing can be written to")
		require.Contains(t, out, "MiB for it: webhooks are refused before it is full")
		p = s.serve() // nor does a start
	}
	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool {
		status, _ := ask(t, "http://"+s.ops+"/readyz")
		return status == http.StatusOK
	}, within, 20*time.Millisecond)
	_, _, exit := s.run("send", "--wait=60s")
	require.Zero(t, exit)
	out, _, exit := s.run("check")
	require.Zero(t, exit, out)
	require.Equal(t, 0, p.signal(syscall.SIGTERM))
}

// fillDisk writes to a file until nothing more fits.
func fillDisk(t *testing.T, name string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	require.NoError(t, file.Close())
}

func ask(t *testing.T, url string) (status int, text string) {
	t.Helper()
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}
