//go:build linux

package torture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// stopLimit is how long the bridge may take to end after SIGTERM: its own budget of 25 s, 5 s to close everything, and
	// what a busy machine adds.
	stopLimit = time.Minute
	probeTick = 20 * time.Millisecond
)

// crash is what no log of the bridge may hold.
var crash = regexp.MustCompile(`(?m)panic|^fatal error|DATA RACE|^goroutine \d+ \[`)

// bridgeProcess is the bridge: a process that can be killed and started again at the same addresses. start and
// whatever ends the process are for one goroutine; the rest is safe for concurrent use.
type bridgeProcess struct {
	binary  string
	other   string // of another version, for upgrades
	logFile string
	env     map[string]string // without FNBRIDGE_
	failf   func(format string, args ...any)
	http    *http.Client
	url     string // of the public listener
	ops     string // of the operations listener

	mu     sync.Mutex
	child  *process
	offset int64 // where the output of this process begins
	peak   int64 // most resident memory of any process so far, in bytes
	starts int
}

// buildBridge builds the command, with flags of go build, and returns the path of the binary.
func buildBridge(t *testing.T, raceDetector bool, flags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "fnbridge")
	args := append([]string{"build", "-o", binary}, flags...)
	if raceDetector {
		args = append(args, "-race")
	}
	build := exec.CommandContext(t.Context(), "go", append(args, "./cmd/fnbridge")...)
	build.Dir = "../.." // with the requirements of the bridge's own module, not of this one
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return binary
}

// newBridge makes a bridge that does not run yet. env holds NAME=value. It ends with the test.
func newBridge(t *testing.T, binary, logFile string, env []string, failf func(string, ...any)) *bridgeProcess {
	t.Helper()
	public, ops := reserveAddress(t), reserveAddress(t)
	b := &bridgeProcess{
		binary: binary, logFile: logFile, env: make(map[string]string), failf: failf,
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second},
		url:  "http://" + public + "/webhooks/tensorlake", ops: "http://" + ops,
	}
	for _, variable := range append([]string{"LISTEN=" + public, "OPS_LISTEN=" + ops, "DRAIN=0s"}, env...) {
		name, value, _ := strings.Cut(variable, "=")
		b.env[name] = value
	}
	t.Cleanup(func() {
		if b.running() {
			b.kill()
		}
	})
	return b
}

// start starts the process and returns at once. overrides (NAME=value) are for this start only.
func (b *bridgeProcess) start(overrides ...string) {
	b.startInto(nil, overrides...)
}

// startInto is start for a process that writes to out instead of the log, unless out is nil.
func (b *bridgeProcess) startInto(out *os.File, overrides ...string) {
	if b.running() {
		b.failf("the bridge was to be started while it runs")
		return
	}
	log, err := os.OpenFile(b.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		b.failf("no log for the bridge: %v", err)
		return
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		b.failf("no log for the bridge: %v", err)
		return
	}
	cmd := exec.Command(b.binary, "serve")
	if out == nil {
		out = log
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for name, value := range b.env {
		cmd.Env = append(cmd.Env, "FNBRIDGE_"+name+"="+value)
	}
	for _, variable := range overrides {
		cmd.Env = append(cmd.Env, "FNBRIDGE_"+variable) // the last one of a name counts
	}
	started, err := start(cmd)
	if err != nil {
		b.failf("the bridge cannot be started: %v", err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.child, b.offset = started, info.Size()
	b.starts++
}

func (b *bridgeProcess) current() *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.child
}

// running tells whether a process is there, dead or alive, that nobody has ended yet.
func (b *bridgeProcess) running() bool { return b.current() != nil }

// awaitReady waits until the bridge takes webhooks. Its error is that of ctx, or how the process ended.
func (b *bridgeProcess) awaitReady(ctx context.Context) error {
	c := b.current()
	if c == nil {
		return errors.New("the bridge was not started")
	}
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	for {
		err := b.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.Done:
			return fmt.Errorf("the bridge ended by itself: %w\n%s", c.Err, lastLines(b.output()))
		case <-ctx.Done():
			return fmt.Errorf("the bridge is not ready (%w): %w", err, ctx.Err())
		case <-tick.C:
		}
	}
}

func (b *bridgeProcess) ready(ctx context.Context) error {
	text, err := b.get(ctx, "/readyz")
	if err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	return nil
}

// get reads a page of the operations listener.
func (b *bridgeProcess) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.ops+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return string(text), fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return string(text), nil
}

// awaitExit waits until a process that ends by itself has ended, and returns its exit code.
func (b *bridgeProcess) awaitExit(ctx context.Context) (code int, err error) {
	c := b.current()
	if c == nil {
		return 0, errors.New("the bridge was not started")
	}
	select {
	case <-c.Done:
		b.gone()
		return c.exitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("the bridge still runs: %w", ctx.Err())
	}
}

// kill ends the process with SIGKILL and returns once it has ended.
func (b *bridgeProcess) kill() {
	c := b.current()
	if c == nil {
		b.failf("the bridge was to be killed, and is not there")
		return
	}
	b.sampleMemory()
	if c.Ended() {
		b.failf("the bridge ended by itself: %v\n%s", c.Err, lastLines(b.output()))
	}
	c.kill()
	b.gone()
}

// terminate ends it with SIGTERM, after which its exit code has to be 0.
func (b *bridgeProcess) terminate(ctx context.Context) {
	c := b.current()
	if c == nil || c.Ended() {
		b.failf("the bridge was to be stopped, and has ended by itself\n%s", lastLines(b.output()))
		b.gone()
		return
	}
	b.sampleMemory()
	c.signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	select {
	case <-c.Done:
	case <-ctx.Done():
		b.failf("the bridge has not ended %s after SIGTERM", stopLimit)
		c.signal(syscall.SIGQUIT) // its goroutines are in the log then
		c.awaitOrKill(2 * time.Second)
	}
	if code := c.exitCode(); code != 0 {
		b.failf("the bridge ended with exit code %d after SIGTERM\n%s", code, lastLines(b.output()))
	}
	b.gone()
}

// gone notes that the process has ended and looks at what it wrote.
func (b *bridgeProcess) gone() {
	if found := crash.FindString(b.output()); found != "" {
		b.failf("the bridge's log has %q; see %s", found, b.logFile)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.child = nil
}

// pause stops the process where it is, with SIGSTOP; resume lets it go on.
func (b *bridgeProcess) pause()  { b.signal(syscall.SIGSTOP) }
func (b *bridgeProcess) resume() { b.signal(syscall.SIGCONT) }

func (b *bridgeProcess) signal(s syscall.Signal) {
	c := b.current()
	if c == nil || c.Ended() {
		b.failf("the bridge was to get %v, and is not there", s)
		return
	}
	c.signal(s)
}

// output is what the process that was started last has written so far.
func (b *bridgeProcess) output() string {
	b.mu.Lock()
	offset := b.offset
	b.mu.Unlock()
	log, err := os.Open(b.logFile)
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	text, err := io.ReadAll(io.NewSectionReader(log, offset, 1<<40))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// metrics are the series that /metrics shows.
type metrics []series

type series struct {
	name, labels string
	value        float64
}

// sum adds up the series of a metric.
func (m metrics) sum(name string) float64 {
	sum := 0.0
	for _, s := range m {
		if s.name == name {
			sum += s.value
		}
	}
	return sum
}

// of returns the value that a metric has for a sink.
func (m metrics) of(sink, name string) float64 {
	for _, s := range m {
		if s.name == name && strings.Contains(s.labels, `sink="`+sink+`"`) {
			return s.value
		}
	}
	return 0
}

func (b *bridgeProcess) metrics(ctx context.Context) (metrics, error) {
	text, err := b.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	var all metrics
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("/metrics has the line %q: %w", line, err)
		}
		name, labels, _ := strings.Cut(line[:at], "{")
		all = append(all, series{name, labels, value})
	}
	return all, nil
}

// sampleMemory notes the most memory that the process has had resident so far, as the kernel counts it.
func (b *bridgeProcess) sampleMemory() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.child == nil {
		return
	}
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", b.child.PID))
	if err != nil {
		return // it has ended
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
			if err == nil {
				b.peak = max(b.peak, kilobytes<<10)
			}
		}
	}
}

func (b *bridgeProcess) peakMemory() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peak
}

// lastLines is the end of an output, for people.
func lastLines(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
