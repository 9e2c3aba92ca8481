package journal

import (
	"context"
	"errors"
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
)

func TestAFullDiskRefusesAndRecovers(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			skipf(t, "a small file system cannot be mounted without being root: %v", err)
		}
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 3<<20), 0o600))

	var log records
	j, err := Open(t.Context(), Options{Dir: filepath.Join(dir, "data"), Sinks: []string{"nats"}, Logger: log.logger()})
	require.NoError(t, err)
	var acked []string
	for {
		id := fmt.Sprint(len(acked))
		_, err := j.Append(t.Context(), heavy(id, 20_000))
		if err != nil {
			require.NotErrorIs(t, err, ErrFull)
			require.ErrorContains(t, err, "full")
			break
		}
		acked = append(acked, id)
		require.Less(t, len(acked), 1000)
	}
	for range 5 {
		_, err := j.Append(t.Context(), heavy("refused", 100_000))
		require.Error(t, err)
	}
	require.Equal(t, 1, log.count("cannot write"), "said once")
	require.Subset(t, ids(readAll(t, j)), acked, "what was acknowledged can be read meanwhile")

	// Room for the first part of a commit, and then for a smaller one in its place.
	require.NoError(t, os.Truncate(ballast, 3<<20-60_000))
	_, err = j.Append(t.Context(), heavy("refused", 100_000))
	require.Error(t, err)
	require.NoError(t, os.Remove(ballast))
	mustAppend(t, j, heavy("after", 2_000))
	require.NoError(t, checkLog(j.path), "what was refused leaves nothing in the log that looks like damage")
	require.Equal(t, 1, log.count("can write again"))
	require.NoError(t, sound(t.Context(), j))
	require.NoError(t, j.Close(t.Context()))
	j, err = Open(t.Context(), Options{Dir: filepath.Join(dir, "data"), Sinks: []string{"nats"}})
	require.NoError(t, err)
	require.Equal(t, append(acked, "after"), ids(readAll(t, j)))
	require.NoError(t, j.Close(t.Context()))
}

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

// A failing fsync cannot be had from a healthy disk, so strace makes the system call fail.
func TestAFailedSyncRefusesAndRecovers(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		skipf(t, "strace, which makes fsync fail here, is not installed")
	}
	probe := exec.Command(strace, "-f", "-qq", "-e", "trace=fsync",
		"-e", "inject=fsync:error=EIO:when=1", "-o", os.DevNull, "true")
	if out, err := probe.CombinedOutput(); err != nil {
		skipf(t, "strace may not trace here: %v %s", err, out)
	}
	dir := t.TempDir()
	p := start(t, "append", dir, "run", strace, "-f", "-qq", "-e", "trace=fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:error=EIO:when=40..47", "-o", os.DevNull)
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

// skipf skips a test whose fault cannot be made here; where everything is asked for, that is a failure.
func skipf(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") == "1" {
		t.Fatalf("FNBRIDGE_TEST_REQUIRE_ALL=1 asks for every fault: "+format, args...)
	}
	t.Skipf(format, args...)
}
