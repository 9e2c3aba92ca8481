package app_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

var (
	isolationPhase = flag.Duration("isolation", 0, //nolint:gochecknoglobals // a flag
		"how long each phase of TestIsolation lasts; 0: moments, with nothing measured")
	isolationOut = flag.String("isolation.report", "", //nolint:gochecknoglobals // a flag
		"folder for what TestIsolation has measured; empty: none")
)

// experiment is one bridge with two sinks, of which one hangs now and then: its broker keeps its connections open and
// answers nothing. Webhooks come at a fixed rate, whatever the bridge does.
type experiment struct {
	Rate   int           `json:"webhooks_per_second"`
	Phase  time.Duration `json:"-"`
	rounds int
	// apache has a real Apache Kafka; otherwise kfake speaks for it.
	apache bool
}

// TestIsolation shows that a sink that hangs costs the senders and the other sink nothing. How fast all is, it measures
// with -isolation (make isolation); it fails only if something is refused, is lost, or waits for the sink that hangs.
func TestIsolation(t *testing.T) {
	t.Parallel()
	e := experiment{Rate: 100, Phase: 1500 * time.Millisecond, rounds: 1}
	if *isolationPhase > 0 {
		e = experiment{Rate: 300, Phase: *isolationPhase, rounds: 3, apache: true}
	}
	binary := buildBridge(t)
	t.Run("NATS hangs", func(t *testing.T) { e.run(t, binary, "nats", "kafka") })
	t.Run("Kafka hangs", func(t *testing.T) { e.run(t, binary, "kafka", "nats") })
}

// broker is where a sink publishes: through a proxy, past which its consumer reads.
type broker struct {
	url     string // for the bridge
	proxy   *faultproxy.Proxy
	consume func(ctx context.Context, received func(webhookID, subject string))
}

func (e experiment) run(t *testing.T, binary, hangs, other string) {
	if e.apache {
		apachekafka.Require(t)
	}
	brokers := map[string]*broker{"nats": natsBehindProxy(t), "kafka": e.kafkaBehindProxy(t)}
	p := startProcess(t, binary, t.TempDir(), map[string]string{
		"SINKS": "nats,kafka", "NATS_URL": brokers["nats"].url, "KAFKA_BROKERS": brokers["kafka"].url,
	})
	l := &traffic{rate: e.Rate, sender: newSender(t, p.url, loadWorkers), received: map[string]*receipts{}}
	ctx, stop := context.WithCancel(t.Context())
	var consumers sync.WaitGroup
	defer consumers.Wait()
	defer stop()
	for name, b := range brokers {
		r := &receipts{}
		l.received[name] = r
		consumers.Go(func() { b.consume(ctx, r.take) })
	}

	phases := l.start(t)
	// What connects, compiles and grows its buffers is no part of any phase.
	l.enter("warming up")
	l.last(t, e.Phase/3)
	for round := range e.rounds {
		l.enter(fmt.Sprintf("healthy %d", round+1))
		l.last(t, e.Phase)

		name := fmt.Sprintf("hung %d", round+1)
		brokers[hangs].proxy.Stall()
		before := l.scheduled()
		l.enter(name)
		l.last(t, e.Phase)
		until := l.scheduled()
		require.Eventually(t, func() bool { return l.received[other].all(before, until) }, bound, 10*time.Millisecond,
			"%s waits for %s, which hangs", other, hangs)
		require.Zero(t, l.received[hangs].count(before, until), "%s does not hang", hangs)

		brokers[hangs].proxy.Resume()
		l.enter(fmt.Sprintf("catching up %d", round+1))
		require.Eventually(t, func() bool { return l.received[hangs].all(0, until) }, bound, 10*time.Millisecond,
			"%s does not get what it missed", hangs)
	}
	l.finish()
	phases.Wait()
	require.Empty(t, l.refused, "no webhook is refused")
	for name, r := range l.received {
		require.Eventually(t, func() bool { return r.all(0, l.scheduled()) },
			bound, 10*time.Millisecond, "%s did not get everything", name)
	}
	p.terminate(t)
	if e.apache {
		e.report(t, l, hangs, other)
	}
}

func natsBehindProxy(t *testing.T) *broker {
	t.Helper()
	server := natsserver.Single(t)
	proxy := faultproxy.New(t, server.Addr())
	js := natsserver.JetStream(t, natsserver.Connect(t, server.URL()))
	return &broker{url: "nats://" + proxy.Addr(), proxy: proxy, consume: func(
		ctx context.Context, received func(webhookID, subject string),
	) {
		consumer, err := js.OrderedConsumer(ctx, "TENSORLAKE", natsjs.OrderedConsumerConfig{})
		for errors.Is(err, natsjs.ErrStreamNotFound) { // the bridge is about to make it
			consumer, err = js.OrderedConsumer(ctx, "TENSORLAKE", natsjs.OrderedConsumerConfig{})
		}
		if err != nil {
			t.Errorf("consuming from NATS: %v", err)
			return
		}
		consuming, err := consumer.Consume(func(m natsjs.Msg) {
			received(m.Headers().Get("ce-webhookid"), m.Headers().Get("ce-subject"))
		})
		if err != nil {
			t.Errorf("consuming from NATS: %v", err)
			return
		}
		<-ctx.Done()
		consuming.Stop()
		<-consuming.Closed()
	}}
}

const isolationTopic = "tensorlake-events"

func (e experiment) kafkaBehindProxy(t *testing.T) *broker {
	t.Helper()
	b := &broker{}
	addresses := map[string]string{} // by the proxy's address
	behind := func(address string) string {
		b.proxy = faultproxy.New(t, address)
		addresses[b.proxy.Addr()] = address
		return b.proxy.Addr()
	}
	if e.apache {
		c := apachekafka.Start(t, apachekafka.Options{Proxy: func(_ int, address string) string { return behind(address) }})
		c.CreateTopic(t, isolationTopic, 12, 1, nil)
		b.url = strings.Join(c.ProxiedBrokers(), ",")
	} else {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(12, isolationTopic),
			kfake.ListenFn(func(network, address string) (net.Listener, error) {
				l, err := net.Listen(network, address)
				if err != nil {
					return nil, err
				}
				proxied, err := net.ResolveTCPAddr("tcp", behind(l.Addr().String()))
				return &proxiedListener{Listener: l, address: proxied}, err
			}))
		require.NoError(t, err)
		t.Cleanup(c.Close)
		b.url = strings.Join(c.ListenAddrs(), ",")
	}
	b.consume = func(ctx context.Context, received func(webhookID, subject string)) {
		var d net.Dialer
		client, err := kgo.NewClient(kgo.SeedBrokers(b.url),
			kgo.ConsumeTopics(isolationTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
				return d.DialContext(ctx, network, addresses[address])
			}))
		if err != nil {
			t.Errorf("consuming from Kafka: %v", err)
			return
		}
		defer client.Close()
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				headers := map[string]string{}
				for _, h := range r.Headers {
					headers[h.Key] = string(h.Value)
				}
				received(headers["ce_webhookid"], headers["ce_subject"])
			})
		}
	}
	return b
}

// proxiedListener says that it listens where its proxy does, for a broker that tells its clients where it is.
type proxiedListener struct {
	net.Listener
	address net.Addr
}

func (l *proxiedListener) Addr() net.Addr { return l.address }

const (
	loadWorkers = 256
	eventsEach  = 2 // of a webhook
	loadID      = "msg_isolation_"
)

// traffic posts webhooks at a fixed rate. Each is due at its own time, from which everything is measured, also when a
// worker comes to it late: what the bridge delays must not be hidden by having the load wait for it.
type traffic struct {
	rate     int
	sender   *sender
	received map[string]*receipts // by sink

	done chan struct{}

	mu      sync.Mutex
	phase   string
	phases  []string
	posted  []posted
	refused []string
}

type posted struct {
	due   time.Time
	phase string
	took  time.Duration // until the answer
}

// start begins to post. Whoever has called finish can wait for the end.
func (l *traffic) start(t *testing.T) *sync.WaitGroup {
	t.Helper()
	l.done = make(chan struct{})
	l.posted = make([]posted, 0, 1<<20)
	due := make(chan int, loadWorkers)
	var all sync.WaitGroup
	for range loadWorkers {
		all.Go(func() {
			for n := range due {
				l.post(n)
			}
		})
	}
	all.Go(func() {
		defer close(due)
		interval := time.Second / time.Duration(l.rate)
		began := time.Now()
		timer := time.NewTimer(0)
		defer timer.Stop()
		for n := 0; ; n++ {
			at := began.Add(time.Duration(n) * interval)
			timer.Reset(time.Until(at))
			select {
			case <-l.done:
				return
			case <-timer.C:
			}
			l.mu.Lock()
			l.posted = append(l.posted, posted{due: at, phase: l.phase})
			l.mu.Unlock()
			due <- n
		}
	})
	return &all
}

func (l *traffic) post(n int) {
	invocation := fmt.Sprintf("invocation_%08d", n)
	status, err := l.sender.post(fmt.Sprintf("%s%08d", loadID, n),
		[]byte(workflowOf(invocation)))
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.posted[n]
	p.took = now.Sub(p.due)
	if err != nil || status != http.StatusAccepted {
		l.refused = append(l.refused, fmt.Sprintf("webhook %d: %d %v", n, status, err))
	}
}

// enter begins a phase: what is due from now on belongs to it.
func (l *traffic) enter(phase string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = phase
	l.phases = append(l.phases, phase)
}

// last lets the phase last for d.
func (l *traffic) last(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func (l *traffic) finish() { close(l.done) }

// scheduled is how many webhooks have been due.
func (l *traffic) scheduled() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.posted)
}

// receipts is what a consumer has had of each webhook.
type receipts struct {
	mu    sync.Mutex
	first [][eventsEach]time.Time // by webhook and function
	again int                     // events that came more than once
}

func (r *receipts) take(id, subject string) {
	now := time.Now()
	n, err := strconv.Atoi(strings.TrimPrefix(id, loadID))
	if err != nil {
		return
	}
	function := 0
	if strings.HasSuffix(subject, "/fn_B") {
		function = 1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.first) <= n {
		r.first = append(r.first, [eventsEach]time.Time{})
	}
	if r.first[n][function].IsZero() {
		r.first[n][function] = now
	} else {
		r.again++
	}
}

// count is how many events of the webhooks in [from, to) have come.
func (r *receipts) count(from, to int) (events int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := from; n < min(to, len(r.first)); n++ {
		for _, at := range r.first[n] {
			if !at.IsZero() {
				events++
			}
		}
	}
	return events
}

func (r *receipts) all(from, to int) bool { return r.count(from, to) == eventsEach*(to-from) }
