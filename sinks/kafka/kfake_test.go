package kafka

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

const (
	testTopic       = "tensorlake-events"
	testDeadLetters = "tensorlake-events-dead-letters"
)

// within bounds everything that a test waits for.
const within = time.Minute

// slack is what a starved machine may add to what a sink bounds.
const slack = 10 * time.Second

// quick are durations for tests: what a sink does again it does soon, and what it waits for has more time than a
// starved machine takes.
func quick() timing {
	return timing{
		attempt:  within / 3,
		publish:  2 * within / 3,
		silence:  within / 2,
		dial:     within / 3,
		dialTCP:  within / 3,
		connect:  within / 3,
		metadata: 2 * time.Second,
		refresh:  100 * time.Millisecond,
		pace:     5 * time.Millisecond,
		reset:    50 * time.Millisecond,
		blocked:  50 * time.Millisecond,
		create:   200 * time.Millisecond,
		describe: 200 * time.Millisecond,
		missing:  400 * time.Millisecond,
		doubt:    within / 2,
	}
}

// hasty has a sink give up soon, for tests in which nobody answers.
func hasty(o *Options) {
	o.timing.attempt = 6 * time.Second
	o.timing.publish = 13 * time.Second
	o.timing.silence = 7 * time.Second
	o.timing.dial = 3 * time.Second
	o.timing.dialTCP = 2 * time.Second
	o.timing.connect = 5 * time.Second
}

func newCluster(tb testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	tb.Helper()
	c, err := kfake.NewCluster(opts...)
	require.NoError(tb, err)
	tb.Cleanup(c.Close)
	return c
}

// reserved has brokers listen at ports that nobody else gets while they are down.
func reserved(tb testing.TB, brokers int) kfake.Opt {
	tb.Helper()
	ports := make([]int, brokers)
	for i := range ports {
		port, err := child.ReservePort()
		require.NoError(tb, err)
		tb.Cleanup(port.Release)
		address, err := net.ResolveTCPAddr("tcp", port.Address())
		require.NoError(tb, err)
		ports[i] = address.Port
	}
	return kfake.Ports(ports...)
}

// seeded is a cluster of one broker with the test's topic.
func seeded(tb testing.TB, partitions int32, opts ...kfake.Opt) *kfake.Cluster {
	tb.Helper()
	return newCluster(tb, append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(partitions, testTopic)}, opts...)...)
}

func testOptions(tb testing.TB, brokers []string, change ...func(*Options)) Options {
	tb.Helper()
	key, err := bridge.ParseTemplate("{partitionkey}")
	require.NoError(tb, err)
	o := Options{Name: "test", Brokers: brokers, Topic: testTopic, Key: key, timing: quick()}
	for _, f := range change {
		f(&o)
	}
	return o
}

func open(tb testing.TB, brokers []string, change ...func(*Options)) *Sink {
	tb.Helper()
	s, err := New(testOptions(tb, brokers, change...))
	require.NoError(tb, err)
	tb.Cleanup(func() { closeSink(tb, s) })
	return s
}

func closeSink(tb testing.TB, s *Sink) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	require.NoError(tb, s.Close(ctx))
}

func event(n int, key string) bridge.Event {
	return bridge.Event{
		ID:           fmt.Sprintf("id-%d", n),
		Type:         "tensorlake.workflow.function.success",
		Source:       "/tensorlake/workflows/w",
		Subject:      "i/f",
		Time:         time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		PartitionKey: key,
		WebhookID:    "msg_1",
		Data:         fmt.Appendf(nil, `{"n":%d}`, n),
	}
}

// events returns n events over as many keys as given.
func events(n, keys int) []bridge.Event {
	out := make([]bridge.Event, n)
	for i := range out {
		out[i] = event(i, fmt.Sprintf("key-%d", i%keys))
	}
	return out
}

// one returns n events, numbered from first, that all go to the partition.
func one(tb testing.TB, s *Sink, partition, first, n int) []bridge.Event {
	tb.Helper()
	require.Eventually(tb, func() bool { return s.Partition(event(0, "k")) >= 0 }, within, 5*time.Millisecond)
	for i := range 1000 {
		if e := event(0, fmt.Sprintf("key-%d", i)); s.Partition(e) == partition {
			out := make([]bridge.Event, n)
			for j := range out {
				out[j] = event(first+j, e.PartitionKey)
			}
			return out
		}
	}
	require.FailNow(tb, "no key for the partition")
	return nil
}

func publish(tb testing.TB, s *Sink, events []bridge.Event) []error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	results := s.Publish(ctx, events)
	require.Len(tb, results, len(events))
	return results
}

func requireStored(tb testing.TB, results []error) {
	tb.Helper()
	for i, err := range results {
		require.NoErrorf(tb, err, "event %d", i)
	}
}

func requireKind(tb testing.TB, kind bridge.FailureKind, results []error) {
	tb.Helper()
	for i, err := range results {
		require.Errorf(tb, err, "event %d", i)
		require.Equalf(tb, kind.String(), bridge.KindOf(err).String(), "event %d: %v", i, err)
	}
}

// publishUntilStored publishes as delivery does: only what failed, again and again.
func publishUntilStored(tb testing.TB, s *Sink, events []bridge.Event) {
	tb.Helper()
	require.Eventually(tb, func() bool {
		var failed []bridge.Event
		for i, err := range publish(tb, s, events) {
			if err != nil {
				failed = append(failed, events[i])
			}
		}
		events = failed
		return len(failed) == 0
	}, within, 10*time.Millisecond)
}

// stored reads everything in the topic, by partition, with another client than the sink's.
func stored(tb testing.TB, c *kfake.Cluster, opts ...kgo.Opt) [][]*kgo.Record {
	tb.Helper()
	return storedIn(tb, c, testTopic, opts...)
}

// storedIn is stored for any topic.
func storedIn(tb testing.TB, c *kfake.Cluster, topic string, opts ...kgo.Opt) [][]*kgo.Record {
	tb.Helper()
	infos := c.PartitionInfos(topic)
	out := make([][]*kgo.Record, len(infos))
	// Each partition is read up to where it ends now: what a closed sink had sent can be stored a moment later still, and
	// must not count for what another partition lacks.
	ends := make(map[int32]int64, len(infos))
	for partition, info := range infos {
		if info.HighWatermark > 0 {
			ends[int32(partition)] = info.HighWatermark
		}
	}
	if len(ends) == 0 {
		return out
	}
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	}, opts...)...)
	require.NoError(tb, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for len(ends) > 0 {
		fetches := client.PollFetches(ctx)
		require.NoError(tb, ctx.Err(), "partitions not read up to their ends: %v", ends)
		fetches.EachRecord(func(r *kgo.Record) {
			out[r.Partition] = append(out[r.Partition], r)
			if r.Offset+1 >= ends[r.Partition] {
				delete(ends, r.Partition)
			}
		})
	}
	return out
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func ids(records []*kgo.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = header(r, "ce_id")
	}
	return out
}

func idsOf(events []bridge.Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

// producesTo tells whether the request stores in the partition.
func producesTo(r kmsg.Request, partition int32) bool {
	for _, topic := range r.(*kmsg.ProduceRequest).Topics {
		for _, p := range topic.Partitions {
			if p.Partition == partition {
				return true
			}
		}
	}
	return false
}

// silence has the cluster never answer the next count produce requests to the partition (-1: any) without storing them.
// A count of -1: until stop.
func silence(c *kfake.Cluster, partition int32, count int) (stop func()) {
	var mu sync.Mutex
	stopped := false
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		c.KeepControl()
		if stopped || count == 0 || (partition >= 0 && !producesTo(r, partition)) {
			return nil, nil, false
		}
		count--
		return nil, nil, true
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
}

// placed is where a partition is. A leader of -1 is none.
type placed struct {
	leader           int32
	replicas, inSync []int32
}

// answerMetadata has the cluster answer for its metadata with the test's topic placed so.
func answerMetadata(c *kfake.Cluster, partitions ...placed) {
	addresses := c.ListenAddrs()
	c.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		res := r.ResponseKind().(*kmsg.MetadataResponse)
		for i, address := range addresses {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err, true
			}
			n, err := strconv.ParseInt(port, 10, 32)
			if err != nil {
				return nil, err, true
			}
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = int32(i), host, int32(n)
			res.Brokers = append(res.Brokers, b)
		}
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = new(testTopic)
		for i, at := range partitions {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader, p.Replicas, p.ISR = int32(i), at.leader, at.replicas, at.inSync
			if at.leader < 0 {
				p.ErrorCode = kerr.LeaderNotAvailable.Code
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
}

// logs is where a logger under test writes.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func withLogs(l *logs) func(*Options) { return func(o *Options) { o.Logger = l.logger() } }
