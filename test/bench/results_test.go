//go:build linux

package bench

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
)

// results is all that was measured. It is written as JSON, and the page is made of it. Times are in the unit of their
// name, memory and sizes in bytes. Where there are several figures, each is a round's.
type results struct {
	Machine machine            `json:"machine"`
	Scale   scale              `json:"scale"`
	Took    map[string]float64 `json:"seconds_by_part"`

	Floor        []float64       `json:"floor_webhooks_per_second,omitempty"`
	FloorLatency *latency        `json:"floor_latency,omitempty"`
	Limit        []*limitRow     `json:"limit,omitempty"`
	EndToEnd     []*endToEndRow  `json:"end_to_end,omitempty"`
	Delivered    []*deliveredRow `json:"delivered,omitempty"`
	Drain        []*drainRow     `json:"drain,omitempty"`
	Payloads     []*payloadRow   `json:"payloads,omitempty"`
	Sinks        []*sinksRow     `json:"sinks,omitempty"`
	Ordinary     []*ordinaryRow  `json:"ordinary,omitempty"`
	SlowDisk     []*slowDiskRow  `json:"slow_disk,omitempty"`
	Cost         *costResult     `json:"cost,omitempty"`
	Growth       []*growthRow    `json:"growth,omitempty"`
}

// machine is where it was measured, and what.
type machine struct {
	Processors int     `json:"processors"`
	Processor  string  `json:"processor"`
	Kernel     string  `json:"kernel"`
	Go         string  `json:"go"`
	NATS       string  `json:"nats_server"`
	Kafka      string  `json:"apache_kafka,omitempty"`
	Revision   string  `json:"revision"`
	Date       string  `json:"date"`
	LoadBefore string  `json:"load_average_before"` // what others did when it began
	Sync       float64 `json:"fsync_ms"`            // the median of some, of 4 KiB each
}

// latency is a distribution in milliseconds.
type latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p99_9_ms"`
	Max   float64 `json:"max_ms"`
	// Curve has pairs of a part in percent and the time that so many did not exceed.
	Curve [][2]float64 `json:"curve"`
}

func newLatency(h *hdrhistogram.Histogram) *latency {
	ms := func(percent float64) float64 { return float64(h.ValueAtQuantile(percent)) / 1000 }
	l := &latency{
		Count: h.TotalCount(), P50: ms(50), P90: ms(90), P99: ms(99), P999: ms(99.9),
		Max: float64(h.Max()) / 1000,
	}
	for _, b := range h.CumulativeDistributionWithTicks(5) {
		l.Curve = append(l.Curve, [2]float64{b.Quantile, float64(b.ValueAt) / 1000})
	}
	return l
}

// limitRow is what goes on for ever: as much accepted as delivered.
type limitRow struct {
	Sink string `json:"sink"`
	// Client is what the sink's client library alone publishes, Limits what it and the floor together allow.
	Client      []float64 `json:"client_webhooks_per_second"`
	Limits      []float64 `json:"limit_webhooks_per_second"`
	Accepted    []float64 `json:"accepted_webhooks_per_second"`
	Delivered   []float64 `json:"delivered_webhooks_per_second"`
	OfLimit     []float64 `json:"of_limit"`
	CPU         []float64 `json:"cpu_us_per_webhook"`
	BrokerCPU   []float64 `json:"broker_cpu_us_per_webhook"`
	SenderCPU   []float64 `json:"sender_cpu_us_per_webhook"`
	Allocated   []float64 `json:"allocated_bytes_per_webhook"`
	Peak        int64     `json:"peak_memory"`
	LatencyRate int       `json:"latency_at_webhooks_per_second"`
	Latency     *latency  `json:"latency"`
	SentLate    *latency  `json:"sent_late"`
}

// add takes a round. Where a webhook takes so much time of the processors with the floor and so much with the client,
// both together take the sum.
func (r *limitRow) add(floor, client float64, s sustained) {
	limit := per(1, per(1, floor)+per(1, client))
	r.Client, r.Limits = append(r.Client, client), append(r.Limits, limit)
	r.Accepted, r.Delivered = append(r.Accepted, s.accepted), append(r.Delivered, s.delivered)
	r.OfLimit = append(r.OfLimit, per(min(s.accepted, s.delivered), limit))
	r.CPU = append(r.CPU, per(s.used.cpu.Seconds()*1e6, s.webhooks))
	r.BrokerCPU = append(r.BrokerCPU, per(s.besides.brokers.Seconds()*1e6, s.webhooks))
	r.SenderCPU = append(r.SenderCPU, per(s.besides.senders.Seconds()*1e6, s.webhooks))
	r.Allocated = append(r.Allocated, per(s.used.allocated, s.webhooks))
	r.Peak = max(r.Peak, s.peak)
}

// sustained is what was accepted and delivered in each round, webhooks a second.
func (r *limitRow) sustained() []float64 {
	figures := make([]float64, len(r.Accepted))
	for i := range figures {
		figures[i] = min(r.Accepted[i], r.Delivered[i])
	}
	return figures
}

type endToEndRow struct {
	Sink    string   `json:"sink"`
	Rate    int      `json:"webhooks_per_second"`
	Events  int      `json:"events"`
	Latency *latency `json:"latency"`
	Accept  *latency `json:"accept_latency"`
}

type deliveredRow struct {
	Sink     string    `json:"sink"`
	Alone    []float64 `json:"backlog_events_per_second"`
	Client   []float64 `json:"client_events_per_second"`
	OfClient []float64 `json:"of_client"`
	PerfTest float64   `json:"kafka_producer_perf_test_records_per_second,omitempty"`
}

type drainRow struct {
	Sink            string       `json:"sink"`
	Backlog         int          `json:"backlog_events"`
	Rate            int          `json:"webhooks_per_second_meanwhile"`
	EventsPerSecond float64      `json:"events_per_second"`
	Client          float64      `json:"client_events_per_second"`
	Latency         *latency     `json:"accept_latency_meanwhile"`
	Peak            int64        `json:"peak_memory"`
	Progress        [][2]float64 `json:"progress"` // seconds, events
}

type payloadRow struct {
	Sink            string  `json:"sink"`
	Functions       int     `json:"functions"`
	Webhooks        int     `json:"webhooks"`
	CPU             float64 `json:"cpu_us_per_webhook"`
	Allocated       float64 `json:"allocated_bytes_per_webhook"`
	EventsPerSecond float64 `json:"events_per_second"`
}

type sinksRow struct {
	Sinks    int     `json:"sinks"`
	Webhooks float64 `json:"webhooks_per_second"`
	Events   float64 `json:"events_per_second"`
	CPU      float64 `json:"cpu_us_per_webhook"`
	Peak     int64   `json:"peak_memory"`
}

type costResult struct {
	Binary        int64     `json:"binary"`
	Idle          int64     `json:"idle_memory"`
	IdleCPU       float64   `json:"idle_processors"`
	IdleEmbedded  int64     `json:"idle_memory_with_embedded_nats"`
	Start         []float64 `json:"start_seconds"`
	StartEmbedded []float64 `json:"start_seconds_with_embedded_nats"`
}

type growthRow struct {
	Waiting     int       `json:"waiting_webhooks"`
	Sink        string    `json:"sink"`
	Bytes       int64     `json:"journal_bytes"`
	Fill        float64   `json:"fill_seconds"`
	Start       float64   `json:"start_seconds"` // the first, without a sink that can be reached
	Starts      []float64 `json:"start_seconds_with_sink"`
	AcceptNone  []float64 `json:"accept_with_none_waiting"`
	Accept      []float64 `json:"accept"`
	AcceptRatio []float64 `json:"accept_ratio"`
	DrainNone   []float64 `json:"drain_with_none_waiting_events_per_second"`
	Drain       []float64 `json:"drain_events_per_second"`
	DrainRatio  []float64 `json:"drain_ratio"`
	Peak        int64     `json:"peak_memory"`
}

func newResults(t *testing.T, b *bench) *results {
	t.Helper()
	r := &results{Scale: b.scale, Took: map[string]float64{}, Machine: machine{
		Processors: runtime.NumCPU(), Processor: processor(), Kernel: firstLine("/proc/sys/kernel/osrelease"),
		Go: runtime.Version(), NATS: moduleVersion("github.com/nats-io/nats-server/v2"),
		Revision: revision(), Date: time.Now().UTC().Format(time.DateOnly),
		LoadBefore: loadAverage(), Sync: syncTime(t),
	}}
	if b.kafka != nil {
		r.Machine.Kafka = apachekafka.Version()
	}
	return r
}

func firstLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(line)
}

// loadAverage is how many threads wanted a processor, on average over 1, 5 and 15 minutes.
func loadAverage() string {
	fields := strings.Fields(firstLine("/proc/loadavg"))
	return strings.Join(fields[:min(3, len(fields))], ", ")
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	// The binary of a test has no list of its modules; go.mod has.
	text, _ := os.ReadFile(modulePath("go.mod"))
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == path {
			return fields[1]
		}
	}
	return ""
}

func revision() string {
	out, err := exec.Command("git", "-C", modulePath(), "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// syncTime is how long the disk under the data directories takes to make 4 KiB durable that are written behind others.
func syncTime(t *testing.T) float64 {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "sync")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var took []float64
	for range 50 {
		began := time.Now()
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began).Seconds()*1000)
	}
	return median(took)
}
