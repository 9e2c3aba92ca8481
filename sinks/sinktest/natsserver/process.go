package natsserver

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

// Process is a nats-server of another version, in a process of its own. It can be stopped and started again at the same
// address, with what it stored.
type Process struct {
	binary, dir string
	port        child.Port
	running     *child.Process
	output      bytes.Buffer
}

// OfAnotherVersion starts the nats-server in the file that FNBRIDGE_TEST_NATS_SERVER names. It ends with the test. If
// the variable is not set, the test is skipped.
func OfAnotherVersion(tb testing.TB) *Process {
	tb.Helper()
	binary := os.Getenv("FNBRIDGE_TEST_NATS_SERVER")
	if binary == "" {
		tb.Skip("Skipped: FNBRIDGE_TEST_NATS_SERVER names no nats-server. make oldest-nats builds one.")
	}
	port, err := child.ReservePort()
	require.NoError(tb, err)
	p := &Process{binary: binary, dir: tb.TempDir(), port: port}
	tb.Cleanup(func() {
		p.stop()
		port.Release()
	})
	p.Start(tb)
	return p
}

// Start starts the server after Stop, and returns when it takes clients.
func (p *Process) Start(tb testing.TB) {
	tb.Helper()
	_, port, _ := strings.Cut(p.Addr(), ":")
	p.output.Reset()
	cmd := exec.Command(p.binary,
		"--addr", "127.0.0.1", "--port", port, "--jetstream", "--store_dir", p.dir)
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	running, err := child.Start(cmd)
	require.NoError(tb, err)
	p.running = running
	require.Eventually(tb, func() bool {
		nc, err := natsgo.Connect(p.URL())
		if err != nil {
			return running.Ended()
		}
		nc.Close()
		return true
	}, startBound, tick, "nats-server did not start")
	require.False(tb, running.Ended(), "nats-server has ended: %s", &p.output)
}

// Stop ends the server. Clients lose their connections.
func (p *Process) Stop(testing.TB) { p.stop() }

func (p *Process) stop() {
	if p.running == nil {
		return
	}
	_ = p.running.Signal(syscall.SIGTERM) // it may have ended
	<-p.running.Done
	p.running = nil
}

// Addr is host:port of the server, running or not.
func (p *Process) Addr() string { return p.port.Address() }

// URL is the server's address for clients.
func (p *Process) URL() string { return "nats://" + p.Addr() }
