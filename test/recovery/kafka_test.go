//go:build linux

package recovery

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
)

const (
	topic = "tensorlake-events"
	// wideTopic has as many partitions as a topic that the bridge creates.
	wideTopic, widePartitions = "tensorlake-events-wide", 12
)

// kafkaBroker is a topic of one broker, or of a cluster.
type kafkaBroker struct {
	cluster *apachekafka.Cluster
	brokers []string // where the bridge and the bare client connect to
	topic   string
	seen    *seen
}

// seen is what a reader has found that follows the topic.
type seen struct {
	mu      sync.Mutex
	records []stored // but for those before what was read last
	latest  map[string]time.Time
	next    map[int32]int64 // offsets, by partition
}

// startKafka starts a cluster with both topics.
func startKafka(t *testing.T, o apachekafka.Options) (narrow, wide *kafkaBroker) {
	t.Helper()
	cluster := apachekafka.Start(t, o)
	return newKafkaBroker(t, cluster, topic, 1), newKafkaBroker(t, cluster, wideTopic, widePartitions)
}

// newKafkaBroker makes a topic, and follows it until the test ends.
func newKafkaBroker(t *testing.T, cluster *apachekafka.Cluster, topic string, partitions int) *kafkaBroker {
	t.Helper()
	k := &kafkaBroker{
		cluster: cluster, brokers: cluster.Brokers(), topic: topic,
		seen: &seen{latest: make(map[string]time.Time), next: make(map[int32]int64)},
	}
	cluster.CreateTopic(t, topic, partitions, len(k.brokers), map[string]string{"message.timestamp.type": "LogAppendTime"})
	from := make(map[int32]kgo.Offset)
	for partition := range partitions {
		from[int32(partition)] = kgo.NewOffset().AtStart()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.brokers...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(time.Second), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.DialTimeout(time.Second), kgo.RequestTimeoutOverhead(time.Second))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var reader sync.WaitGroup
	reader.Go(func() {
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(k.seen.add)
		}
	})
	t.Cleanup(func() {
		cancel()
		reader.Wait()
		client.Close()
	})
	return k
}

func (s *seen) add(r *kgo.Record) {
	record := stored{who: kafkaOwner(r), at: r.Timestamp}
	for _, h := range r.Headers {
		switch h.Key {
		case "ce_id":
			record.id = fmt.Sprintf("%s %s", record.who, h.Value)
		case "ce_webhookid":
			record.webhook = string(h.Value)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, record)
	s.latest[record.who] = record.at
	s.next[r.Partition] = r.Offset + 1
}

func startSingleKafka(t *testing.T) site {
	t.Helper()
	var l *line
	k, wide := startKafka(t, apachekafka.Options{Proxy: func(_ int, address string) string {
		l = newLine(t, address)
		return l.address()
	}})
	restart := func(away time.Duration) func(*testing.T, *rig) {
		return func(t *testing.T, _ *rig) {
			t.Helper()
			k.cluster.Kill(t, 1)
			last(t, away)
			k.cluster.StartNode(t, 1)
		}
	}
	by := func(k *kafkaBroker) func() broker {
		return func() broker {
			by := *k
			by.brokers = k.cluster.ProxiedBrokers()
			return &by
		}
	}
	through := by(k)
	return site{broker: k, wide: wide, through: by(wide), line: l, faults: []scenario{
		{name: "restarted after 1 s", fault: restart(time.Second)},
		{name: "restarted after 10 s", fault: restart(10 * time.Second), long: true, bridges: 5},
		{name: "restarted after 2 min", fault: restart(2 * time.Minute), long: true, bridges: 5},
		{name: "cable cut", long: true, bridges: 5, fault: l.cut, through: through},
		{name: "short outages", long: true, bridges: 5, fault: l.flap, through: through},
		{name: "address changed behind the name", fault: l.move, through: through},
	}, repeats: []scenario{
		{name: "connections cut", fault: l.interrupt, through: by(wide), counts: true},
		{name: "connections cut, far away", fault: l.interrupt, through: by(wide), counts: true, far: true, long: true},
		{name: "connections cut in a backlog", fault: l.interruptBacklog, through: by(wide), counts: true, long: true},
		{name: "broker killed", fault: restart(0), long: true},
		{name: "bridge killed", fault: killBridge, counts: true, process: true, long: true},
	}}
}

func startKafkaCluster(t *testing.T) site {
	t.Helper()
	k, wide := startKafka(t, apachekafka.Options{Nodes: 3})
	// kill and move are the faults of the leader of a topic's first partition.
	kill := func(k *kafkaBroker) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			t.Helper()
			victim := k.cluster.Leader(t, k.topic, 0)
			k.cluster.Kill(t, victim)
			k.cluster.Leader(t, k.topic, 0)
			r.awaitAll(t, time.Now())
			k.cluster.StartNode(t, victim)
		}
	}
	move := func(k *kafkaBroker) func(*testing.T, *rig) {
		return func(t *testing.T, _ *rig) {
			t.Helper()
			k.cluster.MoveLeader(t, k.topic, 0, k.cluster.Leader(t, k.topic, 0)%3+1)
		}
	}
	return site{broker: k, wide: wide, faults: []scenario{
		{name: "leader killed", fault: kill(k)},
		{name: "leader moved", fault: move(k)},
	}, repeats: []scenario{
		{name: "leader moved", fault: move(wide)},
		{name: "broker killed", fault: kill(wide)},
	}}
}

func (k *kafkaBroker) env(name string) map[string]string {
	return map[string]string{
		"SINKS": "kafka", "KAFKA_BROKERS": strings.Join(k.brokers, ","), "KAFKA_TOPIC": k.topic,
		"KAFKA_KEY": name + "/{partitionkey}",
	}
}

// libraryPublisher publishes with the library that the sink uses, by its own writer.
type libraryPublisher struct {
	writer    *kafkago.Writer
	transport *kafkago.Transport
}

// bare is set to be back as soon as the library can be.
func (k *kafkaBroker) bare(t *testing.T) publisher { t.Helper(); return impatient{k.patient(t)} }

func (k *kafkaBroker) patient(*testing.T) publisher {
	transport := &kafkago.Transport{MetadataTTL: 250 * time.Millisecond, DialTimeout: time.Second}
	return &libraryPublisher{transport: transport, writer: &kafkago.Writer{
		Addr: kafkago.TCP(k.brokers...), Topic: k.topic, RequiredAcks: kafkago.RequireAll,
		BatchSize: 10_000, BatchTimeout: time.Millisecond,
		MaxAttempts: 1, Transport: transport, WriteTimeout: 5 * time.Second,
	}}
}

func (p *libraryPublisher) publish(ctx context.Context, messages int) error {
	return p.writer.WriteMessages(ctx, slices.Repeat(
		[]kafkago.Message{{Key: []byte(bareName), Value: []byte("x")}}, messages)...)
}

func (p *libraryPublisher) close() {
	_ = p.writer.Close()
	p.transport.CloseIdleConnections()
}

// freshPublisher publishes with another library.
type freshPublisher struct{ client *kgo.Client }

func (k *kafkaBroker) probe(context.Context) (publisher, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(k.cluster.Brokers()...), kgo.DefaultProduceTopic(k.topic),
		kgo.DialTimeout(probeTimeout), kgo.MetadataMinAge(10*time.Millisecond), kgo.DisableIdempotentWrite(),
		kgo.MaxProduceRequestsInflightPerBroker(1), kgo.RecordRetries(0), kgo.RetryBackoffFn(func(int) time.Duration {
			return probeInterval
		}))
	if err != nil {
		return nil, err
	}
	return freshPublisher{client}, nil
}

func (p freshPublisher) publish(ctx context.Context, messages int) error {
	records := make([]*kgo.Record, messages)
	for i := range records {
		records[i] = &kgo.Record{Key: []byte("probe"), Value: []byte("x")}
	}
	return p.client.ProduceSync(ctx, records...).FirstErr()
}

func (p freshPublisher) close() { p.client.Close() }

func (k *kafkaBroker) latest(context.Context) map[string]time.Time {
	k.seen.mu.Lock()
	defer k.seen.mu.Unlock()
	return maps.Clone(k.seen.latest)
}

func kafkaOwner(r *kgo.Record) string {
	who, _, _ := strings.Cut(string(r.Key), "/")
	return who
}

// read forgets what was stored before.
func (k *kafkaBroker) read(t *testing.T, since time.Time) []stored {
	t.Helper()
	ends := k.cluster.EndOffsets(t, k.topic)
	require.Eventually(t, func() bool {
		k.seen.mu.Lock()
		defer k.seen.mu.Unlock()
		for partition, end := range ends {
			if k.seen.next[int32(partition)] < end {
				return false
			}
		}
		return true
	}, awayLimit, 20*time.Millisecond, "the topic is not read to its end, %v", ends)
	k.seen.mu.Lock()
	defer k.seen.mu.Unlock()
	k.seen.records = slices.DeleteFunc(k.seen.records, func(s stored) bool { return s.at.Before(since) })
	return slices.Clone(k.seen.records)
}
