package delivery

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASinkRestsAfterABatchWhileWebhooksCrowdIn(t *testing.T) {
	begun := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	settled := begun.Add(2 * time.Millisecond)
	rested := settled.Add(18 * time.Millisecond)
	crowd := func(is bool) func() bool { return func() bool { return is } }
	for name, c := range map[string]struct {
		crowded  func() bool
		now      time.Time
		received time.Time // of the oldest webhook
		feed     bool
		batches  int
		until    time.Time
	}{
		"nobody tells":                  {now: settled, received: begun, batches: math.MaxInt},
		"no crowd":                      {crowded: crowd(false), now: settled, received: begun, batches: math.MaxInt},
		"a crowd":                       {crowded: crowd(true), now: settled, received: begun, until: rested},
		"a crowd, nearly over":          {crowded: crowd(true), now: rested.Add(-1), received: begun, until: rested},
		"a crowd, and rested":           {crowded: crowd(true), now: rested, received: begun, batches: 1},
		"a crowd, and one that waits":   {crowded: crowd(true), now: settled, received: settled.Add(-throttledAge + 1), until: rested},
		"a crowd, and one that is late": {crowded: crowd(true), now: settled, received: settled.Add(-throttledAge), batches: math.MaxInt},
		"the crowd waits for the sink":  {crowded: crowd(true), now: settled, received: begun, feed: true, batches: math.MaxInt},
	} {
		t.Run(name, func(t *testing.T) {
			l := &loop{Dispatcher: &Dispatcher{o: Options{Crowded: c.crowded, Now: func() time.Time { return c.now }}}}
			if c.feed {
				l.feed = &feed{}
			}
			l.window.add(&webhook{seq: 1, receivedAt: c.received})
			l.rest(begun, settled)
			batches, _, until := l.mayStart(c.now)
			require.Equal(t, c.batches, batches)
			require.Equal(t, c.until, until)
			if c.batches == 1 {
				l.begun(c.now)
				batches, _, until = l.mayStart(c.now)
				require.Zero(t, batches, "one at a time")
				require.Equal(t, c.now.Add(longestRest), until, "but none waits for one that hangs")
			}
		})
	}
}

func TestASlowBatchMakesNoLongRest(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	l := &loop{}
	l.rest(now.Add(-time.Minute), now)
	require.Equal(t, now.Add(longestRest), l.restUntil)
}

func TestEverythingIsDeliveredToTheCrowdsEndAndBeyond(t *testing.T) {
	sink := newScriptedSink()
	sink.partitions = 3
	f := start(t, sink, func(o *Options) {
		o.BatchEvents = 2
		o.Crowded = func() bool { return true } // it never ends
	})
	const webhooks = 20
	for i := range webhooks {
		f.accept(fmt.Sprintf("k%d", i), "a", "b")
	}
	f.sink.await(t, count(2*webhooks))
	f.awaitCursor(webhooks)
}
