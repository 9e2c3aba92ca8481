//go:build linux

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// plotDirectory is where the plots and the figures are, beside the page.
const plotDirectory = "performance"

// write writes the figures below dir, and with them, if they are complete, the plots and the page in dir.
func (r *results) write(dir string, complete bool) error {
	plots := filepath.Join(dir, plotDirectory)
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	document, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(plots, "performance.json"), append(document, '\n'), 0o644)
	if err != nil || !complete {
		return err
	}
	if err := removeAll(filepath.Join(plots, "*.svg")); err != nil { // those that are drawn no more, too
		return err
	}
	if err := r.draw(plots); err != nil {
		return err
	}
	file := filepath.Join(dir, "performance.md")
	before, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	page := r.page()
	if at := strings.Index(string(before), othersBegin); at >= 0 {
		page += "\n" + string(before[at:])
	}
	return os.WriteFile(file, []byte(page), 0o644)
}

func removeAll(pattern string) error {
	files, err := filepath.Glob(pattern)
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// othersBegin begins what make recovery writes into the page, which stays.
const othersBegin = "<!-- make recovery writes what follows -->"

// writer writes Markdown.
type writer struct{ strings.Builder }

func (w *writer) text(format string, args ...any) { fmt.Fprintf(w, format+"\n\n", args...) }

// table writes rows of cells, the first of which are the heads.
func (w *writer) table(rows ...[]string) {
	for i, row := range rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			w.WriteString("|---" + strings.Repeat("|---:", len(row)-1) + "|\n")
		}
	}
	w.WriteString("\n")
}

func (w *writer) plot(name, what string) {
	w.text("![%s](%s/%s.svg)", what, plotDirectory, name)
}

func whole(f float64) string {
	text := fmt.Sprintf("%.0f", f)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func ratio(f float64) string { return fmt.Sprintf("%.2f", f) }

func ms(f float64) string { return fmt.Sprintf("%.1f", f) }

func mib(bytes int64) string { return fmt.Sprintf("%.0f", float64(bytes)/(1<<20)) }

// spread is the median of some figures with the least and the greatest.
func spread(figures []float64, show func(float64) string) string {
	if len(figures) < 2 {
		return show(median(figures))
	}
	least, most := figures[0], figures[0]
	for _, f := range figures {
		least, most = min(least, f), max(most, f)
	}
	return fmt.Sprintf("%s (%s to %s)", show(median(figures)), show(least), show(most))
}

func brokerName(kind string) string {
	if kind == "kafka" {
		return "Apache Kafka"
	}
	return "NATS JetStream"
}

// wrapped breaks lines of prose after at most 120 columns: not those of tables, of code and of headings.
func wrapped(page string) string {
	const columns = 120
	var b strings.Builder
	code := false
	for line := range strings.Lines(page) {
		fence := strings.HasPrefix(line, "```")
		code = code != fence
		if code || fence || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "#") {
			b.WriteString(line)
			continue
		}
		indent := ""
		if strings.HasPrefix(line, "- ") {
			indent = "  "
		}
		column := 0
		for i, word := range strings.Split(strings.TrimSuffix(line, "\n"), " ") {
			width := utf8.RuneCountInString(word)
			switch {
			case i == 0:
			case column+1+width > columns:
				b.WriteString("\n" + indent)
				column = len(indent)
			default:
				b.WriteString(" ")
				column++
			}
			b.WriteString(word)
			column += width
		}
		b.WriteString("\n")
	}
	return b.String()
}

// page is the page of documentation.
func (r *results) page() string {
	w := &writer{}
	m := r.Machine
	w.text("# Performance")
	w.text("What the bridge does, measured by `make bench`, which wrote this page: the real binary as a process, signed " +
		"webhooks over HTTP, real brokers, and all of it at once on one machine. Absolute figures say as much about the " +
		"machine as about the bridge, so each stands beside what was measured in the same run: an HTTP server that does " +
		"nothing (*the floor*), the brokers' clients alone, or the bridge with nothing waiting.")
	kafka := ""
	if m.Kafka != "" {
		kafka = ", Apache Kafka " + m.Kafka
	}
	w.text("Measured on %s at revision `%s`: %d processors (%s), Linux %s, %s, nats-server %s%s. An fsync of 4 KiB took "+
		"%s ms there, and the load average before it began was %s (1, 5, 15 minutes). The load, the bridge, the brokers and "+
		"the consumers share the processors. The speed of a machine that is shared changes within minutes, so what stands "+
		"in one line was measured together, and a ratio is that of each round. "+
		"A figure with two more in parentheses is the median of the rounds, with the least and the greatest.",
		m.Date, m.Revision, m.Processors, m.Processor, m.Kernel, m.Go, m.NATS, kafka, ratio(m.Sync), m.LoadBefore)
	r.writeGoals(w)
	r.writeLimit(w)
	r.writeEndToEnd(w)
	r.writeDelivered(w)
	r.writeDrain(w)
	r.writeGrowth(w)
	r.writeOrdinary(w)
	r.writeSlowDisk(w)
	r.writeCost(w)
	r.writeMethod(w)
	return wrapped(strings.TrimRight(w.String(), "\n") + "\n")
}

// goal is one line of what the project wants of itself.
type goal struct {
	figure, goal, measured string
	met                    bool
	beside                 string // what to know of the figure if the goal is not met
}

func (r *results) goals() []goal {
	var all []goal
	add := func(figure, want, measured string, met bool) *goal {
		all = append(all, goal{figure: figure, goal: want, measured: measured, met: met})
		return &all[len(all)-1]
	}
	for _, l := range r.Limit {
		add("sustained ÷ limit, "+brokerName(l.Sink), "≥ 0.85", ratio(median(l.OfLimit)), median(l.OfLimit) >= 0.85)
		p99 := add(fmt.Sprintf("p99 of an answer at half of what is sustained (%s/s), %s", whole(float64(l.LatencyRate)),
			brokerName(l.Sink)), "≤ 10 ms",
			ms(l.Latency.P99)+" ms", l.Latency.P99 <= 10)
		p99.beside = fmt.Sprintf("the senders, on the same processors, were late by %s ms themselves", ms(l.SentLate.P99))
	}
	for _, e := range r.EndToEnd {
		if e.Rate >= 1000 {
			add(fmt.Sprintf("end to end at %s/s, %s: p50, p99", whole(float64(e.Rate)), brokerName(e.Sink)), "≤ 5 ms, ≤ 25 ms",
				fmt.Sprintf("%s ms, %s ms", ms(e.Latency.P50), ms(e.Latency.P99)), e.Latency.P50 <= 5 && e.Latency.P99 <= 25)
		}
	}
	for _, d := range r.Delivered {
		client := add("delivered ÷ bare client, "+brokerName(d.Sink), "≥ 0.7", ratio(median(d.OfClient)),
			median(d.OfClient) >= 0.7)
		client.beside = "the client has its messages ready; the bridge reads each webhook, parses it and makes its events"
	}
	for _, d := range r.Drain {
		if d.Sink == "kafka" {
			least := min(50_000, 0.7*d.Client)
			add("drain into Apache Kafka", fmt.Sprintf("≥ %s events/s", whole(least)), whole(d.EventsPerSecond)+" events/s",
				d.EventsPerSecond >= least)
		}
	}
	for _, g := range r.Growth {
		add("accepted with "+whole(float64(g.Waiting))+" waiting ÷ with none", "≥ 0.9", ratio(median(g.AcceptRatio)),
			median(g.AcceptRatio) >= 0.9)
		add("drained with "+whole(float64(g.Waiting))+" waiting ÷ with few", "≥ 0.9", ratio(median(g.DrainRatio)),
			median(g.DrainRatio) >= 0.9)
		add("start with "+whole(float64(g.Waiting))+" waiting", "≤ 1 s", fmt.Sprintf("%.2f s", g.Start), g.Start <= 1)
		add("memory with "+whole(float64(g.Waiting))+" waiting", "≤ 200 MiB", mib(g.Peak)+" MiB", g.Peak <= 200<<20)
	}
	if r.Cost != nil {
		add("memory of an idle bridge", "≤ 40 MiB", mib(r.Cost.Idle)+" MiB", r.Cost.Idle <= 40<<20)
	}
	for _, l := range r.Limit {
		add("memory under load, "+brokerName(l.Sink), "≤ 150 MiB", mib(l.Peak)+" MiB", l.Peak <= 150<<20)
	}
	for _, p := range r.Payloads {
		if one := r.payloadOfOne(p.Sink); p.Functions >= 1000 && one != nil {
			part := p.CPU / float64(p.Functions) / one.CPU
			add("cost of 1,000 functions ÷ 1,000 times that of 1, "+brokerName(p.Sink), "≤ 0.3", ratio(part), part <= 0.3)
		}
	}
	return all
}

func (r *results) payloadOfOne(sink string) *payloadRow {
	for _, p := range r.Payloads {
		if p.Sink == sink && p.Functions == 1 {
			return p
		}
	}
	return nil
}

func (r *results) writeGoals(w *writer) {
	rows := [][]string{{"figure", "goal", "measured", "met"}}
	var beside []string
	for _, g := range r.goals() {
		met := "yes"
		if !g.met {
			met = "no"
			if g.beside != "" {
				beside = append(beside, fmt.Sprintf("- %s: %s.", g.figure, g.beside))
			}
		}
		rows = append(rows, []string{g.figure, g.goal, g.measured, met})
	}
	if len(rows) > 1 {
		w.text("## Goals")
		w.table(rows...)
	}
	if len(beside) > 0 {
		w.text("Beside those that are not met:")
		w.text("%s", strings.Join(beside, "\n"))
	}
}

func latencyCells(l *latency) []string {
	return []string{ms(l.P50), ms(l.P90), ms(l.P99), ms(l.P999), ms(l.Max)}
}

func (r *results) writeLimit(w *writer) {
	if len(r.Limit) == 0 {
		return
	}
	w.text("## Near the limit")
	w.text("What goes on for ever: webhooks of two functions, signed, over %d connections, each of which sends when it "+
		"has its answer 202, which means verified, stored and fsynced; and as many delivered as accepted, since senders are "+
		"held back so that no more than %s wait. The floor F gets the same requests from the same senders, reads the body "+
		"and answers 202. The client C is the client library of the sink, which publishes the same messages with nothing "+
		"else to do. On processors that they share, a bridge that is both can do 1 ÷ (1/F + 1/C): *the limit*. The floor "+
		"was %s webhooks/s in these rounds.", r.Scale.Connections, whole(mostLag), spread(r.Floor, whole))
	rows := [][]string{{
		"", "client, webhooks/s", "limit, webhooks/s", "accepted, webhooks/s", "delivered, webhooks/s", "sustained ÷ limit",
		"CPU µs a webhook", "of the broker", "of the senders", "bytes allocated a webhook", "memory, MiB",
	}}
	for _, l := range r.Limit {
		rows = append(rows, []string{
			brokerName(l.Sink), spread(l.Client, whole), spread(l.Limits, whole), spread(l.Accepted, whole),
			spread(l.Delivered, whole), spread(l.OfLimit, ratio), spread(l.CPU, whole), spread(l.BrokerCPU, whole),
			spread(l.SenderCPU, whole), spread(l.Allocated, whole), mib(l.Peak),
		})
	}
	w.table(rows...)
	w.plot("limit", "Webhooks accepted and delivered a second, beside the limit")
	w.text("How long an answer takes in ms, at half of what is sustained: webhooks are due at fixed times, from which " +
		"the time is taken, whenever they are sent. How late they were sent, because the senders waited for a processor or " +
		"all of them for answers, is shown below each and is a part of it.")
	rows = [][]string{{"", "webhooks/s", "p50", "p90", "p99", "p99.9", "max"}}
	for _, l := range r.Limit {
		rows = append(rows, append([]string{"delivering to " + brokerName(l.Sink), whole(float64(l.LatencyRate))},
			latencyCells(l.Latency)...))
		rows = append(rows, append([]string{"how late they were sent", ""}, latencyCells(l.SentLate)...))
	}
	if r.FloorLatency != nil {
		rows = append(rows, append([]string{"floor", whole(float64(r.Limit[0].LatencyRate))},
			latencyCells(r.FloorLatency)...))
	}
	w.table(rows...)
	w.plot("accept-latency", "How long an answer takes, by percentile")
}

func (r *results) writeEndToEnd(w *writer) {
	if len(r.EndToEnd) == 0 {
		return
	}
	w.text("## End to end")
	w.text("In ms, from when a webhook is due at its sender to each of its events at an ordinary consumer.")
	rows := [][]string{{"", "webhooks/s", "p50", "p90", "p99", "p99.9", "max"}}
	for _, e := range r.EndToEnd {
		rows = append(rows, append([]string{brokerName(e.Sink), whole(float64(e.Rate))}, latencyCells(e.Latency)...))
	}
	w.table(rows...)
	w.plot("end-to-end", "From the sender to a consumer, by percentile")
}

func (r *results) writeDelivered(w *writer) {
	if len(r.Delivered) == 0 {
		return
	}
	w.text("## Delivering")
	w.text("What delivery does with nothing else to do, from a backlog of %s webhooks, beside the client library of the "+
		"sink that publishes the same messages with "+
		"nothing else to do, and beside Kafka's own `kafka-producer-perf-test`.", whole(float64(r.Scale.Probe)))
	rows := [][]string{{
		"", "bridge, events/s", "client, events/s", "bridge ÷ client",
		"kafka-producer-perf-test, records/s",
	}}
	for _, d := range r.Delivered {
		perf := "–"
		if d.PerfTest > 0 {
			perf = whole(d.PerfTest)
		}
		rows = append(rows, []string{
			brokerName(d.Sink), spread(d.Alone, whole), spread(d.Client, whole),
			spread(d.OfClient, ratio), perf,
		})
	}
	w.table(rows...)
	w.plot("delivered", "Events delivered a second, beside the client alone")
}

func (r *results) writeDrain(w *writer) {
	if len(r.Drain) == 0 {
		return
	}
	w.text("## After an outage")
	w.text("A bridge starts with a backlog, while webhooks go on coming.")
	rows := [][]string{{
		"", "backlog, events", "webhooks/s meanwhile", "events/s", "client alone, events/s", "÷ client",
		"p99 of an answer, ms", "memory, MiB",
	}}
	for _, d := range r.Drain {
		rows = append(rows, []string{
			brokerName(d.Sink), whole(float64(d.Backlog)), whole(float64(d.Rate)), whole(d.EventsPerSecond), whole(d.Client),
			ratio(d.EventsPerSecond / d.Client), ms(d.Latency.P99), mib(d.Peak),
		})
	}
	w.table(rows...)
	w.plot("drain", "How a backlog is emptied")
}

func (r *results) writeGrowth(w *writer) {
	if len(r.Growth) > 0 {
		w.text("## With much waiting")
		w.text("Accepting, with a sink that is out of reach, and draining, into %s: a bridge with so many webhooks waiting "+
			"and one with none "+
			"(%s when draining, of which the same number is drained), by turns.", brokerName(r.Growth[0].Sink),
			whole(float64(r.Scale.Probe)))
		rows := [][]string{{
			"waiting", "journal, MiB", "accepted/s", "with none", "ratio", "drained, events/s", "with few",
			"ratio", "start, s", "memory, MiB",
		}}
		for _, g := range r.Growth {
			rows = append(rows, []string{
				whole(float64(g.Waiting)), mib(g.Bytes), spread(g.Accept, whole), spread(g.AcceptNone, whole),
				spread(g.AcceptRatio, ratio),
				spread(g.Drain, whole), spread(g.DrainNone, whole), spread(g.DrainRatio, ratio), fmt.Sprintf("%.2f", g.Start),
				mib(g.Peak),
			})
		}
		w.table(rows...)
		w.plot("growth", "Rates with much waiting, as a part of those with none")
	}
	if len(r.Payloads) > 0 {
		w.text("Payloads of many functions:")
		rows := [][]string{{
			"", "functions", "CPU µs a webhook", "CPU µs an event", "bytes allocated an event",
			"÷ cost of as many webhooks of 1", "events/s",
		}}
		for _, p := range r.Payloads {
			part := "–"
			if one := r.payloadOfOne(p.Sink); one != nil && one.CPU > 0 {
				part = ratio(p.CPU / float64(p.Functions) / one.CPU)
			}
			rows = append(rows, []string{
				brokerName(p.Sink), whole(float64(p.Functions)), whole(p.CPU), fmt.Sprintf("%.1f", p.CPU/float64(p.Functions)),
				whole(p.Allocated / float64(p.Functions)), part, whole(p.EventsPerSecond),
			})
		}
		w.table(rows...)
	}
	if len(r.Sinks) > 0 {
		w.text("Several sinks, by turns in NATS and in Kafka, each with all events:")
		rows := [][]string{{"sinks", "sustained webhooks/s", "events/s, all sinks", "CPU µs a webhook", "memory, MiB"}}
		for _, s := range r.Sinks {
			rows = append(rows, []string{whole(float64(s.Sinks)), whole(s.Webhooks), whole(s.Events), whole(s.CPU), mib(s.Peak)})
		}
		w.table(rows...)
	}
}

func (r *results) writeCost(w *writer) {
	if r.Cost == nil {
		return
	}
	c := r.Cost
	seconds := func(f float64) string { return fmt.Sprintf("%.2f", f) }
	w.text("## What it takes")
	w.table(
		[]string{"", ""},
		[]string{"binary, MiB", mib(c.Binary)},
		[]string{"memory when idle, MiB", mib(c.Idle)},
		[]string{"the same with the embedded NATS server, MiB", mib(c.IdleEmbedded)},
		[]string{"processors used when idle", fmt.Sprintf("%.3f", c.IdleCPU)},
		[]string{"from start to ready, s", spread(c.Start, seconds)},
		[]string{"the same with the embedded NATS server, s", spread(c.StartEmbedded, seconds)},
	)
}

func (r *results) writeMethod(w *writer) {
	w.text("## How it is measured")
	w.text("- The harness is in [test/bench](../test/bench); `make bench PARTS=limit,drain` runs some of it, and `make " +
		"bench-profiles` takes profiles of the bridge meanwhile.\n" +
		"- Rates are those of a closed loop: so many connections, each of which sends its next webhook when it has the " +
		"answer to the last. Latencies are those of an open loop: webhooks are due at fixed times, whatever the bridge " +
		"does, and each time is taken from when the webhook was due, so that what delays the load hides nothing. They are " +
		"kept in HDR histograms of three digits. Before they are taken, what the rates have left in the caches of the " +
		"system is written to the disk, and webhooks come in the same way for two seconds that do not count.\n" +
		"- The load is made with Go's net/http, in a process of its own that also makes and signs the payloads. It is a " +
		"good part of what the processors do, in the floor too.\n" +
		"- Webhook ids look like Svix's: the time first, to the second, then chance.\n" +
		"- nats-server has its default configuration, its stream file storage. Kafka is one broker with a heap of 1 GiB, " +
		"the topic has 12 partitions. Both acknowledge before they have synced, as they do by default; the bridge syncs.\n" +
		"- What the bridge delivered is what the broker says that it has stored.\n" +
		"- Backlogs are written with the journal's own append, with 512 callers, before the bridge starts.")
	took := 0.0
	for _, s := range r.Took {
		took += s
	}
	w.text("This run took %.1f minutes. The raw figures are in [performance.json](%s/performance.json).", took/60,
		plotDirectory)
}
