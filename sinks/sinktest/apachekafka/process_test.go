package apachekafka

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPanicWithAChild is the other half of TestChildDiesWithAPanic, which runs it in a process of its own.
func TestPanicWithAChild(t *testing.T) {
	if os.Getenv("FNBRIDGE_TEST_PANIC") != "1" {
		t.Skip("Skipped unless TestChildDiesWithAPanic runs it.")
	}
	p, err := startProcess(exec.Command("sleep", "600"))
	require.NoError(t, err)
	fmt.Printf("\nchild %d\n", p.pid)
	panic("as asked")
}

func TestChildDiesWithAPanic(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("Skipped: only Linux ends a child with its parent.")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicWithAChild$")
	cmd.Env = append(os.Environ(), "FNBRIDGE_TEST_PANIC=1")
	out, err := cmd.Output()
	require.ErrorContains(t, err, "exit status 2")
	pid := 0
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "child "); ok {
			pid, err = strconv.Atoi(n)
			require.NoError(t, err)
		}
	}
	require.NotZero(t, pid, "%s", out)
	require.Eventually(t, func() bool { return !processRuns(t, pid) }, 10*time.Second, 10*time.Millisecond)
}

// processRuns tells whether a process runs. One that has ended and that nobody has waited for counts as ended.
func processRuns(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false
	}
	require.NoError(t, err)
	return !strings.Contains(string(stat), ") Z ")
}

func TestProcessThatCannotStart(t *testing.T) {
	t.Parallel()
	_, err := startProcess(exec.Command(filepath.Join(t.TempDir(), "nothing")))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestProcessThatEnds(t *testing.T) {
	t.Parallel()
	p, err := startProcess(exec.Command("false"))
	require.NoError(t, err)
	<-p.done
	require.True(t, p.ended())
	require.ErrorContains(t, p.err, "exit status 1")
	require.ErrorIs(t, p.signal(syscall.SIGTERM), syscall.ESRCH)
}

func TestReservedPortIsTheBrokersAlone(t *testing.T) {
	t.Parallel()
	p, err := reservePort()
	require.NoError(t, err)
	defer p.release()
	dialer, listener := net.Dialer{Timeout: time.Second}, net.ListenConfig{}
	for range 2 { // a broker, and the same after a restart
		_, err = dialer.DialContext(t.Context(), "tcp", p.address())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		l, err := listener.Listen(t.Context(), "tcp", p.address())
		require.NoError(t, err)
		conn, err := dialer.DialContext(t.Context(), "tcp", p.address())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NoError(t, l.Close())
	}
}

func TestJarsAreFetchedOnce(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	var fetched atomic.Int32
	fetch := func(_ context.Context, pomFile, dir string) error {
		fetched.Add(1)
		require.FileExists(t, pomFile)
		return os.WriteFile(filepath.Join(dir, "kafka.jar"), nil, 0o600)
	}
	dirs := make([]string, 8)
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			dir, err := installJars(t.Context(), cache, fetch)
			if err != nil {
				t.Error(err)
			}
			dirs[i] = dir
		})
	}
	wg.Wait()
	require.Equal(t, int32(1), fetched.Load())
	for _, dir := range dirs {
		require.FileExists(t, filepath.Join(dir, "kafka.jar"))
		require.FileExists(t, filepath.Join(dir, "JavaPartitions.java"))
	}
	left, err := filepath.Glob(filepath.Join(cache, "*.partial-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestJarsThatCannotBeFetchedLeaveNothing(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	broken := errors.New("no network")
	_, err := installJars(t.Context(), cache, func(_ context.Context, _, dir string) error {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "half.jar"), nil, 0o600))
		return broken
	})
	require.ErrorIs(t, err, broken)
	left, err := filepath.Glob(filepath.Join(cache, "kafka-*"))
	require.NoError(t, err)
	require.Len(t, left, 1, "the lock alone: %v", left)
}

func TestLockGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), name)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = lockFile(ctx, name)
	require.ErrorIs(t, err, context.Canceled)
	unlock()
	unlock, err = lockFile(t.Context(), name)
	require.NoError(t, err)
	unlock()
}

func TestParseRecord(t *testing.T) {
	t.Parallel()
	fields := []string{"CreateTime:1700000000123", "Partition:3", "Offset:7", "a:b:c" + headerSeparator + "d:", "key", "value"}
	r, err := parseRecord(strings.Join(fields, fieldSeparator))
	require.NoError(t, err)
	require.Equal(t, JavaRecord{
		Partition: 3, Offset: 7, Timestamp: time.UnixMilli(1700000000123),
		Headers: []JavaHeader{{Key: "a", Value: "b:c"}, {Key: "d"}}, Key: "key", Value: "value",
	}, r)
	for _, line := range []string{"", "x", strings.Join(fields[:5], fieldSeparator), strings.Join(append([]string{"LogAppendTime:1"}, fields[1:]...), fieldSeparator)} {
		_, err := parseRecord(line)
		require.Error(t, err, "%q", line)
	}
}
