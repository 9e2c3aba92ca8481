package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// failWhere has the sink fail events that which selects, as one without a leader does.
func failWhere(sink *deliverytest.ScriptedSink, which func(bridge.Event) bool) {
	sink.Fail = func(e bridge.Event) error {
		if which(e) {
			return bridge.Retry(errors.New("no leader"))
		}
		return nil
	}
}

// acceptRounds appends so many webhooks, of keys k0, k1, … by turns, each with two functions named after its round.
func (f *fixture) acceptRounds(rounds, keys int) {
	f.t.Helper()
	for r := range rounds {
		for k := range keys {
			f.accept(fmt.Sprintf("k%d", k), fmt.Sprintf("r%d", r), fmt.Sprintf("s%d", r))
		}
	}
}

// requireRounds tells whether each key has all its events, each once, in the order of acceptRounds.
func requireRounds(t *testing.T, stored []bridge.Event, rounds, keys int) {
	t.Helper()
	require.Len(t, stored, 2*rounds*keys, "everything once")
	by := deliverytest.ByKey(deliverytest.Subjects(stored))
	require.Len(t, by, keys)
	for key, got := range by {
		var want []string
		for r := range rounds {
			want = append(want, fmt.Sprintf("%s/r%d", key, r), fmt.Sprintf("%s/s%d", key, r))
		}
		require.Equal(t, want, got)
	}
}

func smallWindow(o *Options) { o.WindowEvents, o.BatchEvents, o.ProbeEvents = 64, 16, 4 }

// Four partitions of twelve have no leader, and many times the window waits for them. The others go on to the end.
// When the leaders are back, everything arrives, in order.
func TestAPartitionThatStandsStillDoesNotStopTheOthers(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 12
	dead := func(e bridge.Event) bool { return sink.Partition(e)%3 == 0 }
	failWhere(sink, dead)
	f := start(t, sink, smallWindow)
	const rounds, keys = 20, 60
	f.acceptRounds(rounds, keys)
	stored := f.sink.Await(t, count(2*rounds*keys*2/3))
	require.False(t, slices.ContainsFunc(stored, dead))
	require.LessOrEqual(t, f.cursor(), int64(1), "the cursor stays before what waits")
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(rounds * keys)
	requireRounds(t, f.sink.Await(t, count(2*rounds*keys)), rounds, keys)
}

// One after the other comes back: what was left behind of it goes, past what still waits.
func TestPartitionsComeBackOneByOne(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 6
	down := map[int]bool{1: true, 3: true, 5: true}
	failWhere(sink, func(e bridge.Event) bool { return down[sink.Partition(e)] })
	f := start(t, sink, smallWindow)
	const rounds, keys = 10, 60
	f.acceptRounds(rounds, keys)
	for back := range 3 {
		f.sink.Await(t, count(2*rounds*keys*(3+back)/6))
		f.sink.Set(func() { down[5-2*back] = false })
	}
	f.awaitCursor(rounds * keys)
	requireRounds(t, f.sink.Await(t, count(2*rounds*keys)), rounds, keys)
}

// Partitions and keys come and go, and the bridge stops in between: everything arrives once, in the order of its key.
func TestPartitionsThatComeAndGoRepeatAndReorderNothing(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			sink := deliverytest.NewScriptedSink()
			sink.Partitions = 6
			away := map[string]bool{}
			name := func(e bridge.Event) string { return fmt.Sprint(sink.Partition(e)) }
			failWhere(sink, func(e bridge.Event) bool {
				if random.IntN(30) == 0 { // a partition, or a key
					what := name(e)
					if random.IntN(2) == 0 {
						what = e.PartitionKey
					}
					away[what] = true
				}
				if random.IntN(60) == 0 {
					clear(away)
				}
				return away[name(e)] || away[e.PartitionKey]
			})
			f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
			const rounds, keys = 20, 60
			f.acceptRounds(rounds, keys)
			options := func(o *Options) {
				smallWindow(o)
				o.MinBackoff, o.MaxBackoff = 100*time.Microsecond, time.Millisecond
			}
			for n := range 4 {
				f.run(options)
				f.sink.Await(t, count((n+1)*2*rounds*keys/5))
				f.stop()
			}
			f.run(options)
			f.awaitCursor(rounds * keys)
			requireRounds(t, f.sink.Await(t, count(2*rounds*keys)), rounds, keys)
		})
	}
}

// A sink without partitions refuses the events of many keys, or of one that has no end. The other keys go on.
func TestKeysThatStandStillDoNotStopTheOthers(t *testing.T) {
	for name, which := range map[string]func(bridge.Event) bool{
		"many keys": func(e bridge.Event) bool { return strings.HasSuffix(e.PartitionKey, "1") },
		"one key":   func(e bridge.Event) bool { return e.PartitionKey == "k7" },
	} {
		t.Run(name, func(t *testing.T) {
			sink := deliverytest.NewScriptedSink()
			failWhere(sink, which)
			f := start(t, sink, func(o *Options) { o.WindowEvents = 64 })
			const rounds, keys = 10, 200
			f.acceptRounds(rounds, keys)
			healthy := 0
			for k := range keys {
				if !which(bridge.Event{PartitionKey: fmt.Sprintf("k%d", k)}) {
					healthy++
				}
			}
			stored := f.sink.Await(t, count(2*rounds*healthy))
			require.False(t, slices.ContainsFunc(stored, which))
			f.sink.Set(func() { sink.Fail = nil })
			f.awaitCursor(rounds * keys)
			requireRounds(t, f.sink.Await(t, count(2*rounds*keys)), rounds, keys)
		})
	}
}

// What was left behind among keys that never go on is tried again, too.
func TestWhatWasLeftBehindGoesOnBesideWhatNeverDoes(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	never := func(e bridge.Event) bool { return strings.HasSuffix(e.PartitionKey, "1") }
	notNow := func(e bridge.Event) bool { return strings.HasSuffix(e.PartitionKey, "2") }
	failWhere(sink, func(e bridge.Event) bool { return never(e) || notNow(e) })
	f := start(t, sink, func(o *Options) { o.WindowEvents = 64 })
	const rounds, keys = 2, 200
	f.acceptRounds(rounds, keys)
	f.sink.Await(t, count(2*rounds*keys*8/10))
	f.sink.Set(func() { failWhere(sink, never) })
	// A sink that takes nothing that comes is down, so something has to come.
	others, gone := 0, 0
	require.Eventually(t, func() bool {
		f.accept(fmt.Sprintf("other%d", others), "a")
		others++
		f.sink.Set(func() {
			gone = 0
			for _, e := range sink.Stored {
				if notNow(e) && e.Function != "a" {
					gone++
				}
			}
		})
		return gone == 2*rounds*keys/10
	}, bound, time.Millisecond)
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(int64(rounds*keys + others))
	stored := f.sink.Await(t, count(2*rounds*keys+others))
	requireRounds(t, slices.DeleteFunc(stored, func(e bridge.Event) bool { return e.Function == "a" }), rounds, keys)
}

// Restarts repeat nothing of what has gone on behind a partition that stands still, and keep its order.
func TestAnOrderlyRestartRepeatsNothing(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 3
	dead := func(e bridge.Event) bool { return sink.Partition(e) == 0 }
	failWhere(sink, dead)
	f := start(t, sink, smallWindow)
	const rounds, keys = 20, 30
	f.acceptRounds(rounds, keys)
	for n := range 3 {
		f.sink.Await(t, count(2*rounds*keys*2/3+n))
		f.stop()
		f.run(smallWindow)
		f.accept("k1", "more") // what comes behind all that waits goes on
		f.sink.Await(t, count(2*rounds*keys*2/3+n+1))
	}
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(rounds*keys + 3)
	stored := f.sink.Await(t, count(2*rounds*keys+3))
	requireRounds(t, slices.DeleteFunc(stored, func(e bridge.Event) bool { return e.Function == "more" }), rounds, keys)
}

// Of a webhook with keys that go on and others that do not, a restart sends what is missing.
func TestARestartSendsTheRestOfAWebhook(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Fail = func(e bridge.Event) error {
		if e.Function == "b" {
			return bridge.Retry(errors.New("not permitted"))
		}
		return nil
	}
	sink.Key = func(e *bridge.Event) string { return e.Function }
	f := start(t, sink, nil)
	f.accept("k1", "a", "b", "c")
	f.accept("k2", "a", "b", "c")
	f.sink.Await(t, count(4))
	f.stop()
	f.sink.Set(func() { sink.Fail = nil })
	f.run(nil)
	f.awaitCursor(2)
	require.Equal(t, []string{"k1/a", "k1/c", "k2/a", "k2/c", "k1/b", "k2/b"},
		deliverytest.Subjects(f.sink.Await(t, count(6))))
}

// Of a sink that orders by another key, that key is what waits: the function that fails, in every invocation, and
// nothing else of an invocation.
func TestTheOrderIsThatOfTheKeyThatTheSinkUses(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Key = func(e *bridge.Event) string { return e.Function }
	fails := true
	sink.Fail = func(e bridge.Event) error {
		if e.Subject == "k1/a" && fails {
			fails = false
			return bridge.Retry(errors.New("timeout"))
		}
		return nil
	}
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	f.accept("k1", append(functions(40), "a")...)
	f.accept("k2", "a", "b")
	f.accept("k3", "a")
	f.run(func(o *Options) { o.BatchEvents = 50 })
	f.awaitCursor(3)
	var order []string
	for _, e := range f.sink.Await(t, count(44)) {
		if e.Function == "a" {
			order = append(order, e.Subject)
		}
	}
	require.Equal(t, []string{"k1/a", "k2/a", "k3/a"}, order)
}

func functions(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("f%d", i)
	}
	return names
}

// What has waited for too long for a partition becomes dead letters together, whether it had a try or not.
func TestWhatIsOverdueOfAPartitionGoesTogether(t *testing.T) {
	t.Parallel()
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 3
	failWhere(sink, func(e bridge.Event) bool { return sink.Partition(e) == 0 })
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	const webhooks = 600
	for k := range webhooks {
		f.accept(fmt.Sprintf("k%d", k), "a")
	}
	f.run(func(o *Options) { // no round of tries helps
		o.MinBackoff, o.MaxBackoff, o.ReturnInterval, o.GiveUpAfter = time.Hour, time.Hour, time.Hour, 5*time.Second
		o.WindowEvents = 64
	})
	f.awaitCursor(webhooks)
	letters := f.deadLetters(journal.DeadLetterFilter{})
	require.Len(t, letters, webhooks/3)
	require.Less(t, letters[len(letters)-1].FirstAt.Sub(letters[0].FirstAt), 20*time.Second, "by turns")
	require.True(t, slices.ContainsFunc(letters, func(l journal.DeadLetter) bool {
		return strings.Contains(l.Reason, "without a try, while nothing got through to its partition: no leader")
	}))
	require.Len(t, f.sink.Await(t, count(webhooks*2/3)), webhooks*2/3)
}

func (f *fixture) cursor() int64 {
	f.t.Helper()
	c, err := f.journal.Cursor(f.t.Context(), "scripted")
	require.NoError(f.t, err)
	return c
}

// The log says of a partition when it begins to stand still, and when it goes on. Status says it meanwhile.
func TestWhatStandsStillIsSaid(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 6
	failWhere(sink, func(e bridge.Event) bool { return sink.Partition(e)%3 == 2 })
	f := start(t, sink, smallWindow)
	const rounds, keys = 10, 60
	f.acceptRounds(rounds, keys)
	f.sink.Await(t, count(2*rounds*keys*2/3))
	require.Eventually(t, func() bool {
		return strings.HasPrefix(f.state().StandsStill, "nothing gets through to 2 partitions (2, 5), since ") &&
			strings.HasSuffix(f.state().StandsStill, ": no leader; 200 webhooks wait")
	}, bound, 10*time.Millisecond)
	require.Equal(t, "degraded", f.state().State)
	require.NotZero(t, f.log.Count("partitions stand still"))
	require.Zero(t, f.log.Count("partitions stand still no longer"))
	require.InDelta(t, 200, value(t, f.metrics, "fnbridge_sink_backlog_webhooks"), 0)
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(rounds * keys)
	require.Eventually(t, func() bool {
		return f.state().StandsStill == "" && f.log.Count("partitions stand still no longer") > 0
	}, bound, 10*time.Millisecond)
}

// Of what is left behind, so much is remembered and no more. The log and status say when that holds up the rest.
func TestWhatIsLeftBehindIsBounded(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	sink.Partitions = 2
	failWhere(sink, func(e bridge.Event) bool { return sink.Partition(e) == 1 })
	f := start(t, sink, func(o *Options) { smallWindow(o); o.WindowLeft = 10 })
	const rounds, keys = 40, 60
	f.acceptRounds(rounds, keys)
	require.Eventually(t, func() bool {
		return strings.HasSuffix(f.state().StandsStill, " webhooks wait, and those behind them")
	}, bound, 10*time.Millisecond)
	require.Equal(t, 1, f.log.Count("the whole sink waits for the part of it that stands still"))
	f.sink.Set(func() { require.Less(t, len(sink.Stored), rounds*keys) })
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(rounds * keys)
	requireRounds(t, f.sink.Await(t, count(2*rounds*keys)), rounds, keys)
}

// What "fnbridge status" reads from the disk is what waits, not what lies behind the cursor.
func TestTheBacklogOnDiskIsWhatWaits(t *testing.T) {
	sink := deliverytest.NewScriptedSink()
	failWhere(sink, func(e bridge.Event) bool { return e.PartitionKey == "k0" })
	dir := t.TempDir()
	f := &fixture{t: t, journal: openJournal(t, dir), sink: sink, log: &deliverytest.Records{}}
	f.run(nil)
	const rounds, keys = 3, 4
	f.acceptRounds(rounds, keys)
	f.sink.Await(t, count(2*rounds*(keys-1)))
	reader, err := journal.OpenReader(t.Context(), dir)
	require.NoError(t, err)
	defer reader.Close()
	require.Eventually(t, func() bool {
		s, err := reader.Status(t.Context())
		require.NoError(t, err)
		return s.Sinks[0].Backlog == rounds*keys && Backlog(&s.Sinks[0]) == rounds
	}, bound, 5*time.Millisecond)
	f.sink.Set(func() { sink.Fail = nil })
	f.awaitCursor(rounds * keys)
}

// countedReads is a journal that counts the bytes that are read of large webhooks, and has the most that a read of dead
// letters took.
type countedReads struct {
	*journal.Journal
	bytes atomic.Int64
}

const largeWebhook = 256 << 10

func (c *countedReads) count(webhooks []journal.Webhook) {
	for i := range webhooks {
		if size := len(webhooks[i].Body); size >= largeWebhook {
			c.bytes.Add(int64(size))
		}
	}
}

func (c *countedReads) Select(
	ctx context.Context, f journal.WebhookFilter, maxCount int, maxBytes int64,
) ([]journal.Webhook, error) {
	webhooks, err := c.Journal.Select(ctx, f, maxCount, maxBytes)
	c.count(webhooks)
	return webhooks, err
}

func (c *countedReads) Retried(
	ctx context.Context, s journal.Stream, after int64, maxCount int, maxBytes int64,
) ([]journal.DeadLetter, error) {
	letters, err := c.Journal.Retried(ctx, s, after, maxCount, maxBytes)
	read := int64(0)
	for i := range letters {
		read += int64(len(letters[i].Event.Data))
	}
	c.bytes.Store(max(c.bytes.Load(), read))
	return letters, err
}

// acceptLarge appends so many large webhooks, all of one key.
func (f *fixture) acceptLarge(webhooks int, key string) {
	f.t.Helper()
	padding := strings.Repeat("x", largeWebhook)
	for range webhooks {
		f.acceptBody(fmt.Sprintf(`{"workflow_name":"w","invocation_id":%q,"fn_status":{"large":"success"},"padding":%q}`,
			key, padding))
	}
}

// goOn has so many small webhooks delivered, one after the other.
func (f *fixture) goOn(webhooks int, key string) {
	f.t.Helper()
	for i := range webhooks {
		name := fmt.Sprintf("on%d", i)
		f.accept(key, name)
		f.sink.Await(f.t, func(stored []bridge.Event) bool {
			return slices.ContainsFunc(stored, func(e bridge.Event) bool { return e.Function == name })
		})
	}
}

// A slow replay is read ahead by its bytes.
func TestASlowReplayIsBoundedInBytes(t *testing.T) {
	f := &fixture{
		t: t, journal: openJournal(t, t.TempDir()), sink: deliverytest.NewScriptedSink(), log: &deliverytest.Records{},
	}
	reads := &countedReads{Journal: f.journal}
	f.run(func(o *Options) { o.Journal = reads })
	const large = 60
	f.acceptLarge(large, "k1")
	f.awaitCursor(large)
	reads.bytes.Store(0)
	f.replay(journal.Stream{Rate: 1e-3})
	f.sink.Await(t, count(large+1))
	f.goOn(40, "k0")
	require.Less(t, reads.bytes.Load(), int64(2*readBytes/besideShare+largeWebhook))
}

// Dead letters are often there because they are large. A retry reads few of those at once.
func TestARetryOfLargeDeadLettersIsBoundedInBytes(t *testing.T) {
	f := &fixture{
		t: t, journal: openJournal(t, t.TempDir()), sink: deliverytest.NewScriptedSink(), log: &deliverytest.Records{},
	}
	mend := rejecting(f.sink, func(bridge.Event) bool { return true })
	reads := &countedReads{Journal: f.journal}
	f.run(func(o *Options) { o.Journal = reads })
	const letters = 10
	for range letters {
		f.acceptBody(fmt.Sprintf(`{"unrecognized":%q}`, strings.Repeat("x", largeWebhook)))
	}
	f.awaitDeadLetters(letters)
	f.awaitCursor(letters)
	reads.bytes.Store(0)
	mend()
	f.retry(journal.DeadLetterFilter{})
	f.sink.Await(t, count(letters))
	require.LessOrEqual(t, reads.bytes.Load(), int64(readBytes/besideShare))
}
