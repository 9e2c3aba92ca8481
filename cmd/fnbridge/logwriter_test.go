package main

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever reads the log may end, or stand still with a pipe that is full. The bridge does neither.
func TestALogThatNobodyReadsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	standStill := func(*os.File) error { return nil }
	for name, tc := range map[string]struct {
		stop func(reader *os.File) error
		exit int
	}{
		"its reader ends":                     {(*os.File).Close, 0},
		"its reader stands still":             {standStill, 0},
		"its reader ends before an error":     {(*os.File).Close, 1},
		"its reader stands still at an error": {standStill, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShell(t, "FNBRIDGE_LOG_LEVEL=debug", "FNBRIDGE_LOG_FORMAT=text")
			reader, writer, err := os.Pipe()
			require.NoError(t, err)
			defer reader.Close()
			cmd := s.command("serve")
			cmd.Stdout, cmd.Stderr = writer, writer
			require.NoError(t, cmd.Start())
			require.NoError(t, writer.Close())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			ready := regexp.MustCompile(`fnbridge is ready.* webhooks=(http://\S+)`)
			lines := bufio.NewReaderSize(reader, 16)
			var url string
			for url == "" {
				line, err := lines.ReadString('\n')
				require.NoError(t, err)
				if found := ready.FindStringSubmatch(line); found != nil {
					url = found[1]
				}
			}
			require.NoError(t, tc.stop(reader))

			const webhooks = 5000 // each has a line of some hundred bytes, and a pipe holds 64 KiB
			out, errs, exit := s.run("send", "--url", url, "--count", strconv.Itoa(webhooks))
			require.Equal(t, 0, exit, errs)
			require.Contains(t, out, "5000 accepted (10000 events)")

			if tc.exit == 0 {
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			} else {
				require.NoError(t, os.Remove(filepath.Join(s.dir, "data", "fnbridge.lock")))
				_, _, _ = s.run("send", "--url", url) // it is at the next commit that the bridge looks
			}
			select {
			case err := <-ended:
				require.Equal(t, tc.exit, cmd.ProcessState.ExitCode(), "%v", err)
			case <-time.After(within):
				require.FailNow(t, "it does not stop")
			}
		})
	}
}

func TestLogLinesThatDoNotFitAreCounted(t *testing.T) {
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	l := newLogWriter(writer)
	const sent = waitingLines + 1000
	for range sent {
		_, err := l.Write([]byte(strings.Repeat("x", 1023) + "\n"))
		require.NoError(t, err)
	}
	require.Zero(t, l.takeLeftOut(), "it is said once there is room to say it")
	read := make(chan int)
	go func() {
		lines := 0
		for scanner := bufio.NewScanner(reader); scanner.Scan(); lines++ {
		}
		read <- lines
	}()
	require.Eventually(t, func() bool { return len(l.lines) == 0 }, within, time.Millisecond)
	left := l.takeLeftOut()
	require.Positive(t, left)
	require.Zero(t, l.takeLeftOut(), "and once")
	_ = l.Close() // it does not wait for a machine that has no time
	<-l.ended
	require.NoError(t, writer.Close())
	require.Equal(t, sent, left+<-read, "the others are written")
}
