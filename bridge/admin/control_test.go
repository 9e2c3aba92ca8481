//go:build !windows

package admin_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// discard is a sink whose broker takes everything.
type discard struct{}

func (discard) Name() string { return "nats" }

func (discard) Publish(_ context.Context, events []bridge.Event) []error {
	return make([]error, len(events))
}

func (discard) Check(context.Context) error { return nil }

func (discard) Close(context.Context) error { return nil }

// serveControl serves the control socket of a bridge on dir, until the test ends or stop is called.
func serveControl(t *testing.T, dir string) (stop func()) {
	t.Helper()
	metrics, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	j, err := journal.Open(t.Context(),
		journal.Options{Dir: dir, Sinks: []string{"nats"}, Logger: log, Registerer: metrics})
	require.NoError(t, err)
	d, err := delivery.New(delivery.Options{Sink: discard{}, Journal: j, Logger: log, Registerer: metrics})
	require.NoError(t, err)
	c, err := admin.NewControl(t.Context(), admin.Parts{
		DataDir: dir, Journal: j, Sinks: []admin.RunningSink{{Name: "nats", Kind: "nats", Dispatcher: d}}, Logger: log,
	})
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Serve()
	}()
	stop = sync.OnceFunc(func() {
		ctx := context.WithoutCancel(t.Context())
		c.Stop(ctx)
		require.NoError(t, c.Close(ctx))
		require.NoError(t, j.Close(ctx))
		<-ended
	})
	t.Cleanup(stop)
	return stop
}

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
	_, err = j.Append(t.Context(), bridge.Webhook{ID: "msg_1", Timestamp: now, ReceivedAt: now, Body: []byte("{}")})
	require.NoError(t, err)
	require.NoError(t, j.Move(t.Context(),
		[]journal.Move{{Stream: journal.Stream{Kind: journal.Live, Sink: "nats", Cursor: 1}}}, nil))
	for i := range n {
		require.NoError(t, j.AddDeadLetters(t.Context(), []journal.DeadLetter{{
			Sink: "nats", WebhookSeq: 1, FirstAt: now, LastAt: now,
			DeadLetter: bridge.DeadLetter{Reason: "too large", Attempts: 1, Event: bridge.Event{
				WebhookID: "msg_1", Origin: bridge.Origin{Webhook: bridge.WebhookDigest("msg_1", nil), Index: i},
				ID: fmt.Sprintf("id_%d", i), Type: "tensorlake.test", Source: "/tensorlake",
				About: bridge.About{Route: []string{"test"}}, Data: []byte(`{}`), Time: now,
			}},
		}}))
	}
	require.NoError(t, j.Close(context.WithoutCancel(t.Context())))
}

func TestTheControlSocketIsItsOwnersAlone(t *testing.T) {
	before := syscall.Umask(0)
	t.Cleanup(func() { syscall.Umask(before) })
	dir := filepath.Join(t.TempDir(), "data")
	stop := serveControl(t, dir)
	path := filepath.Join(dir, "fnbridge.sock")
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, info.Mode())
	stop()
	require.NoFileExists(t, path)
}

func TestTheSocketThatAKilledBridgeLeftIsReplaced(t *testing.T) {
	dir := t.TempDir()
	withLetters(t, dir, 1)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "fnbridge.sock")})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	change, err := admin.DropDeadLetters(t.Context(), dir, admin.DeadLetterFilter{Sink: "other"})
	require.NoError(t, err)
	require.False(t, change.Running, "nobody listens on what is left of a socket")

	serveControl(t, dir)
	change, err = admin.DropDeadLetters(t.Context(), dir, admin.DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, admin.Change{Letters: 1, Running: true}, change)
}

func TestTheControlSocketRefusesWhatItDoesNotKnow(t *testing.T) {
	dir := t.TempDir()
	withLetters(t, dir, 3)
	serveControl(t, dir)
	for name, tt := range map[string]struct {
		path, body string
		status     int
		detail     string
	}{
		"a path of another version": {
			"/v2/dead-letters/drop", `{}`, http.StatusNotFound, "does not know POST /v2/dead-letters/drop",
		},
		"a filter it does not know": {
			"/v1/dead-letters/drop", `{"sink":"nats","colour":"red"}`, http.StatusBadRequest, "colour",
		},
		"no filter": {"/v1/dead-letters/drop", ``, http.StatusBadRequest, "does not understand"},
		"two of them": {
			"/v1/dead-letters/drop", `{"sink":"none"} {}`, http.StatusBadRequest, "more than one value",
		},
		"a request without an end": {
			"/v1/dead-letters/drop", `{"sink":"` + strings.Repeat("x", 1<<20), http.StatusBadRequest, "too large",
		},
		"a sink that it has not got": {"/v1/replay", `{"sink":"kafka"}`, http.StatusUnprocessableEntity, "kafka"},
		"a range that is none": {
			"/v1/replay", `{"since":"2026-01-02T00:00:00Z","until":"2026-01-01T00:00:00Z"}`,
			http.StatusUnprocessableEntity, "before its end",
		},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := control(t, dir, tt.path, tt.body)
			require.Equal(t, tt.status, status, answer)
			require.Contains(t, answer, tt.detail)
		})
	}
	require.Len(t, lettersIn(t, dir, admin.DeadLetterFilter{}, 10), 3)
}

func TestAConnectionThatSaysNothingHoldsUpNoStop(t *testing.T) {
	dir := t.TempDir()
	stop := serveControl(t, dir)
	conn, err := net.Dial("unix", filepath.Join(dir, "fnbridge.sock"))
	require.NoError(t, err)
	defer conn.Close()
	// The server has taken the connection before the one that is answered.
	status, _ := control(t, dir, "/", "")
	require.Equal(t, http.StatusNotFound, status)
	stop()
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err, "the connection is closed")
}

func TestMissingDeadLettersAreNamed(t *testing.T) {
	dir := t.TempDir()
	withLetters(t, dir, 3)
	all, sinks, missing, err := admin.CountDeadLetters(t.Context(), dir,
		admin.DeadLetterFilter{IDs: []int64{2, 9, 2, 8, 9}})
	require.NoError(t, err)
	require.Equal(t, admin.DeadLetterCount{Letters: 1, Bytes: 2}, all)
	require.Equal(t, []admin.DeadLetterCount{{Sink: "nats", Letters: 1, Bytes: 2}}, sinks)
	require.Equal(t, []int64{9, 8}, missing)
}

func TestAnEmptyListOfIDsDropsNothing(t *testing.T) {
	dir := t.TempDir()
	withLetters(t, dir, 2)
	serveControl(t, dir)
	change, err := admin.DropDeadLetters(t.Context(), dir, admin.DeadLetterFilter{IDs: []int64{}})
	require.NoError(t, err)
	require.Equal(t, admin.Change{Running: true}, change)
	require.Len(t, lettersIn(t, dir, admin.DeadLetterFilter{}, 10), 2)
}
