package child_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

// TestPanicWithAChild is the other half of TestChildDiesWithAPanic, which runs it in a process of its own.
func TestPanicWithAChild(t *testing.T) {
	if os.Getenv("FNBRIDGE_TEST_PANIC") != "1" {
		t.Skip("Skipped unless TestChildDiesWithAPanic runs it.")
	}
	p, err := child.Start(exec.Command("sleep", "600"))
	require.NoError(t, err)
	fmt.Printf("\nchild %d\n", p.PID)
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
	require.Eventually(t, func() bool { return !processRuns(t, pid) }, time.Minute, 10*time.Millisecond)
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
	_, err := child.Start(exec.Command(filepath.Join(t.TempDir(), "nothing")))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestProcessThatEnds(t *testing.T) {
	t.Parallel()
	p, err := child.Start(exec.Command("false"))
	require.NoError(t, err)
	<-p.Done
	require.True(t, p.Ended())
	require.ErrorContains(t, p.Err, "exit status 1")
	require.ErrorIs(t, p.Signal(syscall.SIGTERM), syscall.ESRCH)
}

func TestAReservedPortIsItsServersAlone(t *testing.T) {
	t.Parallel()
	p, err := child.ReservePort()
	require.NoError(t, err)
	defer p.Release()
	dialer, listener := net.Dialer{}, net.ListenConfig{}
	for range 2 { // a server, and the same after a restart
		_, err = dialer.DialContext(t.Context(), "tcp", p.Address())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		l, err := listener.Listen(t.Context(), "tcp", p.Address())
		require.NoError(t, err)
		conn, err := dialer.DialContext(t.Context(), "tcp", p.Address())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NoError(t, l.Close())
	}
}
