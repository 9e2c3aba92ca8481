//go:build !windows

package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// control posts a request to the control socket in dir, and returns the answer.
func control(t *testing.T, dir, path, body string) (status int, answer string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, "fnbridge.sock"))
		},
	}}
	resp, err := client.Post("http://fnbridge"+path, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

// withLetters makes a data directory whose journal has n dead letters.
func withLetters(t *testing.T, dir string, n int) {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: dir, Sinks: []string{"nats"}})
	require.NoError(t, err)
	now := time.Now()
	_, err = j.Append(t.Context(), journal.Webhook{ID: "msg_1", Timestamp: now, ReceivedAt: now, Body: []byte("{}")})
	require.NoError(t, err)
	require.NoError(t, j.Advance(t.Context(), "nats", 1))
	for i := range n {
		require.NoError(t, j.AddDeadLetters(t.Context(), []journal.DeadLetter{{
			Sink: "nats", WebhookSeq: 1, Reason: "too large", Attempts: 1, FirstAt: now, LastAt: now,
			Event: bridge.Event{
				WebhookID: "msg_1", Origin: bridge.Origin{Webhook: bridge.WebhookDigest("msg_1", nil), Index: i}, ID: fmt.Sprintf("id_%d", i),
				Type: "tensorlake.test", Source: "/tensorlake", Route: []string{"test"}, Data: []byte(`{}`), Time: now,
			},
		}}))
	}
	require.NoError(t, j.Close(context.WithoutCancel(t.Context())))
}

func TestTheControlSocketIsItsOwnersAlone(t *testing.T) {
	before := syscall.Umask(0)
	t.Cleanup(func() { syscall.Umask(before) })
	dir := filepath.Join(t.TempDir(), "data")
	r := start(t, dir, nil)
	path := filepath.Join(dir, "fnbridge.sock")
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, info.Mode())
	require.NoError(t, r.stop())
	require.NoFileExists(t, path)
}

func TestTheSocketThatAKilledBridgeLeftIsReplaced(t *testing.T) {
	dir := t.TempDir()
	withLetters(t, dir, 1)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "fnbridge.sock")})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	environment(t, dir, nil)
	change, err := app.DropDeadLetters(t.Context(), load(t), app.DeadLetterFilter{Sink: "other"})
	require.NoError(t, err)
	require.False(t, change.Running, "nobody listens on what is left of a socket")

	start(t, dir, nil)
	change, err = app.DropDeadLetters(t.Context(), load(t), app.DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, app.Change{Letters: 1, Running: true}, change)
}

func TestTheControlSocketRefusesWhatItDoesNotKnow(t *testing.T) {
	dir := t.TempDir()
	withLetters(t, dir, 3)
	start(t, dir, nil)
	for name, tt := range map[string]struct {
		path, body string
		status     int
		detail     string
	}{
		"a path of another version":  {"/v2/dead-letters/drop", `{}`, http.StatusNotFound, "does not know POST /v2/dead-letters/drop"},
		"a filter it does not know":  {"/v1/dead-letters/drop", `{"sink":"nats","colour":"red"}`, http.StatusBadRequest, "colour"},
		"no filter":                  {"/v1/dead-letters/drop", ``, http.StatusBadRequest, "does not understand"},
		"two of them":                {"/v1/dead-letters/drop", `{"sink":"none"} {}`, http.StatusBadRequest, "more than one value"},
		"a request without an end":   {"/v1/dead-letters/drop", `{"sink":"` + strings.Repeat("x", 1<<20), http.StatusBadRequest, "too large"},
		"a sink that it has not got": {"/v1/replay", `{"sink":"kafka"}`, http.StatusUnprocessableEntity, "it has nats"},
		"a range that is none": {
			"/v1/replay", `{"since":"2026-01-02T00:00:00Z","until":"2026-01-01T00:00:00Z"}`, http.StatusConflict, "before its end",
		},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := control(t, dir, tt.path, tt.body)
			require.Equal(t, tt.status, status, answer)
			require.Contains(t, answer, tt.detail)
		})
	}
	require.Len(t, lettersIn(t, load(t), app.DeadLetterFilter{}, 10), 3)
}

func TestAConnectionThatSaysNothingHoldsUpNoStop(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, nil)
	conn, err := net.Dial("unix", filepath.Join(dir, "fnbridge.sock"))
	require.NoError(t, err)
	defer conn.Close()
	// The server has taken the connection before the one that is answered.
	status, _ := control(t, dir, "/", "")
	require.Equal(t, http.StatusNotFound, status)
	require.NoError(t, r.stop())
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err, "the connection is closed")
}

func TestABridgeThatNeverRunsLeavesNoSocket(t *testing.T) {
	dir := t.TempDir()
	environment(t, dir, nil)
	a, err := app.New(t.Context(), app.Options{Config: load(t)})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "fnbridge.sock"))
	require.NoError(t, a.Close(context.WithoutCancel(t.Context())))
	require.NoFileExists(t, filepath.Join(dir, "fnbridge.sock"))
}

func TestMissingDeadLettersAreNamed(t *testing.T) {
	dir := t.TempDir()
	withLetters(t, dir, 3)
	environment(t, dir, nil)
	all, sinks, missing, err := app.CountDeadLetters(t.Context(), load(t), app.DeadLetterFilter{IDs: []int64{2, 9, 2, 8, 9}})
	require.NoError(t, err)
	require.Equal(t, app.DeadLetterCount{Letters: 1, Bytes: 2}, all)
	require.Equal(t, []app.DeadLetterCount{{Sink: "nats", Letters: 1, Bytes: 2}}, sinks)
	require.Equal(t, []int64{9, 8}, missing)
}
