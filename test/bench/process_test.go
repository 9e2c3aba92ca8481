//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// child is a process that ends with the test, and dies with this one however that ends.
type child struct {
	pid  int
	done chan struct{} // closed once it has ended
	cmd  *exec.Cmd
	err  error // how it ended, once done is closed
}

// startChild starts cmd. One goroutine waits for the process, and ends with it.
func startChild(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that started the child for the parent's death, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.done)
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-c.done
	})
	return c
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// terminate stops the process in good order.
func (c *child) terminate(t *testing.T) {
	t.Helper()
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGTERM))
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		require.FailNow(t, "the process does not stop", "%v", c.cmd.Args)
	}
}

// ticksPerSecond is the unit of CPU time in /proc (USER_HZ), which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// cpu is the processor time that the process has used, in user and kernel mode.
func (c *child) cpu(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.pid))
	require.NoError(t, err)
	// The name, in parentheses, may hold anything; proc(5) numbers utime 14 and stime 15, and the state behind the name is 3.
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
func (c *child) memory(t *testing.T) (now, peak int64) {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", c.pid))
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
func (c *child) resetPeak(t *testing.T) {
	t.Helper()
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.pid), []byte("5"), 0o600))
}

// reserveAddress has the kernel pick a free port of 127.0.0.1, and keeps others from getting it until the test ends: a socket
// stays bound to it without listening, beside which Linux lets others listen that allow the address to be reused.
func reserveAddress(t *testing.T) string {
	t.Helper()
	syscall.ForkLock.RLock()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	syscall.ForkLock.RUnlock()
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Close(socket) })
	require.NoError(t, syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	require.NoError(t, syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	bound, err := syscall.Getsockname(socket)
	require.NoError(t, err)
	address, ok := bound.(*syscall.SockaddrInet4)
	require.True(t, ok)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(address.Port))
}
