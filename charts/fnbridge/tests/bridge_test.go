package charttest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is more than what a bridge does once in two minutes takes on a machine that is busy.
const patience = 5 * time.Minute

const signingSecret = "whsec_c29tZSBzZWNyZXQgb2YgYW4gZW5kcG9pbnQ="

// served is a bridge that runs as a process of its own, as in a pod.
type served struct {
	t       *testing.T
	command *exec.Cmd
	environ []string
	ended   chan struct{}

	webhooks, operations, nats string // where it is reached
}

// serve runs a bridge until the test ends, or stop.
func serve(t *testing.T, changes map[string]string) *served {
	t.Helper()
	binary, err := bridge()
	require.NoError(t, err)
	variables := map[string]string{
		"DATA_DIR": filepath.Join(t.TempDir(), "data"), "LISTEN": "127.0.0.1:0", "OPS_LISTEN": "127.0.0.1:0",
		"EMBEDDED_NATS_LISTEN": "127.0.0.1:0", "WEBHOOK_SECRETS": signingSecret, "DRAIN": "0s", "LOG_FORMAT": "json",
	}
	maps.Copy(variables, changes)
	s := &served{t: t, ended: make(chan struct{}), environ: []string{"PATH=" + os.Getenv("PATH")}}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		s.environ = append(s.environ, "FNBRIDGE_"+name+"="+variables[name])
	}
	s.command = exec.Command(binary, "serve")
	s.command.Env = s.environ
	log, err := s.command.StderrPipe()
	require.NoError(t, err)
	s.command.Stdout = s.command.Stderr
	require.NoError(t, s.command.Start())
	ready := make(chan map[string]any, 1)
	var text bytes.Buffer
	go func() {
		defer close(s.ended)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			text.Write(append(lines.Bytes(), '\n'))
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) == nil && line["msg"] == "fnbridge is ready" {
				ready <- line
			}
		}
		_ = s.command.Wait()
	}()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Log(text.String())
		}
	})
	select {
	case line := <-ready:
		s.webhooks, _ = line["webhooks"].(string)
		s.operations, _ = line["operations"].(string)
		s.nats, _ = line["embedded_nats"].(string)
	case <-s.ended:
		require.Fail(t, "the bridge does not start", text.String())
	case <-time.After(patience):
		require.Fail(t, "the bridge is not ready")
	}
	return s
}

func (s *served) stop() {
	_ = s.command.Process.Signal(syscall.SIGTERM)
	<-s.ended
}

// run runs another command of the bridge beside it, and returns what it prints.
func (s *served) run(args ...string) (out string, err error) {
	s.t.Helper()
	binary, err := bridge()
	require.NoError(s.t, err)
	command := exec.CommandContext(s.t.Context(), binary, args...)
	command.Env = s.environ
	text, err := command.CombinedOutput()
	return string(text), err
}

// send posts so many signed webhooks with a body of that length.
func (s *served) send(count, length int) error {
	s.t.Helper()
	return s.sendBody(count, `{"workflow_name":"w","invocation_id":"i","fn_status":{"f":"success"},"text":"`+
		strings.Repeat("x", length)+`"}`)
}

func (s *served) sendBody(count int, body string) error {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "payload.json")
	require.NoError(s.t, os.WriteFile(file, []byte(body), 0o600))
	_, err := s.run("send", "--url", s.webhooks, "--count", strconv.Itoa(count), file)
	return err
}

var sampleLine = regexp.MustCompile(`(?m)^(fnbridge_\w+|process_start_time_seconds)(?:\{(.*)\})? (\S+)$`)

// isTime tells a metric whose value is a time.
func isTime(metric string) bool {
	return strings.HasSuffix(metric, "_timestamp_seconds") || strings.HasSuffix(metric, "_start_time_seconds")
}

// scrape is what its metrics are now, by series, with times as seconds before now.
func (s *served) scrape() map[string]float64 {
	s.t.Helper()
	response, err := http.Get(s.operations + "/metrics")
	require.NoError(s.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	now, all := float64(time.Now().UnixNano())/1e9, make(map[string]float64)
	for _, m := range sampleLine.FindAllStringSubmatch(string(text), -1) {
		value, err := strconv.ParseFloat(m[3], 64)
		require.NoError(s.t, err)
		switch {
		case strings.HasSuffix(m[1], "_bucket"):
			continue
		case isTime(m[1]) && value > 0:
			value -= now
		}
		all[m[1]+"{"+m[2]+"}"] = value
	}
	require.NotEmpty(s.t, all)
	return all
}

// await scrapes until the metrics are as wanted.
func (s *served) await(wanted func(all map[string]float64) bool) (all map[string]float64) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		all = s.scrape()
		return wanted(all)
	}, patience, 100*time.Millisecond)
	return all
}

// is waits for a value of a series.
func is(series string, value float64) func(map[string]float64) bool {
	return func(all map[string]float64) bool {
		got, there := all[series]
		return there && got == value
	}
}
