package app_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hostileProcess is fnbridge serve in a process of its own.
type hostileProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *logText
	done chan error
	// Where it listens.
	public, ops string
}

// serveProcess starts a bridge that ends with the test.
func serveProcess(t *testing.T, program string, environment ...string) *hostileProcess {
	t.Helper()
	p := &hostileProcess{t: t, log: &logText{}, done: make(chan error, 1)}
	p.cmd = exec.CommandContext(t.Context(), program, "serve")
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "FNBRIDGE_DRAIN=0s",
		"FNBRIDGE_LISTEN=127.0.0.1:0", "FNBRIDGE_OPS_LISTEN=127.0.0.1:0",
		"FNBRIDGE_DATA_DIR=" + t.TempDir(),
		"FNBRIDGE_EMBEDDED_NATS_LISTEN=127.0.0.1:0", "FNBRIDGE_WEBHOOK_SECRETS=" + secret, "FNBRIDGE_LOG_FORMAT=json",
	}, environment...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	ready := make(chan string, 1)
	go func() {
		defer close(ready)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			_, _ = p.log.Write([]byte(line))
			if strings.Contains(line, `"fnbridge is ready"`) {
				ready <- line
			}
			if err != nil {
				p.done <- p.cmd.Wait()
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		err := <-p.done
		p.done <- err
		if t.Failed() {
			t.Logf("%.20000s", p.log.String())
		}
	})
	line, ok := <-ready
	require.True(t, ok, "the bridge does not start")
	var said struct{ Webhooks, Operations string }
	require.NoError(t, json.Unmarshal([]byte(line), &said))
	for _, address := range []struct {
		text string
		host *string
	}{{said.Webhooks, &p.public}, {said.Operations, &p.ops}} {
		u, err := url.Parse(address.text)
		require.NoError(t, err)
		*address.host = u.Host
	}
	return p
}

// end sends a signal and waits for the end of the process.
func (p *hostileProcess) end(s syscall.Signal) int {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
	select {
	case err := <-p.done:
		p.done <- err
	case <-time.After(bound):
		require.FailNow(p.t, "the bridge does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// peakMemory is the most memory that the process has had since it began, in bytes.
func (p *hostileProcess) peakMemory() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(p.t, found)
	kilobytes, err := strconv.ParseInt(string(found[1]), 10, 64)
	require.NoError(p.t, err)
	return kilobytes << 10
}

// metric returns the value of one series, 0 when it is not there.
func (p *hostileProcess) metric(series string) float64 {
	p.t.Helper()
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).
		Get("http://" + p.ops + "/metrics")
	require.NoError(p.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			require.NoError(p.t, err)
			return f
		}
	}
	return 0
}

// stillWell requires that the bridge takes a webhook as if nothing had happened, and that nothing in it has broken.
func (p *hostileProcess) stillWell() {
	p.t.Helper()
	id := fmt.Sprintf("well_%d", time.Now().UnixNano())
	status, _, err := exchange(p.t, p.public,
		wireRequest{headers: signedHeaders(id, workflow, fmt.Sprint(time.Now().Unix())), body: workflow}.text(), false)
	require.NoError(p.t, err)
	require.Equal(p.t, http.StatusAccepted, status)
	for _, word := range []string{"panic", "goroutine ", "fatal error", "DATA RACE", `"internal_error"`} {
		require.NotContains(p.t, p.log.String(), word)
	}
}
