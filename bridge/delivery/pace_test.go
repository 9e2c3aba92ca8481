package delivery

import (
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func batchBegan() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

func batchEnded() time.Time { return batchBegan().Add(2 * time.Millisecond) }

// waiting is a supply in which so many webhooks wait.
type waiting struct {
	supply
	webhooks int64
}

func (w waiting) backlog() int64 { return w.webhooks }

// pacedLoop returns a loop behind a batch that took 2 ms, as of now, while so many webhooks for each processor come in.
func pacedLoop(now time.Time, arriving int, waited time.Duration) *loop {
	o := Options{BatchEvents: 32 * pacedEvents}
	o.Arriving = func() int { return arriving * runtime.GOMAXPROCS(0) }
	l := &loop{Dispatcher: &Dispatcher{o: o, supply: waiting{webhooks: 1}}, pacing: pacing{limits: o}}
	l.pacing.lag.of(0, 1, now.Add(-waited))
	l.pacing.begun(batchBegan())
	l.pacing.settled(batchBegan(), batchEnded())
	return l
}

// crowd has webhooks crowd in until now.
func (p *pacing) crowd(now time.Time) {
	for ago := crowdAfter; ago >= 0; ago -= lookEvery {
		p.pace(crowdArrivals, 0, now.Add(-ago))
	}
}

func TestASinkRestsAfterABatchWhileWebhooksComeIn(t *testing.T) {
	const few, some = sharedArrivals - 1, sharedArrivals
	const all, one, none = math.MaxInt, 1, 0
	const short, full = pacedEvents, 32 * pacedEvents
	shared, yielded := batchEnded().Add(2*time.Millisecond), batchEnded().Add(18*time.Millisecond)
	for name, c := range map[string]struct {
		arriving int // for each processor
		crowd    bool
		now      time.Time
		waited   time.Duration // by the oldest webhook
		feed     bool
		batches  int
		events   int
		again    time.Time
	}{
		"few":                        {arriving: few, now: batchEnded(), batches: all, events: full},
		"some":                       {arriving: some, now: batchEnded(), batches: none, again: shared},
		"some, and rested":           {arriving: some, now: shared, batches: one, events: short},
		"some, and the sink is late": {arriving: some, now: batchEnded(), waited: fallingBehind, batches: none, again: batchEnded().Add(time.Millisecond)},
		"some, and it is later":      {arriving: some, now: batchEnded(), waited: 2 * fallingBehind, batches: none, again: batchEnded().Add(time.Millisecond / 2)},
		"some, and it has no rest":   {arriving: some, now: shared, waited: restHalvings * fallingBehind, batches: one, events: short},
		"some, and batches grow":     {arriving: some, now: shared, waited: (restHalvings + 1) * fallingBehind, batches: one, events: 2 * short},
		"some, and it is far behind": {arriving: some, now: shared, waited: time.Minute, batches: one, events: full},
		"a crowd":                    {arriving: crowdArrivals, crowd: true, now: shared, batches: none, again: shared.Add(lookEvery)},
		"a crowd, nearly rested":     {arriving: crowdArrivals, crowd: true, now: yielded.Add(-1), batches: none, again: yielded},
		"a crowd, and rested":        {arriving: crowdArrivals, crowd: true, now: yielded, batches: one, events: short},
		"a crowd, and it is behind":  {arriving: crowdArrivals, crowd: true, now: yielded, waited: 5 * time.Second, batches: one, events: short},
		"a crowd, for too long":      {arriving: crowdArrivals, crowd: true, now: shared, waited: yieldingAge, batches: one, events: full},
		"a crowd for a moment":       {arriving: crowdArrivals, now: shared, batches: one, events: short},
		"it waits for the sink":      {arriving: crowdArrivals, crowd: true, now: batchEnded(), feed: true, batches: all, events: full},
	} {
		t.Run(name, func(t *testing.T) {
			l := pacedLoop(c.now, c.arriving, c.waited)
			if c.feed {
				l.feed = &feed{}
			}
			if c.crowd {
				l.pacing.crowd(c.now)
			}

			batches, limits, again := l.mayStart(c.now)
			require.Equal(t, c.batches, batches)
			require.Equal(t, c.again, again)
			if batches > none {
				require.Equal(t, c.events, limits.BatchEvents)
			}
		})
	}
}

func TestACrowdIsOneThatStays(t *testing.T) {
	var p pacing
	now := batchBegan()
	look := func(arriving int) bool {
		now = now.Add(lookEvery)
		return p.pace(arriving, 0, now) == yielding
	}
	for range 2 {
		for range crowdAfter / lookEvery {
			require.False(t, look(crowdArrivals), "a moment makes no crowd")
		}
		require.False(t, look(crowdArrivals-1), "nor do two")
	}
	p.crowd(now)
	require.True(t, look(crowdArrivals))
	require.True(t, look(crowdEnds), "a few less end none")
	require.False(t, look(crowdEnds-1))
}

func TestDeliveryYieldsAgainWhenItHasCaughtUp(t *testing.T) {
	var p pacing
	p.crowd(batchEnded())
	for _, c := range []struct {
		waited time.Duration
		want   pace
	}{
		{yieldingAge - 1, yielding},
		{yieldingAge, sharing},
		{yieldingAge - 1, sharing},
		{caughtUpAge, sharing},
		{caughtUpAge - 1, yielding},
		{caughtUpAge, yielding},
	} {
		require.Equal(t, c.want, p.pace(crowdArrivals, c.waited, batchEnded()), c.waited)
	}
}

func TestALoadThatNeverEndsIsNotServedAtTheCostOfAllDelivery(t *testing.T) {
	var l lag
	var p pacing
	now := batchBegan()
	const accepted, delivered = 200, 15 // each time that it is looked
	var head, cursor int64
	yields := 0
	for range time.Minute / lookEvery {
		now = now.Add(lookEvery)
		head, cursor = head+accepted, cursor+delivered
		if p.pace(crowdArrivals, l.of(cursor, head, now), now) == yielding {
			yields++
		}
	}
	require.InDelta(t, 10.8, (time.Duration(yields) * lookEvery).Seconds(), 1, "until the oldest has waited for ten seconds")
}

func TestOneBatchAtATimeAndNoneWaitsForOneThatHangs(t *testing.T) {
	now := batchEnded().Add(time.Minute)
	for name, c := range map[string]struct {
		crowd   bool
		waited  time.Duration
		longest time.Duration
	}{
		"sharing":             {longest: 20 * time.Millisecond},
		"sharing, and behind": {longest: 20 * time.Millisecond, waited: 2 * fallingBehind},
		"yielding":            {longest: 200 * time.Millisecond, crowd: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := pacedLoop(now, crowdArrivals, c.waited)
			if c.crowd {
				l.pacing.crowd(now)
			}
			batches, _, _ := l.mayStart(now)
			require.Equal(t, 1, batches)
			require.Equal(t, now.Add(lookEvery), l.pacing.begun(now))
			batches, _, again := l.mayStart(now.Add(c.longest - 1))
			require.Zero(t, batches)
			require.Equal(t, now.Add(c.longest), again)
			batches, _, _ = l.mayStart(now.Add(c.longest))
			require.Equal(t, 1, batches)
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
	for p, longest := range map[pace]time.Duration{unpaced: 0, sharing: 10 * time.Millisecond, yielding: 100 * time.Millisecond} {
		require.Equal(t, longest, p.rest(time.Minute, 0))
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
