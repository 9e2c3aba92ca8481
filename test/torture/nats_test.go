//go:build linux

package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

const (
	stream = "TENSORLAKE"
	// natsServerVariable makes the test's binary a nats-server that reads the configuration file which it names.
	natsServerVariable = "FNBRIDGE_TEST_NATS_SERVER"
	natsServers        = 3
	// brokerLimit bounds what a fault asks of a broker that is to be well.
	brokerLimit = 60 * time.Second
	askTimeout  = 2 * time.Second
)

// serveNATS is the nats-server that startNATS starts: a process of its own, so that it can be killed.
func serveNATS(configuration string) error {
	options, err := server.ProcessConfigFile(configuration)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	s, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("setting up nats-server: %w", err)
	}
	s.ConfigureLogger()
	s.Start() // it listens to signals, as nats-server does: TERM stops it, HUP has it read its configuration again
	s.WaitForShutdown()
	return nil
}

// natsServer is one server of the cluster, and the proxy that the bridge reaches it through.
type natsServer struct {
	name            string
	address, routes string
	directory       string
	proxy           *faultproxy.Proxy
	child           *process // nil while it is down
}

func (s *natsServer) configuration() string { return filepath.Join(s.directory, "nats.conf") }

// natsSide is a NATS cluster of three server processes behind proxies. consume is for a goroutine of its own, the
// rest for the one that plays faults.
type natsSide struct {
	t       *testing.T
	servers []*natsServer
	// bridgeUser is what the servers' configuration says of the user that the bridge is.
	bridgeUser string
	admin      *natsgo.Conn
	js         natsjs.JetStream
	reader     *streamReader
}

const (
	bridgeMayAll     = `{user: bridge, password: bridge}`
	bridgeMayNothing = `{user: bridge, password: bridge, permissions: {publish: {deny: ["tensorlake.>"]}}}`
	bridgeIsUnknown  = `{user: bridge, password: another}`
)

// startNATS starts the cluster. It ends with the test.
func startNATS(t *testing.T) *natsSide {
	t.Helper()
	n := &natsSide{t: t, bridgeUser: bridgeMayAll}
	for i := range natsServers {
		address := reserveAddress(t)
		n.servers = append(n.servers, &natsServer{
			name: fmt.Sprintf("n%d", i+1), address: address, routes: reserveAddress(t), directory: t.TempDir(),
			proxy: faultproxy.New(t, address),
		})
	}
	n.configure()
	t.Cleanup(func() {
		for _, s := range n.servers {
			if s.child != nil {
				s.child.kill()
			}
		}
	})
	for _, s := range n.servers {
		n.startServer(s)
	}
	var err error
	n.admin, err = n.connect("admin")
	require.NoError(t, err)
	t.Cleanup(n.admin.Close)
	n.js, err = natsjs.New(n.admin, natsjs.WithDefaultTimeout(askTimeout))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := n.js.AccountInfo(t.Context())
		return err == nil
	}, brokerLimit, 50*time.Millisecond, "the NATS cluster does not come up")
	n.reader = &streamReader{
		name: "nats", stream: stream,
		connect: func() (*natsgo.Conn, error) { return n.connect("reader") },
	}
	return n
}

// configure writes the configuration of each server.
func (n *natsSide) configure() {
	n.t.Helper()
	var routes []string
	for _, s := range n.servers {
		routes = append(routes, fmt.Sprintf("%q", "nats-route://"+s.routes))
	}
	for _, s := range n.servers {
		text := fmt.Sprintf(`server_name: %s
listen: %q
max_payload: 1MB
log_file: %q
jetstream: {store_dir: %q}
cluster: {name: torture, listen: %q, no_advertise: true, routes: [%s]}
authorization: {users: [{user: admin, password: admin}, {user: reader, password: reader}, %s]}
`, s.name, s.address, filepath.Join(s.directory, "nats.log"), filepath.Join(s.directory, "data"), s.routes,
			strings.Join(routes, ", "), n.bridgeUser)
		require.NoError(n.t, os.WriteFile(s.configuration(), []byte(text), 0o600))
	}
}

// setBridgeUser has every server take another account of the bridge's user.
func (n *natsSide) setBridgeUser(user string) {
	n.t.Helper()
	n.bridgeUser = user
	n.configure()
	for _, s := range n.servers {
		s.child.signal(syscall.SIGHUP)
	}
}

func (n *natsSide) startServer(s *natsServer) {
	n.t.Helper()
	binary, err := os.Executable()
	require.NoError(n.t, err)
	cmd := exec.Command(binary)
	cmd.Env = []string{natsServerVariable + "=" + s.configuration()}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	s.child, err = start(cmd)
	require.NoError(n.t, err)
}

// stopServers ends servers, with their consent or without.
func (n *natsSide) stopServers(s syscall.Signal, servers ...*natsServer) {
	for _, one := range servers {
		one.child.signal(s)
	}
	for _, one := range servers {
		one.child.awaitOrKill(15 * time.Second)
		one.child = nil
	}
}

// connect makes a client that goes around the proxies and never gives up.
func (n *natsSide) connect(user string) (*natsgo.Conn, error) {
	var urls []string
	for _, s := range n.servers {
		urls = append(urls, "nats://"+s.address)
	}
	return natsgo.Connect(strings.Join(urls, ","), natsgo.UserInfo(user, user), natsgo.Name(user),
		natsgo.RetryOnFailedConnect(true), natsgo.MaxReconnects(-1), natsgo.ReconnectWait(100*time.Millisecond),
		natsgo.PingInterval(2*time.Second), natsgo.MaxPingsOutstanding(2))
}

func (n *natsSide) env() []string {
	var urls []string
	for _, s := range n.servers {
		urls = append(urls, "nats://"+s.proxy.Addr())
	}
	return []string{
		"NATS_URL=" + strings.Join(urls, ","), "NATS_USER=bridge", "NATS_PASSWORD=bridge",
		fmt.Sprintf("NATS_REPLICAS=%d", natsServers),
	}
}

func (n *natsSide) consume(ctx context.Context, l *ledger) { n.reader.consume(ctx, l) }

// stall holds back what goes between bridge and servers, without closing anything; unstall lets it go on.
func (n *natsSide) stall() {
	for _, s := range n.servers {
		s.proxy.Stall()
	}
}

func (n *natsSide) unstall() {
	for _, s := range n.servers {
		s.proxy.Resume()
	}
}

func (n *natsSide) faults() []fault {
	return []fault{
		{"nats: server killed", n.playServerKilled},
		{"nats: stream's leader killed", n.playLeaderKilled},
		{"nats: all servers stopped", n.playAllStopped},
		{"nats: connections cut", n.playCut},
		{"nats: stalled without closing", n.playStalled},
		{"nats: stream full", n.playFull},
		{"nats: stream deleted and made again", n.playDeleted},
		{"nats: permission revoked", func(ctx context.Context, r *run) { n.playUserChanged(ctx, r, bridgeMayNothing) }},
		{"nats: password changed", func(ctx context.Context, r *run) { n.playUserChanged(ctx, r, bridgeIsUnknown) }},
	}
}

func (n *natsSide) playServerKilled(ctx context.Context, r *run) {
	victim := n.servers[r.rand.IntN(len(n.servers))]
	n.stopServers(syscall.SIGKILL, victim)
	r.stay(ctx, time.Second, 4*time.Second)
	n.startServer(victim)
}

func (n *natsSide) playLeaderKilled(ctx context.Context, r *run) {
	leader, err := n.leader(ctx)
	if err != nil {
		r.failf("nats: %v", err)
		return
	}
	n.stopServers(syscall.SIGKILL, leader)
	r.stay(ctx, time.Second, 4*time.Second)
	n.startServer(leader)
}

// leader returns the server that leads the stream.
func (n *natsSide) leader(ctx context.Context) (*natsServer, error) {
	var leader *natsServer
	err := n.insist(ctx, "the stream's leader is asked for", func(ctx context.Context) error {
		s, err := n.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		info := s.CachedInfo()
		if info.Cluster == nil {
			return errors.New("the stream has no cluster")
		}
		at := slices.IndexFunc(n.servers, func(s *natsServer) bool { return s.name == info.Cluster.Leader && s.child != nil })
		if at < 0 {
			return errors.New("the stream has no leader")
		}
		leader = n.servers[at]
		return nil
	})
	return leader, err
}

// insist asks the cluster until it does what it is asked.
func (n *natsSide) insist(ctx context.Context, what string, ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerLimit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		try, end := context.WithTimeout(ctx, askTimeout)
		err := ask(try)
		end()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s, without success: %w", what, err)
		}
	}
}

func (n *natsSide) playAllStopped(ctx context.Context, r *run) {
	// Two of three are no majority.
	down := slices.Clone(n.servers)
	r.rand.Shuffle(len(down), func(i, j int) { down[i], down[j] = down[j], down[i] })
	down = down[r.rand.IntN(2):]
	n.stopServers(syscall.SIGTERM, down...)
	r.stay(ctx, time.Second, 4*time.Second)
	for _, s := range down {
		n.startServer(s)
	}
}

func (n *natsSide) playCut(ctx context.Context, r *run) {
	for range 1 + r.rand.IntN(5) {
		for _, s := range n.servers {
			// In the midst of an acknowledgement, or between two.
			if r.rand.IntN(2) == 0 {
				s.proxy.CutAnswersAfter(1 + r.rand.IntN(2000))
			} else {
				s.proxy.Cut()
			}
		}
		r.stay(ctx, 50*time.Millisecond, time.Second)
	}
	n.unstall()
}

func (n *natsSide) playStalled(ctx context.Context, r *run) {
	onlyAnswers := r.rand.IntN(2) == 0
	for _, s := range n.servers {
		if onlyAnswers {
			s.proxy.StallAnswersAfter(r.rand.IntN(2000))
		} else {
			s.proxy.Stall()
		}
	}
	r.stay(ctx, time.Second, 8*time.Second) // the sink waits 5 s for an acknowledgement
	n.unstall()
}

// playFull lets the stream take a few more messages and refuse what comes then.
func (n *natsSide) playFull(ctx context.Context, r *run) {
	limit := func(messages uint64, more int64) error {
		return n.insist(ctx, "the stream's limit is changed", func(ctx context.Context) error {
			s, err := n.js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			c := s.CachedInfo().Config
			c.MaxMsgs, c.Discard = -1, natsjs.DiscardOld
			if more > 0 {
				c.MaxMsgs, c.Discard = int64(s.CachedInfo().State.Msgs+messages)+more, natsjs.DiscardNew
			}
			_, err = n.js.UpdateStream(ctx, c)
			return err
		})
	}
	if err := limit(0, 1+r.rand.Int64N(50)); err != nil {
		r.failf("nats: %v", err)
	}
	r.stay(ctx, time.Second, 5*time.Second)
	if err := limit(0, 0); err != nil {
		r.failf("nats: %v", err)
	}
}

// playDeleted deletes the stream with all that it holds. What the bridge knows to be stored has been read by then: the
// bridge stands still, and from the moment that nothing gets through to it any more it knows of nothing new.
func (n *natsSide) playDeleted(ctx context.Context, r *run) {
	r.bridge.pause()
	defer r.bridge.resume()
	n.stall()
	defer n.unstall()
	for _, s := range n.servers {
		s.proxy.Cut()
	}
	var config natsjs.StreamConfig
	err := n.insist(ctx, "the stream is read to its end", func(ctx context.Context) error {
		s, err := n.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		config = s.CachedInfo().Config
		return n.reader.awaitRead(ctx, s.CachedInfo().Created, s.CachedInfo().State.LastSeq)
	})
	if err != nil {
		r.failf("nats: %v", err)
		return
	}
	deleted := false
	err = n.insist(ctx, "the stream is deleted", func(ctx context.Context) error {
		err := n.js.DeleteStream(ctx, stream)
		if deleted && errors.Is(err, natsjs.ErrStreamNotFound) {
			return nil
		}
		deleted = true // perhaps, if the answer was lost
		return err
	})
	if err != nil {
		r.failf("nats: %v", err)
		return
	}
	if r.rand.IntN(2) == 0 {
		return // the bridge makes it
	}
	if err := n.insist(ctx, "the stream is made", func(ctx context.Context) error {
		_, err := n.js.CreateStream(ctx, config)
		return err
	}); err != nil {
		r.failf("nats: %v", err)
	}
}

func (n *natsSide) playUserChanged(ctx context.Context, r *run, user string) {
	n.setBridgeUser(user)
	r.stay(ctx, time.Second, 4*time.Second)
	n.setBridgeUser(bridgeMayAll)
}

// streamReader reads all that a stream ever holds, in the order in which it is stored, whatever becomes of servers and
// of the stream itself.
type streamReader struct {
	name, stream string // the sink's name, and its stream
	connect      func() (*natsgo.Conn, error)

	mu      sync.Mutex
	created time.Time // of the stream that is being read
	next    uint64    // the sequence number that is read next
	// recent holds what was read under the last sequence numbers: a server that dies can take back what it has not
	// acknowledged yet, though somebody has read it, and give the number to another message.
	recent map[uint64]string
}

// overlap is how many messages are read again by each new consumer.
const overlap = 2000

// consume reads until ctx ends.
func (s *streamReader) consume(ctx context.Context, l *ledger) {
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for ctx.Err() == nil {
		nc, err := s.connect()
		if err == nil {
			for ctx.Err() == nil && !nc.IsClosed() {
				_ = s.read(ctx, nc, l) // whatever it was, it is tried again
				select {
				case <-retry.C:
				case <-ctx.Done():
				}
			}
			nc.Close()
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
		}
	}
}

// read reads on with a consumer of its own until something is wrong with it.
func (s *streamReader) read(ctx context.Context, nc *natsgo.Conn, l *ledger) error {
	js, err := natsjs.New(nc, natsjs.WithDefaultTimeout(askTimeout))
	if err != nil {
		return err
	}
	handle, err := js.Stream(ctx, s.stream)
	if err != nil {
		return err
	}
	next := s.begin(handle.CachedInfo())
	consumer, err := handle.CreateConsumer(ctx, natsjs.ConsumerConfig{
		AckPolicy: natsjs.AckNonePolicy, DeliverPolicy: natsjs.DeliverByStartSequencePolicy, OptStartSeq: next,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return err
	}
	name := consumer.CachedInfo().Name
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		_ = handle.DeleteConsumer(ctx, name) // or it goes by itself
	}()
	delivered, quiet := uint64(0), 0
	for ctx.Err() == nil {
		batch, err := consumer.Fetch(500, natsjs.FetchMaxWait(500*time.Millisecond))
		if err != nil {
			return err
		}
		got := 0
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return err
			}
			// On a busy machine an answer can come when its fetch has given up. What it held does not come again.
			if delivered++; meta.Sequence.Consumer != delivered {
				return fmt.Errorf("delivery %d of the consumer came, and %d was to come", meta.Sequence.Consumer, delivered)
			}
			s.take(msg, meta.Sequence.Stream, l)
			got++
		}
		if err := batch.Error(); err != nil {
			return err
		}
		if quiet++; got > 0 {
			quiet = 0
		}
		if quiet >= 2 { // is it still the same stream, and the same consumer?
			quiet = 0
			if info, err := handle.Info(ctx); err != nil || !info.Created.Equal(s.created) {
				return errors.Join(err, errors.New("the stream is another one"))
			}
			if _, err := consumer.Info(ctx); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// begin returns which message of the stream is read next.
func (s *streamReader) begin(info *natsjs.StreamInfo) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.created.Equal(info.Created) {
		s.created, s.next, s.recent = info.Created, 1, make(map[uint64]string)
	}
	end := min(s.next, info.State.LastSeq+1)
	s.next = end - min(overlap, end-1)
	return s.next
}

// take notes a message, unless it is the one that was read under its number before.
func (s *streamReader) take(msg natsjs.Msg, sequence uint64, l *ledger) {
	var headers []cloudevents.Header
	for name, values := range msg.Headers() {
		headers = append(headers, cloudevents.Header{Name: name, Value: values[0]})
	}
	event, err := cloudevents.Decode(headers, cloudevents.NATSPrefix, msg.Data())
	if err != nil {
		event.ID = err.Error() // which nobody has sent
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = sequence + 1
	if s.recent[sequence] == event.ID {
		return
	}
	s.recent[sequence] = event.ID
	delete(s.recent, sequence-2*overlap)
	l.received(s.name, record{
		id: event.ID, webhookID: event.WebhookID, key: event.PartitionKey, data: event.Data,
		address: fmt.Sprintf("%s#%d", s.stream, sequence),
	})
}

// awaitRead waits until everything up to last of the stream that was created then has been read.
func (s *streamReader) awaitRead(ctx context.Context, created time.Time, last uint64) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		same, next := s.created.Equal(created), s.next
		s.mu.Unlock()
		if same && next > last {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("message %d of %d is read next: %w", next, last, ctx.Err())
		}
	}
}
