//go:build linux

package recovery

import (
	"context"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

const stream = "TENSORLAKE"

// natsBroker is one server, or a cluster.
type natsBroker struct {
	servers natsserver.Servers
	// through is where the bridge and the bare client connect to instead, and empty for the servers themselves.
	through string
}

func startSingleNATS(t *testing.T) site {
	t.Helper()
	n := &natsBroker{servers: natsserver.Servers{natsserver.Single(t)}}
	n.makeStream(t, 1)
	restart := func(away time.Duration) func(*testing.T, *rig) {
		return func(t *testing.T, _ *rig) {
			n.servers[0].Stop(t)
			last(t, away)
			n.servers[0].Start(t)
		}
	}
	line := newLine(t, n.servers[0].Addr())
	return site{broker: n, through: n.by(line), line: line, faults: []scenario{
		{name: "restarted after 1 s", fault: restart(time.Second)},
		{name: "restarted after 10 s", fault: restart(10 * time.Second), long: true, bridges: 5},
		{name: "restarted after 2 min", fault: restart(2 * time.Minute), long: true, bridges: 5},
		{name: "JetStream off for 20 s and on again", long: true, bridges: 5, fault: func(t *testing.T, _ *rig) {
			t.Helper()
			s := n.servers[0].Running()
			config := *s.JetStreamConfig()
			require.NoError(t, s.DisableJetStream())
			last(t, 20*time.Second)                                             // until somebody is asked to mend it
			config.StoreDir = strings.TrimSuffix(config.StoreDir, "/jetstream") // which the server adds
			require.NoError(t, s.EnableJetStream(&config))
		}},
		{name: "cable cut", long: true, bridges: 5, fault: line.cut, through: n.by(line)},
		{name: "short outages", long: true, bridges: 5, fault: line.flap, through: n.by(line)},
		{name: "address changed behind the name", fault: line.move, through: n.by(line)},
	}, repeats: []scenario{
		{name: "connections cut", fault: line.interrupt, through: n.by(line), counts: true},
		{name: "connections cut in a backlog", fault: line.interruptBacklog, through: n.by(line), counts: true, long: true},
		{name: "server restarted", fault: restart(0), long: true},
		{name: "bridge killed", fault: killBridge, counts: true, process: true, long: true},
	}}
}

// by has clients connect through a line.
func (n *natsBroker) by(l *line) func() broker {
	return func() broker { return &natsBroker{servers: n.servers, through: "nats://" + l.address()} }
}

func startNATSCluster(t *testing.T) site {
	t.Helper()
	n := &natsBroker{servers: natsserver.Cluster(t, 3)}
	n.makeStream(t, 3)
	roll := func(t *testing.T, _ *rig) {
		t.Helper()
		for _, s := range n.servers {
			s.Stop(t)
			last(t, time.Second)
			s.Start(t)
			n.awaitCurrent(t)
		}
	}
	stepDown := func(t *testing.T, _ *rig) {
		t.Helper()
		nc := natsserver.Connect(t, n.servers.URL())
		defer nc.Close()
		_, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 5*time.Second)
		require.NoError(t, err)
		n.awaitCurrent(t)
	}
	return site{broker: n, faults: []scenario{
		{name: "stream's leader steps down", fault: stepDown},
		{name: "rolled one by one", fault: roll},
		{name: "rolled one by one, ACK=sinks", fault: roll, ack: "sinks"},
	}, repeats: []scenario{
		{name: "stream's leader steps down", fault: stepDown},
		{name: "stream's leader stopped", fault: func(t *testing.T, _ *rig) {
			t.Helper()
			leader := n.servers.Leader(t, stream)
			leader.Stop(t)
			leader.Start(t)
			n.awaitCurrent(t)
		}},
	}}
}

func (n *natsBroker) makeStream(t *testing.T, replicas int) {
	t.Helper()
	nc := natsserver.Connect(t, n.servers.URL())
	defer nc.Close()
	_, err := natsserver.JetStream(t, nc).CreateStream(t.Context(), natsjs.StreamConfig{
		Name: stream, Subjects: []string{"tensorlake.>", bareName, "probe"}, Replicas: replicas, Duplicates: 10 * time.Minute,
	})
	require.NoError(t, err)
}

// awaitCurrent waits until every server has all of the stream.
func (n *natsBroker) awaitCurrent(t *testing.T) {
	t.Helper()
	nc := natsserver.Connect(t, n.servers.URL())
	defer nc.Close()
	js := natsserver.JetStream(t, nc)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		handle, err := js.Stream(ctx, stream)
		if err != nil {
			return false
		}
		c := handle.CachedInfo().Cluster
		if c == nil || c.Leader == "" || len(c.Replicas) != len(n.servers)-1 {
			return false
		}
		for _, replica := range c.Replicas {
			if replica.Offline || !replica.Current {
				return false
			}
		}
		return true
	}, awayLimit, 50*time.Millisecond, "the stream's servers do not catch up")
}

func (n *natsBroker) address() string {
	if n.through != "" {
		return n.through
	}
	return n.servers.URL()
}

func (n *natsBroker) env(name string) map[string]string {
	return map[string]string{
		"SINKS": "nats", "NATS_URL": n.address(), "NATS_STREAM": stream, "NATS_CREATE_STREAM": "false",
		"NATS_SUBJECT": "tensorlake." + name + ".{route}",
	}
}

// natsPublisher publishes to one subject.
type natsPublisher struct {
	nc      *natsgo.Conn
	js      natsjs.JetStream
	subject string
}

func newNATSPublisher(subject, url string, options ...natsgo.Option) (*natsPublisher, error) {
	nc, err := natsgo.Connect(url, options...)
	if err != nil {
		return nil, err
	}
	js, err := natsjs.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &natsPublisher{nc, js, subject}, nil
}

func (p *natsPublisher) publish(ctx context.Context, messages int) error {
	if messages == 1 {
		_, err := p.js.Publish(ctx, p.subject, []byte("x"))
		return err
	}
	for range messages {
		if _, err := p.js.PublishAsync(p.subject, []byte("x")); err != nil {
			return err
		}
	}
	select {
	case <-p.js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *natsPublisher) close() { p.nc.Close() }

// impatient gives up on an answer in time to have another try succeed soon.
type impatient struct{ publisher }

func (p impatient) publish(ctx context.Context, messages int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return p.publisher.publish(ctx, messages)
}

// bare is set to be back as soon as the library can be, and notices a silent cut within 5 s as the bridge does.
func (n *natsBroker) bare(t *testing.T) publisher {
	t.Helper()
	p, err := newNATSPublisher(bareName, n.address(), natsgo.MaxReconnects(-1),
		natsgo.ReconnectWait(50*time.Millisecond), natsgo.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		natsgo.Timeout(time.Second), natsgo.PingInterval(1500*time.Millisecond), natsgo.MaxPingsOutstanding(2))
	require.NoError(t, err)
	return impatient{p}
}

func (n *natsBroker) patient(t *testing.T) publisher {
	t.Helper()
	p, err := newNATSPublisher(bareName, n.address(), natsgo.Timeout(awayLimit))
	require.NoError(t, err)
	return p
}

func (n *natsBroker) probe(ctx context.Context) (publisher, error) {
	deadline, _ := ctx.Deadline()
	return newNATSPublisher("probe", n.servers.URL(), natsgo.NoReconnect(), natsgo.Timeout(time.Until(deadline)))
}

func (n *natsBroker) read(t *testing.T, since time.Time) []stored {
	t.Helper()
	nc := natsserver.Connect(t, n.servers.URL())
	defer nc.Close()
	js := natsserver.JetStream(t, nc)
	handle, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	end := handle.CachedInfo().State.LastSeq
	consumer, err := handle.OrderedConsumer(t.Context(), natsjs.OrderedConsumerConfig{
		DeliverPolicy: natsjs.DeliverByStartTimePolicy, OptStartTime: &since, HeadersOnly: true,
	})
	require.NoError(t, err)
	messages, err := consumer.Messages()
	require.NoError(t, err)
	defer messages.Stop()
	var all []stored
	for {
		msg, err := messages.Next()
		require.NoError(t, err)
		meta, err := msg.Metadata()
		require.NoError(t, err)
		all = append(all, stored{
			who: natsOwner(msg.Subject()), at: meta.Timestamp,
			id: msg.Headers().Get("ce-id"), webhook: msg.Headers().Get("ce-webhookid"),
		})
		if meta.Sequence.Stream >= end {
			return all
		}
	}
}

func natsOwner(subject string) string {
	if rest, ok := strings.CutPrefix(subject, "tensorlake."); ok {
		subject, _, _ = strings.Cut(rest, ".")
	}
	return subject
}

func (n *natsBroker) latest(ctx context.Context) map[string]time.Time {
	nc, err := natsgo.Connect(n.servers.URL(), natsgo.NoReconnect(), natsgo.Timeout(10*time.Second))
	if err != nil {
		return nil
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return nil
	}
	handle, err := js.Stream(ctx, stream)
	if err != nil {
		return nil
	}
	info, err := handle.Info(ctx, natsjs.WithSubjectFilter(">"))
	if err != nil {
		return nil
	}
	latest := make(map[string]time.Time)
	for subject := range info.State.Subjects {
		if msg, err := handle.GetLastMsgForSubject(ctx, subject); err == nil {
			if who := natsOwner(subject); msg.Time.After(latest[who]) {
				latest[who] = msg.Time
			}
		}
	}
	return latest
}
