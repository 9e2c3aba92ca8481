//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

// process is a child that ends with the test.
type process struct{ *child.Process }

func start(t *testing.T, cmd *exec.Cmd) process {
	t.Helper()
	p, err := child.Start(cmd)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL) // it may have ended
		<-p.Done
	})
	return process{p}
}

// terminate stops the process in good order.
func (p process) terminate(t *testing.T) {
	t.Helper()
	require.NoError(t, p.Signal(syscall.SIGTERM))
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case <-p.Done:
	case <-timer.C:
		require.FailNow(t, "the process does not stop", "%v", p.Cmd.Args)
	}
}

// ticksPerSecond is the unit of CPU time in /proc (USER_HZ), which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// cpu is the processor time that the process has used, in user and kernel mode.
func (p process) cpu(t *testing.T) time.Duration {
	t.Helper()
	return cpuOf(t, p.PID)
}

func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	// The name, in parentheses, may hold anything; proc(5) numbers utime 14 and stime 15, and the state behind the name is
	// 3.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	require.Greater(t, len(fields), 12)
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// memory is the process's resident memory in bytes: now, and at most since it was last reset.
func (p process) memory(t *testing.T) (now, peak int64) {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", p.PID))
	require.NoError(t, err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			now = kilobytes << 10
		case "VmHWM":
			peak = kilobytes << 10
		}
	}
	require.Positive(t, now)
	return now, peak
}

// resetPeak makes the peak of the memory begin anew.
func (p process) resetPeak(t *testing.T) {
	t.Helper()
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID), []byte("5"), 0o600))
}

// reserveAddress keeps an address of 127.0.0.1 until the test ends.
func reserveAddress(t *testing.T) string {
	t.Helper()
	port, err := child.ReservePort()
	require.NoError(t, err)
	t.Cleanup(port.Release)
	return port.Address()
}
