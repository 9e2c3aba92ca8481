package kafka

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

func withDeadLetters(o *Options) { o.DeadLetter = testDeadLetters }

// buried are dead letters of the events.
func buried(events []bridge.Event) []bridge.DeadLetter {
	letters := make([]bridge.DeadLetter, len(events))
	for i, e := range events {
		letters[i] = bridge.DeadLetter{Event: e, Reason: "it is too large", Attempts: i + 1}
	}
	return letters
}

func bury(tb testing.TB, s *Sink, letters []bridge.DeadLetter) []error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	results := s.PublishDeadLetters(ctx, letters)
	require.Len(tb, results, len(letters))
	return results
}

func TestTheTopicOfTheDeadLettersIsCreated(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3))
	var l logs
	s := open(t, c.ListenAddrs(), creating(7, 2), withDeadLetters, withLogs(&l))
	// Before there is any.
	require.Eventually(t, func() bool { return c.TopicInfo(testDeadLetters) != nil && c.TopicInfo(testTopic) != nil },
		within, 5*time.Millisecond)
	require.Len(t, c.PartitionInfos(testDeadLetters), 7)
	require.Equal(t, 2, c.TopicInfo(testDeadLetters).NumReplicas)
	require.NoError(t, s.CheckDeadLetters(context.Background()))

	sent := events(20, 5)
	requireStored(t, bury(t, s, buried(sent)))
	requireStored(t, publish(t, s, sent[:1]))
	read := 0
	for partition, records := range storedIn(t, c, testDeadLetters) {
		for _, r := range records {
			read++
			require.Equal(t, header(r, "ce_partitionkey"), string(r.Key))
			require.Equal(t, partition, s.Partition(event(0, string(r.Key))),
				"a letter goes to the partition of its event's key")
			require.Equal(t, "it is too large", header(r, "fnbridge-reason"))
			require.Equal(t, testTopic, header(r, "fnbridge-address"))
		}
	}
	require.Equal(t, len(sent), read)
	require.Len(t, stored(t, c)[s.Partition(sent[0])], 1, "no letter is among the events")
	require.NotContains(t, l.String(), "used as it is")
}

func TestTheTopicOfTheDeadLettersIsMissing(t *testing.T) {
	c := seeded(t, 2)
	var l logs
	s := open(t, c.ListenAddrs(), withDeadLetters, withLogs(&l))
	const want = `topic "tensorlake-events-dead-letters": it does not exist at `
	results := bury(t, s, buried(events(2, 2)))
	requireKind(t, bridge.FailureBlocked, results)
	require.ErrorContains(t, results[0], want)
	require.ErrorContains(t, results[0], "create it, correct DEAD_LETTER, or set CREATE_TOPIC to true")
	requireKind(t, bridge.FailureBlocked, []error{s.CheckDeadLetters(context.Background())})
	require.Eventually(t, func() bool { return strings.Contains(l.String(), "dead letters cannot be published now") },
		within, 5*time.Millisecond)
	requireStored(t, publish(t, s, events(4, 4)))
	require.NoError(t, s.Check(context.Background()), "events go on")
	require.Equal(t, 1, strings.Count(l.String(), "dead letters cannot be published now"), "%s", l.String())

	require.NoError(t, c.CreateTopic(testDeadLetters, 1, nil))
	require.Eventually(t, func() bool { return bury(t, s, buried(events(1, 1)))[0] == nil }, within, 5*time.Millisecond)
	require.NoError(t, s.CheckDeadLetters(context.Background()))
}

func TestTroubleWithDeadLettersHoldsUpNoEvent(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic, testDeadLetters))
	s := open(t, c.ListenAddrs(), withDeadLetters)
	requireStored(t, bury(t, s, buried(events(1, 1))))
	fault := c.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: testDeadLetters, Err: kerr.NotLeaderForPartition, Count: -1,
	})
	requireKind(t, bridge.FailureRetry, bury(t, s, buried(events(3, 3))))
	requireStored(t, publish(t, s, events(3, 3)))
	fault.Remove()
	require.Eventually(t, func() bool { return bury(t, s, buried(events(1, 1)))[0] == nil }, within, 5*time.Millisecond)
}

func TestADeadLetterIsNeverPlain(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic, testDeadLetters))
	s := open(t, c.ListenAddrs(), withDeadLetters, func(o *Options) { o.Format = cloudevents.Plain })
	sent := events(1, 1)
	requireStored(t, bury(t, s, buried(sent)))
	r := storedIn(t, c, testDeadLetters)[0][0]
	require.Equal(t, sent[0].ID, header(r, "ce_id"), "a reader has to know which event it is")
	require.Equal(t, sent[0].Data, r.Value)
}

func TestWithoutATopicForDeadLetters(t *testing.T) {
	s := open(t, []string{"127.0.0.1:1"})
	require.Empty(t, s.DeadLetterAddress())
	require.NoError(t, s.CheckDeadLetters(context.Background()))
	requireKind(t, bridge.FailureBlocked, bury(t, s, buried(events(2, 2))))
}
