// Package child runs servers beside a test, on ports of 127.0.0.1 that nobody else gets.
package child

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"go.uber.org/goleak"
)

// Process is a child in a process group of its own. On Linux it dies with this process, however that ends.
type Process struct {
	Cmd  *exec.Cmd
	PID  int
	Done <-chan struct{} // closed once the child has ended
	Err  error           // how it ended, once Done is closed
}

// Start starts cmd. One goroutine waits for it, and ends with it.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	done := make(chan struct{})
	p := &Process{Cmd: cmd, Done: done}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that started the child for the parent's death, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.PID = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		p.Err = cmd.Wait()
		close(done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return p, nil
}

// Signal sends a signal to the process and whatever it has started.
func (p *Process) Signal(s syscall.Signal) error {
	if p.Ended() {
		return fmt.Errorf("process %d has ended: %w", p.PID, syscall.ESRCH)
	}
	if err := syscall.Kill(-p.PID, s); err != nil {
		return fmt.Errorf("sending %v to process %d: %w", s, p.PID, err)
	}
	return nil
}

// Ended tells whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.Done:
		return true
	default:
		return false
	}
}

// Goroutines excuses the goroutines that wait for processes, for tests that look for leaks while processes come and go.
func Goroutines() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/fnbridge/fnbridge/sinks/sinktest/child.Start.func1")
}
