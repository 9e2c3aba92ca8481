package app_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

// latencies are some measured durations, in order.
type latencies []time.Duration

// at returns the duration that the given part of all does not exceed.
func (l latencies) at(part float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[min(len(l)-1, int(part*float64(len(l))))]
}

// row is one phase of what was measured.
type row struct {
	Phase string    `json:"phase"`
	Count int       `json:"count"`
	P50   float64   `json:"p50_ms"`
	P90   float64   `json:"p90_ms"`
	P99   float64   `json:"p99_ms"`
	P999  float64   `json:"p99_9_ms"`
	Max   float64   `json:"max_ms"`
	all   latencies // sorted
}

func newRow(phase string, all latencies) row {
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return row{
		Phase: phase, Count: len(all), all: all,
		P50: ms(all.at(0.5)), P90: ms(all.at(0.9)), P99: ms(all.at(0.99)), P999: ms(all.at(0.999)), Max: ms(all.at(1)),
	}
}

// rowsOf sorts measurements by phase, and adds a row for all phases of one kind.
func rowsOf(phases []string, of map[string]latencies) (single, joined []row) {
	kinds := map[string]latencies{}
	var order []string
	for _, phase := range phases {
		kind := strings.TrimRight(phase, " 0123456789")
		if kind == phase {
			continue // warming up
		}
		if _, ok := kinds[kind]; !ok {
			order = append(order, kind)
		}
		kinds[kind] = append(kinds[kind], of[phase]...)
		single = append(single, newRow(phase, of[phase]))
	}
	for _, kind := range order {
		joined = append(joined, newRow("all "+kind, kinds[kind]))
	}
	return single, joined
}

// table writes the rows as people read them.
func table(title string, rows []row) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s, in ms\n", title)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "phase\tcount\tp50\tp90\tp99\tp99.9\tmax\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", r.Phase, r.Count, r.P50, r.P90, r.P99, r.P999, r.Max)
	}
	_ = w.Flush()
	return out.String()
}

// histogram shows how the durations of each row spread, the rows side by side, as parts of each row's count.
func histogram(rows []row) string {
	bounds := []float64{1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000, 2000, 5000}
	const width = 20
	var out strings.Builder
	fmt.Fprintf(&out, "%10s", "up to ms")
	for _, r := range rows {
		fmt.Fprintf(&out, "  %-*s", width+8, r.Phase)
	}
	out.WriteByte('\n')
	low := 0.0
	for i := range len(bounds) + 1 {
		high, name := 0.0, "more"
		if i < len(bounds) {
			high, name = bounds[i], fmt.Sprintf("%.0f", bounds[i])
		}
		fmt.Fprintf(&out, "%10s", name)
		for _, r := range rows {
			n := 0
			for _, d := range r.all {
				if ms := d.Seconds() * 1000; ms > low && (i == len(bounds) || ms <= high) {
					n++
				}
			}
			part := 0.0
			if r.Count > 0 {
				part = float64(n) / float64(r.Count)
			}
			bar := strings.Repeat("#", int(part*width+0.5))
			if n > 0 && bar == "" {
				bar = "."
			}
			fmt.Fprintf(&out, "  %6.2f%% %-*s", 100*part, width, bar)
		}
		out.WriteByte('\n')
		low = high
	}
	return out.String()
}

// report shows what was measured, and keeps it for programs.
func (e experiment) report(t *testing.T, l *traffic, hangs, other string) {
	t.Helper()
	accepted, delivered := map[string]latencies{}, map[string]latencies{}
	for n, p := range l.posted {
		accepted[p.phase] = append(accepted[p.phase], p.took)
		for _, at := range l.received[other].first[n] {
			delivered[p.phase] = append(delivered[p.phase], at.Sub(p.due))
		}
	}
	acceptedRows, acceptedKinds := rowsOf(l.phases, accepted)
	deliveredRows, deliveredKinds := rowsOf(l.phases, delivered)
	var text strings.Builder
	fmt.Fprintf(&text, "%s hangs: %d webhooks a second, %d events each, phases of %v, %s, %d processors\n\n",
		hangs, e.Rate, eventsEach, e.Phase, runtime.Version(), runtime.NumCPU())
	text.WriteString(table("accepted: from when a webhook is due to its 202",
		slices.Concat(acceptedRows, acceptedKinds)) + "\n")
	text.WriteString(histogram(acceptedKinds) + "\n")
	text.WriteString(table("delivered: from when a webhook is due to each of its events at a consumer of "+other,
		slices.Concat(deliveredRows, deliveredKinds)) + "\n")
	text.WriteString(histogram(deliveredKinds))
	fmt.Fprintf(&text, "\nin all %d webhooks; %d events came again from %s, %d from %s\n", len(l.posted),
		l.received[hangs].again, hangs, l.received[other].again, other)
	t.Log("\n" + text.String())
	if *isolationOut == "" {
		return
	}
	require.NoError(t, os.MkdirAll(*isolationOut, 0o750))
	document, err := json.MarshalIndent(map[string]any{
		"hangs": hangs, "webhooks_per_second": e.Rate, "phase_seconds": e.Phase.Seconds(),
		"go": runtime.Version(), "processors": runtime.NumCPU(),
		"webhooks": len(l.posted), "accepted": slices.Concat(acceptedRows, acceptedKinds),
		"delivered_to": other, "delivered": slices.Concat(deliveredRows, deliveredKinds),
		"repeats": map[string]int{hangs: l.received[hangs].again, other: l.received[other].again},
	}, "", "  ")
	require.NoError(t, err)
	name := filepath.Join(*isolationOut, hangs+"-hangs")
	require.NoError(t, os.WriteFile(name+".json", append(document, '\n'), 0o600))
	require.NoError(t, os.WriteFile(name+".txt", []byte(text.String()), 0o600))
}
