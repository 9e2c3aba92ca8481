//go:build linux

package recovery

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// awayLimit is how long everybody may take to be back.
	awayLimit = 3 * time.Minute
	// quiet is how long all have to store without a pause before a try, and after it.
	quiet = time.Second
	// pauseCounts is the least pause that counts: events come each loadInterval, and the machine does other things too.
	pauseCounts = 100 * time.Millisecond
	// probeTimeout bounds a try of the probe, and probeInterval is between two.
	probeTimeout  = 250 * time.Millisecond
	probeInterval = 10 * time.Millisecond

	bareName = "bare"
)

// stored is one thing that the broker holds: whose it is, and when the broker stored it.
type stored struct {
	who     string
	at      time.Time
	id      string // of an event of a bridge
	webhook string // that it is of
}

// publisher publishes a message, or so many at once, and returns once they are acknowledged.
type publisher interface {
	publish(ctx context.Context, messages int) error
	close()
}

// broker is what is taken away and given back.
type broker interface {
	// env is what a bridge needs, whose events are name's.
	env(name string) map[string]string
	// bare is a client of the library that the sink uses, which gets the broker back by itself as soon as it can.
	bare(t *testing.T) publisher
	// patient is such a client that waits for as long as it takes.
	patient(t *testing.T) publisher
	// probe is a new client of its own, around proxies, which fails at once. It shows when the broker serves.
	probe(ctx context.Context) (publisher, error)
	// read returns what was stored since then. The broker is well.
	read(t *testing.T, since time.Time) []stored
	// latest is when something of each was stored last, or empty while the broker does not say.
	latest(ctx context.Context) map[string]time.Time
}

// rig is a broker, with clients that publish to it all the time.
type rig struct {
	broker  broker
	bridges []*runningBridge
	who     []string // who stores all the time
	try     int
	// inFlight is, by try, how many events were on their way when the fault began.
	inFlight []int

	mu     sync.Mutex
	serves []time.Time // when the way to the broker was there again
}

// servesNow notes that the broker serves again, where that does not show in what is stored.
func (r *rig) servesNow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serves = append(r.serves, time.Now())
}

// result is what became of a scenario.
type result struct {
	name           string
	bridge, bare   []time.Duration
	repeats, total int // events stored more than once, and all
	dropped        int // repeats that the broker has dropped
	missed         int // windows between short outages without an event
}

// measure plays a fault so often, with that many bridges at once, and returns how long each took. No two scenarios have
// a number.
func measure(t *testing.T, b broker, name string, number int, s scenario, tries int) result {
	t.Helper()
	r := &rig{broker: b}
	for i := range max(s.bridges, 1) {
		name := fmt.Sprintf("bridge%d-%d", number, i) // a name twice would be a repeat to JetStream
		env := b.env(name)
		if s.ack != "" {
			env["ACK"] = s.ack
		}
		bridge := startBridge(t, name, env, slog.LevelDebug)
		light().start(t, bridge)
		r.bridges, r.who = append(r.bridges, bridge), append(r.who, name)
	}
	r.who = append(r.who, bareName)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	bare := b.bare(t)
	clients.Go(func() {
		defer bare.close()
		repeatedly(ctx, loadInterval, func() { _ = bare.publish(ctx, 1) })
	})
	clients.Go(func() { r.watch(ctx) })
	res := result{name: name}
	for len(res.bridge) < tries {
		r.awaitAll(t, time.Now())
		last(t, quiet)
		began := time.Now()
		s.fault(t, r)
		r.awaitAll(t, time.Now())
		last(t, quiet)
		p := r.pauses(t, began)
		for _, one := range r.bridges {
			res.bridge = append(res.bridge, p.longest[one.name])
			res.bare = append(res.bare, p.longest[bareName])
		}
		res.repeats, res.total, res.missed = res.repeats+p.repeats, res.total+p.total, res.missed+p.missed
		t.Logf("%s, try %d: bridge %s, bare client %s, %d repeats, %d windows missed",
			name, r.try, p.longest[r.bridges[0].name], p.longest[bareName], p.repeats, p.missed)
		r.try++
	}
	for _, one := range r.bridges {
		res.dropped += one.dropped(t)
	}
	return res
}

// repeatedly calls f until ctx ends.
func repeatedly(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// last lets the load go on for a while.
func last(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// watch publishes all the time, by a new client whenever one fails, so that the broker holds something of it from the
// moment at which it serves.
func (r *rig) watch(ctx context.Context) {
	var client publisher
	repeatedly(ctx, probeInterval, func() {
		try, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		var err error
		if client == nil {
			if client, err = r.broker.probe(try); err != nil {
				client = nil
				return
			}
		}
		if err := client.publish(try, 1); err != nil {
			client.close()
			client = nil
		}
	})
	if client != nil {
		client.close()
	}
}

// awaitAll waits until something of everybody has been stored after since.
func (r *rig) awaitAll(t *testing.T, since time.Time) {
	t.Helper()
	var behind []string
	ok := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		latest := r.broker.latest(ctx)
		behind = nil
		for _, who := range r.who {
			if !latest[who].After(since) {
				behind = append(behind, who)
			}
		}
		return len(behind) == 0
	}
	for deadline := time.Now().Add(awayLimit); !ok(); last(t, 20*time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "after %s nothing is stored of %v", awayLimit, behind)
	}
}

// pauses is what one try has cost.
type pauses struct {
	// longest is, of each, the longest time for which the broker served and nothing of it was stored.
	longest map[string]time.Duration
	// missed are the times at which the broker was there for nothing, of all bridges.
	missed         int
	repeats, total int // events stored more than once, and all
}

// pauses looks at what was stored. The broker serves again when something of anybody is stored after a pause of all,
// and when the fault says so.
func (r *rig) pauses(t *testing.T, since time.Time) pauses {
	t.Helper()
	r.mu.Lock()
	marks := slices.Clone(r.serves)
	r.mu.Unlock()
	all := r.broker.read(t, since.Add(-quiet/2))
	slices.SortStableFunc(all, func(a, b stored) int { return a.at.Compare(b.at) })
	p := pauses{longest: make(map[string]time.Duration)}
	var ends []time.Time // of the pauses of all
	seen := make(map[string]bool)
	for i, s := range all {
		if i > 0 && s.at.Sub(all[i-1].at) > pauseCounts {
			ends = append(ends, s.at)
		}
		if s.id != "" {
			p.total++
			if seen[s.id] {
				p.repeats++
			}
			seen[s.id] = true
		}
	}
	before := make(map[string]time.Time)
	for _, s := range all {
		begin, known := before[s.who]
		before[s.who] = s.at
		if !known || s.at.Sub(begin) < pauseCounts {
			continue
		}
		marked := 0
		serves := begin
		for _, moment := range marks {
			if moment.After(begin) && moment.Before(s.at) {
				serves = moment
				marked++
			}
		}
		for _, moment := range ends {
			if moment.After(serves) && !moment.After(s.at) {
				serves = moment
			}
		}
		if s.who != bareName {
			p.missed += max(0, marked-1)
		}
		p.longest[s.who] = max(p.longest[s.who], s.at.Sub(serves))
	}
	return p
}
