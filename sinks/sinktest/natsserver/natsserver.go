// Package natsserver starts real nats-servers in the test's process: one, or a cluster.
package natsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

const (
	// startBound is long enough for a cluster under the race detector on a busy machine, and for any answer there.
	startBound = 2 * time.Minute
	askBound   = 5 * time.Second
	tick       = 10 * time.Millisecond
	// leafReconnect is how long a leaf node waits after its link was dropped.
	leafReconnect = 100 * time.Millisecond
)

// Server is a server with JetStream. It can be stopped and started again at the same address, with what it stored.
type Server struct {
	options *server.Options
	running *server.Server
}

// Single starts a server on a free port of 127.0.0.1. Each configure may change its options first. It ends with the
// test.
func Single(tb testing.TB, configure ...func(*server.Options)) *Server {
	tb.Helper()
	options := &server.Options{
		ServerName: "single", Host: "127.0.0.1", Port: Port(tb),
		JetStream: true, StoreDir: tb.TempDir(), NoLog: true, NoSigs: true,
		AuthTimeout: startBound.Seconds(), TLSTimeout: startBound.Seconds(),
	}
	for _, c := range configure {
		c(options)
	}
	s := &Server{options: options}
	tb.Cleanup(s.stop)
	s.Start(tb)
	return s
}

// Leaf starts a server without JetStream that is a leaf node of hub. Each configure may change its options first. It
// ends with the test. It may not be connected to the hub yet.
func Leaf(tb testing.TB, hub *Server, configure ...func(*server.Options)) *Server {
	tb.Helper()
	remote, err := url.Parse("nats-leaf://" +
		net.JoinHostPort(hub.options.LeafNode.Host, strconv.Itoa(hub.options.LeafNode.Port)))
	require.NoError(tb, err)
	return Single(tb, append([]func(*server.Options){WithoutJetStream, func(o *server.Options) {
		o.ServerName = "leaf"
		o.LeafNode.ReconnectInterval = leafReconnect
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{remote}}}
	}}, configure...)...)
}

// ForLeaves has a server listen for leaf nodes.
func ForLeaves(tb testing.TB) func(*server.Options) {
	tb.Helper()
	port := Port(tb)
	return func(o *server.Options) { o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", port }
}

// Accounts has a server take the accounts and users of this text of a configuration file.
func Accounts(tb testing.TB, text string) func(*server.Options) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "server.conf")
	require.NoError(tb, os.WriteFile(file, []byte(text), 0o600))
	parsed, err := server.ProcessConfigFile(file)
	require.NoError(tb, err)
	return func(o *server.Options) { o.Accounts, o.Users = parsed.Accounts, parsed.Users }
}

// Start starts the server after Stop, and returns when it takes clients.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.launch(tb)
	require.True(tb, s.running.ReadyForConnections(startBound), "nats-server did not start")
}

func (s *Server) launch(tb testing.TB) {
	tb.Helper()
	options := s.options.Clone()
	running, err := server.NewServer(options)
	require.NoError(tb, err)
	s.running = running
	go running.Start()
}

// Stop ends the server. Clients lose their connections.
func (s *Server) Stop(testing.TB) { s.stop() }

func (s *Server) stop() {
	if s.running == nil {
		return
	}
	s.running.Shutdown()
	s.running.WaitForShutdown()
	s.running = nil
}

// Running is the server itself, for whatever else a test does to it. It is nil while the server is stopped.
func (s *Server) Running() *server.Server { return s.running }

// Reload has the server take changed options while it runs, as the signal HUP does.
func (s *Server) Reload(tb testing.TB, change func(*server.Options)) {
	tb.Helper()
	change(s.options)
	require.NoError(tb, s.running.ReloadOptions(s.options.Clone()))
}

// Addr is host:port of the server, running or not.
func (s *Server) Addr() string {
	return net.JoinHostPort(s.options.Host, strconv.Itoa(s.options.Port))
}

// URL is the server's address for clients.
func (s *Server) URL() string { return "nats://" + s.Addr() }

// Servers are the servers of a cluster.
type Servers []*Server

// Cluster starts n servers that form one cluster, and returns when its JetStream has a leader.
func Cluster(tb testing.TB, n int, configure ...func(*server.Options)) Servers {
	tb.Helper()
	ports, routes := make([]int, n), make([]string, n)
	for i := range routes {
		ports[i] = Port(tb)
		routes[i] = fmt.Sprintf("nats-route://127.0.0.1:%d", ports[i])
	}
	servers := make(Servers, n)
	for i := range servers {
		options := &server.Options{
			ServerName: fmt.Sprintf("node%d", i), Host: "127.0.0.1", Port: Port(tb),
			JetStream: true, StoreDir: tb.TempDir(), NoLog: true, NoSigs: true,
			AuthTimeout: startBound.Seconds(), TLSTimeout: startBound.Seconds(),
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]},
			Routes:  server.RoutesFromStr(strings.Join(routes, ",")),
		}
		for _, c := range configure {
			c(options)
		}
		servers[i] = &Server{options: options}
	}
	tb.Cleanup(servers.stop)
	servers.Start(tb)
	return servers
}

// Port returns a port of 127.0.0.1 that is kept until the test ends, also while the server is stopped.
func Port(tb testing.TB) int {
	tb.Helper()
	port, err := child.ReservePort()
	require.NoError(tb, err)
	tb.Cleanup(port.Release)
	_, text, _ := net.SplitHostPort(port.Address())
	number, err := strconv.Atoi(text)
	require.NoError(tb, err)
	return number
}

// Start starts all servers that are stopped, and returns when the cluster is of one mind.
func (c Servers) Start(tb testing.TB) {
	tb.Helper()
	for _, s := range c {
		if s.running == nil {
			s.launch(tb)
		}
	}
	require.Eventually(tb, func() bool {
		leaders := 0
		for _, s := range c {
			switch {
			case !s.running.ReadyForConnections(tick):
				return false
			case s.running.JetStreamIsLeader():
				if len(s.running.JetStreamClusterPeers()) == len(c) {
					leaders++
				}
			case !s.running.JetStreamIsCurrent():
				return false
			}
		}
		return leaders == 1
	}, startBound, tick, "the NATS cluster has no leader")
}

// Stop ends all servers.
func (c Servers) Stop(testing.TB) { c.stop() }

func (c Servers) stop() {
	for _, s := range c {
		s.stop()
	}
}

// URL is the addresses of all servers for clients, separated by commas.
func (c Servers) URL() string {
	urls := make([]string, len(c))
	for i, s := range c {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// Leader returns the server that leads the stream, waiting for an election to end.
func (c Servers) Leader(tb testing.TB, stream string) *Server {
	tb.Helper()
	var leader *Server
	require.Eventually(tb, func() bool {
		for _, s := range c {
			if s.running != nil && s.running.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
				leader = s
				return true
			}
		}
		return false
	}, startBound, tick, "the stream has no leader")
	return leader
}

// Connect returns a client of url. It ends with the test.
func Connect(tb testing.TB, url string, options ...natsgo.Option) *natsgo.Conn {
	tb.Helper()
	nc, err := natsgo.Connect(url, patient(options)...)
	require.NoError(tb, err)
	tb.Cleanup(nc.Close)
	return nc
}

// patient are options of a client for which a busy machine is no reason to give up.
func patient(options []natsgo.Option) []natsgo.Option {
	return append([]natsgo.Option{natsgo.Timeout(startBound)}, options...)
}

// JetStream returns a client's JetStream.
func JetStream(tb testing.TB, nc *natsgo.Conn) natsjs.JetStream {
	tb.Helper()
	js, err := natsjs.New(nc, natsjs.WithDefaultTimeout(startBound))
	require.NoError(tb, err)
	return js
}

// Messages returns everything that a stream holds, in stored order. A stream that does not exist holds nothing.
func Messages(tb testing.TB, nc *natsgo.Conn, stream string) []natsjs.Msg {
	tb.Helper()
	js := JetStream(tb, nc)
	ctx, cancel := context.WithTimeout(tb.Context(), startBound)
	defer cancel()
	handle, err := ask(ctx, func(ctx context.Context) (natsjs.Stream, error) { return js.Stream(ctx, stream) })
	if err != nil {
		require.ErrorIs(tb, err, natsjs.ErrStreamNotFound)
		return nil
	}
	count := int(handle.CachedInfo().State.Msgs)
	if count == 0 {
		return nil
	}
	consumer, err := ask(ctx, func(ctx context.Context) (natsjs.Consumer, error) {
		return handle.OrderedConsumer(ctx, natsjs.OrderedConsumerConfig{})
	})
	require.NoError(tb, err)
	messages, err := consumer.Messages()
	require.NoError(tb, err)
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	all := make([]natsjs.Msg, 0, count)
	for len(all) < count {
		msg, err := messages.Next()
		require.NoError(tb, err, "%d of %d messages were read", len(all), count)
		all = append(all, msg)
	}
	return all
}

// ask asks again and again until ctx ends: while a cluster elects a leader, nobody answers what it is asked, or
// somebody refuses to.
func ask[T any](ctx context.Context, once func(context.Context) (T, error)) (T, error) {
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, askBound)
		answer, err := once(try)
		cancel()
		if err == nil || errors.Is(err, natsjs.ErrStreamNotFound) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-again.C:
		}
	}
}

// DeadLetters begins the subjects of dead letters in tests.
const DeadLetters = "dead-letters."

// Records reads a stream of messages in binary mode, for the conformance suite, and leaves out dead letters.
func Records(tb testing.TB, url, stream string, options ...natsgo.Option) []sinktest.Record {
	tb.Helper()
	nc, err := natsgo.Connect(url, patient(options)...)
	require.NoError(tb, err)
	defer nc.Close()
	var records []sinktest.Record
	for _, msg := range Messages(tb, nc, stream) {
		if strings.HasPrefix(msg.Subject(), DeadLetters) {
			continue
		}
		event, err := cloudevents.Decode(headersOf(tb, msg), cloudevents.NATSPrefix, msg.Data())
		require.NoError(tb, err)
		records = append(records, sinktest.Record{Event: event})
	}
	return records
}

// Subject returns a function that returns the subject of an event with the template first.{route}.
func Subject(first string) func(bridge.Event) string {
	return func(e bridge.Event) string { return first + "." + strings.Join(e.Route, ".") }
}

// Letters reads the dead letters of a stream, for the conformance suite.
func Letters(t *testing.T, url, stream string, options ...natsgo.Option) []sinktest.Letter {
	t.Helper()
	nc, err := natsgo.Connect(url, patient(options)...)
	require.NoError(t, err)
	defer nc.Close()
	var letters []sinktest.Letter
	for _, msg := range Messages(t, nc, stream) {
		if strings.HasPrefix(msg.Subject(), DeadLetters) {
			letters = append(letters, sinktest.ReadLetter(t, headersOf(t, msg), cloudevents.NATSPrefix, msg.Data()))
		}
	}
	return letters
}

func headersOf(tb testing.TB, msg natsjs.Msg) []cloudevents.Header {
	tb.Helper()
	headers := make([]cloudevents.Header, 0, len(msg.Headers()))
	for name, values := range msg.Headers() {
		require.Len(tb, values, 1, "header %s", name)
		headers = append(headers, cloudevents.Header{Name: name, Value: values[0]})
	}
	return headers
}

// Code is the import path of the server, for tests that look for goroutines of something else.
const Code = "github.com/nats-io/nats-server/v2/server"

// WithoutJetStream makes a server that has no streams.
func WithoutJetStream(o *server.Options) { o.JetStream = false }

// Leftovers excuses, to goleak, what nats-server leaves behind when it is shut down while it creates a stream.
func Leftovers() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction(Code + "/ats.Register.func1"),
		goleak.IgnoreAnyFunction(Code + ".(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction(Code + ".(*stream).internalLoop"),
		goleak.IgnoreAnyFunction(Code + ".(*stream).signalConsumersLoop"),
	}
}
