//go:build linux

package torture

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

// process is a child that the run breaks.
type process struct{ *child.Process }

func start(cmd *exec.Cmd) (*process, error) {
	p, err := child.Start(cmd)
	if err != nil {
		return nil, err
	}
	return &process{p}, nil
}

// signal sends s, unless the process has ended.
func (p *process) signal(s syscall.Signal) { _ = p.Signal(s) }

// kill returns once the process has ended.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.Done
}

// awaitOrKill gives the process that long to end, and kills it then.
func (p *process) awaitOrKill(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.Done:
	case <-timer.C:
		p.kill()
	}
}

// exitCode is -1 for a process that a signal has ended. The process has ended.
func (p *process) exitCode() int { return p.Cmd.ProcessState.ExitCode() }

// reserveAddress keeps an address of 127.0.0.1 until the test ends, also while whoever listens there is down.
func reserveAddress(t *testing.T) string {
	t.Helper()
	port, err := child.ReservePort()
	require.NoError(t, err)
	t.Cleanup(port.Release)
	return port.Address()
}
