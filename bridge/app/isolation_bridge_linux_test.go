package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"
)

// bridgeProcess is the real binary as a process of its own.
type bridgeProcess struct {
	cmd     *exec.Cmd
	output  *logText
	ended   chan struct{}
	err     error  // how it ended, once ended is closed
	url     string // where webhooks go
	metrics string // where the metrics are
}

// buildBridge builds the bridge as make build does, without the race detector: its memory is measured.
func buildBridge(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fnbridge")
	build := exec.CommandContext(t.Context(), "go", "build",
		"-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "./cmd/fnbridge")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// startProcess starts a binary, behind the given command when there is one, and returns once it takes webhooks. It
// ends with the test, and dies with the test's process however that ends.
func startProcess(t *testing.T, binary, dir string, changes map[string]string, behind ...string) *bridgeProcess {
	t.Helper()
	args := append(slices.Clone(behind), binary, "serve")
	p := &bridgeProcess{cmd: exec.Command(args[0], args[1:]...), output: &logText{}, ended: make(chan struct{})}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "FNBRIDGE_") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	settings := map[string]string{
		"DATA_DIR": dir, "LISTEN": "127.0.0.1:0", "OPS_LISTEN": "127.0.0.1:0", "EMBEDDED_NATS_LISTEN": "127.0.0.1:0",
		"DRAIN":           "0s",
		"WEBHOOK_SECRETS": secret, "LOG_FORMAT": "json",
	}
	maps.Copy(settings, changes)
	for name, value := range settings {
		p.cmd.Env = append(p.cmd.Env, "FNBRIDGE_"+name+"="+value)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that started the child for the parent's death, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Log(p.output.String())
		}
	})
	require.Eventually(t, p.ready, bound, 5*time.Millisecond, "the bridge does not become ready")
	return p
}

// ready reads the addresses from the log.
func (p *bridgeProcess) ready() bool {
	for line := range bytes.Lines([]byte(p.output.String())) {
		var entry struct{ Msg, Webhooks, Operations string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "fnbridge is ready" {
			p.url, p.metrics = entry.Webhooks, entry.Operations+"/metrics"
			return true
		}
	}
	return false
}

// terminate stops the bridge in good order.
func (p *bridgeProcess) terminate(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.ended:
	case <-time.After(bound):
		require.FailNow(t, "the bridge does not stop")
	}
	require.NoError(t, p.err)
}

// sender posts webhooks as Tensorlake does, signed by Svix's own library. It is safe for concurrent use.
type sender struct {
	url    string
	client *http.Client
	signer *svix.Webhook
}

func newSender(t *testing.T, url string, connections int) *sender {
	t.Helper()
	signer, err := svix.NewWebhook(secret)
	require.NoError(t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: connections}
	t.Cleanup(transport.CloseIdleConnections)
	return &sender{url: url, signer: signer, client: &http.Client{Transport: transport, Timeout: bound}}
}

// post sends one webhook and returns the status of the answer.
func (s *sender) post(id string, body []byte) (int, error) {
	now := time.Now()
	signature, err := s.signer.Sign(id, now, body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Svix-Id", id)
	req.Header.Set("Svix-Timestamp", fmt.Sprint(now.Unix()))
	req.Header.Set("Svix-Signature", signature)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(resp.Body); err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

// postAll sends every id at the same moment, and returns the statuses.
func (s *sender) postAll(ids []string, body func(id string) []byte) ([]int, error) {
	statuses, errs := make([]int, len(ids)), make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { statuses[i], errs[i] = s.post(id, body(id)) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return statuses, nil
}
