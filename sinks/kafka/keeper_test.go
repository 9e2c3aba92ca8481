package kafka

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

func creating(partitions, replicationFactor int) func(*Options) {
	return func(o *Options) {
		o.CreateTopic, o.Partitions, o.ReplicationFactor = true, partitions, replicationFactor
	}
}

func TestTheTopicIsCreated(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3))
	s := open(t, c.ListenAddrs(), creating(7, 2))
	publishUntilStored(t, s, events(20, 20))
	require.Len(t, c.PartitionInfos(testTopic), 7)
	require.Equal(t, 2, c.TopicInfo(testTopic).NumReplicas)
	n := 0
	for _, records := range stored(t, c) {
		n += len(records)
	}
	require.Equal(t, 20, n)
}

func TestATopicOfThreeReplicasIsCreatedSafe(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3))
	var l logs
	s := open(t, c.ListenAddrs(), creating(1, 3), withLogs(&l))
	require.Eventually(t, func() bool { return s.limits.minSync.Load() == 2 }, within, 5*time.Millisecond)
	require.Equal(t, "2", *c.TopicInfo(testTopic).Configs[minInSyncReplicas])
	require.NotContains(t, l.String(), "WARN")
}

func TestTheTopicIsCreatedWithTheBrokersDefaults(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.DefaultNumPartitions(5),
		kfake.BrokerConfigs(map[string]string{"default.replication.factor": "1"}))
	s := open(t, c.ListenAddrs(), creating(0, 0))
	publishUntilStored(t, s, events(1, 1))
	require.Len(t, c.PartitionInfos(testTopic), 5)
}

func TestATopicThatVanishesIsCreatedAgain(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1))
	s := open(t, c.ListenAddrs(), creating(2, 1))
	publishUntilStored(t, s, events(1, 1))
	require.NoError(t, c.DeleteTopic(testTopic))
	publishUntilStored(t, s, events(3, 3))
	require.Len(t, c.PartitionInfos(testTopic), 2)
}

func TestSinksThatCreateTheTopicAtOnce(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1))
	a, b := open(t, c.ListenAddrs(), creating(2, 1)), open(t, c.ListenAddrs(), creating(2, 1))
	publishUntilStored(t, a, events(1, 1))
	publishUntilStored(t, b, events(1, 1))
}

func TestCreatingTheTopicFails(t *testing.T) {
	for name, tt := range map[string]struct {
		factor int
		fault  *kerr.Error
		kind   bridge.FailureKind
		want   string
	}{
		"replication factor":    {3, nil, bridge.FailureBlocked, "REPLICATION_FACTOR is 3"},
		"no permission":         {1, kerr.TopicAuthorizationFailed, bridge.FailureBlocked, "grant the user CREATE"},
		"no cluster permission": {1, kerr.ClusterAuthorizationFailed, bridge.FailureBlocked, "grant the user CREATE"},
		"policy":                {1, kerr.PolicyViolation, bridge.FailureBlocked, "policy"},
		"partitions":            {1, kerr.InvalidPartitions, bridge.FailureBlocked, "check PARTITIONS"},
		"throttled":             {1, kerr.ThrottlingQuotaExceeded, bridge.FailureRetry, "creating topic"},
		"no controller":         {1, kerr.NotController, bridge.FailureRetry, "creating topic"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, kfake.NumBrokers(1))
			if tt.fault != nil {
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: tt.fault, Count: -1})
			}
			s := open(t, c.ListenAddrs(), creating(2, tt.factor))
			results := publish(t, s, events(2, 2))
			requireKind(t, tt.kind, results)
			require.ErrorContains(t, results[0], tt.want)
			require.ErrorContains(t, s.Check(context.Background()), tt.want)
		})
	}
}

func TestTriesToCreateTheTopicAreSpaced(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1))
	tries := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.PolicyViolation, Count: -1})
	s := open(t, c.ListenAddrs(), creating(2, 1), func(o *Options) { o.timing.create = time.Hour })
	for range 5 {
		requireKind(t, bridge.FailureBlocked, publish(t, s, events(1, 1)))
	}
	require.Equal(t, 1, tries.Hits())
}

func TestAnUnknownTopicIsBlockedUntilItIsThere(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.AllowAutoTopicCreation())
	s := open(t, c.ListenAddrs())
	results := publish(t, s, events(2, 2))
	requireKind(t, bridge.FailureBlocked, results)
	require.ErrorContains(t, results[0], `topic "tensorlake-events": it does not exist`)
	require.ErrorContains(t, results[0], "CREATE_TOPIC")
	requireKind(t, bridge.FailureBlocked, []error{s.Check(context.Background())})
	require.Nil(t, c.TopicInfo(testTopic), "asking does not create")
	require.NoError(t, c.CreateTopic(testTopic, 3, nil))
	publishUntilStored(t, s, events(2, 2))
	require.NoError(t, s.Check(context.Background()))
}

func TestATopicThatVanishesIsMissedBeforeItIsBlocked(t *testing.T) {
	t.Parallel()
	c := seeded(t, 2)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.missing = time.Second })
	requireStored(t, publish(t, s, events(1, 1)))
	gone := time.Now()
	require.NoError(t, c.DeleteTopic(testTopic))
	require.Eventually(t, func() bool {
		err := publish(t, s, events(1, 1))[0]
		require.Error(t, err)
		return bridge.KindOf(err) == bridge.FailureBlocked
	}, within, 10*time.Millisecond)
	require.GreaterOrEqual(t, time.Since(gone), s.timing.missing)
}

func TestNoPermissionToDescribeTheTopic(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser(saslPlain, "admin", "admin"), kfake.User(saslPlain, "bridge", password))
	s := open(t, c.ListenAddrs(), withSASL(saslPlain))
	err := s.Check(context.Background())
	requireKind(t, bridge.FailureBlocked, append(publish(t, s, events(1, 1)), err))
	require.ErrorContains(t, err, testTopic)
}

func TestWarningsComeOnce(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(4, testTopic))
	require.Equal(t, 3, c.TopicInfo(testTopic).NumReplicas)
	described := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Observe: true, Count: -1})
	var l logs
	s := open(t, c.ListenAddrs(), creating(12, 2), withLogs(&l))
	publishUntilStored(t, s, events(1, 1))
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	require.NoError(t, described.Wait(ctx, 3))
	for _, want := range []string{
		"another number of partitions", "another replication factor", "min.insync.replicas of the Kafka topic is 1",
	} {
		require.Equal(t, 1, strings.Count(l.String(), want), "%s in\n%s", want, l.String())
	}
	require.Len(t, c.PartitionInfos(testTopic), 4, "an existing topic is not altered")
}

func TestNobodysWishIsNotWarnedAbout(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(4, testTopic))
	var l logs
	s := open(t, c.ListenAddrs(), withLogs(&l), func(o *Options) { o.Partitions, o.ReplicationFactor = 12, 3 })
	require.NoError(t, s.Check(context.Background()))
	require.NotContains(t, l.String(), "used as it is")
}

func TestWhatATopicDoesToEventsIsWarnedAboutOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		brokers int
		config  map[string]string
		want    []string
	}{
		"compacted": {3, map[string]string{cleanupPolicy: "compact", minInSyncReplicas: "2"}, []string{
			"keeps the last record of a key alone", "set its cleanup.policy to delete",
		}},
		"compacted and deleted": {
			3,
			map[string]string{cleanupPolicy: "compact,delete", minInSyncReplicas: "2"},
			[]string{"cleanup_policy=compact,delete"},
		},
		"one replica": {1, nil, []string{"the Kafka topic has one replica", "min.insync.replicas=2"}},
		"one in sync": {3, nil, []string{"min.insync.replicas of the Kafka topic is 1", "set it to 2"}},
		"safe":        {3, map[string]string{minInSyncReplicas: "2"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, kfake.NumBrokers(tt.brokers))
			require.NoError(t, c.CreateTopic(testTopic, 2, tt.config))
			described := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Observe: true, Count: -1})
			var l logs
			s := open(t, c.ListenAddrs(), withLogs(&l))
			require.NoError(t, s.Check(context.Background()))
			for _, want := range tt.want {
				require.Contains(t, l.String(), want, "before Check returns")
			}
			require.Len(t, s.Warnings(), min(1, len(tt.want)))
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			require.NoError(t, described.Wait(ctx, 3))
			require.Equal(t, min(1, len(tt.want)), strings.Count(l.String(), "WARN"), l.String())
		})
	}
}

// Whoever creates a topic and checks it at once is not told that its leaders do not know yet that they lead.
func TestATopicIsCreatedOnceItsLeadersKnowIt(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.NotLeaderForPartition, Count: 5})
	s := open(t, c.ListenAddrs(), creating(3, 1))
	require.NoError(t, s.Check(context.Background()))
	requireStored(t, publish(t, s, events(9, 9)))
}

func TestTheBrokersLastKnownAreAskedWhenThoseOfTheListAreGone(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(6, testTopic))
	listed := faultproxy.New(t, c.ListenAddrs()[0]) // which the cluster itself knows nothing of
	s := open(t, []string{listed.Addr()}, hasty)
	sent := events(60, 30)
	requireStored(t, publish(t, s, sent[:30]))
	listed.Stall()
	listed.Cut()
	for partition := range int32(6) {
		require.NoError(t, c.MoveTopicPartition(testTopic, partition, (c.LeaderFor(testTopic, partition)+1)%3))
	}
	publishUntilStored(t, s, sent[30:])
	require.Eventually(t, func() bool { return s.Check(context.Background()) == nil }, within, 10*time.Millisecond)
}

func TestSettingsThatMayNotBeReadAreDoneWithout(t *testing.T) {
	c := seeded(t, 2)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 3)
	tooLarge(sent, 1_100_000, 1)
	results := publish(t, s, sent)
	require.NoError(t, results[0])
	requireKind(t, bridge.FailureReject, results[1:2])
	require.NoError(t, results[2])
	require.NoError(t, s.Check(context.Background()))
}

func TestRenewalsAreSpaced(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.reset = time.Hour })
	sent := one(t, s, 0, 0, 1)
	before := s.keeper.generation.Load()
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: 20})
	for range 20 {
		requireKind(t, bridge.FailureRetry, publish(t, s, sent))
	}
	require.Same(t, before, s.keeper.generation.Load())
	requireStored(t, publish(t, s, sent))
}

func TestCheck(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(6, testTopic))
	s := open(t, c.ListenAddrs())
	require.NoError(t, s.Check(context.Background()))

	fault := c.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.ListOffsets}, Partitions: []int32{2, 4}, Err: kerr.NotLeaderForPartition, Count: -1,
	})
	err := s.Check(context.Background())
	requireKind(t, bridge.FailureRetry, []error{err})
	require.ErrorContains(t, err, `2 of 6 partitions cannot be published to`)
	require.ErrorContains(t, err, "partition 2")
	fault.Remove()

	fault = c.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.ListOffsets}, Partitions: []int32{4}, Err: kerr.TopicAuthorizationFailed, Count: -1,
	},
		kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Partitions: []int32{1}, Err: kerr.NotLeaderForPartition, Count: -1})
	err = s.Check(context.Background())
	requireKind(t, bridge.FailureBlocked, []error{err})
	require.ErrorContains(t, err, "partition 4")
	fault.Remove()

	require.Eventually(t, func() bool { return s.Check(context.Background()) == nil }, within, 10*time.Millisecond)
}

// The client's metadata is a cache that outlives the brokers.
func TestCheckSeesBrokersThatDied(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(2, testTopic))
	s := open(t, c.ListenAddrs())
	require.NoError(t, s.Check(context.Background()))
	c.Close()
	err := s.Check(context.Background())
	requireKind(t, bridge.FailureRetry, []error{err})
}

func TestCheckEndsInTimeAndWithItsContext(t *testing.T) {
	t.Parallel()
	c := seeded(t, 3)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.attempt = 3 * time.Second })
	require.NoError(t, s.Check(context.Background()))
	c.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return nil, nil, true
	})
	start := time.Now()
	requireKind(t, bridge.FailureRetry, []error{s.Check(context.Background())})
	require.Less(t, time.Since(start), s.timing.silence/2)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	requireKind(t, bridge.FailureRetry, []error{s.Check(ctx)})
}

func TestCheckCountsReplicasInSync(t *testing.T) {
	for name, tt := range map[string]struct {
		at   placed
		want string
	}{
		"too few": {
			placed{replicas: []int32{0, 1, 2}, inSync: []int32{0}},
			"1 of its replicas are in sync, and min.insync.replicas is 2",
		},
		"enough":       {placed{replicas: []int32{0, 1, 2}, inSync: []int32{0, 2}}, ""},
		"one there is": {placed{replicas: []int32{0}, inSync: []int32{0}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, kfake.NumBrokers(3))
			require.NoError(t, c.CreateTopic(testTopic, 1, map[string]string{minInSyncReplicas: "2"}))
			require.NoError(t, c.MoveTopicPartition(testTopic, 0, 0))
			answerMetadata(c, tt.at)
			s := open(t, c.ListenAddrs())
			require.Eventually(t, func() bool { return s.limits.minSync.Load() == 2 }, within, 5*time.Millisecond)
			err := s.Check(context.Background())
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			requireKind(t, bridge.FailureRetry, []error{err})
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// A round fails, and the next one finds the topic before a goroutine has woken that waited for the first.
func TestATopicThatIsFoundJustAfterARoundHasFailed(t *testing.T) {
	for range 100 {
		s := &Sink{wake: make(chan struct{}, 1)}
		k := &s.keeper
		k.round = make(chan struct{})
		found := make(chan *topology, 1)
		ended := make(chan error)
		go func() {
			topic, err := s.awaitTopology(t.Context())
			found <- topic
			ended <- err
		}()
		<-s.wake // it waits
		k.mu.Lock()
		close(k.round)
		for range 100 {
			runtime.Gosched()
		}
		known := &topology{}
		k.topology.Store(known)
		k.mu.Unlock()
		require.NoError(t, <-ended)
		require.Same(t, known, <-found)
	}
}
