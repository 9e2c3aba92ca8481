package delivery

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestBackoffDoublesWithinItsBounds(t *testing.T) {
	var o Options
	o.setDefaults()
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
			wait := backoff(tc.attempt, tc.kind, &o)
			least, most = min(least, wait), max(most, wait)
		}
		require.LessOrEqual(t, most, tc.most)
		require.GreaterOrEqual(t, least, tc.most/2)
		require.Less(t, least, most, "many bridges must not return in step")
	}
}

func TestALaneTriesHeldEventsAgainOnlyWhenTheirTimeHasCome(t *testing.T) {
	var o Options
	o.setDefaults()
	now := time.Unix(1_000_000, 0)
	event := func(key string) *item { return &item{event: &bridge.Event{PartitionKey: key}, webhook: &webhook{}} }
	a1, a2, b1, b2 := event("a"), event("a"), event("b"), event("b")
	l := &lane{queue: []*item{a1, b1}}
	require.Equal(t, []*item{a1, b1}, l.take(now, &o))
	require.Nil(t, l.take(now, &o), "everything is under way")

	a1.attempts = 1
	l.settle(now, []*item{a1}, errors.New("not now"), result{done: 1}, &o)
	l.queue = append(l.queue, a2, b2)
	require.Equal(t, []*item{b2}, l.take(now, &o), "b goes on, a2 waits behind a1")
	l.settle(now, nil, nil, result{done: 1}, &o)
	require.Nil(t, l.take(now, &o))
	require.True(t, l.failing())
	require.Equal(t, []*item{a1, a2}, l.take(l.retryAt, &o))
	l.settle(now, nil, nil, result{done: 2, retried: 1}, &o)
	require.False(t, l.failing())
	require.Empty(t, l.held)
	require.Empty(t, l.heldKeys)
}

func TestALaneThatGetsNothingThroughSendsNothingNewUntilItsTime(t *testing.T) {
	var o Options
	o.setDefaults()
	now := time.Unix(1_000_000, 0)
	first, second := &item{webhook: &webhook{}, event: &bridge.Event{PartitionKey: "a"}}, &item{webhook: &webhook{}, event: &bridge.Event{PartitionKey: "b"}}
	l := &lane{queue: []*item{first}}
	require.Len(t, l.take(now, &o), 1)
	l.settle(now, []*item{first}, errors.New("down"), result{}, &o)
	l.queue = append(l.queue, second)
	require.Nil(t, l.take(now, &o))
	before := l.retryAt
	require.Equal(t, []*item{first, second}, l.take(l.retryAt, &o))
	l.settle(l.retryAt, []*item{first, second}, errors.New("down"), result{}, &o)
	require.Greater(t, l.retryAt.Sub(before), o.MinBackoff-time.Millisecond, "the wait grows")
}

func TestWhatFailsAgainSaysNothingAboutOtherKeys(t *testing.T) {
	var o Options
	o.setDefaults()
	now := time.Unix(1_000_000, 0)
	event := func(key string) *item { return &item{webhook: &webhook{}, event: &bridge.Event{PartitionKey: key}} }
	refused, passed, next := event("a"), event("b"), event("c")
	l := &lane{queue: []*item{refused, passed}}
	require.Len(t, l.take(now, &o), 2)
	l.settle(now, []*item{refused}, errors.New("refused"), result{done: 1}, &o)
	require.Equal(t, []*item{refused}, l.take(l.retryAt, &o))
	l.settle(now, []*item{refused}, errors.New("refused"), result{}, &o)
	require.True(t, l.failing())
	l.queue = append(l.queue, next)
	require.Equal(t, []*item{next}, l.take(now, &o), "a new key does not wait for the next try of another")
}

func TestATryOfWhatIsHeldTakesNewEventsAlongWhateverTheirSize(t *testing.T) {
	var o Options
	o.setDefaults()
	now := time.Unix(1_000_000, 0)
	event := func(key string, size int) *item {
		return &item{webhook: &webhook{}, event: &bridge.Event{PartitionKey: key, Data: make([]byte, size)}}
	}
	large := o.BatchBytes
	first, second := event("a", large), event("b", large)
	l := &lane{queue: []*item{first}}
	require.Len(t, l.take(now, &o), 1)
	l.settle(now, []*item{first}, errors.New("down"), result{}, &o)
	l.queue = append(l.queue, second)
	require.Equal(t, []*item{first, second}, l.take(l.retryAt, &o))
	l.settle(now, []*item{first, second}, errors.New("down"), result{}, &o)
	require.Equal(t, []*item{first}, l.take(l.retryAt, &o), "without new events the bound on bytes holds")
	l.settle(now, []*item{first}, errors.New("down"), result{}, &o)
	require.Equal(t, []*item{second}, l.take(l.retryAt, &o), "all have their turn")
}
