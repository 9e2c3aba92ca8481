package apachekafka

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"go.uber.org/goleak"
)

// process is a child in a process group of its own. It dies with this process, however that ends.
type process struct {
	pid  int
	done chan struct{} // closed once the child has ended
	err  error         // how it ended, once done is closed
}

// startProcess starts cmd. One goroutine waits for it, and ends with it.
func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that started the child for the parent's death, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return p, nil
}

// signal sends a signal to the process and whatever it has started.
func (p *process) signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return fmt.Errorf("process %d has ended: %w", p.pid, syscall.ESRCH)
	default:
	}
	if err := syscall.Kill(-p.pid, s); err != nil {
		return fmt.Errorf("sending %v to process %d: %w", s, p.pid, err)
	}
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Goroutines excuses the goroutines that wait for Kafka's processes, for tests that look for leaks while nodes come and go.
func Goroutines() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka.startProcess.func1")
}
