package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// meeting is a journal in which a pass meets live webhooks: when it reads what was left behind, accept appends some,
// and it gets its page once the live stream has been through with those.
type meeting struct {
	Journal
	accept func() (newest int64)

	mu   sync.Mutex
	live int64 // behind which the live stream read last
}

func (m *meeting) Waiting(
	ctx context.Context, sink string, after int64, maxCount int, maxBytes int64,
) ([]journal.Webhook, error) {
	m.mu.Lock()
	pass := after < m.live
	m.live = max(m.live, after)
	m.mu.Unlock()
	if pass {
		newest := m.accept()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !m.through(newest) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	return m.Journal.Waiting(ctx, sink, after, maxCount, maxBytes)
}

func (m *meeting) through(number int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live >= number
}

// A key of which much was left behind has steady traffic: whenever a pass reads what was left, something new comes.
func TestAKeyWithSteadyTrafficIsTakenByAPass(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	failWhere(sink, func(e bridge.Event) bool { return e.PartitionKey == "hot" })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	const backlog = 200
	f.accept("cold", "first") // of a sink that takes nothing, nothing is left
	for n := range backlog {
		f.accept("hot", fmt.Sprint(n))
	}
	f.accept("cold", "last")
	var accepted atomic.Int64
	var calm atomic.Bool
	accepted.Store(backlog + 2)
	f.run(func(o *Options) {
		smallWindow(o)
		o.Journal = &meeting{Journal: f.journal, accept: func() int64 {
			if !calm.Load() {
				f.accept("hot", fmt.Sprint(accepted.Load()-2))
				accepted.Add(1)
			}
			return accepted.Load()
		}}
	})
	f.sink.Await(t, count(2)) // all of the others was read, and the most of them left
	f.sink.Set(func() { sink.Fail = nil })
	f.sink.Await(t, count(backlog+10)) // what came meanwhile, too
	calm.Store(true)
	require.Eventually(t, func() bool { return f.cursor() == accepted.Load() }, bound, time.Millisecond)
	n := 0
	for _, s := range deliverytest.Subjects(f.sink.Await(t, count(int(accepted.Load())))) {
		if strings.HasPrefix(s, "hot/") {
			require.Equal(t, fmt.Sprintf("hot/%d", n), s)
			n++
		}
	}
	require.EqualValues(t, accepted.Load()-2, n)
}

// Keys with traffic come and go while passes read what was left of them.
func TestPassesThatMeetLiveWebhooksKeepTheOrder(t *testing.T) {
	const rounds, keys = 40, 16
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			sink := deliverytest.NewScriptedSink()
			away := map[string]bool{}
			sink.Fail = func(e bridge.Event) error {
				if random.IntN(20) == 0 {
					away[e.PartitionKey] = true
				}
				if random.IntN(60) == 0 {
					clear(away)
				}
				if away[e.PartitionKey] {
					return bridge.Retry(errors.New("not now"))
				}
				return nil
			}
			f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
			var mu sync.Mutex
			round := 0
			accept := func() (newest int64) {
				mu.Lock()
				defer mu.Unlock()
				if round < rounds {
					for k := range keys {
						f.accept(fmt.Sprintf("k%d", k), fmt.Sprintf("r%d", round), fmt.Sprintf("s%d", round))
					}
					round++
				}
				return int64(round * keys)
			}
			f.run(func(o *Options) {
				smallWindow(o)
				o.MinBackoff, o.MaxBackoff = 100*time.Microsecond, time.Millisecond
				o.Journal = &meeting{Journal: f.journal, accept: accept}
			})
			for newest := int64(0); newest < rounds*keys; {
				newest = accept()
				f.sink.Await(t, count(int(newest))) // half of the events
			}
			f.awaitCursor(rounds * keys)
			requireRounds(t, f.sink.Await(t, count(2*rounds*keys)), rounds, keys)
		})
	}
}

// A pass begins, and comes to what never goes on. It does not wait there for ever: what goes on lies behind it.
func TestAPassDoesNotWaitForEverAtWhatNeverGoesOn(t *testing.T) {
	t.Parallel()
	sink := deliverytest.NewScriptedSink()
	mended := false
	sink.Fail = func(e bridge.Event) error {
		if e.PartitionKey == "never" || (strings.HasPrefix(e.PartitionKey, "later") && !mended) {
			return bridge.Retry(errors.New("not permitted"))
		}
		return nil
	}
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	const keys = 20
	later := func(function string) {
		for k := range keys {
			f.accept(fmt.Sprint("later", k), function)
		}
	}
	f.accept("on", "first")
	never := func(webhooks int) {
		for n := range webhooks {
			f.accept("never", fmt.Sprint(n))
		}
	}
	never(12)
	later("a") // with which what may stand still is used up
	never(100)
	later("b")
	f.accept("on", "last")
	began := make(chan struct{})
	f.run(func(o *Options) {
		o.WindowEvents, o.MaxBackoff = 64, time.Second // until then no other pass goes to its end
		o.Journal = &meeting{Journal: f.journal, accept: sync.OnceValue(func() int64 { close(began); return 0 })}
	})
	f.sink.Await(t, count(2))
	<-began
	f.goOn(5, "on") // it has ended
	f.sink.Set(func() { mended = true })
	more := 0
	require.Eventually(t, func() bool {
		f.accept("on", fmt.Sprint("more", more))
		more++
		gone := 0
		f.sink.Set(func() {
			for _, e := range sink.Stored {
				if strings.HasPrefix(e.PartitionKey, "later") {
					gone++
				}
			}
		})
		return gone == 2*keys
	}, bound, 10*time.Millisecond)
}
