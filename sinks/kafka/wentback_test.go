package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge"
)

func quickConfirm(o *Options) { o.timing.confirm = 50 * time.Millisecond }

// found waits until checks have found that partitions went back.
func found(tb testing.TB, s *Sink) (found []bridge.WentBack) {
	tb.Helper()
	require.Eventually(tb, func() bool {
		_ = s.Check(context.Background())
		found = s.HighWater().Found()
		return len(found) > 0
	}, within, 10*time.Millisecond)
	return found
}

func TestATopicThatIsMadeAnewIsFoundWithoutAnEvent(t *testing.T) {
	c := seeded(t, 2)
	s := open(t, c.ListenAddrs(), quickConfirm)
	requireStored(t, publish(t, s, one(t, s, 1, 0, 7)))
	kept := s.HighWater().Position()
	require.EqualValues(t, 6, kept[s.partition(1)].Last)
	require.NoError(t, c.DeleteTopic(testTopic))
	require.NoError(t, c.CreateTopic(testTopic, 2, nil))

	want := []bridge.WentBack{{Log: s.partition(1), Acknowledged: 6, Ends: -1}}
	require.Equal(t, want, found(t, s))
	// So it is by a bridge that was not running meanwhile.
	next := open(t, c.ListenAddrs(), quickConfirm)
	next.HighWater().Restore(kept)
	require.Equal(t, want, found(t, next))
}

func TestAnOffsetThatWasAcknowledgedBeforeShowsATopicThatIsMadeAnew(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	requireStored(t, publish(t, s, one(t, s, 0, 0, 7)))
	require.NoError(t, c.DeleteTopic(testTopic))
	require.NoError(t, c.CreateTopic(testTopic, 1, nil))
	publishUntilStored(t, s, one(t, s, 0, 7, 1))
	require.Equal(t, []bridge.WentBack{{Log: s.partition(0), Acknowledged: 6, Ends: -1}}, s.HighWater().Found())
}

func TestWhatATopicDropsAndWhoLeadsItIsNoStepBack(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(3, testTopic))
	s := open(t, c.ListenAddrs(), quickConfirm)
	for round := range 4 {
		publishUntilStored(t, s, events(30, 30))
		for partition := range int32(3) {
			require.NoError(t, c.MoveTopicPartition(testTopic, partition, (c.LeaderFor(testTopic, partition)+1)%3))
			end := c.PartitionInfos(testTopic)[partition].HighWatermark
			require.NoError(t, c.DeleteRecords(testTopic, partition, end)) // as retention may
		}
		require.Eventually(t, func() bool { return s.Check(context.Background()) == nil }, within, 10*time.Millisecond)
		require.Empty(t, s.HighWater().Found(), "round %d", round)
	}
}
