package embeddednats

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

// childDir names the directory in which this binary runs a server and nothing else, until it is killed.
const childDir = "EMBEDDEDNATS_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		runChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// bound is more than anything takes that comes to an end, on a busy machine.
const bound = time.Minute

// connect is natsgo.Connect with as much time.
func connect(url string, options ...natsgo.Option) (*natsgo.Conn, error) {
	return natsgo.Connect(url, append(options, natsgo.Timeout(bound))...)
}

func runChild(dir string) {
	server, err := Start(context.Background(), Options{Listen: "127.0.0.1:0", Dir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(server.ClientURL())
	select {}
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	server, err := Start(ctx, o)
	require.NoError(t, err)
	t.Cleanup(func() { stop(t, server) })
	return server
}

func stop(t *testing.T, server *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	require.NoError(t, server.Shutdown(ctx))
}

func jetStream(t *testing.T, url string) natsjs.JetStream {
	t.Helper()
	nc, err := connect(url)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := natsjs.New(nc, natsjs.WithDefaultTimeout(bound))
	require.NoError(t, err)
	return js
}

func TestOnlyWhoHasTheTokenIsAClient(t *testing.T) {
	const token = "a-token-of-enough-length"
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: t.TempDir(), Token: token})
	_, err := connect(server.ClientURL())
	require.ErrorIs(t, err, natsgo.ErrAuthorization)
	nc, err := connect(server.ClientURL(), natsgo.Token(token))
	require.NoError(t, err)
	nc.Close()
}

func TestAnotherTokenEndsTheClientsOfTheOldOne(t *testing.T) {
	tokens := []string{"the-first-token-of-all", "the-second-token-of-all", "the-third-token-of-all"}
	server := start(t, Options{Listen: "127.0.0.1:0", Monitor: "127.0.0.1:0", Dir: t.TempDir(), Token: tokens[0]})
	url := server.ClientURL()
	lost := make(chan error, 1)
	own, err := connect(url, natsgo.Token(server.OwnToken()), natsgo.NoReconnect(),
		natsgo.DisconnectErrHandler(func(_ *natsgo.Conn, err error) { lost <- err }))
	require.NoError(t, err)
	js, err := natsjs.New(own, natsjs.WithDefaultTimeout(bound))
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)

	stopped, published := make(chan struct{}), 0
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for ; ; published++ {
			select {
			case <-stopped:
				return
			default:
			}
			if _, err := js.Publish(t.Context(), "s.x", fmt.Append(nil, published)); err != nil {
				t.Errorf("the connection of this process does not go on: %v", err)
				return
			}
		}
	})
	for i, token := range tokens[1:] {
		ended := make(chan struct{})
		_, err := connect(url, natsgo.Token(tokens[i]), natsgo.NoReconnect(),
			natsgo.ClosedHandler(func(*natsgo.Conn) { close(ended) }))
		require.NoError(t, err)
		require.NoError(t, server.SetToken(token))
		<-ended
		_, err = connect(url, natsgo.Token(tokens[i]))
		require.ErrorIs(t, err, natsgo.ErrAuthorization)
		_, err = connect(url)
		require.ErrorIs(t, err, natsgo.ErrAuthorization)
		other, err := connect(url, natsgo.Token(token))
		require.NoError(t, err)
		other.Close()
	}
	close(stopped)
	publishing.Wait()
	require.Empty(t, lost)
	requireStored(t, js, published)
	own.Close()
}

func TestAnotherTokenWaitsForAServerThatStores(t *testing.T) {
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: t.TempDir(), Token: "the-first-token-of-all"})
	for err := error(nil); err == nil; { // it may just have been opened anew
		require.NoError(t, server.server.ShutdownJetStream())
		err = server.SetToken("the-second-token-of-all")
	}
	require.Eventually(t, func() bool { return server.SetToken("the-third-token-of-all") == nil },
		bound, 10*time.Millisecond)
	publish(t, jetStream(t, strings.Replace(server.ClientURL(), "://", "://the-third-token-of-all@", 1)), 0, 1)
}

func TestMonitoring(t *testing.T) {
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: t.TempDir()})
	require.Nil(t, server.MonitorAddr(), "unless it is asked for")

	server = start(t, Options{Listen: "127.0.0.1:0", Monitor: "127.0.0.1:0", Dir: t.TempDir()})
	url := "http://" + server.MonitorAddr().String() + "/jsz"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)

	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	_, err = Start(ctx, Options{Listen: "127.0.0.1:0", Monitor: server.MonitorAddr().String(), Dir: t.TempDir()})
	taken, ok := errors.AsType[*ListenError](err)
	require.True(t, ok, "%v", err)
	require.True(t, taken.Monitor)

	server = start(t, Options{Listen: "127.0.0.1:0", Monitor: ":0", Dir: t.TempDir()})
	address, ok := server.MonitorAddr().(*net.TCPAddr)
	require.True(t, ok)
	require.True(t, address.IP.IsUnspecified(), "on all interfaces, and not only on those of the clients: %s", address)
}

func TestClientsAreBounded(t *testing.T) {
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: t.TempDir(), MaxClients: 3})
	idle := make([]net.Conn, 3)
	for i := range idle {
		conn, err := net.Dial("tcp", server.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		line, err := bufio.NewReader(conn).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, "INFO")
		idle[i] = conn
	}
	conn, err := net.Dial("tcp", server.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	said, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(said), "maximum connections exceeded")
	require.NoError(t, idle[0].Close())
	require.Eventually(t, func() bool {
		nc, err := connect(server.ClientURL())
		if err == nil {
			nc.Close()
		}
		return err == nil
	}, bound, 20*time.Millisecond)
}

func TestMonitoringIsServedByABoundedListener(t *testing.T) {
	var bounded net.Listener
	limited := make(chan struct{})
	server := start(t, Options{
		Listen: "127.0.0.1:0", Monitor: "127.0.0.1:0", Dir: t.TempDir(),
		LimitMonitor: func(l net.Listener, server *http.Server) net.Listener {
			defer close(limited)
			require.NotNil(t, server.Handler)
			bounded = l
			return l
		},
	})
	<-limited
	require.Equal(t, server.MonitorAddr(), bounded.Addr())
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, path := range []string{"/", "/varz", "/connz", "/jsz", "/healthz", "/subsz", "/accountz"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			"http://"+server.MonitorAddr().String()+path, http.NoBody)
		require.NoError(t, err)
		answer, err := client.Do(request)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusOK, answer.StatusCode, path)
	}
}

func publish(t *testing.T, js natsjs.JetStream, from, to int) {
	t.Helper()
	_, err := js.CreateOrUpdateStream(t.Context(), natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	for i := from; i < to; i++ {
		ack, err := js.Publish(t.Context(), "s.x", fmt.Append(nil, i))
		require.NoError(t, err)
		require.EqualValues(t, i+1, ack.Sequence)
	}
}

func requireStored(t *testing.T, js natsjs.JetStream, count int) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "S")
	require.NoError(t, err)
	require.EqualValues(t, count, stream.CachedInfo().State.Msgs)
	for i := range count {
		msg, err := stream.GetMsg(t.Context(), uint64(i+1))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), string(msg.Data))
	}
}

func TestStartsAndKeepsWhatItStored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing", "nats")
	port, err := child.ReservePort() // for the next start as well
	require.NoError(t, err)
	t.Cleanup(port.Release)
	server := start(t, Options{Listen: port.Address(), Dir: dir})
	require.True(t, strings.HasPrefix(server.ClientURL(), "nats://127.0.0.1:"), server.ClientURL())
	require.Contains(t, server.ClientURL(), server.Addr().String())
	config := server.server.JetStreamConfig()
	require.NotEqual(t, canSync(dir), config.SyncAlways, "nothing syncs what is acknowledged")
	require.True(t, strings.HasPrefix(config.StoreDir, dir), "%s is not in %s", config.StoreDir, dir)
	require.EqualValues(t, maxMemory, config.MaxMemory)
	require.Positive(t, config.MaxStore)
	vars, err := server.server.Varz(nil)
	require.NoError(t, err)
	require.Zero(t, vars.HTTPPort+vars.HTTPSPort, "there is no monitoring port")
	publish(t, jetStream(t, server.ClientURL()), 0, 10)
	stop(t, server)
	stop(t, server) // again is nothing

	again := start(t, Options{Listen: server.Addr().String(), Dir: dir})
	require.Equal(t, server.Addr().String(), again.Addr().String())
	requireStored(t, jetStream(t, again.ClientURL()), 10)
}

func TestLargeMessages(t *testing.T) {
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: t.TempDir()})
	js := jetStream(t, server.ClientURL())
	require.EqualValues(t, maxPayload, js.Conn().MaxPayload())
	_, err := js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "s.x", make([]byte, 4<<20))
	require.NoError(t, err)
}

func TestAllInterfaces(t *testing.T) {
	server := start(t, Options{Listen: ":0", Dir: t.TempDir()})
	require.True(t, strings.HasPrefix(server.ClientURL(), "nats://127.0.0.1:"), server.ClientURL())
	require.NotNil(t, jetStream(t, server.ClientURL()))
}

// startChild starts a server in a process of its own.
func startChild(t *testing.T, dir string) (js natsjs.JetStream, kill func()) {
	t.Helper()
	process := exec.CommandContext(t.Context(), os.Args[0])
	process.Env = append(os.Environ(), childDir+"="+dir)
	out, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	t.Cleanup(func() { _ = process.Process.Kill() })
	url, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return jetStream(t, strings.TrimSpace(url)), func() {
		require.NoError(t, process.Process.Signal(syscall.SIGKILL))
		require.Error(t, process.Wait())
	}
}

func TestSurvivesBeingKilled(t *testing.T) {
	dir := t.TempDir()
	js, kill := startChild(t, dir)
	publish(t, js, 0, 200)
	kill()

	server := start(t, Options{Listen: "127.0.0.1:0", Dir: dir})
	again := jetStream(t, server.ClientURL())
	requireStored(t, again, 200)
	publish(t, again, 200, 210)
}

func TestAddressThatCannotBeUsed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Addr().String(): "address already in use",
		"127.0.0.1":           "missing port",
		"127.0.0.1:nats":      `"nats" is not a number`,
		"127.0.0.1:70000":     `"70000" is not a number`,
		"192.0.2.1:0":         "cannot assign",
	} {
		_, err := Start(t.Context(), Options{Listen: address, Dir: t.TempDir()})
		var listen *ListenError
		require.ErrorAs(t, err, &listen)
		require.Equal(t, address, listen.Address)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, address)
	}
	_, err = Start(t.Context(), Options{Listen: taken.Addr().String(), Dir: t.TempDir()})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

func TestDirectoryThatCannotBeUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Start(t.Context(), Options{Listen: "127.0.0.1:0", Dir: file})
	require.ErrorContains(t, err, file)
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestDirectoryThatTurnsOutBad(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "jetstream"), []byte("a file where a directory belongs"), 0o600))
	logged := &lines{}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	_, err := Start(ctx, Options{Listen: "127.0.0.1:0", Dir: dir, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "it is not waited for")
	require.ErrorContains(t, err, "cannot start")
	require.Contains(t, logged.String(), "component=nats-server")
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Start(ctx, Options{Listen: "127.0.0.1:0", Dir: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
}
