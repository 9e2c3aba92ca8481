package journal

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

func TestAWriteErrorRefusesAndRecovers(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "limited", dir, "")
	acked, failed := acknowledged(p.end(t))
	require.NotEmpty(t, failed)
	require.Contains(t, failed[0], "disk I/O error")
	require.Equal(t, acked, ids(readAll(t, open(t, Options{Dir: dir}))))
}

// appendPastAFileSizeLimit makes writes fail with an error that is not a full disk, then lets them succeed
// again. The kernel's limit on file size does that to a process without root.
func appendPastAFileSizeLimit(ctx context.Context, j *Journal) error {
	signal.Ignore(unix.SIGXFSZ)
	info, err := os.Stat(j.path + "-wal")
	if err != nil {
		return err
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	limit := before
	n := 0
	for _, room := range []uint64{50_000, 90_001, 200_000} {
		limit.Cur = uint64(info.Size()) + room
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			return err
		}
		failures := 0
		for failures < 3 {
			id := fmt.Sprint(n)
			accepted, err := j.Append(ctx, heavy(id, 10_000))
			switch {
			case accepted == bridge.Duplicate:
				return fmt.Errorf("%s was reported as failed and is there", id)
			case err == nil:
				fmt.Println("ok", id)
				n++
			default:
				fmt.Println("failed", err)
				failures++
			}
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
			return err
		}
		id := fmt.Sprint(n)
		if _, err := j.Append(ctx, heavy(id, 10_000)); err != nil {
			return fmt.Errorf("the disk is well again, and the journal is not: %w", err)
		}
		fmt.Println("ok", id)
		n++
	}
	if err := sound(ctx, j); err != nil {
		return err
	}
	return j.Close(ctx)
}

// failing is a command before another, in which the system calls that strace's inject names fail. A healthy disk has no
// such faults.
func failing(t *testing.T, calls, inject string, more ...string) []string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		machine.Lacks(t, "strace, which makes system calls fail here, is not installed")
	}
	command := append([]string{
		strace, "-f", "-qq", "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + inject, "-o", os.DevNull,
	}, more...)
	if out, err := exec.Command(command[0], append(command[1:], "true")...).CombinedOutput(); err != nil {
		machine.Lacks(t, "strace may not trace here: %v %s", err, out)
	}
	return command
}

// The room that there was when the start looked is somebody else's when the log is moved.
func TestAStartWhereTheDatabaseCannotGrow(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "append", dir, "run")
	var lines []string
	for range 500 {
		line, more := p.next(t)
		require.True(t, more)
		lines = append(lines, line)
	}
	acked, _ := acknowledged(append(lines, p.kill(t)...))
	p = start(t, "hold", dir, "", failing(t, "pwrite64", "error=ENOSPC", "-P", filepath.Join(dir, fileName))...)
	line, _ := p.next(t)
	require.Equal(t, "ready", line)
	_, err := p.finish(t)
	require.NoError(t, err)
	j := open(t, Options{Dir: dir})
	require.Subset(t, ids(readAll(t, j)), acked)
	require.NoError(t, sound(t.Context(), j))
}

func TestAFailedSyncRefusesAndRecovers(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "append", dir, "run", failing(t, "fsync,fdatasync", "error=EIO:when=40..47")...)
	var lines []string
	seen := false
	for after := 0; after < 100; {
		line, more := p.next(t)
		require.True(t, more, "the process ended by itself")
		lines = append(lines, line)
		if strings.HasPrefix(line, "failed ") {
			require.Contains(t, line, "disk I/O error")
			seen, after = true, 0
		} else if seen {
			after++
		}
	}
	// strace counts the calls of each thread, so that one may reach its first fault when the journal closes. What
	// was acknowledged is there all the same.
	left, err := p.finish(t)
	if err != nil {
		t.Logf("the process ended with: %v", err)
	}
	acked, failed := acknowledged(append(lines, left...))
	require.NotEmpty(t, failed)
	j := open(t, Options{Dir: dir})
	require.ElementsMatch(t, acked, ids(readAll(t, j)), "every webhook was tried until it was acknowledged")
	require.NoError(t, sound(t.Context(), j))
}
