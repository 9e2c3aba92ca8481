//go:build linux

package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(floorVariable); address != "" {
		if err := serveFloor(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if options := os.Getenv(bareVariable); options != "" {
		fmt.Fprintln(os.Stderr, serveBare(options))
		os.Exit(1)
	}
	flag.Bool("bench.full", false,
		"measures for minutes; otherwise everything is done for a moment, and nothing is worth reading")
	flag.String("bench.parts", "", "the parts to run, separated by commas; empty: all")
	flag.String("bench.out", "", "directory for performance.md, its plots and figures; empty: none")
	flag.String("bench.bridge", "", "the binary to measure; empty: one that is built of this source")
	flag.String("bench.profiles", "",
		"directory for CPU and heap profiles of the bridge under load; empty: none are taken")
	goleak.VerifyTestMain(m, child.Goroutines())
}

// option reads a flag of the test.
func option[T any](name string) T {
	return flag.Lookup(name).Value.(flag.Getter).Get().(T) //nolint:forcetypeassert // TestMain has made it of that type
}

// scale says how long and how much is measured.
type scale struct {
	Connections int           // of the closed loop
	Warm        time.Duration // before a round counts
	Round       time.Duration // of the closed loop
	Rounds      int           // that each figure is the median of
	Latency     time.Duration // of the open loop
	Rates       []int         // of the open loop end to end, webhooks a second
	Backlog     int           // webhooks that wait for the drain
	DrainRate   int           // webhooks a second that come meanwhile
	Waiting     []int         // webhooks that wait for the growth
	Turns       int           // that a bridge with so many waiting and one with none take
	Probe       int           // webhooks that wait when none do, so that there is something to drain
	Functions   []int         // of a payload
	Work        int           // functions that the payloads of one size have together
	Sinks       []int
	Ordinary    []int // webhooks a second that most bridges see
	Starts      int
	Idle        time.Duration
	Bare        int // events that a bare client publishes
}

func fullScale() scale {
	return scale{
		Connections: 128, Warm: 2 * time.Second, Round: 5 * time.Second, Rounds: 5, Latency: 20 * time.Second,
		Rates: []int{100, 1000}, Backlog: 500_000, DrainRate: 500,
		Waiting: []int{1_000_000, 5_000_000}, Turns: 2, Probe: 200_000,
		Functions: []int{1, 10, 100, 1000}, Work: 100_000, Sinks: []int{1, 2, 4},
		Ordinary: []int{10, 100, 300},
		Starts:   5, Idle: 5 * time.Second, Bare: 300_000,
	}
}

// shortScale does everything once, as quickly as can be.
func shortScale() scale {
	return scale{
		Connections: 8, Warm: 50 * time.Millisecond,
		Round: 200 * time.Millisecond, Rounds: 1, Latency: 300 * time.Millisecond,
		Rates: []int{100}, Backlog: 500, DrainRate: 50, Waiting: []int{500}, Turns: 1, Probe: 200,
		Functions: []int{1, 20}, Work: 400, Sinks: []int{1, 2},
		Ordinary: []int{50}, Starts: 1, Idle: 50 * time.Millisecond, Bare: 500,
	}
}

// part is one of the things to measure. It adds what it finds to r.
type part struct {
	name  string
	about string
	run   func(t *testing.T, b *bench, r *results)
}

func parts() []part {
	return []part{
		{"limit", "what goes on for ever beside what its halves do alone, and how long an answer takes", measureLimit},
		{"end-to-end", "from the sender to a consumer", measureEndToEnd},
		{"delivered", "a backlog, beside the brokers' own clients", measureDelivered},
		{"drain", "a backlog after an outage", measureDrain},
		{"payloads", "payloads of many functions", measurePayloads},
		{"sinks", "several sinks", measureSinks},
		{"ordinary", "what a webhook costs at ordinary rates, beside a bare program", measureOrdinary},
		{"slow-disk", "the embedded server on a disk whose fsync takes long", measureSlowDisk},
		{"cost", "memory, size and start", measureCost},
		{"growth", "with much waiting", measureGrowth},
	}
}

// TestBench measures the bridge. Without -bench.full it only shows that all of it works.
func TestBench(t *testing.T) {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	chosen := strings.FieldsFunc(option[string]("bench.parts"), func(c rune) bool { return c == ',' })
	for _, name := range chosen {
		require.Contains(t, names, name, "there is no such part")
	}
	b := newBench(t)
	r := newResults(t, b)
	for _, p := range parts() {
		if len(chosen) > 0 && !slices.Contains(chosen, p.name) {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			began := time.Now()
			p.run(t, b, r)
			r.Took[p.name] = time.Since(began).Seconds()
			t.Logf("%s: %s, in %s", p.name, p.about, time.Since(began).Round(time.Second/10))
		})
	}
	out := option[string]("bench.out")
	if out == "" {
		out = t.TempDir() // the page is made and its plots are drawn in every run, so that they work
	}
	require.NoError(t, r.write(out, !t.Failed()))
	if option[bool]("bench.full") && !t.Failed() {
		t.Log("\n" + r.page())
	}
}

// bench is what all parts share.
type bench struct {
	scale
	floor  *floor
	binary string
	built  int64 // bytes of the binary
	nats   *natsBroker
	kafka  *kafkaBroker // nil where Java is missing
	// shared is a directory for what several parts use, and filled the one in it that probe copies, once it is made.
	shared, filled string
	// profiles is the directory for profiles, or empty.
	profiles string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{scale: shortScale(), shared: t.TempDir()}
	if option[bool]("bench.full") {
		b.scale = fullScale()
	}
	if b.profiles = option[string]("bench.profiles"); b.profiles != "" {
		require.NoError(t, os.MkdirAll(b.profiles, 0o750))
	}
	if b.binary = option[string]("bench.bridge"); b.binary == "" {
		b.binary = buildBridge(t, b.profiles != "")
	}
	info, err := os.Stat(b.binary)
	require.NoError(t, err)
	b.built = info.Size()
	b.floor = startFloor(t)
	b.nats = startNATS(t)
	var java bool
	t.Run("is Java here", func(t *testing.T) {
		apachekafka.Require(t)
		java = true
	})
	if java {
		b.kafka = startKafka(t)
	}
	return b
}

// brokers returns those that there are.
func (b *bench) brokers() []broker {
	if b.kafka == nil {
		return []broker{b.nats}
	}
	return []broker{b.nats, b.kafka}
}

// bulk is the broker that backlogs are drained into.
func (b *bench) bulk() broker {
	all := b.brokers()
	return all[len(all)-1]
}

// median is the middle one of some figures.
func median(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(figures))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// per divides, and is 0 where there is nothing to divide by, as in a run that is too short to say anything.
func per(figure, by float64) float64 {
	if by == 0 {
		return 0
	}
	return figure / by
}

// modulePath is where the root module begins, seen from this package's tests.
func modulePath(elements ...string) string {
	return filepath.Join(append([]string{"../.."}, elements...)...)
}
