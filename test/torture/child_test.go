//go:build linux

package torture

import (
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// child is a process that dies with this one, however that ends.
type child struct {
	pid  int
	done chan struct{} // closed once it has ended
	cmd  *exec.Cmd
	err  error // how it ended, once done is closed
}

// startChild starts cmd. One goroutine waits for the process, and ends with it.
func startChild(cmd *exec.Cmd) (*child, error) {
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
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// signal sends s, unless the process has ended.
func (c *child) signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) }

// kill returns once the process has ended.
func (c *child) kill() {
	c.signal(syscall.SIGKILL)
	<-c.done
}

// awaitOrKill gives the process that long to end, and kills it then.
func (c *child) awaitOrKill(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.kill()
	}
}

// exitCode is -1 for a process that a signal has ended. The process has ended.
func (c *child) exitCode() int { return c.cmd.ProcessState.ExitCode() }

// reserveAddress has the kernel pick a port of 127.0.0.1 and keeps it until the test ends, also while whoever listens
// there is down: a socket stays bound to it without listening, beside which Linux lets others listen that allow the
// address to be reused.
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
