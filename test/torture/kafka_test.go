//go:build linux

package torture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

const (
	topic           = "tensorlake-events"
	topicPartitions = 6
	kafkaNodes      = 3
	kafkaUser       = "bridge"
	kafkaPassword   = "s3cr\"et"
	// sinkPatience is the longest that the sink waits for a broker that is silent.
	sinkPatience = 12 * time.Second
)

// kafkaSide is a Kafka cluster of three nodes, which the bridge logs in to through proxies. consume is for a goroutine
// of its own, the rest for the one that plays faults.
type kafkaSide struct {
	t       *testing.T
	cluster *apachekafka.Cluster
	proxies []*faultproxy.Proxy
	reader  topicReader
}

// startKafka starts the cluster. It ends with the test.
func startKafka(t *testing.T) *kafkaSide {
	t.Helper()
	k := &kafkaSide{t: t}
	k.cluster = apachekafka.Start(t, apachekafka.Options{
		Nodes: kafkaNodes, Users: map[string]string{kafkaUser: kafkaPassword}, ProxyUsers: true,
		Proxy: func(_ int, address string) string {
			p := faultproxy.New(t, address)
			k.proxies = append(k.proxies, p)
			return p.Addr()
		},
	})
	k.reader = topicReader{brokers: k.cluster.Brokers(), renewed: make(chan struct{})}
	k.makeTopic()
	return k
}

func (k *kafkaSide) makeTopic() {
	k.t.Helper()
	k.cluster.CreateTopic(k.t, topic, topicPartitions, kafkaNodes, map[string]string{"min.insync.replicas": "2"})
	k.reader.renew()
}

func (k *kafkaSide) env() []string {
	brokers := ""
	for i, address := range k.cluster.ProxiedBrokers() {
		if i > 0 {
			brokers += ","
		}
		brokers += address
	}
	return []string{
		"KAFKA_BROKERS=" + brokers, "KAFKA_TOPIC=" + topic, "KAFKA_TLS=true", "KAFKA_TLS_CA_FILE=" + k.cluster.CA().CAFile,
		"KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "KAFKA_SASL_USERNAME=" + kafkaUser, "KAFKA_SASL_PASSWORD=" + kafkaPassword,
	}
}

func (k *kafkaSide) consume(ctx context.Context, l *ledger) { k.reader.run(ctx, l) }

// stall holds back what goes between bridge and brokers, without closing anything; unstall lets it go on.
func (k *kafkaSide) stall() {
	for _, p := range k.proxies {
		p.Stall()
	}
}

func (k *kafkaSide) unstall() {
	for _, p := range k.proxies {
		p.Resume()
	}
}

func (k *kafkaSide) cut() {
	for _, p := range k.proxies {
		p.Cut()
	}
}

func (k *kafkaSide) faults() []fault {
	return []fault{
		{"kafka: leader killed", k.playLeaderKilled},
		{"kafka: two of three brokers killed", k.playTwoKilled},
		{"kafka: broker stands still", k.playStandstill},
		{"kafka: leaders moved", k.playLeadersMoved},
		{"kafka: connections cut", k.playCut},
		{"kafka: topic deleted and made again", k.playTopicDeleted},
		{"kafka: password changed", k.playPasswordChanged},
		{"kafka: permission revoked", k.playPermissionRevoked},
	}
}

// bridgeFaults are those in which the bridge itself is restarted: one with a journal.
func (k *kafkaSide) bridgeFaults() []fault {
	return []fault{
		{"kafka: the only broker of BROKERS killed", k.playOnlyBrokerKilled},
		{"kafka: bridge restarted while a broker stands still", k.playRestartBesideStandstill},
	}
}

// leader returns the node that leads some partition.
func (k *kafkaSide) leader(r *run) int {
	return k.cluster.Leader(r.t, topic, r.rand.IntN(topicPartitions))
}

func (k *kafkaSide) playLeaderKilled(ctx context.Context, r *run) {
	victim := k.leader(r)
	k.cluster.Kill(r.t, victim)
	r.stay(ctx, time.Second, 6*time.Second)
	k.cluster.StartNode(r.t, victim)
}

// playTwoKilled leaves one node, which is too few for acknowledgements, and no quorum of controllers.
func (k *kafkaSide) playTwoKilled(ctx context.Context, r *run) {
	nodes := k.cluster.Nodes()
	r.rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for _, victim := range nodes[:2] {
		k.cluster.Kill(r.t, victim)
		r.stay(ctx, 0, 2*time.Second)
	}
	r.stay(ctx, time.Second, 5*time.Second)
	k.cluster.StartNode(r.t, nodes[:2]...)
}

// playOnlyBrokerKilled starts the bridge with one broker in BROKERS alone, and kills that one. The bridge has to go on
// with those that it has heard of.
func (k *kafkaSide) playOnlyBrokerKilled(ctx context.Context, r *run) {
	at := r.rand.IntN(kafkaNodes)
	victim := k.cluster.Nodes()[at]
	r.bridge.terminate(context.WithoutCancel(ctx))
	r.bridge.start("KAFKA_BROKERS=" + k.cluster.ProxiedBrokers()[at])
	if _, err := r.recovered(ctx); err != nil {
		r.failf("kafka: with one broker of three in BROKERS: %v", err)
	}
	k.cluster.Kill(r.t, victim)
	if _, err := r.recovered(ctx); err != nil {
		r.failf("kafka: while the only broker in BROKERS is gone: %v", err)
	}
	k.cluster.StartNode(r.t, victim)
	r.bridge.terminate(context.WithoutCancel(ctx))
	r.startBridge(ctx)
}

// playStandstill stops a broker where it is, for longer than the sink waits for its answer.
func (k *kafkaSide) playStandstill(ctx context.Context, r *run) {
	victim := k.leader(r)
	k.cluster.Pause(r.t, victim)
	r.stay(ctx, sinkPatience+time.Second, sinkPatience+4*time.Second)
	k.cluster.Resume(r.t, victim)
}

// repeatsOfAStop is of how many webhooks an orderly restart may repeat events: those that were under way to a broker
// which gave no answer. Without a memory of what was acknowledged behind them it would be most of stopAfter.
const repeatsOfAStop, stopAfter = 100, 600

// playRestartBesideStandstill stops and starts the bridge in order while the partitions of one broker stand still. What
// the others have acknowledged meanwhile is not sent to them again.
func (k *kafkaSide) playRestartBesideStandstill(ctx context.Context, r *run) {
	part := k.proxies[r.rand.IntN(kafkaNodes)]
	part.Stall()
	if err := r.accept(ctx, stopAfter); err != nil {
		r.failf("kafka: while a broker stands still: %v", err)
	}
	before := r.ledger.repeats("kafka")
	r.bridge.terminate(context.WithoutCancel(ctx))
	r.startBridge(ctx)
	r.stay(ctx, time.Second, 3*time.Second)
	part.Resume()
	if _, err := r.recovered(ctx); err != nil {
		r.failf("kafka: after a restart while a broker stood still: %v", err)
	}
	n := r.ledger.repeats("kafka") - before
	r.logf("     events of %d webhooks have been repeated", n)
	if n > repeatsOfAStop {
		r.failf("kafka: a restart while a broker stood still has repeated events of %d webhooks", n)
	}
}

func (k *kafkaSide) playLeadersMoved(ctx context.Context, r *run) {
	for range 1 + r.rand.IntN(4) {
		partition := r.rand.IntN(topicPartitions)
		nodes := k.cluster.Nodes()
		k.cluster.MoveLeader(r.t, topic, partition, nodes[r.rand.IntN(len(nodes))])
		r.stay(ctx, 0, time.Second)
	}
}

func (k *kafkaSide) playCut(ctx context.Context, r *run) {
	for range 1 + r.rand.IntN(5) {
		for _, p := range k.proxies {
			// In the midst of an acknowledgement, or between two.
			if r.rand.IntN(2) == 0 {
				p.CutAnswersAfter(1 + r.rand.IntN(2000))
			} else {
				p.Cut()
			}
		}
		r.stay(ctx, 50*time.Millisecond, time.Second)
	}
	k.unstall()
}

// playTopicDeleted deletes the topic with all that it holds. What the bridge knows to be stored has been read by then:
// the bridge stands still, and from the moment that nothing gets through to it any more it knows of nothing new.
func (k *kafkaSide) playTopicDeleted(ctx context.Context, r *run) {
	r.bridge.pause()
	defer r.bridge.resume()
	k.stall()
	defer k.unstall()
	k.cut()
	ends := k.cluster.EndOffsets(r.t, topic)
	if err := r.await(ctx, brokerLimit, func() error { return k.reader.hasRead(ends) }); err != nil {
		r.failf("kafka: the topic is read to its end: %v", err)
		return
	}
	k.cluster.DeleteTopic(r.t, topic)
	if r.rand.IntN(2) == 0 { // the bridge meets a cluster without the topic
		k.unstall()
		r.bridge.resume()
		r.stay(ctx, time.Second, 6*time.Second)
	}
	k.makeTopic()
}

// playPasswordChanged gives the bridge's user another password. Kafka asks for it when a connection is made, and so
// every connection is cut.
func (k *kafkaSide) playPasswordChanged(ctx context.Context, r *run) {
	k.cluster.ChangePassword(r.t, kafkaUser, "another")
	k.cut()
	r.stay(ctx, time.Second, 6*time.Second)
	k.cluster.ChangePassword(r.t, kafkaUser, kafkaPassword)
}

func (k *kafkaSide) playPermissionRevoked(ctx context.Context, r *run) {
	k.cluster.DenyWrite(r.t, kafkaUser, topic)
	r.stay(ctx, time.Second, 6*time.Second)
	k.cluster.AllowWrite(r.t, topic)
}

// topicReader reads all that the topic ever holds, in the order of each partition, whatever becomes of brokers and of
// the topic itself.
type topicReader struct {
	brokers []string

	mu      sync.Mutex
	topics  int                    // how many topics of the name there have been
	renewed chan struct{}          // closed when there is another one
	next    [topicPartitions]int64 // the offset that is read next
}

// renew says that there is a new topic. The one before has been read to its end.
func (s *topicReader) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics++
	s.next = [topicPartitions]int64{}
	close(s.renewed)
	s.renewed = make(chan struct{})
}

// hasRead returns what of the topic is still to be read, up to the given ends.
func (s *topicReader) hasRead(ends map[int]int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for partition, end := range ends {
		if next := s.next[partition]; next < end {
			return fmt.Errorf("%s/%d is read up to %d of %d", topic, partition, next, end)
		}
	}
	return nil
}

// run reads until ctx ends: each topic with a client of its own, since a client takes a new topic for the old one.
func (s *topicReader) run(ctx context.Context, l *ledger) {
	for ctx.Err() == nil {
		s.mu.Lock()
		number, renewed := s.topics, s.renewed
		s.mu.Unlock()
		if err := s.read(ctx, number, renewed, l); err != nil {
			l.received("kafka", record{id: err.Error(), address: topic}) // the run fails
			return
		}
	}
}

// read reads a topic until there is another one, or ctx ends.
func (s *topicReader) read(ctx context.Context, number int, renewed <-chan struct{}, l *ledger) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-renewed:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-ended }()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(s.brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(250*time.Millisecond), kgo.MetadataMaxAge(2*time.Second),
		kgo.FetchMaxWait(500*time.Millisecond), kgo.DialTimeout(2*time.Second), kgo.RequestTimeoutOverhead(3*time.Second),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		// Its errors are those of brokers that are away, which the client gets over by itself.
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { s.take(r, number, l) })
	}
	return nil
}

// take notes a record.
func (s *topicReader) take(r *kgo.Record, number int, l *ledger) {
	headers := make([]cloudevents.Header, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = cloudevents.Header{Name: h.Key, Value: string(h.Value)}
	}
	event, err := cloudevents.Decode(headers, cloudevents.KafkaPrefix, r.Value)
	if err == nil && event.PartitionKey != string(r.Key) {
		err = errors.New("its key is not its partitionkey")
	}
	if err != nil {
		event.ID = err.Error() // which nobody has sent
	}
	l.received("kafka", record{
		id: event.ID, webhookID: event.WebhookID, key: event.PartitionKey, data: event.Data,
		address: fmt.Sprintf("%s/%d@%d of topic %d", topic, r.Partition, r.Offset, number),
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if number == s.topics {
		s.next[r.Partition] = max(s.next[r.Partition], r.Offset+1)
	}
}
