//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// buildBridge builds the bridge as users get it, or with a listener for profiles.
func buildBridge(t *testing.T, profiled bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fnbridge")
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path}
	if profiled {
		source, err := filepath.Abs("testdata/profile.go")
		require.NoError(t, err)
		target, err := filepath.Abs(modulePath("cmd", "fnbridge", "profile.go"))
		require.NoError(t, err)
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{target: source}})
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), "overlay.json")
		require.NoError(t, os.WriteFile(file, overlay, 0o600))
		args = append(args, "-overlay", file)
	}
	build := exec.CommandContext(t.Context(), "go", append(args, "./cmd/fnbridge")...)
	build.Dir = modulePath()
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// bridgeLog is what a bridge has logged, and when it said that it is ready.
type bridgeLog struct {
	mu    sync.Mutex
	text  bytes.Buffer
	read  int           // how much of text has been looked at
	ready chan struct{} // closed when it is
	at    time.Time     // when that was
	url   string        // where webhooks go
	ops   string        // the operations listener
	nats  string        // the embedded server
}

func (l *bridgeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	for {
		line, _, whole := bytes.Cut(l.text.Bytes()[l.read:], []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.read += len(line) + 1
		var entry struct {
			Msg, Webhooks, Operations string
			NATS                      string `json:"embedded_nats"`
		}
		if l.at.IsZero() && json.Unmarshal(line, &entry) == nil && entry.Msg == "fnbridge is ready" {
			l.at, l.url, l.ops, l.nats = time.Now(), entry.Webhooks, entry.Operations, entry.NATS
			close(l.ready)
		}
	}
}

func (l *bridgeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// bridgeProcess is the real binary as a process of its own.
type bridgeProcess struct {
	process
	log     *bridgeLog
	started time.Duration // from its start until it was ready
	pprof   string        // where profiles are, if they are taken
}

// start starts the bridge, behind another program if one is given, with the data directory and the variables, which
// come without FNBRIDGE_, and returns once it takes webhooks.
func (b *bench) start(t *testing.T, dir string, env map[string]string, behind ...string) *bridgeProcess {
	t.Helper()
	settings := map[string]string{
		"DATA_DIR": dir, "LISTEN": "127.0.0.1:0", "OPS_LISTEN": "127.0.0.1:0", "EMBEDDED_NATS_LISTEN": "127.0.0.1:0",
		"DRAIN":           "0s",
		"WEBHOOK_SECRETS": secret, "LOG_FORMAT": "json", "JOURNAL_MAX_BYTES": "64GiB",
	}
	maps.Copy(settings, env)
	p := &bridgeProcess{log: &bridgeLog{ready: make(chan struct{})}}
	args := append(slices.Clone(behind), b.binary, "serve")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	if b.profiles != "" {
		p.pprof = reserveAddress(t)
		cmd.Env = append(cmd.Env, "BENCH_PPROF="+p.pprof)
	}
	for name, value := range settings {
		cmd.Env = append(cmd.Env, "FNBRIDGE_"+name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	began := time.Now()
	p.process = start(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the bridge's log:\n%s", p.log)
		}
	})
	timer := time.NewTimer(5 * time.Minute)
	defer timer.Stop()
	select {
	case <-p.log.ready:
	case <-p.Done:
		require.FailNow(t, "the bridge does not start", "%v\n%s", p.Err, p.log)
	case <-timer.C:
		require.FailNow(t, "the bridge does not become ready", p.log)
	}
	p.started = p.log.at.Sub(began)
	return p
}

// stop ends the bridge in good order.
func (p *bridgeProcess) stop(t *testing.T) {
	t.Helper()
	p.terminate(t)
	require.NoError(t, p.Err, "%s", p.log)
}

// metric reads a metric without labels.
func (p *bridgeProcess) metric(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := http.Get(p.log.ops + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			require.NoError(t, err)
			return f
		}
	}
	require.FailNow(t, "there is no metric", name)
	return 0
}

// usage is what a process has used up so far.
type usage struct {
	cpu       time.Duration
	allocated float64 // bytes
}

func (p *bridgeProcess) usage(t *testing.T) usage {
	t.Helper()
	return usage{cpu: p.cpu(t), allocated: p.metric(t, "go_memstats_alloc_bytes_total")}
}

// profile takes a CPU profile for d and then one of the heap, if profiles are wanted. The returned function waits for
// their end.
func (b *bench) profile(t *testing.T, p *bridgeProcess, name string, d time.Duration) (wait func()) {
	t.Helper()
	if b.profiles == "" || d < time.Second {
		return func() {}
	}
	done := make(chan error, 1)
	fetch := func(path, file string) error {
		resp, err := http.Get("http://" + p.pprof + path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		out, err := os.Create(filepath.Join(b.profiles, file))
		if err != nil {
			return err
		}
		defer out.Close()
		_, err = io.Copy(out, resp.Body)
		return err
	}
	go func() {
		err := fetch(fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(d.Seconds())), name+"-cpu.prof")
		if err == nil {
			err = fetch("/debug/pprof/allocs", name+"-allocs.prof")
		}
		done <- err
	}()
	return func() { require.NoError(t, <-done) }
}

// fillers is how many callers fill a journal: as many as one commit takes.
const fillers = 512

// fill brings the journal in dir to so many webhooks that wait for the sink, as a bridge would have whose sink was out
// of reach.
func fill(t *testing.T, dir, sink string, waiting int) {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: dir, Sinks: []string{sink}, MaxBytes: 1 << 40})
	require.NoError(t, err)
	cursor, err := j.Cursor(t.Context(), sink)
	require.NoError(t, err)
	missing := waiting - int(j.Head()-cursor)
	numbers := make(chan int, fillers)
	errs := make(chan error, fillers)
	var all sync.WaitGroup
	for range fillers {
		all.Go(func() {
			for n := range numbers {
				now := time.Now()
				w := bridge.Webhook{
					ID: webhookID(n, now), Timestamp: now.Truncate(time.Second), ReceivedAt: now,
					Body: payload(n, 2),
				}
				if _, err := j.Append(t.Context(), w); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for n := range max(missing, 0) {
		numbers <- n
	}
	close(numbers)
	all.Wait()
	require.NoError(t, j.Close(t.Context()))
	select {
	case err := <-errs:
		require.NoError(t, err)
	default:
	}
}
