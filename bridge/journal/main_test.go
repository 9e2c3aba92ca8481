package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// These make the test binary do one thing as another process, which can be killed.
const (
	roleVariable = "JOURNAL_TEST_ROLE"
	dirVariable  = "JOURNAL_TEST_DIR"
	runVariable  = "JOURNAL_TEST_RUN"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := playRole(role, os.Getenv(dirVariable), os.Getenv(runVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func playRole(role, dir, run string) error {
	ctx := context.Background()
	j, err := Open(ctx, Options{Dir: dir, Sinks: []string{"nats"}})
	if err != nil {
		return err
	}
	switch role {
	case "hold":
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return j.Close(ctx)
	case "append":
		return appendForEver(ctx, j, run)
	case "limited":
		return appendPastAFileSizeLimit(ctx, j)
	default:
		return fmt.Errorf("unknown role %q", role)
	}
}

// appendForEver appends and says so, a line an acknowledged webhook, until the process is killed or its
// standard input ends. A webhook that fails is tried again, as its sender does.
func appendForEver(ctx context.Context, j *Journal, run string) error {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	var wg sync.WaitGroup
	for caller := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-ended:
					return
				default:
				}
				w := heavy(fmt.Sprintf("%s-%d-%d", run, caller, i), 200+caller*caller*1500)
				for {
					_, err := j.Append(ctx, w)
					if err == nil {
						fmt.Println("ok", w.ID)
						break
					}
					fmt.Println("failed", strings.ReplaceAll(err.Error(), "\n", " "))
				}
				if caller == 0 && i%10 == 9 {
					if err := advance(ctx, j, "nats", j.Head()/2); err != nil {
						fmt.Println("failed", err)
					}
				}
			}
		})
	}
	wg.Wait()
	return j.Close(ctx)
}

// sound says what Verify finds wrong with an open journal.
func sound(ctx context.Context, j *Journal) error {
	report, err := j.views.verify(ctx, j.now(), nil)
	if err != nil {
		return err
	}
	if len(report.Findings) > 0 {
		return errors.New(strings.Join(report.Findings, "; "))
	}
	return nil
}

// process is the test binary in a role.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// start begins a process in a role, behind the given command when there is one. The test's end kills it.
func start(t *testing.T, role, dir, run string, behind ...string) *process {
	t.Helper()
	args := slices.Concat(behind, []string{os.Args[0]})
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, dirVariable+"="+dir, runVariable+"="+run)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd: cmd, in: in, lines: bufio.NewScanner(out)}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	return p
}

// next returns the next line, and false at the end of the output.
func (p *process) next(t *testing.T) (string, bool) {
	t.Helper()
	more := p.lines.Scan()
	require.NoError(t, p.lines.Err())
	return p.lines.Text(), more
}

// end lets the process finish by itself, and returns the lines that are left.
func (p *process) end(t *testing.T) (left []string) {
	t.Helper()
	left, err := p.finish(t)
	require.NoError(t, err)
	return left
}

// finish lets the process finish by itself, and returns the lines that are left and how it ended.
func (p *process) finish(t *testing.T) (left []string, err error) {
	t.Helper()
	require.NoError(t, p.in.Close())
	for {
		line, more := p.next(t)
		if !more {
			break
		}
		left = append(left, line)
	}
	return left, p.cmd.Wait()
}

// kill ends the process as a crash does, and returns the lines that it had written.
func (p *process) kill(t *testing.T) (left []string) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	for p.lines.Scan() {
		left = append(left, p.lines.Text())
	}
	require.Error(t, p.cmd.Wait())
	return left
}

// acknowledged picks the IDs out of the lines of appendForEver.
func acknowledged(lines []string) (acked, failed []string) {
	for _, line := range lines {
		if id, ok := strings.CutPrefix(line, "ok "); ok {
			acked = append(acked, id)
		}
		if text, ok := strings.CutPrefix(line, "failed "); ok {
			failed = append(failed, text)
		}
	}
	return acked, failed
}

// advance moves the cursor of a sink.
func advance(ctx context.Context, j *Journal, sink string, seq int64) error {
	return j.Move(ctx, []Move{{Stream: Stream{Kind: Live, Sink: sink, Cursor: seq}}}, nil)
}
