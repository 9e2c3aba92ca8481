package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with a command on it.
type terminal struct {
	t     *testing.T
	cmd   *exec.Cmd
	user  *os.File // what a person sees and types
	ended chan struct{}

	mu   sync.Mutex
	seen strings.Builder
}

// onTerminal starts a command as a person does, on a terminal of 80 columns.
func (s *shell) onTerminal(args ...string) *terminal {
	s.t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(s.t, err)
	require.NoError(s.t, unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	require.NoError(s.t, err)
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(s.t, err)
	require.NoError(s.t, unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	cmd := s.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(s.t, cmd.Start())
	require.NoError(s.t, program.Close())
	p := &terminal{t: s.t, cmd: cmd, user: user, ended: make(chan struct{})}
	go func() { // ends when no process has the terminal open any more
		defer close(p.ended)
		_, _ = io.Copy(p, user)
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
		_ = user.Close()
	})
	return p
}

func (p *terminal) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Write(b)
}

func (p *terminal) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

func (p *terminal) await(text string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.text(), text) },
		within, 5*time.Millisecond, "%s", text)
}

func (p *terminal) typed(keys string) {
	p.t.Helper()
	_, err := p.user.WriteString(keys)
	require.NoError(p.t, err)
}

// exit waits for the end and returns the exit code.
func (p *terminal) exit() int {
	p.t.Helper()
	<-p.ended
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func TestDropAsksOnATerminal(t *testing.T) {
	s := newShell(t)
	s.serve()
	s.maxMessage(4096)
	s.sendLarge(2)
	s.awaitLetters(count(2))
	const question = "Drop 2 dead letters for good (2 of sink nats; "
	for answer, said := range map[string]string{
		"\n": "Nothing was dropped.", "n\n": "Nothing was dropped.", "x\n": "Nothing was dropped.",
		"\x03": "interrupted; nothing was changed",
	} {
		p := s.onTerminal("dead-letters", "drop", "--all")
		p.await(question)
		p.await("[y/N] ")
		p.typed(answer)
		require.Equal(t, 1, p.exit(), p.text())
		require.Contains(t, p.text(), said)
		require.Len(t, s.letters(), 2)
	}
	p := s.onTerminal("dead-letters", "drop", "--all")
	p.await(question)
	body := `{"job_id":"job_late","status":"successful","note":"` + strings.Repeat("large ", 1000) + `"}`
	_, errs, exit := s.runWith(body, "send", "-")
	require.Equal(t, 0, exit, errs)
	s.awaitLetters(count(3))
	p.typed("y\n")
	require.Equal(t, 0, p.exit(), p.text())
	require.Contains(t, p.text(), "Dropped 2 dead letters.")
	left := s.letters()
	require.Len(t, left, 1, "nobody was asked about what came meanwhile")
	require.Equal(t, "job_late", left[0].Subject)

	p = s.onTerminal("dead-letters", "show", fmt.Sprint(left[0].ID))
	require.Equal(t, 0, p.exit())
	require.Contains(t, p.text(), "  \"job_id\": \"job_late\",\r\n", "laid out for people")
	require.Contains(t, p.text(), fmt.Sprintf("\"fnbridge dead-letters retry %d\" sends it again", left[0].ID))
}

func TestForgetAsksOnATerminal(t *testing.T) {
	s := newOneSink(t)
	s.broker.Stop(t)
	bridge := s.named("first")
	s.mustRun("send", "--count", "3")
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	s.named("second")
	for _, c := range []struct {
		answer string
		exit   int
		sinks  int
	}{{"n\n", 1, 2}, {"y\n", 0, 1}} {
		p := s.onTerminal("sinks", "forget", "first")
		p.await("Forget sink first and drop for good what is kept for it (3 webhooks)? [y/N] ")
		p.typed(c.answer)
		require.Equal(t, c.exit, p.exit(), p.text())
		require.Len(t, s.list(), c.sinks)
	}
}

func TestAReplayAndAVerificationOnATerminalLeaveOnlyTheirResult(t *testing.T) {
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--count", "20")
	s.delivered()
	p := s.onTerminal("replay", "--since", "1h", "--wait")
	require.Equal(t, 0, p.exit(), p.text())
	require.Regexp(t, `^(.*\r\x1b\[K)?40 events published, to sink nats, in \S+\.\r\n`, p.text())
	p = s.onTerminal("journal", "verify")
	require.Equal(t, 0, p.exit(), p.text())
	require.Regexp(t, `\r\x1b\[K20 webhooks and 0 dead letters read, \S+ \w+: all is well\.\r\n$`, p.text())
}

func TestStatusIsWatchedInOnePlaceOnATerminal(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	bridge := s.serve()
	s.maxMessage(4096)
	s.sendLarge(1)
	p := s.onTerminal("status", "--watch")
	p.await("SINK                STATE             DONE/S    BACKLOG      OLDEST   LETTERS")
	s.mustRun("send", "--count", "20")
	p.await(" webhooks/s, 21 in all, ")
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	p.await("fnbridge  not running, at ")
	p.typed("\x03")
	require.Equal(t, 0, p.exit(), p.text())

	require.Equal(t, 1, strings.Count(p.text(), "\x1b[2J"), "what is there is written over, and never blank")
	written := strings.ReplaceAll(p.text(), "^C", "") // which the terminal shows of what was typed, wherever it is
	frames := strings.Split(written, "\x1b[H")[1:]
	require.Greater(t, len(frames), 2)
	for _, frame := range frames[:len(frames)-1] {
		require.True(t, strings.HasSuffix(frame, "\x1b[J"), "%q", frame)
		for line := range strings.SplitSeq(frame, "\r\n") {
			require.Less(t, len(strings.NewReplacer("\x1b[K", "", "\x1b[J", "").Replace(line)), 80, line)
		}
	}
}
