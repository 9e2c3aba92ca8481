//go:build linux

package bench

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// eventsEach is how many events the usual webhook becomes.
	eventsEach = 2
	// mostLag is how many webhooks may be accepted and not delivered while both go on for ever.
	mostLag = 20_000
	// deliverLimit is how long a backlog may take until the benchmark gives up.
	deliverLimit = 5 * time.Minute
	// nowhere is a broker that refuses at once.
	nowhere = "nats://127.0.0.1:1"
)

func unreachable() map[string]string {
	return map[string]string{"SINKS": "sinka=nats", "SINKA_URL": nowhere}
}

// measureLimit looks at what goes on for ever, beside the limit that the two halves of the work have on processors that
// they share: the floor takes webhooks and the broker's client publishes, each with nothing else to do. All take turns,
// so that what else the machine does touches all alike. Then it has half of that rate answered.
func measureLimit(t *testing.T, b *bench, r *results) {
	bare := newSender(t, b.floor.url, b.Connections, eventsEach)
	for _, k := range b.brokers() {
		r.Limit = append(r.Limit, &limitRow{Sink: k.kind()})
	}
	for range b.Rounds {
		floor := b.rate(t, bare)
		r.Floor = append(r.Floor, floor)
		for i, k := range b.brokers() {
			o := k.open(t)
			p := b.start(t, t.TempDir(), environment(o))
			s := b.sustain(t, p, []outlet{o}, eventsEach, "limit-"+k.kind())
			p.stop(t)
			client := float64(b.Bare) / eventsEach / o.bare(t, b.Bare).Seconds()
			o.drop(t)
			r.Limit[i].add(floor, client, s)
		}
	}
	for i, k := range b.brokers() {
		row := r.Limit[i]
		row.LatencyRate = max(1, int(median(row.sustained())/2))
		o := k.open(t)
		p := b.start(t, t.TempDir(), environment(o))
		// The brokers have written as fast as they can, and not all of it is on the disk, which an fsync now would wait for.
		syscall.Sync()
		s := newSender(t, p.log.url, openWorkers, eventsEach)
		b.warm(t, s, row.LatencyRate)
		wait := b.profile(t, p, "latency-"+k.kind(), b.Latency)
		l := runOpenLoop(s, row.LatencyRate, b.Latency, nil)
		wait()
		l.mustBeTaken(t)
		row.Latency, row.SentLate = newLatency(l.answered), newLatency(l.late)
		p.stop(t)
		o.drop(t)
	}
	s, rate := newSender(t, b.floor.url, openWorkers, eventsEach), r.Limit[0].LatencyRate
	b.warm(t, s, rate)
	l := runOpenLoop(s, rate, b.Latency, nil)
	l.mustBeTaken(t)
	r.FloorLatency = newLatency(l.answered)
}

// warm sends for a while, and returns how many webhooks: what connects, compiles and grows its buffers counts for
// nothing.
func (b *bench) warm(t *testing.T, s *sender, rate int) (webhooks int) {
	t.Helper()
	l := runOpenLoop(s, rate, b.Warm, nil)
	l.mustBeTaken(t)
	return len(l.due)
}

// measureEndToEnd sends at fixed rates and has an ordinary consumer note when each event comes.
func measureEndToEnd(t *testing.T, b *bench, r *results) {
	for _, k := range b.brokers() {
		for _, rate := range b.Rates {
			o := k.open(t)
			p := b.start(t, t.TempDir(), environment(o))
			row := &endToEndRow{Sink: k.kind(), Rate: rate}
			r.EndToEnd = append(r.EndToEnd, row)

			var mu sync.Mutex
			var due []time.Time
			took, events, seen := newHistogram(), 0, 0
			ctx, cancel := context.WithCancel(t.Context())
			var consumer sync.WaitGroup
			consumer.Go(func() {
				o.consume(ctx, t, func(id string) {
					now := time.Now()
					n, ok := numberOf(id)
					mu.Lock()
					defer mu.Unlock()
					seen++
					if ok && n < len(due) {
						record(took, now.Sub(due[n]))
						events++
					}
				})
			})
			s := newSender(t, p.log.url, openWorkers, eventsEach)
			warmed := b.warm(t, s, rate)
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return seen >= eventsEach*warmed
			}, deliverLimit, 5*time.Millisecond, "the consumer does not get everything")
			wait := b.profile(t, p, "end-to-end-"+k.kind(), b.Latency)
			l := runOpenLoop(s, rate, b.Latency, func(all []time.Time) {
				mu.Lock()
				defer mu.Unlock()
				due = all
			})
			wait()
			l.mustBeTaken(t)
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return events >= eventsEach*len(l.due)
			}, deliverLimit, 5*time.Millisecond, "the consumer does not get everything")
			cancel()
			consumer.Wait()
			row.Events, row.Latency, row.Accept = events, newLatency(took), newLatency(l.answered)
			p.stop(t)
			o.drop(t)
		}
	}
}

// sustained is what goes on for ever in one round: as much accepted as delivered.
type sustained struct {
	accepted, delivered float64 // webhooks a second
	used                usage   // by the bridge, for all that was delivered
	besides             besides
	webhooks            float64 // that were delivered
	peak                int64   // bytes of memory
}

// besides is the processor time that the others have used.
type besides struct{ brokers, senders time.Duration }

func (b *bench) besides(t *testing.T) (all besides) {
	t.Helper()
	for _, k := range b.brokers() {
		all.brokers += k.cpu(t)
	}
	all.senders = cpuOf(t, os.Getpid())
	return all
}

// sustain runs the closed loop, held back so that the broker keeps up, and looks at the middle of it.
func (b *bench) sustain(t *testing.T, p *bridgeProcess, outlets []outlet, functions int, profile string) sustained {
	t.Helper()
	before := leastStored(t, outlets)
	g := newGate(mostLag)
	l := startClosedLoop(newSender(t, p.log.url, b.Connections, functions), b.Connections, g)
	during := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); last(t, pollInterval) {
			g.deliver((leastStored(t, outlets) - before) / functions)
		}
	}
	during(b.Warm)
	p.resetPeak(t)
	wait := b.profile(t, p, profile, b.Round)
	used, others, accepted, stored := p.usage(t), b.besides(t), l.accepted.Load(), leastStored(t, outlets)
	began := time.Now()
	during(b.Round)
	seconds := time.Since(began).Seconds()
	now, othersNow, acceptedNow, storedNow := p.usage(t), b.besides(t), l.accepted.Load(), leastStored(t, outlets)
	wait()
	_, peak := p.memory(t)
	total := l.end(t)
	awaitStored(t, outlets, before+functions*total)
	webhooks := float64(storedNow-stored) / float64(functions)
	return sustained{
		accepted: float64(acceptedNow-accepted) / seconds, delivered: webhooks / seconds, webhooks: webhooks,
		used: usage{cpu: now.cpu - used.cpu, allocated: now.allocated - used.allocated}, peak: peak,
		besides: besides{othersNow.brokers - others.brokers, othersNow.senders - others.senders},
	}
}

// measureDelivered looks at what delivery does alone, beside what the broker's client does alone.
func measureDelivered(t *testing.T, b *bench, r *results) {
	rows := make([]*deliveredRow, len(b.brokers()))
	for i, k := range b.brokers() {
		rows[i] = &deliveredRow{Sink: k.kind()}
	}
	r.Delivered = rows
	for range b.Rounds {
		for i, k := range b.brokers() {
			o := k.open(t)
			events := eventsEach * b.Probe
			p, rate := b.drainProbe(t, o, "alone-"+k.kind())
			awaitStored(t, []outlet{o}, events)
			p.stop(t)
			client := float64(b.Bare) / o.bare(t, b.Bare).Seconds()
			rows[i].Alone = append(rows[i].Alone, rate)
			rows[i].Client = append(rows[i].Client, client)
			rows[i].OfClient = append(rows[i].OfClient, per(rate, client))
			if topic, ok := o.(*kafkaOutlet); ok && rows[i].PerfTest == 0 {
				rows[i].PerfTest = topic.perfTest(t, b.Bare)
			}
			o.drop(t)
		}
	}
}

// drainProbe starts a bridge with a backlog and returns how many events a second it delivers of it, without the first
// and the last tenth.
func (b *bench) drainProbe(t *testing.T, o outlet, profile string) (*bridgeProcess, float64) {
	t.Helper()
	return b.drainFrom(t, b.probe(t), o, profile)
}

func (b *bench) drainFrom(t *testing.T, dir string, o outlet, profile string) (*bridgeProcess, float64) {
	t.Helper()
	events := eventsEach * b.Probe
	p := b.start(t, dir, environment(o))
	wait := b.profile(t, p, profile, 3*time.Second)
	from, stored := awaitStored(t, []outlet{o}, events/10), o.stored(t)
	until := awaitStored(t, []outlet{o}, events-events/10)
	delivered := o.stored(t) - stored
	rate := per(float64(delivered), until.Sub(from).Seconds())
	wait()
	return p, rate
}

// probe returns a data directory in which as many webhooks wait as the scale says. It is made once, and copied.
func (b *bench) probe(t *testing.T) string {
	t.Helper()
	if b.filled == "" {
		b.filled = filepath.Join(b.shared, "probe")
		fill(t, b.filled, sinkName(0), b.Probe)
	}
	return copied(t, b.filled)
}

func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	out, err := exec.Command("cp", "-r", "--reflink=auto", dir, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return to
}

// measureDrain empties the backlog of a long outage while webhooks go on coming.
func measureDrain(t *testing.T, b *bench, r *results) {
	full := t.TempDir()
	fill(t, full, sinkName(0), b.Backlog)
	for _, k := range b.brokers() {
		o := k.open(t)
		dir := copied(t, full)
		p := b.start(t, dir, environment(o))
		row := &drainRow{Sink: k.kind(), Backlog: eventsEach * b.Backlog, Rate: b.DrainRate}
		r.Drain = append(r.Drain, row)
		began := time.Now()

		stop := make(chan struct{})
		var load sync.WaitGroup
		answered := newHistogram()
		s := newSender(t, p.log.url, openWorkers, eventsEach)
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				l := runOpenLoop(s, b.DrainRate, time.Second/2, nil)
				if len(l.refused) > 0 {
					t.Errorf("refused during the drain: %s", l.refused[0])
					return
				}
				answered.Merge(l.answered)
			}
		})
		wait := b.profile(t, p, "drain-"+k.kind(), 3*time.Second)
		for {
			stored := o.stored(t)
			at := time.Since(began).Seconds()
			row.Progress = append(row.Progress, [2]float64{at, float64(stored)})
			if stored >= row.Backlog {
				row.EventsPerSecond = float64(stored) / at
				break
			}
			require.Less(t, at, deliverLimit.Seconds(), "the backlog does not get empty")
			last(t, 5*pollInterval)
		}
		wait()
		close(stop)
		load.Wait()
		row.Latency = newLatency(answered)
		_, row.Peak = p.memory(t)
		p.stop(t)
		row.Client = float64(b.Bare) / o.bare(t, b.Bare).Seconds()
		o.drop(t)
	}
}

// measurePayloads delivers as many functions in payloads of each size, and looks at what a webhook costs the bridge.
func measurePayloads(t *testing.T, b *bench, r *results) {
	for _, k := range b.brokers() {
		for _, functions := range b.Functions {
			webhooks := min(b.Work/functions, b.Work/5)
			o := k.open(t)
			p := b.start(t, t.TempDir(), environment(o))
			s := newSender(t, p.log.url, b.Connections, functions)
			post := func(count int) {
				numbers := make(chan int)
				var all sync.WaitGroup
				for range min(count, 16) {
					all.Go(func() {
						for n := range numbers {
							if err := s.post(n); err != nil {
								t.Errorf("a webhook of %d functions: %v", functions, err)
							}
						}
					})
				}
				for n := range count {
					numbers <- n
				}
				close(numbers)
				all.Wait()
			}
			warm := max(1, webhooks/10)
			post(warm)
			awaitStored(t, []outlet{o}, warm*functions)
			before, began := p.usage(t), time.Now()
			post(webhooks)
			end := awaitStored(t, []outlet{o}, (warm+webhooks)*functions)
			after := p.usage(t)
			r.Payloads = append(r.Payloads, &payloadRow{
				Sink: k.kind(), Functions: functions, Webhooks: webhooks,
				CPU:             (after.cpu - before.cpu).Seconds() * 1e6 / float64(webhooks),
				Allocated:       (after.allocated - before.allocated) / float64(webhooks),
				EventsPerSecond: float64(webhooks*functions) / end.Sub(began).Seconds(),
			})
			p.stop(t)
			o.drop(t)
		}
	}
}

// measureSinks delivers each webhook to several sinks.
func measureSinks(t *testing.T, b *bench, r *results) {
	brokers := b.brokers()
	for _, count := range b.Sinks {
		var outlets []outlet
		for i := range count {
			outlets = append(outlets, brokers[i%len(brokers)].open(t))
		}
		p := b.start(t, t.TempDir(), environment(outlets...))
		s := b.sustain(t, p, outlets, eventsEach, "")
		r.Sinks = append(r.Sinks, &sinksRow{
			Sinks: count, Webhooks: min(s.accepted, s.delivered), Events: s.delivered * eventsEach * float64(count),
			CPU: per(s.used.cpu.Seconds()*1e6, s.webhooks), Peak: s.peak,
		})
		p.stop(t)
		for _, o := range outlets {
			o.drop(t)
		}
	}
}

// measureCost looks at what a bridge takes that does nothing, and at its start.
func measureCost(t *testing.T, b *bench, r *results) {
	c := &costResult{Binary: b.built}
	r.Cost = c
	o := b.nats.open(t)
	for i := range b.Starts {
		p := b.start(t, t.TempDir(), environment(o))
		c.Start = append(c.Start, p.started.Seconds())
		if i == 0 {
			before := p.cpu(t)
			last(t, b.Idle)
			c.Idle, _ = p.memory(t)
			c.IdleCPU = (p.cpu(t) - before).Seconds() / max(b.Idle.Seconds(), 0.001)
		}
		p.stop(t)

		p = b.start(t, t.TempDir(), nil)
		c.StartEmbedded = append(c.StartEmbedded, p.started.Seconds())
		if i == 0 {
			last(t, b.Idle)
			c.IdleEmbedded, _ = p.memory(t)
		}
		p.stop(t)
	}
	o.drop(t)
}

// measureGrowth compares a bridge with much waiting with one that has nothing waiting, by turns.
func measureGrowth(t *testing.T, b *bench, r *results) {
	dir := filepath.Join(t.TempDir(), "data")
	k := b.bulk()
	for _, waiting := range b.Waiting {
		row := &growthRow{Waiting: waiting, Sink: k.kind()}
		r.Growth = append(r.Growth, row)
		began := time.Now()
		fill(t, dir, sinkName(0), waiting)
		row.Fill = time.Since(began).Seconds()
		info, err := os.Stat(filepath.Join(dir, "journal.db"))
		require.NoError(t, err)
		row.Bytes = info.Size()

		large, empty := b.start(t, dir, unreachable()), b.start(t, t.TempDir(), unreachable())
		row.Start = large.started.Seconds()
		toLarge, toEmpty := newSender(t, large.log.url, b.Connections, eventsEach),
			newSender(t, empty.log.url, b.Connections, eventsEach)
		for range b.Turns {
			none := b.rate(t, toEmpty)
			wait := b.profile(t, large, "growth-accept", b.Round)
			much := b.rate(t, toLarge)
			wait()
			row.AcceptNone, row.Accept = append(row.AcceptNone, none), append(row.Accept, much)
			row.AcceptRatio = append(row.AcceptRatio, per(much, none))
		}
		_, row.Peak = large.memory(t)
		large.stop(t)
		empty.stop(t)

		for range b.Turns {
			small := k.open(t)
			p, none := b.drainProbe(t, small, "")
			p.stop(t)
			small.drop(t)
			big := k.open(t)
			p, much := b.drainFrom(t, dir, big, "growth-drain")
			_, peak := p.memory(t)
			row.Peak = max(row.Peak, peak)
			row.Starts = append(row.Starts, p.started.Seconds())
			p.stop(t)
			big.drop(t)
			row.DrainNone, row.Drain = append(row.DrainNone, none), append(row.Drain, much)
			row.DrainRatio = append(row.DrainRatio, per(much, none))
		}
	}
}
