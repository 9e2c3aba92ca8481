package delivery

import (
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASinkRestsAfterABatchWhileWebhooksComeIn(t *testing.T) {
	begun := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	settled := begun.Add(2 * time.Millisecond)
	shared, yielded := settled.Add(2*time.Millisecond), settled.Add(18*time.Millisecond)
	const few, some, crowd = sharedArrivals - 1, sharedArrivals, crowdArrivals
	const all, one, none = math.MaxInt, 1, 0
	const short, full = pacedEvents, 32 * pacedEvents
	for name, c := range map[string]struct {
		arriving int // for each processor
		now      time.Time
		received time.Time // the oldest webhook; zero: just now
		feed     bool
		batches  int
		events   int
		until    time.Time
	}{
		"few":                                 {arriving: few, now: settled, batches: all, events: full},
		"some":                                {arriving: some, now: settled, batches: none, until: shared},
		"some, and rested":                    {arriving: some, now: shared, batches: one, events: short},
		"some, and the sink falls behind":     {arriving: some, now: shared, received: shared.Add(-fallingBehind), batches: one, events: 2 * short},
		"some, and the sink is far behind":    {arriving: some, now: shared, received: shared.Add(-time.Minute), batches: one, events: full},
		"a crowd":                             {arriving: crowd, now: shared, batches: none, until: yielded},
		"a crowd, nearly rested":              {arriving: crowd, now: yielded.Add(-1), batches: none, until: yielded},
		"a crowd, and rested":                 {arriving: crowd, now: yielded, batches: one, events: short},
		"a crowd, and the sink falls behind":  {arriving: crowd, now: yielded, received: yielded.Add(-time.Second), batches: one, events: short},
		"a crowd, and the sink is far behind": {arriving: crowd, now: yielded, received: yielded.Add(-yieldingAge), batches: one, events: full},
		"the crowd waits for the sink":        {arriving: crowd, now: settled, feed: true, batches: all, events: full},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{BatchEvents: full, Now: func() time.Time { return c.now }}
			o.Arriving = func() int { return c.arriving * runtime.GOMAXPROCS(0) }
			l := &loop{Dispatcher: &Dispatcher{o: o}, paced: o}
			if c.feed {
				l.feed = &feed{}
			}
			if c.received.IsZero() {
				c.received = c.now
			}
			l.window.add(&webhook{seq: 1, receivedAt: c.received})
			l.mayStart(begun)
			l.rest(begun, settled)

			batches, limits, until := l.mayStart(c.now)
			require.Equal(t, c.batches, batches)
			require.Equal(t, c.until, until)
			if batches > none {
				require.Equal(t, c.events, limits.BatchEvents)
			}
			if batches == one {
				latest := l.begun(c.now)
				batches, _, until = l.mayStart(c.now)
				require.Zero(t, batches, "one at a time")
				require.Equal(t, latest, until, "but none waits for one that hangs")
				require.LessOrEqual(t, until.Sub(c.now), yielding.longest())
			}
		})
	}
}

func TestNobodyTellsWhatComesIn(t *testing.T) {
	l := &loop{Dispatcher: &Dispatcher{o: Options{Now: time.Now}}}
	batches, limits, _ := l.mayStart(time.Now())
	require.Equal(t, math.MaxInt, batches)
	require.Same(t, &l.o, limits)
}

func TestASlowBatchMakesNoLongRest(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, p := range []pace{unpaced, sharing, yielding} {
		l := &loop{pace: p}
		l.rest(now.Add(-time.Minute), now)
		require.Equal(t, now.Add(p.longest()), l.restUntil)
	}
}

func TestEverythingIsDeliveredToTheCrowdsEndAndBeyond(t *testing.T) {
	sink := newScriptedSink()
	sink.partitions = 3
	f := start(t, sink, func(o *Options) {
		o.BatchEvents = 2
		o.Arriving = func() int { return 1 << 20 } // it never ends
	})
	const webhooks = 20
	for i := range webhooks {
		f.accept(fmt.Sprintf("k%d", i), "a", "b")
	}
	f.sink.await(t, count(2*webhooks))
	f.awaitCursor(webhooks)
}
