package lane

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func limits() Limits {
	return Limits{
		BatchEvents: 64, BatchBytes: 1 << 20, ProbeEvents: 16,
		MinBackoff: 100 * time.Millisecond, MaxBackoff: 30 * time.Second, BlockedBackoff: 5 * time.Second,
	}
}

// lanes are those of a sink with one partition, at a time that stands still unless a test says otherwise.
func lanes(limits Limits) (*Lanes, time.Time) {
	return New(limits, func(*bridge.Event) int { return 0 }, func() int { return 1 }), time.Unix(1_000_000, 0)
}

func live(key string) *Item {
	return &Item{Webhook: &Webhook{Live: true}, Event: &bridge.Event{PartitionKey: key}, Key: key}
}

func add(l *Lanes, items ...*Item) *Lane {
	for _, it := range items {
		l.Add(it)
	}
	return l.Of(items[0])
}

func failed(items ...*Item) Result {
	return Result{Failed: items, Cause: errors.New("down")}
}

func TestBackoffDoublesWithinItsBounds(t *testing.T) {
	l := limits()
	for _, tc := range []struct {
		attempt int
		kind    bridge.FailureKind
		most    time.Duration
	}{
		{1, bridge.FailureRetry, 100 * time.Millisecond},
		{2, bridge.FailureRetry, 200 * time.Millisecond},
		{9, bridge.FailureRetry, 25600 * time.Millisecond},
		{10, bridge.FailureRetry, 30 * time.Second},
		{1000, bridge.FailureRetry, 30 * time.Second},
		{1, bridge.FailureBlocked, 5 * time.Second},
		{1000, bridge.FailureBlocked, 30 * time.Second},
	} {
		least, most := time.Hour, time.Duration(0)
		for range 1000 {
			wait := l.Backoff(tc.attempt, tc.kind)
			least, most = min(least, wait), max(most, wait)
		}
		require.LessOrEqual(t, most, tc.most)
		require.GreaterOrEqual(t, least, tc.most/2)
		require.Less(t, least, most, "many bridges must not return in step")
	}
}

func TestHeldEventsAreTriedAgainOnlyWhenTheirTimeHasCome(t *testing.T) {
	all, now := lanes(limits())
	a1, a2, b1, b2 := live("a"), live("a"), live("b"), live("b")
	l := add(all, a1, b1)
	batch, _ := l.Take(now)
	require.Equal(t, []*Item{a1, b1}, batch)
	batch, _ = l.Take(now)
	require.Empty(t, batch, "everything is under way")

	a1.Attempts = 1
	l.Settle(now, Result{Done: 1, Failed: []*Item{a1}, Cause: errors.New("not now")})
	add(all, a2, b2)
	batch, _ = l.Take(now)
	require.Equal(t, []*Item{b2}, batch, "b goes on, a2 waits behind a1")
	l.Settle(now, Result{Done: 1})
	batch, due := l.Take(now)
	require.Empty(t, batch)
	require.True(t, due.After(now))
	require.True(t, l.Failing())
	batch, _ = l.Take(due)
	require.Equal(t, []*Item{a1, a2}, batch)
	l.Settle(now, Result{Done: 2, Retried: 1})
	require.False(t, l.Failing())
}

func TestALaneThatGetsNothingThroughSendsNothingNewUntilItsTime(t *testing.T) {
	all, now := lanes(limits())
	first, second := live("a"), live("b")
	l := add(all, first)
	l.Take(now)
	l.Settle(now, failed(first))
	add(all, second)
	batch, due := l.Take(now)
	require.Empty(t, batch)
	batch, _ = l.Take(due)
	require.Equal(t, []*Item{first, second}, batch)
	l.Settle(due, failed(first, second))
	_, next := l.Take(due)
	require.Greater(t, next.Sub(due), limits().MinBackoff-time.Millisecond, "the wait grows")
}

// A dead letter that is tried again, and fails, does not keep live events from going out.
func TestWhatIsNotLiveHoldsUpNothingLive(t *testing.T) {
	all, now := lanes(limits())
	letter := live("a")
	letter.Webhook.Live = false
	l := add(all, letter)
	l.Take(now)
	l.Settle(now, failed(letter))
	require.False(t, l.Failing(), "it says nothing of how the sink is")
	next := live("b")
	add(all, next)
	batch, _ := l.Take(now)
	require.Equal(t, []*Item{next}, batch)
}

func TestWhatIsNotLiveGoesBehindWhatItsKeyHasInHand(t *testing.T) {
	limits := limits()
	limits.BatchEvents = 1
	all, now := lanes(limits)
	letter := live("k")
	letter.Webhook.Live = false
	order := []*Item{live("k"), live("k"), letter, live("k")}
	l := add(all, order...)
	for _, want := range order {
		batch, _ := l.Take(now)
		require.Equal(t, []*Item{want}, batch)
		l.Settle(now, Result{Done: 1})
		all.Finish(want)
	}
	require.Empty(t, all.keys)
}

func TestWhatFailsAgainSaysNothingAboutOtherKeys(t *testing.T) {
	all, now := lanes(limits())
	refused, passed, next := live("a"), live("b"), live("c")
	l := add(all, refused, passed)
	l.Take(now)
	l.Settle(now, Result{Done: 1, Failed: []*Item{refused}, Cause: errors.New("refused")})
	_, due := l.Take(now)
	batch, _ := l.Take(due)
	require.Equal(t, []*Item{refused}, batch)
	l.Settle(now, failed(refused))
	require.True(t, l.Failing())
	add(all, next)
	batch, _ = l.Take(now)
	require.Equal(t, []*Item{next}, batch, "a new key does not wait for the next try of another")
}

func TestATryOfWhatIsHeldTakesNewEventsAlongWhateverTheirSize(t *testing.T) {
	all, now := lanes(limits())
	first, second := live("a"), live("b")
	first.Event.Data, second.Event.Data = make([]byte, limits().BatchBytes), make([]byte, limits().BatchBytes)
	l := add(all, first)
	l.Take(now)
	l.Settle(now, failed(first))
	add(all, second)
	for _, want := range [][]*Item{
		{first, second},
		{first},  // without new events the bound on bytes holds
		{second}, // all have their turn
	} {
		_, due := l.Take(now)
		batch, _ := l.Take(due)
		require.Equal(t, want, batch)
		l.Settle(now, failed(want...))
	}
}

func TestOnlyWhatFailsForTooLongIsGivenUp(t *testing.T) {
	limits := limits()
	limits.GiveUpAfter = time.Minute
	limits.MinBackoff, limits.MaxBackoff = time.Hour, time.Hour
	all, now := lanes(limits)
	a1, a2, b1, passes, c1 := live("a"), live("a"), live("b"), live("d"), live("c")
	l := add(all, a1, passes)
	l.Take(now)
	_, next := l.Overdue(now, false)
	require.Zero(t, next, "what is being tried is not given up")
	l.Settle(now, Result{Done: 1, Failed: []*Item{a1}, Cause: errors.New("down")})
	_, next = l.Overdue(now, false)
	require.Equal(t, now.Add(time.Minute), next)

	later := now.Add(30 * time.Second)
	add(all, a2, b1)
	batch, _ := l.Take(later)
	require.Equal(t, []*Item{b1}, batch, "a2 waits from now on")
	l.Settle(later, failed(b1))
	add(all, c1)

	over, _ := l.Overdue(now.Add(59*time.Second), false)
	require.Empty(t, over)
	over, _ = l.Overdue(now.Add(time.Minute), false)
	require.Equal(t, []*Item{a1}, over)
	batch, _ = l.Take(now.Add(2 * time.Hour))
	require.Empty(t, batch, "nothing overtakes it until it is a dead letter")
	l.GaveUp(now.Add(time.Minute), nil, time.Second)
	over, _ = l.Overdue(later.Add(time.Minute), false)
	require.ElementsMatch(t, []*Item{a2, b1}, over)
	l.GaveUp(later.Add(time.Minute), over, time.Second)
	over, next = l.Overdue(later.Add(time.Minute), false)
	require.Empty(t, over, "without dead letters they stay")
	require.Equal(t, later.Add(time.Minute+time.Second), next)
	over, _ = l.Overdue(next, false)
	require.Len(t, over, 2, "c1 has not been tried, and is not given up")
}

// What is given up goes in the order of its key, so that what cannot become a dead letter can be put back.
func TestWhatIsGivenUpEndsBeforeWhatDoesNotFit(t *testing.T) {
	limits := limits()
	limits.GiveUpAfter, limits.MinBackoff, limits.MaxBackoff = time.Minute, time.Hour, time.Hour
	all, now := lanes(limits)
	first, large, last := live("k"), live("k"), live("k")
	large.Event.Data = make([]byte, limits.BatchBytes)
	l := add(all, first, large, last)
	l.Take(now)
	l.Settle(now, failed(first))
	l.Take(now) // the others are held behind it
	over, _ := l.Overdue(now.Add(time.Minute), false)
	require.Len(t, over, 1)
	require.Same(t, first, over[0])
	l.GaveUp(now, over, 0)
	want := []*Item{first, large, last}
	l.Waiting(func(it *Item) bool {
		require.Same(t, want[0], it)
		want = want[1:]
		return true
	})
	require.Empty(t, want)
}

// What is let go because nobody waits for it says nothing good of a sink that is down.
func TestABatchOfWhichNothingIsLeftEndsNoFailure(t *testing.T) {
	all, now := lanes(limits())
	kept, gone := live("a"), live("b")
	l := add(all, kept)
	l.Take(now)
	l.Settle(now, failed(kept))
	add(all, gone)
	_, due := l.Take(now)
	batch, _ := l.Take(due)
	require.Len(t, batch, 2)
	l.Settle(due, Result{Failed: []*Item{kept}, Lost: 1, Cause: errors.New("down")})
	require.True(t, l.Failing())
	_, due = l.Take(due)
	batch, _ = l.Take(due)
	l.Settle(due, Result{Failed: batch, Cause: errors.New("down")})
	require.True(t, l.Down())
}
