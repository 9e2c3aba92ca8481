package main

import (
	"bufio"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTailEndsWhenNobodyReadsOn(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--wait", "60s")
	cmd := s.command("tail", "--all")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, out.Close()) // and no other event comes
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it ends by itself, or by a signal if it was about to print
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(within):
		require.NoError(t, cmd.Process.Kill())
		require.Fail(t, "it goes on")
	}
}
