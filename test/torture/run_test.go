//go:build linux

package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// shortTimeout is how long a sender waits for an answer, so that little time is lost; senderTimeout is the real one.
	shortTimeout  = 2500 * time.Millisecond
	senderTimeout = 15 * time.Second
	// recoveryLimit is when a recovery counts as a hang, and how long the bridge may take to be at rest when there is no
	// load. Retries back off up to 30 s, and after a cluster's outage its servers need some time themselves, on a machine
	// that is busy.
	recoveryLimit = 3 * time.Minute
	// hangLimit is how long nothing of a backlog may arrive, and nothing of a load be accepted, until that counts as a
	// hang, for the same reason.
	hangLimit = 90 * time.Second
)

// fault is one kind of trouble.
type fault struct {
	// kind is its name in the schedule and in the report: "kafka: leader killed".
	kind string
	// play makes the trouble, keeps it up for a while, and mends it before it returns; the load goes on meanwhile.
	// It returns early when ctx ends, and mends even then. What must not happen it reports to r.failf.
	play func(ctx context.Context, r *run)
}

// side is a part of what surrounds the bridge.
type side interface {
	// env is what the bridge needs to know of it: NAME=value, NAME without FNBRIDGE_.
	env() []string
	faults() []fault
}

// consumer is an ordinary consumer of a broker's events.
type consumer interface {
	// consume feeds the ledger with all that the broker stores, until ctx ends. It survives every fault.
	consume(ctx context.Context, l *ledger)
}

// run is one torture run. Faults get it.
type run struct {
	t      *testing.T
	rand   *rand.Rand // for the fault that is being played, and its goroutine alone
	rate   float64    // webhooks a second, usually
	bridge *bridgeProcess
	load   *load
	ledger *ledger
	nats   *natsSide
	kafka  *kafkaSide
	disk   *diskSide

	began    time.Time
	failures failures
	outcomes outcomes
	samples  []sample
}

// failures are the violations found so far.
type failures struct {
	mu    sync.Mutex
	texts []string
	total int
}

// failf notes a violation. The run goes on, and fails. It may be called from any goroutine.
func (r *run) failf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.failures.mu.Lock()
	defer r.failures.mu.Unlock()
	if r.failures.total++; r.failures.total <= maxViolations {
		r.failures.texts = append(r.failures.texts, text)
		r.logf("VIOLATION: %s", text)
	}
}

func (r *run) failed() (texts []string, total int) {
	r.failures.mu.Lock()
	defer r.failures.mu.Unlock()
	return r.failures.texts, r.failures.total
}

// logf prints a line of the schedule.
func (r *run) logf(format string, args ...any) {
	// Printed at once, unlike what a test logs: a run takes long.
	fmt.Printf("%7.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// stay waits for a random time from least to most, or until ctx ends.
func (r *run) stay(ctx context.Context, least, most time.Duration) {
	timer := time.NewTimer(least + time.Duration(r.rand.Int64N(int64(most-least)+1)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// await asks until the answer is nil. Its error is the last answer, once the limit is over; ctx does not end it, so
// that what was broken is mended.
func (r *run) await(ctx context.Context, limit time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, err)
		}
	}
}

// accept waits until so many more webhooks are accepted. How long that takes is the machine's affair, as long as some
// are.
func (r *run) accept(ctx context.Context, webhooks int64) error {
	until := r.load.accepted() + webhooks
	for {
		before := r.load.accepted()
		if before >= until {
			return nil
		}
		if err := r.await(ctx, hangLimit, func() error {
			if r.load.accepted() == before {
				return fmt.Errorf("no webhook is accepted, and %d of %d are yet to be", until-before, webhooks)
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// play plays one fault, and then waits until all is well. It returns an error when that does not happen.
func (r *run) play(ctx context.Context, f fault, seed, number uint64) error {
	r.rand = rand.New(rand.NewPCG(seed, number))
	r.logf("%3d  %s", number, f.kind)
	began := time.Now()
	before := r.load.count()
	f.play(ctx, r)
	mended := time.Now()
	last, err := r.recovered(ctx)
	took := time.Since(mended)
	r.outcomes.add(f.kind, mended.Sub(began), took)
	if err != nil {
		return fmt.Errorf("%s: hangs: %w", f.kind, err)
	}
	after := r.load.count()
	r.logf("     mended after %.1f s, well again %.1f s later (last: %s); %d webhooks accepted meanwhile, "+
		"%d tries refused, %d unanswered",
		mended.Sub(began).Seconds(), took.Seconds(), last,
		after.Accepted-before.Accepted, after.Refused-before.Refused, after.Unanswered-before.Unanswered)
	return r.rest(ctx)
}

// recovered waits until a new webhook, and with it all that was accepted before, has reached every sink. It tells what
// came last.
func (r *run) recovered(ctx context.Context) (last string, err error) {
	ctx = context.WithoutCancel(ctx)
	limited, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	if err := r.bridge.awaitReady(limited); err != nil {
		return "", err
	}
	if err := r.load.probe(limited); err != nil {
		return "", err
	}
	return r.ledger.awaitLast(ctx)
}

// rest lets the load pause until nothing is left to do, and takes a sample of what the bridge uses then.
func (r *run) rest(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	r.load.pause(ctx)
	defer r.load.resume()
	if err := r.ledger.awaitDelivered(ctx); err != nil {
		return fmt.Errorf("with the load at rest: %w", err)
	}
	var s sample
	err := r.await(ctx, recoveryLimit, func() error {
		m, err := r.bridge.metrics(ctx)
		if err != nil {
			return err
		}
		if backlog := m.sum("fnbridge_sink_backlog_webhooks"); backlog != 0 {
			return fmt.Errorf("every event is at every sink, and the backlogs of the sinks are %v webhooks", backlog)
		}
		if up := m.sum("fnbridge_sink_up"); up != float64(len(r.ledger.sinks)) {
			return fmt.Errorf("%v of %d sinks are up", up, len(r.ledger.sinks))
		}
		if letters := m.sum("fnbridge_dead_letters"); letters != 0 {
			r.failf("%v events have become dead letters, and every one could have been stored", letters)
			return nil
		}
		s = sample{
			Process: r.bridge.starts, Goroutines: int(m.sum("go_goroutines")), FDs: int(m.sum("process_open_fds")),
			Memory: int64(m.sum("process_resident_memory_bytes")),
		}
		if len(r.samples) > 0 && s.beyond(r.samples[0]) != "" {
			return errors.New(s.beyond(r.samples[0]))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("the bridge does not come to rest: %w", err)
	}
	r.samples = append(r.samples, s)
	if found := growth(r.samples); found != "" {
		r.failf("%s", found)
	}
	r.bridge.sampleMemory()
	if peak := r.bridge.peakMemory(); peak > memoryBound {
		r.failf("the bridge has had %d MiB of memory resident, and %d MiB are the most", peak>>20, memoryBound>>20)
	}
	r.ledger.report(r.failf)
	return nil
}

// schedule says which fault comes next: first each once, in random order, then any.
type schedule struct {
	faults []fault
	rand   *rand.Rand
	next   int
}

func newSchedule(faults []fault, seed uint64) *schedule {
	s := &schedule{faults: faults, rand: rand.New(rand.NewPCG(seed, 0))}
	s.rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	return s
}

// take returns the next fault, and whether every kind has had its turn before it.
func (s *schedule) take() (f fault, extra bool) {
	defer func() { s.next++ }()
	if s.next < len(s.faults) {
		return s.faults[s.next], false
	}
	return s.faults[s.rand.IntN(len(s.faults))], true
}

// kinds returns the names of the faults, one a line.
func kinds(faults []fault) string {
	var b strings.Builder
	for _, f := range faults {
		b.WriteString("\n  " + f.kind)
	}
	return b.String()
}
