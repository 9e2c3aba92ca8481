//go:build linux

package recovery

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// part is the time within which that part of the tries was done.
func part(of []time.Duration, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[max(0, int(p*float64(len(sorted))+0.999999)-1)]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

// ratio is that of two medians.
func ratio(a, b []time.Duration) string {
	by := part(b, 0.5)
	if by < loadInterval {
		return "–"
	}
	return fmt.Sprintf("%.1f", part(a, 0.5).Seconds()/by.Seconds())
}

func (r result) met() string {
	if part(r.bridge, soonPart) <= soon && part(r.bridge, 1) <= late {
		return "yes"
	}
	return "no"
}

func (r result) line() string {
	name := r.name
	if r.missed > 0 {
		name += fmt.Sprintf(" (%d of them without an event)", r.missed)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %d of %d | %d | %s |", name,
		seconds(part(r.bridge, 0.5)), seconds(part(r.bridge, soonPart)), seconds(part(r.bridge, 1)),
		seconds(part(r.bare, 0.5)), seconds(part(r.bare, 1)), ratio(r.bridge, r.bare), r.repeats, r.total, r.dropped, r.met())
}

// results are all rows of a run.
type results struct {
	faults  []result
	far     []farResult
	repeats []repeatsResult
}

// tables are the rows alone, for the log.
func (r results) tables() string {
	return r.faultTable() + "\n" + r.farTable() + "\n" + r.repeatsTable()
}

func (r results) faultTable() string {
	var b strings.Builder
	b.WriteString("| fault | median | 19 of 20 | all | bare client: median | all | ratio " +
		"| stored twice | repeats dropped | met |" + `
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
`)
	for _, one := range r.faults {
		b.WriteString(one.line() + "\n")
	}
	return b.String()
}

func (r results) farTable() string {
	var b strings.Builder
	b.WriteString(`| at a distance | median | 99 of 100 | all | bare client: median | all | ratio | goal | met |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
`)
	for _, one := range r.far {
		b.WriteString(one.line() + "\n")
	}
	return b.String()
}

func (r farResult) line() string {
	median, all, by := "–", "–", "–"
	if len(r.bare) > 0 {
		median, all, by = seconds(part(r.bare, 0.5)), seconds(part(r.bare, 1)), ratio(r.bridge, r.bare)
	}
	met := "yes"
	name := r.name
	if r.refused > 0 {
		name += fmt.Sprintf(" (%d refused)", r.refused)
	}
	if part(r.bridge, 0.99) > r.limit || r.refused > 0 {
		met = "no"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | ≤ %s | %s |", name, seconds(part(r.bridge, 0.5)),
		seconds(part(r.bridge, 0.99)), seconds(part(r.bridge, 1)), median, all, by, seconds(r.limit), met)
}

func (r results) repeatsTable() string {
	var b strings.Builder
	b.WriteString(`| fault | tries | in flight | in one try | stored twice | repeats dropped | of events stored |
|---|---:|---:|---:|---:|---:|---:|
`)
	for _, one := range r.repeats {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d |\n",
			one.name, one.tries, one.inFlight, one.greatest, one.repeats, one.dropped, one.total)
	}
	return b.String()
}

// sectionBegin begins the section of performance.md, its last. make bench, which writes the rest, keeps it.
const sectionBegin = "<!-- make recovery writes what follows -->"

// writePage puts the section of the results into the page.
func writePage(file string, tries int, all results) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	rest, _, _ := strings.Cut(string(text), sectionBegin)
	return os.WriteFile(file, []byte(strings.TrimRight(rest, "\n")+"\n\n"+section(tries, all)), 0o644)
}

func section(tries int, all results) string {
	return fmt.Sprintf(`%s

## Back after a fault

How many seconds pass from when a broker serves again until something new of the bridge is stored, as "make recovery"
measured on %s (tries of each fault: %d). A pause in which the broker serves others counts whole. A webhook
comes every %s. The bare client is the library of the sink alone, which publishes one message after the other and
is set to be back as soon as it can. The ratio is that of the medians. The goal is 19 of 20 within %s, and all within
%s.

%s
- Bridge and bare client connect to the same address at the same time. A third client, made anew whenever it fails,
  shows when the broker serves.
- "cable cut" throws away what is sent for %s to %s, without a word to either end. Connections from before it, and
  those begun meanwhile, stay silent for ever.
- "short outages" are %d, of %s each, with %s between them. The longest of the ten returns counts. What is stored twice
  or dropped as a repeat is what they cost.
- A server that is killed and started again is a process of its own with Kafka, and NATS servers run in the harness.

## Far away

What it costs that the broker is in another region, in seconds, from the same run. Each byte takes %s each way, and a
connection a round trip to be made. The bare client publishes as many messages at once, and has connected before.

%s
- What is stored is told by the broker's clock, which is the bridge's here.
- The webhooks of a load are due at fixed times for %s. Those of its first %s do not count, so that what grows shows.
  With ACK=sinks the time is that of the answer, from when the webhook was due.

## What is stored twice

How many events the topic or the stream holds more than once after a fault, from the same run, under a load of %d
webhooks/s of %d events. What was in flight, which is what the sink had been given and had not answered, was counted
when the fault began. A stream of NATS drops what is repeated within its window: what it dropped is beside that.

%s
- The topic has %d partitions. A cut ends every connection, and nothing else. "In a backlog" is after %s without a
  broker.
- A bridge that is killed repeats also what was acknowledged and is not noted in its journal yet.
`, sectionBegin, time.Now().Format(time.DateOnly), tries, loadInterval, soon, late, all.faultTable(),
		cutFor, cutFor+(cutSteps-1)*cutStep, outages, outageDown, between,
		distance, all.farTable(), busyFor, steady,
		time.Second/busyInterval, fewFunctions, all.repeatsTable(), widePartitions, outageDown)
}
