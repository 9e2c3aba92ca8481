package main

import (
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// nohup keeps SIGHUP away, from all that begin under it.
func TestABridgeUnderNohupOutlivesItsTerminal(t *testing.T) {
	s := newShell(t)
	signal.Ignore(syscall.SIGHUP) // as nohup does, for what begins here
	defer func() {                // Reset does not turn on what Ignore has turned off
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGHUP)
		signal.Stop(c)
	}()
	p := s.serve()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^SigIgn:\s*([0-9a-f]+)$`).FindSubmatch(status)
	require.NotNil(t, found, "%s", status)
	ignored, err := strconv.ParseUint(string(found[1]), 16, 64)
	require.NoError(t, err)
	require.NotZero(t, ignored&(1<<(syscall.SIGHUP-1)), "SIGHUP is on again")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	require.Equal(t, 0, p.signal(syscall.SIGTERM))
}
