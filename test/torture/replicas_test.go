//go:build linux

package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

const (
	replicaCount = 3
	// healthInterval is how often the balancer asks each replica whether it is ready. Real ones take longer.
	healthInterval = 100 * time.Millisecond
)

// replicas are bridges that store nothing, behind a balancer.
type replicas struct {
	bridges  []*bridgeProcess
	balancer *balancer
}

func startReplicas(t *testing.T, directory, binary string, env []string, failf func(string, ...any)) *replicas {
	t.Helper()
	f := &replicas{}
	env = append([]string{
		"WEBHOOK_SECRETS=" + secret, fmt.Sprintf("MAX_BODY=%d", maxBody), "ACK=sinks", "LOG_FORMAT=text",
		// It must not be made.
		"DATA_DIR=" + filepath.Join(directory, "data"),
	}, env...)
	for i := range replicaCount {
		log := filepath.Join(directory, fmt.Sprintf("replica-%d.log", i+1))
		require.NoError(t, os.RemoveAll(log))
		f.bridges = append(f.bridges, newBridge(t, binary, log, env, failf))
	}
	f.balancer = startBalancer(t, f.bridges)
	for _, b := range f.bridges {
		b.start()
	}
	return f
}

// awaitReady waits until every replica takes webhooks.
func (f *replicas) awaitReady(ctx context.Context) error {
	for _, b := range f.bridges {
		if err := b.awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *replicas) terminate(ctx context.Context) {
	for _, b := range f.bridges {
		b.terminate(ctx)
	}
}

// balancer hands each request to the next replica that is ready, or to any if none is. It tries no request twice: that
// is the sender's part. A replica that cannot be reached is a connection that breaks.
type balancer struct {
	targets []*balanced
	next    atomic.Uint64
	server  *http.Server
	url     string
}

type balanced struct {
	bridge *bridgeProcess
	proxy  *httputil.ReverseProxy
	ready  atomic.Bool
	asked  atomic.Int64 // how often it was
}

// startBalancer starts a balancer, which ends with the test.
func startBalancer(t *testing.T, bridges []*bridgeProcess) *balancer {
	t.Helper()
	b := &balancer{}
	transport := &http.Transport{MaxIdleConnsPerHost: 2 * workers}
	for _, bridge := range bridges {
		target, err := url.Parse(strings.TrimSuffix(bridge.url, "/webhooks/tensorlake"))
		require.NoError(t, err)
		b.targets = append(b.targets, &balanced{bridge: bridge, proxy: &httputil.ReverseProxy{
			Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
			Transport:    transport,
			ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		}})
	}
	address := reserveAddress(t)
	b.server = &http.Server{Handler: b, Addr: address, ReadHeaderTimeout: senderTimeout}
	b.url = "http://" + address + "/webhooks/tensorlake"
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := b.server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the balancer ended: %v", err)
		}
	})
	for _, one := range b.targets {
		running.Go(func() { one.watch(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		if err := b.server.Close(); err != nil {
			t.Errorf("the balancer does not end: %v", err)
		}
		running.Wait()
		transport.CloseIdleConnections()
	})
	return b
}

// watch asks the replica now and then whether it is ready.
func (b *balanced) watch(ctx context.Context) {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, time.Second)
		b.ready.Store(b.bridge.ready(limited) == nil)
		b.asked.Add(1)
		cancel()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// lookAnew returns once every replica has been asked anew, and one is ready, or when ctx ends.
func (b *balancer) lookAnew(ctx context.Context) {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	enough := make([]int64, len(b.targets))
	for i, one := range b.targets {
		enough[i] = one.asked.Load() + 2 // one may be under way
	}
	for {
		anew, ready := true, false
		for i, one := range b.targets {
			anew, ready = anew && one.asked.Load() >= enough[i], ready || one.ready.Load()
		}
		if anew && ready {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first := b.next.Add(1)
	pick := b.targets[first%uint64(len(b.targets))]
	for i := range uint64(len(b.targets)) {
		if one := b.targets[(first+i)%uint64(len(b.targets))]; one.ready.Load() {
			pick = one
			break
		}
	}
	pick.proxy.ServeHTTP(w, r)
}

// replicaRun is a torture run of replicas. What surrounds them is that of the run of one bridge.
type replicaRun struct {
	*run
	replicas *replicas
}

func TestTortureReplicas(t *testing.T) {
	duration := option[time.Duration]("torture")
	if duration == 0 {
		t.Skip("Skipped: it takes minutes. make torture runs it.")
	}
	apachekafka.Require(t)
	seed := option[uint64]("torture.seed")
	if seed == 0 {
		seed = 1 + rand.Uint64N(1_000_000)
	}
	directory := option[string]("torture.report")
	if directory == "" {
		directory = t.TempDir()
	}
	require.NoError(t, os.MkdirAll(directory, 0o755))

	r := &replicaRun{run: &run{t: t, began: time.Now(), rate: option[float64]("torture.rate")}}
	t.Cleanup(func() { r.finish(t, seed, duration, directory) }) // the last words, behind the brokers' logs
	r.logf("seed %d; building, and starting NATS and Kafka for %d replicas that store nothing", seed, replicaCount)
	binary := buildBridge(t, option[bool]("torture.race"))
	r.nats, r.kafka = startNATS(t), startKafka(t)
	r.ledger = newLedger("nats", "kafka")
	env := append([]string{"SINKS=nats,kafka"}, append(r.nats.env(), r.kafka.env()...)...)
	r.replicas = startReplicas(t, directory, binary, env, r.failf)
	other := buildOtherVersion(t, option[bool]("torture.race"))
	for _, b := range r.replicas.bridges {
		b.other = other
	}
	ctx, cancel := context.WithCancel(t.Context())
	var consuming sync.WaitGroup
	consuming.Go(func() { r.nats.consume(ctx, r.ledger) })
	consuming.Go(func() { r.kafka.consume(ctx, r.ledger) })
	defer func() { cancel(); consuming.Wait() }()

	var err error
	r.load, err = newLoad(r.replicas.balancer.url, r.ledger, r.failf)
	require.NoError(t, err)
	r.load.stateless = true
	r.load.start(r.rate, senderTimeout, seed)
	stopLoad := sync.OnceFunc(func() {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoveryLimit)
		defer cancel()
		if err := r.load.stop(limited); err != nil {
			r.failf("%v", err)
		}
	})
	defer stopLoad()
	if err := r.recovered(ctx); err != nil {
		r.failf("before anything was broken: %v", err)
		return
	}
	r.torture(ctx, seed, duration)
	stopLoad()
	if err := r.recovered(ctx); err != nil {
		r.failf("at the end: %v", err)
		return
	}
	r.replicas.terminate(ctx)
	if _, err := os.Stat(filepath.Join(directory, "data")); err == nil {
		r.failf("the replicas have written a data directory")
	}
}

// replicaFaults are those of the replicas alone.
func (r *replicaRun) replicaFaults() []fault {
	return []fault{
		{"replicas: all killed", func(ctx context.Context, _ *run) {
			for _, b := range r.replicas.bridges {
				b.kill()
			}
			r.stay(ctx, 0, 2*time.Second)
			for _, b := range r.replicas.bridges {
				b.start()
			}
		}},
		{"replicas: restarted one by one", func(ctx context.Context, _ *run) {
			for _, b := range r.replicas.bridges {
				b.terminate(ctx)
				b.start()
				limited, cancel := context.WithTimeout(ctx, recoveryLimit)
				if err := b.awaitReady(limited); err != nil {
					r.failf("%v", err)
				}
				cancel()
			}
		}},
		{"replicas: upgraded one by one", r.upgradeOneByOne},
		{"replicas: killed and stopped at random", func(ctx context.Context, _ *run) {
			r.whileRestarting(ctx, r.rand.Uint64(), func() { r.stay(ctx, 10*time.Second, 15*time.Second) })
		}},
	}
}

// torture plays faults until the time is up and each has been played once. While a broker's fault lasts, replicas are
// killed, stopped and held at random.
func (r *replicaRun) torture(ctx context.Context, seed uint64, duration time.Duration) {
	faults := r.replicaFaults()
	for _, s := range []side{r.nats, r.kafka} {
		for _, f := range s.faults() {
			if strings.Contains(f.kind, "deleted") {
				continue // what a broker throws away was not lost by the bridge; the run of one bridge can stop that one for it
			}
			faults = append(faults, fault{f.kind + ", and replicas killed", func(ctx context.Context, under *run) {
				r.whileRestarting(ctx, under.rand.Uint64(), func() { f.play(ctx, under) })
			}})
		}
	}
	if only := option[string]("torture.only"); only != "" {
		var some []fault
		for _, f := range faults {
			if strings.Contains(f.kind, only) {
				some = append(some, f)
			}
		}
		if faults = some; len(faults) == 0 {
			r.logf("no kind of fault of the replicas has the name %q", only)
			return
		}
	}
	s := newSchedule(faults, seed)
	began := time.Now()
	for number := uint64(1); ; number++ {
		f, extra := s.take()
		if extra && time.Since(began) >= duration {
			return
		}
		r.rand = rand.New(rand.NewPCG(seed, number))
		r.logf("%3d  %s", number, f.kind)
		begun, before := time.Now(), r.load.count()
		f.play(ctx, r.run)
		mended := time.Now()
		err := r.recovered(ctx)
		took := time.Since(mended)
		r.outcomes.add(f.kind, mended.Sub(begun), took)
		if err != nil {
			r.failf("%s: hangs: %v", f.kind, err)
			return
		}
		after := r.load.count()
		r.logf("     mended after %.1f s, well again %.1f s later; %d webhooks accepted meanwhile, "+
			"%d tries refused, %d unanswered",
			mended.Sub(begun).Seconds(), took.Seconds(),
			after.Accepted-before.Accepted, after.Refused-before.Refused, after.Unanswered-before.Unanswered)
	}
}

// whileRestarting kills, stops and holds one replica after the other while f runs. At its end all are started.
func (r *replicaRun) whileRestarting(ctx context.Context, seed uint64, f func()) {
	choose := rand.New(rand.NewPCG(seed, 1))
	over := make(chan struct{})
	wait := func(least, most time.Duration) {
		timer := time.NewTimer(least + time.Duration(choose.Int64N(int64(most-least))))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-over:
		}
	}
	var restarting sync.WaitGroup
	restarting.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			b := r.replicas.bridges[choose.IntN(len(r.replicas.bridges))]
			switch choose.IntN(4) {
			case 0:
				b.pause()
				wait(time.Second, 5*time.Second)
				b.resume()
			case 1:
				b.terminate(ctx)
				b.start()
			default:
				b.kill()
				wait(0, 2*time.Second)
				b.start()
			}
			wait(500*time.Millisecond, 3*time.Second)
		}
	})
	f()
	close(over)
	restarting.Wait()
}

// recovered waits until every replica is ready and a new webhook is answered; then, with the load at rest, until all
// that was answered is at every sink, and nothing is left in any replica.
func (r *replicaRun) recovered(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	limited, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	if err := r.replicas.awaitReady(limited); err != nil {
		return err
	}
	if err := r.load.probe(limited); err != nil {
		return err
	}
	r.load.pause(ctx)
	defer r.load.resume()
	if err := r.ledger.awaitDelivered(ctx); err != nil {
		return err
	}
	for i, b := range r.replicas.bridges {
		if err := r.await(ctx, recoveryLimit, func() error {
			m, err := b.metrics(ctx)
			if err != nil {
				return err
			}
			if n, bytes := m.sum("fnbridge_queue_webhooks"), m.sum("fnbridge_queue_bytes"); n != 0 || bytes != 0 {
				return fmt.Errorf("nothing is under way, and the queue has %v webhooks of %v bytes", n, bytes)
			}
			if up := m.sum("fnbridge_sink_up"); up != float64(len(r.ledger.sinks)) {
				return fmt.Errorf("%v of %d sinks are up", up, len(r.ledger.sinks))
			}
			return nil
		}); err != nil {
			return fmt.Errorf("replica %d does not come to rest: %w", i+1, err)
		}
		b.sampleMemory()
		if peak := b.peakMemory(); peak > memoryBound {
			r.failf("replica %d has had %d MiB of memory resident, and %d MiB are the most", i+1, peak>>20, memoryBound>>20)
		}
	}
	r.ledger.report(r.failf)
	return nil
}

// finish judges the run and writes what came of it.
func (r *replicaRun) finish(t *testing.T, seed uint64, duration time.Duration, directory string) {
	t.Helper()
	if r.load == nil {
		return // it has not come to that
	}
	losses := r.ledger.judge(r.failf)
	texts, total := r.failed()
	events, webhooks := r.ledger.count(), r.load.count()
	starts, peak := 0, int64(0)
	for _, b := range r.replicas.bridges {
		starts += b.starts
		peak = max(peak, b.peakMemory())
	}
	var text strings.Builder
	fmt.Fprintf(&text, "replicas             %d, behind a balancer, FNBRIDGE_ACK=sinks; started %d times in all\n",
		len(r.replicas.bridges), starts)
	fmt.Fprintf(&text, "seed                 %d, %s of faults asked for, %.0f s in all\n",
		seed, duration, time.Since(r.began).Seconds())
	fmt.Fprintf(&text,
		"webhooks             %d answered 200, in %d tries: %d new, %d known, %d refused, %d without an answer\n",
		events.accepted, webhooks.Tries, webhooks.New, webhooks.Duplicates, webhooks.Refused, webhooks.Unanswered)
	for sink, name := range r.ledger.sinks {
		fmt.Fprintf(&text, "%-20s %d events, %d messages\n", name, events.distinct[sink], events.received[sink])
	}
	fmt.Fprintf(&text, "memory               %d MiB resident at most\n", peak>>20)
	fmt.Fprintf(&text, "lost                 %d of %d events of webhooks that were answered\n", losses, events.expected)
	fmt.Fprintf(&text, "violations           %d\n", total)
	for _, violation := range texts {
		fmt.Fprintf(&text, "VIOLATION: %s\n", violation)
	}
	fmt.Print("\n", text.String())
	if err := os.WriteFile(filepath.Join(directory, "replicas.txt"), []byte(text.String()), 0o600); err != nil {
		t.Errorf("no report: %v", err)
	}
	if total > 0 || losses > 0 {
		t.Errorf("%d violations, %d events lost; seed %d", total, losses, seed)
	}
}

// TestARollingRestartIsInvisible restarts every replica in turn under load, the way that a deployment does. A sender
// that tries once more notices nothing.
func TestARollingRestartIsInvisible(t *testing.T) {
	if testing.Short() {
		t.Skip("Skipped: it builds the bridge and starts three processes.")
	}
	broker := natsserver.Single(t)
	replicas := startReplicas(t, t.TempDir(), buildBridge(t, false), []string{"NATS_URL=" + broker.URL()}, t.Errorf)
	ctx, cancel := context.WithTimeout(t.Context(), recoveryLimit)
	defer cancel()
	require.NoError(t, replicas.awaitReady(ctx))
	replicas.balancer.lookAnew(ctx)

	sender, err := newLoad(replicas.balancer.url, newLedger(), t.Errorf)
	require.NoError(t, err)
	sender.stateless = true
	sender.setTimeout(senderTimeout)
	var answered, again atomic.Int64
	var sending sync.RWMutex // while a webhook is sent, once or twice
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for s := range 8 {
		senders.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("msg_%d_%d", s, i)
				body := fmt.Appendf(nil, `{"workflow_name":"w","invocation_id":%q,"fn_status":{"f":"success"}}`, id)
				sending.RLock()
				if !sender.try(id, body) {
					again.Add(1)
					replicas.balancer.lookAnew(ctx) // real senders take seconds; the balancer has noticed by then
					if !sender.try(id, body) {
						t.Errorf("webhook %s was not answered with 200 at the second try", id)
					}
				}
				sending.RUnlock()
				answered.Add(1)
			}
		})
	}
	for i, b := range replicas.bridges {
		seen := answered.Load()
		require.Eventually(t, func() bool { return answered.Load() > seen+50 }, recoveryLimit, time.Millisecond)
		sending.Lock() // a second try meets no second restart
		t.Logf("%d webhooks are answered before replica %d is stopped", answered.Load(), i+1)
		sending.Unlock()
		b.terminate(ctx)
		b.start()
		require.NoError(t, b.awaitReady(ctx))
	}
	close(stop)
	senders.Wait()
	sender.http.CloseIdleConnections()
	t.Logf("%d webhooks, %d of them at the second try", answered.Load(), again.Load())
	nc := natsserver.Connect(t, broker.URL())
	require.Len(t, natsserver.Messages(t, nc, stream), int(answered.Load()),
		"the stream has not exactly the events that were answered")
	replicas.terminate(ctx)
}
