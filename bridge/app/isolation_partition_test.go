package app_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

const (
	// windowEvents is how many unfinished events are in memory at most.
	windowEvents = 8192
	partitions   = 4
)

// One partition of four loses its only replica. The others go on to the end, although more events wait for it than the
// window holds, and the other sink does not notice. A restart meanwhile repeats nothing of theirs. When the broker
// is back, everything arrives, in order.
func TestAPartitionWithoutALeaderHoldsUpOnlyItself(t *testing.T) {
	t.Parallel()
	c := apachekafka.Start(t, apachekafka.Options{Nodes: 3})
	const lonely, lonelyNode = 0, 3
	createTopic(t, c, func(partition int) int32 {
		if partition == lonely {
			return lonelyNode
		}
		return int32(1 + partition%2)
	})
	server := natsserver.Single(t) // unlike the embedded one, it does not sync every event
	dir := t.TempDir()
	settings := map[string]string{
		"SINKS": "nats,kafka", "NATS_URL": server.URL(), "KAFKA_BROKERS": strings.Join(c.Brokers(), ","),
	}
	r := start(t, dir, settings)
	consumer := consumePartitions(t, c)

	// Two keys a partition, and a webhook for each partition in a round: keys are spread evenly, and every round adds
	// as many events to the partition without a leader as to any other.
	const functions = 32
	keys := keysByPartition(t, 2)
	round := func(n int) {
		var ids []string
		for p := range partitions {
			ids = append(ids, fmt.Sprintf("%s.%d", keys[p][n%2], n))
		}
		var posting sync.WaitGroup
		errs := make([]error, len(ids))
		for i, id := range ids {
			posting.Go(func() {
				status, answer, err := r.post("msg_"+id, manyFunctions(id, functions))
				if err == nil && status != http.StatusAccepted {
					err = fmt.Errorf("%s is answered %d: %s", id, status, answer)
				}
				errs[i] = err
			})
		}
		posting.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
	}
	const before = 2
	for n := range before {
		round(n)
	}
	awaitCount(t, before*partitions*functions, consumer.count, "everything arrives")

	c.Kill(t, lonelyNode)
	const rounds = (windowEvents + windowEvents/2) / functions
	for n := before; n < before+rounds; n++ {
		round(n)
	}
	// Everything has been read and handed over for certain once the other sink has all of it.
	awaitCount(t, (before+rounds)*partitions*functions, func() int {
		return int(r.sample(`fnbridge_events_total{result="acknowledged",sink="nats"}`))
	}, "the other sink gets everything")
	begun := time.Now()
	const others = partitions - 1
	flowed := func() int { return consumer.count() - before*partitions*functions }
	awaitCount(t, rounds*others*functions, flowed, "the other partitions go on to the end")
	t.Logf("%d events of the other partitions flowed, %s behind the other sink", flowed(), time.Since(begun))
	require.Zero(t, consumer.of(lonely)-before*functions)
	// What the consumer has may be acknowledged a moment later, and what is not would come again.
	r.awaitSample(`fnbridge_events_total{result="acknowledged",sink="kafka"}`,
		float64((before*partitions+rounds*others)*functions))
	records := consumer.recordsBut(lonely)
	require.NoError(t, r.stop())
	r = start(t, dir, settings)

	c.StartNode(t, lonelyNode)
	awaitCount(t, (before+rounds)*partitions*functions, consumer.count, "everything arrives")
	// A broker that has just started may be slow to acknowledge, and be sent its events again.
	require.Equal(t, records, consumer.recordsBut(lonely), "nothing of the others comes again")
	for p := range partitions {
		require.Equal(t, (before+rounds)*functions, consumer.of(p), "partition %d", p)
	}
	consumer.requireOrder(t, functions)
}

// createTopic makes the bridge's topic with one replica a partition, at the node that place says.
func createTopic(t *testing.T, c *apachekafka.Cluster, place func(partition int) int32) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	require.NoError(t, err)
	defer client.Close()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "tensorlake-events", -1, -1
	for p := range partitions {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(p), []int32{place(p)}
		topic.ReplicaAssignment = append(topic.ReplicaAssignment, a)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(t.Context(), client)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(resp.Topics[0].ErrorCode))
	for p := range partitions {
		require.Equal(t, int(place(p)), c.Leader(t, "tensorlake-events", p))
	}
}

// keysByPartition returns some invocations for each partition, by the Java client's rule.
func keysByPartition(t *testing.T, each int) [partitions][]string {
	t.Helper()
	var keys [partitions][]string
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("tensorlake-events")
	found := 0
	for n := 0; found < each*partitions; n++ {
		require.Less(t, n, 10_000)
		key := fmt.Sprintf("invocation_%d", n)
		if p := partitioner.Partition(&kgo.Record{Key: []byte(key)}, partitions); len(keys[p]) < each {
			keys[p] = append(keys[p], key)
			found++
		}
	}
	return keys
}

// manyFunctions is the webhook with the given number (behind the dot) of an invocation.
func manyFunctions(id string, functions int) string {
	invocation, n, _ := strings.Cut(id, ".")
	var status strings.Builder
	for f := range functions {
		if f > 0 {
			status.WriteByte(',')
		}
		fmt.Fprintf(&status, `"fn_%s_%d":"success"`, n, f)
	}
	return fmt.Sprintf(`{"workflow_name":"w","invocation_id":%q,"fn_status":{%s}}`, invocation, status.String())
}

// partitionConsumer reads the topic, and forgets what comes again.
type partitionConsumer struct {
	mu    sync.Mutex
	seen  map[string]bool
	all   [partitions]int     // what comes again, too
	byKey map[string][]string // the functions of each key, in order of arrival
	each  [partitions]int
}

func consumePartitions(t *testing.T, c *apachekafka.Cluster) *partitionConsumer {
	t.Helper()
	p := &partitionConsumer{seen: map[string]bool{}, byKey: map[string][]string{}}
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.ConsumeTopics("tensorlake-events"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(100*time.Millisecond))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var reading sync.WaitGroup
	reading.Go(func() {
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(p.take)
		}
	})
	t.Cleanup(func() {
		stop()
		reading.Wait()
		client.Close()
	})
	return p
}

func (p *partitionConsumer) take(r *kgo.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[r.Partition]++
	for _, h := range r.Headers {
		if h.Key != "ce_subject" || p.seen[string(h.Value)] {
			continue
		}
		p.seen[string(h.Value)] = true
		p.each[r.Partition]++
		_, function, _ := strings.Cut(string(h.Value), "/")
		p.byKey[string(r.Key)] = append(p.byKey[string(r.Key)], function)
	}
}

func (p *partitionConsumer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen)
}

// recordsBut counts the records of all partitions but one.
func (p *partitionConsumer) recordsBut(partition int) (records int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, n := range p.all {
		if other != partition {
			records += n
		}
	}
	return records
}

func (p *partitionConsumer) of(partition int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.each[partition]
}

// requireOrder compares each key's events with the order in which they were accepted.
func (p *partitionConsumer) requireOrder(t *testing.T, functions int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Len(t, p.byKey, 2*partitions)
	for key, got := range p.byKey {
		first, ok := strings.CutPrefix(got[0], "fn_")
		require.True(t, ok)
		n, err := strconv.Atoi(strings.TrimSuffix(first, "_0"))
		require.NoError(t, err)
		for i := 0; i < len(got); i += functions {
			for f := range functions {
				require.Equal(t, fmt.Sprintf("fn_%d_%d", n, f), got[i+f], "event %d of %s", i+f, key)
			}
			n += 2 // each key has every second round
		}
	}
}
