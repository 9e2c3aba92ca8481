//go:build linux && hostile

package app_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// buildProgram builds fnbridge as it ships, without the race detector: its memory is what is measured.
func buildProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fnbridge")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", path, "../../cmd/fnbridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return path
}

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
		"PATH=" + os.Getenv("PATH"), "FNBRIDGE_LISTEN=127.0.0.1:0", "FNBRIDGE_OPS_LISTEN=127.0.0.1:0", "FNBRIDGE_DATA_DIR=" + t.TempDir(),
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
	case <-time.After(60 * time.Second):
		require.FailNow(p.t, "the bridge does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// peakMemory is the most memory that the process has had since it began, in bytes.
func (p *hostileProcess) peakMemory() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Skip("there is no /proc that tells of memory")
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(p.t, found)
	kilobytes, err := strconv.ParseInt(string(found[1]), 10, 64)
	require.NoError(p.t, err)
	return kilobytes << 10
}

// metric returns the value of one series, 0 when it is not there.
func (p *hostileProcess) metric(series string) float64 {
	p.t.Helper()
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + p.ops + "/metrics")
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
	status, _, err := exchange(p.t, p.public, wireRequest{headers: signedHeaders(id, workflow, fmt.Sprint(time.Now().Unix())), body: workflow}.text(), false)
	require.NoError(p.t, err)
	require.Equal(p.t, http.StatusAccepted, status)
	for _, word := range []string{"panic", "goroutine ", "fatal error", "DATA RACE", `"internal_error"`} {
		require.NotContains(p.t, p.log.String(), word)
	}
}

// wireRequest is a request as it goes over the wire. What is empty is what a webhook has.
type wireRequest struct {
	line    string
	headers []string
	host    string
	body    string
	length  string // Content-Length; "none" leaves it out
}

func (r wireRequest) text() string {
	if r.line == "" {
		r.line = "POST /webhooks/tensorlake HTTP/1.1"
	}
	if r.host == "" {
		r.host = "Host: fnbridge.test"
	}
	lines := append([]string{r.line, r.host, "Content-Type: application/json"}, r.headers...)
	switch r.length {
	case "":
		lines = append(lines, fmt.Sprintf("Content-Length: %d", len(r.body)))
	case "none":
	default:
		lines = append(lines, "Content-Length: "+r.length)
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + r.body
}

// signedHeaders are what a sender that knows the secret sends, for any timestamp whatever.
func signedHeaders(id, body, timestamp string) []string {
	return []string{"Svix-Id: " + id, "Svix-Timestamp: " + timestamp, "Svix-Signature: " + signature(id, body, timestamp)}
}

func signature(id, body, timestamp string) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		panic(err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// inChunks is a body in chunks of n bytes.
func inChunks(body string, n int) string {
	var b strings.Builder
	for body != "" {
		n = min(n, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

func dialBridge(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(60*time.Second)))
	return conn.(*net.TCPConn)
}

// exchange sends text on a connection of its own and reads the first answer that is final. The error is io.EOF, or tells of
// a reset, when the connection ends without one. With half set, the sender says that nothing more comes.
func exchange(t *testing.T, address, text string, half bool) (status int, answer string, err error) {
	t.Helper()
	conn := dialBridge(t, address)
	defer conn.Close()
	sent := make(chan struct{})
	go func() { // the bridge may answer before it has read it all
		defer close(sent)
		_, _ = io.WriteString(conn, text)
		if half {
			_ = conn.CloseWrite()
		}
	}()
	defer func() {
		_ = conn.Close()
		<-sent
	}()
	reader := bufio.NewReader(conn)
	for {
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return 0, "", err
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode >= 200 {
			return response.StatusCode, string(body), err
		}
	}
}
