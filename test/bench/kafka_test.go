//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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
	kafkaPartitions = 12
	// kafkaBatch is how many records the bare client puts into a request: about what the bridge's window has for a
	// partition.
	kafkaBatch = 512
)

// kafkaBroker is a real Apache Kafka, of one broker, with a Java machine as a production broker has it but for the size
// of its heap.
type kafkaBroker struct {
	cluster *apachekafka.Cluster
	client  *kafkago.Client
	opened  int
}

func startKafka(t *testing.T) *kafkaBroker {
	t.Helper()
	c := apachekafka.Start(t, apachekafka.Options{JVM: []string{"-Xmx1g", "-XX:TieredStopAtLevel=4"}})
	transport := &kafkago.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &kafkaBroker{cluster: c, client: &kafkago.Client{Addr: kafkago.TCP(c.Brokers()...), Transport: transport}}
}

func (k *kafkaBroker) kind() string { return "kafka" }

func (k *kafkaBroker) cpu(t *testing.T) (all time.Duration) {
	t.Helper()
	for _, pid := range k.cluster.ProcessIDs() {
		all += cpuOf(t, pid)
	}
	return all
}

func (k *kafkaBroker) open(t *testing.T) outlet {
	t.Helper()
	k.opened++
	o := &kafkaOutlet{broker: k, topic: fmt.Sprintf("bench-%d", k.opened)}
	k.cluster.CreateTopic(t, o.topic, kafkaPartitions, 1, nil)
	return o
}

// kafkaOutlet is a topic.
type kafkaOutlet struct {
	broker *kafkaBroker
	topic  string
}

func (o *kafkaOutlet) env() map[string]string {
	return map[string]string{"": "kafka", "BROKERS": strings.Join(o.broker.cluster.Brokers(), ","), "TOPIC": o.topic}
}

func (o *kafkaOutlet) stored(t *testing.T) int {
	t.Helper()
	var asked []kafkago.OffsetRequest
	for p := range kafkaPartitions {
		asked = append(asked, kafkago.LastOffsetOf(p))
	}
	answer, err := o.broker.client.ListOffsets(t.Context(),
		&kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{o.topic: asked}})
	require.NoError(t, err)
	total := 0
	for _, p := range answer.Topics[o.topic] {
		require.NoError(t, p.Error)
		total += int(p.LastOffset)
	}
	return total
}

func (o *kafkaOutlet) drop(t *testing.T) {
	t.Helper()
	o.broker.cluster.DeleteTopic(t, o.topic)
}

// reader makes a consumer of the whole topic, with another library than the sink's.
func (o *kafkaOutlet) reader(t *testing.T) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(o.broker.cluster.Brokers()...), kgo.ConsumeTopics(o.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	return client
}

func (o *kafkaOutlet) consume(ctx context.Context, t *testing.T, received func(webhookID string)) {
	t.Helper()
	client := o.reader(t)
	defer client.Close()
	for ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == "ce_webhookid" {
					received(string(h.Value))
				}
			}
		})
	}
}

// messages reads some of what the topic holds.
func (o *kafkaOutlet) messages(t *testing.T) []kafkago.Message {
	t.Helper()
	client := o.reader(t)
	defer client.Close()
	var found []kafkago.Message
	for want := min(sample, o.stored(t)); len(found) < want; {
		fetches := client.PollRecords(t.Context(), want-len(found))
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			m := kafkago.Message{Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				m.Headers = append(m.Headers, kafkago.Header{Key: h.Key, Value: h.Value})
			}
			found = append(found, m)
		})
	}
	require.NotEmpty(t, found)
	return found
}

func (o *kafkaOutlet) bare(t *testing.T, count int) time.Duration {
	t.Helper()
	to, ok := o.broker.open(t).(*kafkaOutlet)
	require.True(t, ok)
	defer to.drop(t)
	messages := o.messages(t)
	transport := &kafkago.Transport{}
	defer transport.CloseIdleConnections()
	writer := &kafkago.Writer{
		Addr: kafkago.TCP(o.broker.cluster.Brokers()...), Topic: to.topic, Transport: transport,
		Balancer: kafkago.Murmur2Balancer{Consistent: true}, RequiredAcks: kafkago.RequireAll, Compression: kafkago.Lz4,
		BatchSize: kafkaBatch, BatchTimeout: 5 * time.Millisecond,
	}
	began := time.Now()
	// Each writes a batch for each partition at a time; two of them, so that a batch is made while another is on its way.
	var all sync.WaitGroup
	chunks := make(chan int)
	errs := make([]error, 2)
	for i := range errs {
		all.Go(func() {
			chunk := make([]kafkago.Message, 0, kafkaBatch*kafkaPartitions)
			for first := range chunks {
				chunk = chunk[:0]
				for n := first; n < min(count, first+cap(chunk)); n++ {
					m := messages[n%len(messages)]
					m.Key = fmt.Appendf(nil, "%s%08d", m.Key[:max(0, len(m.Key)-8)], n/2) // two events of an invocation have one key
					chunk = append(chunk, m)
				}
				errs[i] = errors.Join(errs[i], writer.WriteMessages(t.Context(), chunk...))
			}
		})
	}
	for n := 0; n < count; n += kafkaBatch * kafkaPartitions {
		chunks <- n
	}
	close(chunks)
	all.Wait()
	took := time.Since(began)
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, writer.Close())
	require.GreaterOrEqual(t, to.stored(t), count) // the writer repeats what had no answer in time
	return took
}

var perfResult = regexp.MustCompile(`(\d+) records sent, ([0-9.]+) records/sec`)

// perfTest has Kafka's own load generator publish records as large as those of the topic, and returns records a second.
func (o *kafkaOutlet) perfTest(t *testing.T, count int) float64 {
	t.Helper()
	to, ok := o.broker.open(t).(*kafkaOutlet)
	require.True(t, ok)
	defer to.drop(t)
	// It writes values alone, so the headers are part of these.
	var lines []string
	for _, m := range o.messages(t) {
		line := string(m.Key) + string(m.Value)
		for _, h := range m.Headers {
			line += h.Key + string(h.Value)
		}
		lines = append(lines, strings.ReplaceAll(line, "\n", " "))
	}
	file := filepath.Join(t.TempDir(), "records")
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))
	out := o.broker.cluster.Run(t, "org.apache.kafka.tools.ProducerPerformance",
		"--topic", to.topic, "--num-records", strconv.Itoa(count), "--payload-file", file, "--throughput", "-1",
		"--producer-props", "acks=all", "compression.type=lz4", "batch.size=131072",
		"linger.ms=5", "bootstrap.servers="+strings.Join(o.broker.cluster.Brokers(), ","))
	// The last line is about all of it; those before are about five seconds each.
	all := perfResult.FindAllStringSubmatch(out, -1)
	require.NotEmpty(t, all, out)
	rate, err := strconv.ParseFloat(all[len(all)-1][2], 64)
	require.NoError(t, err)
	return rate
}
