//go:build linux

package torture

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
)

func TestMain(m *testing.M) {
	if configuration := os.Getenv(natsServerVariable); configuration != "" {
		if err := serveNATS(configuration); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Duration("torture", 0, "how long TestTorture goes on breaking things; each kind of fault is played at least once")
	flag.Uint64("torture.seed", 0, "repeats the schedule of that seed; 0: a new one")
	flag.String("torture.report", "", "directory for the report and the bridge's log; empty: none is kept")
	flag.Float64("torture.rate", 60, "webhooks a second")
	flag.Bool("torture.race", false, "builds the bridge with the race detector; its memory is not judged then")
	flag.Duration("scaling", 0, "how long TestScaling measures each number of bridges")
	flag.String("torture.only", "", "plays only kinds of faults whose name has this text")
	goleak.VerifyTestMain(m)
}

// option reads a flag of the test.
func option[T any](name string) T {
	return flag.Lookup(name).Value.(flag.Getter).Get().(T) //nolint:forcetypeassert // TestMain has made it of that type
}

func TestTorture(t *testing.T) {
	duration := option[time.Duration]("torture")
	if duration == 0 {
		t.Skip("Skipped: it takes minutes. make torture runs it.")
	}
	apachekafka.Require(t)
	seed := option[uint64]("torture.seed")
	if seed == 0 {
		seed = 1 + rand.Uint64N(1_000_000) // short enough to be typed
	}
	directory := option[string]("torture.report")
	if directory == "" {
		directory = t.TempDir()
	}
	require.NoError(t, os.MkdirAll(directory, 0o755))
	logFile := filepath.Join(directory, "bridge.log")
	require.NoError(t, os.RemoveAll(logFile))

	r := &run{t: t, began: time.Now(), rate: option[float64]("torture.rate")}
	t.Cleanup(func() { r.finish(t, seed, directory) }) // the last words, behind the brokers' logs
	r.logf("seed %d; building, and starting NATS and Kafka", seed)
	embedded := reserveAddress(t)
	binary := buildBridge(t, option[bool]("torture.race"))
	r.disk, r.nats, r.kafka = startDisk(t), startNATS(t), startKafka(t)
	local := &streamReader{name: "local", stream: stream, connect: func() (*natsgo.Conn, error) {
		return natsgo.Connect("nats://"+embedded, natsgo.RetryOnFailedConnect(true), natsgo.MaxReconnects(-1),
			natsgo.ReconnectWait(100*time.Millisecond))
	}}
	r.ledger = newLedger("nats", "kafka", "local")
	env := []string{
		"WEBHOOK_SECRETS=" + secret, fmt.Sprintf("MAX_BODY=%d", maxBody), "SINKS=nats,kafka,local=nats",
		"EMBEDDED_NATS_LISTEN=" + embedded, "LOG_FORMAT=text",
		"RETENTION=" + retention.String(), "LOCAL_MAX_AGE=" + retention.String(),
	}
	for _, s := range []side{r.disk, r.nats, r.kafka} {
		env = append(env, s.env()...)
	}
	r.bridge = newBridge(t, binary, logFile, env, r.failf)
	r.bridge.other = buildOtherVersion(t, option[bool]("torture.race"))
	ctx, cancel := context.WithCancel(t.Context())
	consumed := make(chan struct{})
	consumers := []consumer{r.nats, r.kafka, local}
	for _, c := range consumers {
		go func() {
			c.consume(ctx, r.ledger)
			consumed <- struct{}{}
		}()
	}
	defer func() {
		cancel()
		for range consumers {
			<-consumed
		}
	}()

	var err error
	r.load, err = newLoad(r.bridge.url, r.ledger, r.failf)
	require.NoError(t, err)
	r.startBridge(ctx)
	r.load.start(r.rate, shortTimeout, seed)
	stopped := false
	stopLoad := func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoveryLimit)
		defer cancel()
		if err := r.load.stop(ctx); err != nil {
			r.failf("%v", err)
		}
	}
	defer stopLoad()

	if _, err := r.recovered(ctx); err != nil {
		r.failf("before anything was broken: %v", err)
		return
	}
	if err := r.rest(ctx); err != nil {
		r.failf("before anything was broken: %v", err)
		return
	}
	r.torture(ctx, seed, duration)
	stopLoad()
	r.logf("the load has ended")
	if _, err := r.recovered(ctx); err != nil {
		r.failf("at the end: %v", err)
		return
	}
	if err := r.rest(ctx); err != nil {
		r.failf("at the end: %v", err)
	}
	r.bridge.terminate(ctx)
}

// torture plays faults until the time is up and each has been played once, or one is not recovered from.
func (r *run) torture(ctx context.Context, seed uint64, duration time.Duration) {
	faults := append(bridgeFaults(duration > 30*time.Minute), r.kafka.bridgeFaults()...)
	for _, s := range []side{r.nats, r.kafka, r.disk} {
		faults = append(faults, s.faults()...)
	}
	if only := option[string]("torture.only"); only != "" {
		var some []fault
		for _, f := range faults {
			if strings.Contains(f.kind, only) {
				some = append(some, f)
			}
		}
		faults = some
	}
	require.NotEmpty(r.t, faults, "no kind of fault has that name")
	s := newSchedule(faults, seed)
	r.logf("the kinds of faults, in the order of their first turn:%s", kinds(faults))
	began := time.Now()
	for number := uint64(1); ; number++ {
		f, extra := s.take()
		if extra && time.Since(began) >= duration {
			return
		}
		if err := r.play(ctx, f, seed, number); err != nil {
			r.failf("%v", err)
			return
		}
	}
}

// finish compares what was accepted with what has arrived, writes the report and judges the run.
func (r *run) finish(t *testing.T, seed uint64, directory string) {
	t.Helper()
	if r.load == nil {
		return // it has not come to that
	}
	losses := r.ledger.judge(r.failf)
	texts, total := r.failed()
	events, webhooks := r.ledger.count(), r.load.count()
	report := report{
		Seed: seed, Seconds: time.Since(r.began).Seconds(), Versions: versions(), Faults: r.outcomes,
		Webhooks: webhookReport{
			Sent: events.sent, Accepted: events.accepted, Tries: webhooks.Tries,
			New: webhooks.New, Duplicates: webhooks.Duplicates,
			Refused: webhooks.Refused, Unanswered: webhooks.Unanswered,
		},
		Events: events.expected, Lost: losses, Starts: r.bridge.starts, PeakMemory: r.bridge.peakMemory(), Rests: r.samples,
		Violations: total, ViolationsIn: texts,
	}
	for sink, name := range r.ledger.sinks {
		report.Sinks = append(report.Sinks, sinkReport{
			Sink: name, Messages: events.received[sink], Events: events.distinct[sink],
			Repeats: events.received[sink] - events.distinct[sink],
		})
	}
	if err := report.write(directory); err != nil {
		t.Errorf("no report: %v", err)
	}
	fmt.Print("\n", report.table())
	if total > 0 || losses > 0 {
		t.Errorf("%d violations, %d events lost; seed %d", total, losses, seed)
	}
}

// versions are those of what took part.
func versions() map[string]string {
	v := map[string]string{"go": runtime.Version(), "kafka": apachekafka.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			switch module.Path {
			case "github.com/nats-io/nats-server/v2":
				v["nats-server"] = module.Version
			case "github.com/svix/svix-webhooks":
				v["svix"] = module.Version
			}
		}
	}
	return v
}
