package torture

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// memoryBound is how much memory the bridge may have resident, at any time: the windows of three sinks with 64 MiB
	// each, as much again for the garbage between two collections, and the rest for the embedded NATS server, the journal
	// and requests.
	memoryBound = 640 << 20
	// At rest a process may have that many goroutines and open files more than at the run's first rest: connections
	// to brokers and what serves them come and go.
	goroutineSlack, fdSlack = 60, 40
	// growthSamples is how many rests of one process have to show more each time, to be taken for a leak.
	growthSamples = 8
)

// sample is what the bridge uses at rest: no load, nothing to deliver.
type sample struct {
	Process    int   `json:"process"` // which start it was
	Goroutines int   `json:"goroutines"`
	FDs        int   `json:"fds"`
	Memory     int64 `json:"memory_bytes"`
}

// beyond says what s has too much of, compared to the first rest.
func (s sample) beyond(first sample) string {
	switch {
	case s.Goroutines > first.Goroutines+goroutineSlack:
		return fmt.Sprintf("at rest there are %d goroutines, and at the first rest there were %d",
			s.Goroutines, first.Goroutines)
	case s.FDs > first.FDs+fdSlack:
		return fmt.Sprintf("at rest there are %d open files, and at the first rest there were %d", s.FDs, first.FDs)
	default:
		return ""
	}
}

// growth says what has grown with each of the last rests of one process.
func growth(samples []sample) string {
	if len(samples) < growthSamples {
		return ""
	}
	last := samples[len(samples)-growthSamples:]
	if last[0].Process != last[len(last)-1].Process {
		return ""
	}
	grows := func(what func(sample) int) bool {
		for i := range last[1:] {
			if what(last[i+1]) <= what(last[i]) {
				return false
			}
		}
		return true
	}
	switch {
	case grows(func(s sample) int { return s.Goroutines }):
		return fmt.Sprintf("the goroutines have grown with each of the last %d rests, from %d to %d",
			growthSamples, last[0].Goroutines, last[len(last)-1].Goroutines)
	case grows(func(s sample) int { return s.FDs }):
		return fmt.Sprintf("the open files have grown with each of the last %d rests, from %d to %d",
			growthSamples, last[0].FDs, last[len(last)-1].FDs)
	default:
		return ""
	}
}

// outcome is how the bridge has come through the faults of one kind.
type outcome struct {
	Times           int     `json:"times"`
	LongestSeconds  float64 `json:"longest_seconds"`          // from breaking to mending
	RecoverySeconds float64 `json:"longest_recovery_seconds"` // from mending until all was delivered
}

type outcomes map[string]outcome

func (o *outcomes) add(kind string, lasted, recovery time.Duration) {
	if *o == nil {
		*o = make(outcomes)
	}
	one := (*o)[kind]
	one.Times++
	one.LongestSeconds = max(one.LongestSeconds, lasted.Seconds())
	one.RecoverySeconds = max(one.RecoverySeconds, recovery.Seconds())
	(*o)[kind] = one
}

// report is what is known at the end of a run.
type report struct {
	Seed         uint64            `json:"seed"`
	Seconds      float64           `json:"seconds"`
	Versions     map[string]string `json:"versions"`
	Faults       outcomes          `json:"faults"`
	Webhooks     webhookReport     `json:"webhooks"`
	Events       int               `json:"events"` // that the accepted webhooks make, each fact once
	Sinks        []sinkReport      `json:"sinks"`
	Lost         int               `json:"lost"`
	Starts       int               `json:"bridge_starts"`
	PeakMemory   int64             `json:"peak_memory_bytes"`
	Rests        []sample          `json:"rests"`
	Violations   int               `json:"violations"`
	ViolationsIn []string          `json:"violation_texts,omitempty"`
}

type webhookReport struct {
	Sent       int   `json:"sent"`
	Accepted   int   `json:"accepted"`
	Tries      int64 `json:"tries"`
	New        int64 `json:"answered_new"`
	Duplicates int64 `json:"answered_duplicate"`
	Refused    int64 `json:"answered_503"`
	Unanswered int64 `json:"unanswered"`
}

type sinkReport struct {
	Sink     string `json:"sink"`
	Messages int    `json:"messages"`
	// Events counts each fact once: more than accepted webhooks make when one was stored without an answer.
	Events  int `json:"events"`
	Repeats int `json:"repeats"` // messages beyond the first of their event
}

// table is the report for people.
func (r report) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "fault\ttimes\tlongest, s\tlongest recovery, s\n")
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		o := r.Faults[kind]
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\n", kind, o.Times, o.LongestSeconds, o.RecoverySeconds)
	}
	fmt.Fprintf(w, "\nsink\tmessages\tevents\trepeats\n")
	for _, s := range r.Sinks {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", s.Sink, s.Messages, s.Events, s.Repeats)
	}
	goroutines, fds := 0, 0
	for _, s := range r.Rests {
		goroutines, fds = max(goroutines, s.Goroutines), max(fds, s.FDs)
	}
	fmt.Fprintf(w, "\nwebhooks accepted\t%d\tof %d\n", r.Webhooks.Accepted, r.Webhooks.Sent)
	fmt.Fprintf(w, "tries\t%d\tof which 202: %d, 200: %d, 503: %d, no answer: %d\n",
		r.Webhooks.Tries, r.Webhooks.New, r.Webhooks.Duplicates, r.Webhooks.Refused, r.Webhooks.Unanswered)
	fmt.Fprintf(w, "their events\t%d\n", r.Events)
	fmt.Fprintf(w, "lost\t%d\n", r.Lost)
	fmt.Fprintf(w, "violations\t%d\n", r.Violations)
	fmt.Fprintf(w, "starts of the bridge\t%d\n", r.Starts)
	fmt.Fprintf(w, "most memory resident\t%d MiB\tof %d\n", r.PeakMemory>>20, int64(memoryBound)>>20)
	fmt.Fprintf(w, "most goroutines, files at rest\t%d, %d\n", goroutines, fds)
	fmt.Fprintf(w, "duration\t%.0f s\n", r.Seconds)
	fmt.Fprintf(w, "seed\t%d\n", r.Seed)
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(w, "%s\t%s\n", name, r.Versions[name])
	}
	_ = w.Flush() // it writes to memory
	for _, text := range r.ViolationsIn {
		b.WriteString("VIOLATION: " + text + "\n")
	}
	return b.String()
}

// write writes report.json and report.txt into a directory, which is made if it is not there.
func (r report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.txt"), []byte(r.table()), 0o644)
}

func TestALeakIsMoreThanAtTheFirstRest(t *testing.T) {
	first := sample{Goroutines: 100, FDs: 50}
	require.Empty(t, sample{Goroutines: 100 + goroutineSlack, FDs: 50 + fdSlack}.beyond(first))
	require.Contains(t, sample{Goroutines: 101 + goroutineSlack, FDs: 50}.beyond(first), "goroutines")
	require.Contains(t, sample{Goroutines: 100, FDs: 51 + fdSlack}.beyond(first), "open files")
}

func TestALeakIsWhatGrowsWithEachRest(t *testing.T) {
	var samples []sample
	for i := range growthSamples {
		require.Empty(t, growth(samples))
		samples = append(samples, sample{Process: 1, Goroutines: 100 + i, FDs: 50})
	}
	require.Contains(t, growth(samples), "goroutines")

	again := slices.Clone(samples)
	again[growthSamples-1].Process = 2
	require.Empty(t, growth(again), "another process begins anew")
	again = slices.Clone(samples)
	again[3].Goroutines = again[2].Goroutines
	require.Empty(t, growth(again))

	for i := range samples {
		samples[i].Goroutines, samples[i].FDs = 100-i, 50+2*i
	}
	require.Contains(t, growth(samples), "open files")
}

func TestReportShowsWhatCounts(t *testing.T) {
	r := report{
		Seed: 7, Faults: outcomes{"bridge: killed": {Times: 2, LongestSeconds: 1, RecoverySeconds: 2.5}},
		Sinks: []sinkReport{{Sink: "nats", Messages: 12, Events: 10, Repeats: 2}}, Lost: 3, Violations: 1,
		ViolationsIn: []string{"something"},
	}
	require.NoError(t, r.write(t.TempDir()))
	table := r.table()
	require.Regexp(t, `bridge: killed +2 +1\.0 +2\.5`, table)
	require.Regexp(t, `nats +12 +10 +2`, table)
	require.Regexp(t, `lost +3`, table)
	require.Contains(t, table, "VIOLATION: something")
}
