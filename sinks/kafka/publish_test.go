package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

func kafkagoError(code int) kafkago.Error { return kafkago.Error(code) }

func TestKeyPartitionAndTimeOfARecord(t *testing.T) {
	c := seeded(t, 3)
	s := open(t, c.ListenAddrs())
	requireStored(t, publish(t, s, events(30, 7)))
	read := 0
	for partition, records := range stored(t, c) {
		for _, r := range records {
			read++
			require.Equal(t, header(r, "ce_partitionkey"), string(r.Key))
			require.Equal(t, partition, s.Partition(event(0, string(r.Key))))
			require.WithinDuration(t, time.Now(), r.Timestamp, time.Minute, "a record's time is that of its sending")
		}
	}
	require.Equal(t, 30, read)
}

func TestPublishPlain(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.Format = cloudevents.Plain })
	e := event(1, "k")
	empty := event(2, "k")
	empty.Data = nil
	requireStored(t, publish(t, s, []bridge.Event{e, empty}))
	records := stored(t, c)[0]
	require.Equal(t, e.Data, records[0].Value)
	require.NotNil(t, records[1].Value, "a null value would delete the key")
}

func TestPublishNothing(t *testing.T) {
	s := open(t, []string{"127.0.0.1:1"})
	require.Empty(t, s.Publish(context.Background(), nil))
}

func TestCompression(t *testing.T) {
	for _, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(name, func(t *testing.T) {
			c := seeded(t, 2)
			s := open(t, c.ListenAddrs(), func(o *Options) { o.Compression = name })
			sent := events(200, 9)
			for i := range sent {
				sent[i].Data = fmt.Appendf(nil, `{"n":%d,"text":%q}`, i, strings.Repeat("same ", 100))
			}
			requireStored(t, publish(t, s, sent))
			n := 0
			for _, records := range stored(t, c) {
				n += len(records)
			}
			require.Equal(t, len(sent), n)
			var bytes int64
			for _, info := range c.PartitionInfos(testTopic) {
				bytes += info.NumBytes
			}
			if name == "none" {
				require.Greater(t, bytes, int64(100_000))
			} else {
				require.Less(t, bytes, int64(50_000))
			}
		})
	}
}

func TestPartitionIsTheJavaClients(t *testing.T) {
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic(testTopic)
	for _, partitions := range []int32{1, 3, 12, 50} {
		c := seeded(t, partitions)
		s := open(t, c.ListenAddrs())
		require.Eventually(t, func() bool { return s.Partition(event(0, "")) >= 0 }, within, 5*time.Millisecond)
		keys := hostileKeys()
		for i := range 3000 {
			keys = append(keys, fmt.Sprintf("invocation-%d-%x", i, i*i))
		}
		for _, key := range keys {
			want := partitioner.Partition(&kgo.Record{Key: []byte(key)}, int(partitions))
			require.Equal(t, want, s.Partition(event(0, key)), "key %q of %d partitions", key, partitions)
		}
	}
}

func hostileKeys() []string {
	return []string{
		"", " ", "\x00", "a\x00b", "\r\nX: y", "../..", "{partitionkey}", "日本語", "\xff\xfe", "a,b=c",
		strings.Repeat("x", 10_000), strings.Repeat("\x00", 10_000),
	}
}

func TestHostileKeysAreStoredAsTheyAre(t *testing.T) {
	c := seeded(t, 5)
	s := open(t, c.ListenAddrs())
	var sent []bridge.Event
	for i, key := range hostileKeys() {
		sent = append(sent, event(i, key))
	}
	requireStored(t, publish(t, s, sent))
	got := make(map[string]string)
	for partition, records := range stored(t, c) {
		for _, r := range records {
			require.NotNil(t, r.Key)
			got[header(r, "ce_id")] = string(r.Key)
			require.Equal(t, partition, s.Partition(event(0, string(r.Key))))
		}
	}
	for _, e := range sent {
		require.Equal(t, e.PartitionKey, got[e.ID])
	}
}

func TestKeyTemplate(t *testing.T) {
	c := seeded(t, 4)
	key, err := bridge.ParseTemplate("{workflow}/{function}")
	require.NoError(t, err)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.Key = key })
	e := event(1, "other")
	e.Application, e.Function = "w", "f"
	requireStored(t, publish(t, s, []bridge.Event{e}))
	require.Equal(t, "w/f", string(stored(t, c)[s.Partition(e)][0].Key))
	require.Equal(t, "w/f", s.OrderingKey()(&e), "what Kafka keeps in order is what delivery does")
	require.Nil(t, open(t, c.ListenAddrs()).OrderingKey(), "events are in order by their partition key")

	key, err = bridge.ParseTemplate("{sandbox}")
	require.NoError(t, err)
	s = open(t, c.ListenAddrs(), func(o *Options) { o.Key = key })
	without := event(2, "key of a partition")
	requireStored(t, publish(t, s, []bridge.Event{without}))
	records := stored(t, c)[s.Partition(without)]
	require.Equal(t, "key of a partition", string(records[len(records)-1].Key), "an empty key is the partition key")
}

func TestAnEventThatCannotBeEncodedIsRejectedAlone(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	sent := events(3, 1)
	sent[1].ID = ""
	results := publish(t, s, sent)
	require.NoError(t, results[0])
	requireKind(t, bridge.FailureReject, results[1:2])
	require.NoError(t, results[2])
	require.Equal(t, []string{"id-0", "id-2"}, ids(stored(t, c)[0]))
}

func TestBatchesOfAPartitionKeepOrderAndBounds(t *testing.T) {
	c := seeded(t, 1)
	var largest atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, p := range r.(*kmsg.ProduceRequest).Topics[0].Partitions {
			largest.Store(max(largest.Load(), int64(len(p.Records))))
		}
		return nil, nil, false
	})
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 1500)
	for i := range sent {
		sent[i].Data = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 3000))
	}
	requireStored(t, publish(t, s, sent))
	require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
	require.LessOrEqual(t, largest.Load(), int64(maxBatchBytes))
	require.Greater(t, largest.Load(), int64(maxBatchBytes/2), "batches are filled")
}

func TestEstimateIsNeverTooLow(t *testing.T) {
	s := open(t, []string{"127.0.0.1:1"})
	for _, e := range append(events(3, 3), event(1<<60, strings.Repeat("k", 9000))) {
		r, err := s.eventRecord([]bridge.Event{e})(0)
		require.NoError(t, err)
		size, err := s.batchSize(r)
		require.NoError(t, err)
		require.LessOrEqual(t, size, int64(batchOverhead+r.size))
	}
}

// tooLarge makes event i larger than the topic takes.
func tooLarge(sent []bridge.Event, size int, is ...int) {
	for _, i := range is {
		sent[i].Data = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", size))
	}
}

func TestOnlyTheOversizedEventIsRejected(t *testing.T) {
	for name, tt := range map[string]struct {
		known bool
		want  string
	}{
		"the broker refuses the batch": {false, "bytes as it is sent: [10]"},
		"the sink knows the limit":     {true, "bytes as it is sent, and max.message.bytes is 20000"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, kfake.NumBrokers(1))
			require.NoError(t, c.CreateTopic(testTopic, 1, map[string]string{maxMessageBytes: "20000"}))
			if !tt.known {
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
			}
			s := open(t, c.ListenAddrs())
			require.Eventually(t, func() bool { return !tt.known || s.limits.maxBytes.Load() == 20_000 },
				within, 5*time.Millisecond)
			sent := one(t, s, 0, 0, 40)
			tooLarge(sent, 30_000, 7, 8, 39)
			results := publish(t, s, sent)
			var want []string
			for i, err := range results {
				if i == 7 || i == 8 || i == 39 {
					requireKind(t, bridge.FailureReject, []error{err})
					require.ErrorContains(t, err, tt.want)
					continue
				}
				require.NoError(t, err)
				want = append(want, sent[i].ID)
			}
			require.Equal(t, want, ids(stored(t, c)[0]), "stored once each, in order")
		})
	}
}

// The limit that the sink has read may be out of date, and for ever so if it may no longer be read.
func TestALimitThatWasRaisedCounts(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1))
	require.NoError(t, c.CreateTopic(testTopic, 1, map[string]string{maxMessageBytes: "100000"}))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	s := open(t, c.ListenAddrs())
	s.limits.maxBytes.Store(20_000) // what was read before the limit was raised
	sent := one(t, s, 0, 0, 3)
	tooLarge(sent, 30_000, 1)
	requireStored(t, publish(t, s, sent))
	require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
}

func TestCompressionCountsInTheSizeOfAnEvent(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.Compression = "gzip" })
	require.Eventually(t, func() bool { return s.limits.maxBytes.Load() > 0 }, within, 5*time.Millisecond)
	sent := one(t, s, 0, 0, 1)
	tooLarge(sent, 3_000_000, 0)
	requireStored(t, publish(t, s, sent))
}

func TestRecordFaultsAreTheirRecordsOnly(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.InvalidRecord, kerr.RecordListTooLarge} {
		t.Run(code.Message, func(t *testing.T) {
			c := seeded(t, 1)
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code, Count: -1, When: func(r kmsg.Request) bool {
				return strings.Contains(string(r.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records), "poison")
			}})
			s := open(t, c.ListenAddrs())
			sent := one(t, s, 0, 0, 33)
			sent[20].Data = []byte(`"poison"`)
			results := publish(t, s, sent)
			requireKind(t, bridge.FailureReject, results[20:21])
			requireStored(t, results[:20])
			requireStored(t, results[21:])
			want := idsOf(sent)
			require.Equal(t, append(want[:20:20], want[21:]...), ids(stored(t, c)[0]))
		})
	}
}

// A record's time is that of its sending, so it is not the record that a broker refuses, but this machine's clock.
func TestAWrongClockRejectsNothing(t *testing.T) {
	c := seeded(t, 1)
	clock := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTimestamp, Count: -1})
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 9)
	results := publish(t, s, sent)
	requireKind(t, bridge.FailureBlocked, results)
	require.ErrorContains(t, results[0], "clock")
	require.Equal(t, 1, clock.Hits(), "one request is enough to know")
	clock.Remove()
	requireStored(t, publish(t, s, sent))
	require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
}

func TestRecordErrorsCountWithoutAnErrorOfTheBatch(t *testing.T) {
	err := answer(&produce.ResponsePartition{RecordErrors: []produce.ResponseError{
		{BatchIndex: 4, BatchIndexErrorMessage: "four"}, {BatchIndex: 2, BatchIndexErrorMessage: "two"},
	}})
	require.ErrorIs(t, err, kafkago.InvalidRecord)
	require.ErrorContains(t, err, "record 2: two")
	require.NoError(t, answer(&produce.ResponsePartition{}))
}

func TestAfterAFailureLaterBatchesOfThePartitionAreNotSent(t *testing.T) {
	for name, tt := range map[string]struct {
		code *kerr.Error
		kind bridge.FailureKind
	}{
		"retry":   {kerr.NotEnoughReplicas, bridge.FailureRetry},
		"blocked": {kerr.TopicAuthorizationFailed, bridge.FailureBlocked},
	} {
		t.Run(name, func(t *testing.T) {
			c := seeded(t, 2)
			s := open(t, c.ListenAddrs())
			seen := 0
			c.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Produce}, Partitions: []int32{0}, Err: tt.code, Count: 1,
				When: func(kmsg.Request) bool {
					seen++
					return seen == 2
				},
			})
			first, other := one(t, s, 0, 0, 3*maxBatchRecords), one(t, s, 1, 10_000, 10)
			batch := batchLength(t, s, first)
			results := publish(t, s, slices.Concat(first, other))
			requireStored(t, results[:batch])
			requireKind(t, tt.kind, results[batch:len(first)])
			require.NotContains(t, results[batch].Error(), "not sent")
			require.ErrorContains(t, results[2*batch], "not sent")
			requireStored(t, results[len(first):])

			requireStored(t, publish(t, s, first[batch:]))
			require.Equal(t, idsOf(first), ids(stored(t, c)[0]), "no batch overtook the one that failed")
		})
	}
}

// batchLength is how many of events, which have one partition, are sent at once.
func batchLength(t *testing.T, s *Sink, events []bridge.Event) int {
	t.Helper()
	records := make([]record, len(events))
	for i := range records {
		var err error
		records[i], err = s.eventRecord(events)(i)
		require.NoError(t, err)
	}
	return s.batchLength(records)
}

func TestBrokerErrors(t *testing.T) {
	for _, tt := range []struct {
		code *kerr.Error
		kind bridge.FailureKind
		want string
	}{
		{kerr.NotLeaderForPartition, bridge.FailureRetry, "partition 0"},
		{kerr.CorruptMessage, bridge.FailureRetry, ""},
		{kerr.KafkaStorageError, bridge.FailureRetry, ""},
		{kerr.UnknownServerError, bridge.FailureRetry, ""},
		{kerr.NotEnoughReplicas, bridge.FailureRetry, "min.insync.replicas"},
		{kerr.TopicAuthorizationFailed, bridge.FailureBlocked, "grant the user WRITE"},
		{kerr.PolicyViolation, bridge.FailureBlocked, "policy"},
		{kerr.UnsupportedCompressionType, bridge.FailureBlocked, "COMPRESSION"},
	} {
		t.Run(tt.code.Message, func(t *testing.T) {
			c := seeded(t, 1)
			s := open(t, c.ListenAddrs())
			sent := one(t, s, 0, 0, 2)
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: tt.code, Count: 1})
			results := publish(t, s, sent)
			requireKind(t, tt.kind, results)
			require.ErrorContains(t, results[0], testTopic)
			require.ErrorContains(t, results[0], tt.want)
			require.NotContains(t, results[0].Error(), "kafka.(*Client)")
			requireStored(t, publish(t, s, sent))
			require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
		})
	}
}

func TestStoredThoughAnsweredWithAnError(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
		t.Run(code.Message, func(t *testing.T) {
			c := seeded(t, 1)
			s := open(t, c.ListenAddrs())
			sent := one(t, s, 0, 0, 3)
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code, Count: 1})
			requireKind(t, bridge.FailureRetry, publish(t, s, sent))
			require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
			requireStored(t, publish(t, s, sent))
			require.Equal(t, append(idsOf(sent), idsOf(sent)...), ids(stored(t, c)[0]),
				"twice: nothing tried again out of sight")
		})
	}
}

func TestALeaderThatMoved(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(3, testTopic))
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.metadata = time.Hour }) // nothing but the sink renews
	sent := one(t, s, 0, 0, 6)
	requireStored(t, publish(t, s, sent[:2]))
	leader := c.LeaderFor(testTopic, 0)
	require.NoError(t, c.MoveTopicPartition(testTopic, 0, (leader+1)%3))
	requireKind(t, bridge.FailureRetry, publish(t, s, sent[2:4]))
	publishUntilStored(t, s, sent[2:4])
	requireStored(t, publish(t, s, sent[4:]))
	require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
}

func TestAConnectionCutInsteadOfAnAnswer(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 2)
	stop := cutAbove(c, 0)
	requireKind(t, bridge.FailureRetry, publish(t, s, sent))
	stop()
	publishUntilStored(t, s, sent)
	require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
}

// cutAbove has the cluster end the connection at produce requests with more than size bytes of records, until stop.
func cutAbove(c *kfake.Cluster, size int) (stop func()) {
	var stopped atomic.Bool
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if stopped.Load() || len(r.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records) <= size {
			return nil, nil, false
		}
		return nil, errors.New("cut"), true
	})
	return func() { stopped.Store(true) }
}

// So does a broker at requests above its socket.request.max.bytes.
func TestABatchThatEndsConnectionsIsHalved(t *testing.T) {
	c := seeded(t, 1)
	cutAbove(c, 10_000)
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 100)
	tooLarge(sent, 500, slices.Collect(func(yield func(int) bool) {
		for i := range sent {
			yield(i)
		}
	})...)
	requireStored(t, publish(t, s, sent))
	require.Equal(t, idsOf(sent), ids(stored(t, c)[0]), "stored once each, in order")
}

func TestAnEventThatEndsConnectionsAgainAndAgainIsRejected(t *testing.T) {
	c := seeded(t, 1)
	stop := cutAbove(c, 10_000)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.cutting = 300 * time.Millisecond })
	sent := one(t, s, 0, 0, 9)
	tooLarge(sent, 20_000, 4)
	began := time.Now()
	results := publish(t, s, sent)
	requireStored(t, results[:4])
	requireKind(t, bridge.FailureRetry, results[4:])
	require.ErrorContains(t, results[4], "socket.request.max.bytes")
	require.Eventually(t, func() bool {
		results = publish(t, s, sent[4:])
		return bridge.KindOf(results[0]) == bridge.FailureReject
	}, within, 10*time.Millisecond)
	require.GreaterOrEqual(t, time.Since(began), s.timing.cutting)
	require.ErrorContains(t, results[0], "ends the connection at this event alone: 20")
	requireStored(t, results[1:])

	requireKind(t, bridge.FailureRetry, publish(t, s, sent[4:5]))
	stop()
	requireStored(t, publish(t, s, sent[4:5]))
	require.Empty(t, s.cuts.events)
}

// A broker that ends other connections too is in trouble itself, and no event is to blame.
func TestAPassingFaultIsNoEventsFault(t *testing.T) {
	c := seeded(t, 1)
	stop := cutAbove(c, 0)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.cutting = time.Nanosecond })
	sent := one(t, s, 0, 0, 9)
	down := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.NotLeaderForPartition, Count: -1})
	asked := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	for range 10 {
		requireKind(t, bridge.FailureRetry, publish(t, s, sent))
	}
	// A connection that was idle may be ended first. Halves would make it 40 at least.
	require.Less(t, asked.Hits(), 40, "it is not halved")
	down.Remove()
	stop()
	publishUntilStored(t, s, sent)
}

// A broker reads nothing more from a client that it holds to its quota: what is sent meanwhile would time out, and be
// stored twice.
func TestABrokersThrottleTimeIsWaitedFor(t *testing.T) {
	const throttle = 700 * time.Millisecond
	c := seeded(t, 4)
	var mu sync.Mutex
	var sent []time.Time
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, time.Now())
		res := r.ResponseKind().(*kmsg.ProduceResponse)
		res.ThrottleMillis = int32(throttle / time.Millisecond)
		if len(sent) == 3 {
			res.ThrottleMillis = int32(time.Hour / time.Millisecond)
		}
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic = testTopic
		for _, asked := range r.(*kmsg.ProduceRequest).Topics[0].Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition = asked.Partition
			topic.Partitions = append(topic.Partitions, p)
		}
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
	s := open(t, c.ListenAddrs())
	for partition := range 3 {
		one(t, s, partition, 0, 1)
	}
	requireStored(t, publish(t, s, one(t, s, 0, 0, 1)))
	require.NoError(t, s.Check(context.Background()), "it has just answered")
	var both sync.WaitGroup
	for partition := range 2 {
		both.Go(func() { requireStored(t, publish(t, s, one(t, s, 1+partition, 1+partition, 1))) })
	}
	both.Wait()
	require.Len(t, sent, 3)
	for i := range sent[1:] {
		require.GreaterOrEqual(t, sent[i+1].Sub(sent[i]), throttle, "one by one, each after the wait of the one before")
	}

	ctx, cancel := context.WithTimeout(context.Background(), throttle)
	defer cancel()
	results := s.Publish(ctx, one(t, s, 3, 3, 1))
	requireKind(t, bridge.FailureRetry, results)
	require.ErrorContains(t, results[0], "quota")
	require.Len(t, sent, 3, "not sent")
}

func TestAnAcknowledgementOfSomethingElseIsNone(t *testing.T) {
	for name, lie := range map[string]func(topic *kmsg.ProduceResponseTopic){
		"another topic":     func(topic *kmsg.ProduceResponseTopic) { topic.Topic = "other" },
		"another partition": func(topic *kmsg.ProduceResponseTopic) { topic.Partitions[0].Partition = 7 },
		"no offset":         func(topic *kmsg.ProduceResponseTopic) { topic.Partitions[0].BaseOffset = -1 },
		"no partition":      func(topic *kmsg.ProduceResponseTopic) { topic.Partitions = nil },
		"two partitions": func(topic *kmsg.ProduceResponseTopic) {
			topic.Partitions = append(topic.Partitions, topic.Partitions[0])
			topic.Partitions[0].Partition = 7
		},
		"another partition's failure": func(topic *kmsg.ProduceResponseTopic) {
			topic.Partitions[0].Partition, topic.Partitions[0].ErrorCode = 7, kerr.MessageTooLarge.Code
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := seeded(t, 1)
			s := open(t, c.ListenAddrs())
			sent := one(t, s, 0, 0, 2)
			c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				res := r.ResponseKind().(*kmsg.ProduceResponse)
				topic, partition := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
				topic.Topic, topic.Partitions = testTopic, append(topic.Partitions, partition)
				lie(&topic)
				res.Topics = append(res.Topics, topic)
				return res, nil, true
			})
			results := publish(t, s, sent)
			requireKind(t, bridge.FailureRetry, results)
			require.ErrorContains(t, results[0], "not stored: the broker")
			publishUntilStored(t, s, sent)
			require.Equal(t, idsOf(sent), ids(stored(t, c)[0]))
		})
	}
}

func TestWhatWasNotSentIsNotStored(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 2)
	require.ErrorContains(t, s.produce(t.Context(), part{})[0], "no record to send")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	requireKind(t, bridge.FailureRetry, s.Publish(ctx, sent))
	require.Empty(t, stored(t, c)[0])
}

func TestABrokerThatNeverAnswers(t *testing.T) {
	t.Parallel()
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.attempt = 3 * time.Second })
	sent := one(t, s, 0, 0, 2)
	silence(c, -1, 1)
	start := time.Now()
	results := s.Publish(context.Background(), sent)
	requireKind(t, bridge.FailureRetry, results)
	require.Less(t, time.Since(start), s.timing.silence/2)
	publishUntilStored(t, s, sent)
}

func TestPublishEndsSoonAfterItsContext(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.attempt, o.timing.publish = time.Minute, time.Minute })
	sent := one(t, s, 0, 0, 1)
	arrived := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(arrived)
		return nil, nil, true
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-arrived
		cancel()
	}()
	done := make(chan []error, 1)
	go func() { done <- s.Publish(ctx, sent) }()
	select {
	case results := <-done:
		requireKind(t, bridge.FailureRetry, results)
	case <-time.After(within):
		require.FailNow(t, "Publish goes on without its context")
	}
	requireKind(t, bridge.FailureRetry, s.Publish(ctx, sent))
	requireStored(t, publish(t, s, sent))
}

func TestAStalledPartitionDelaysNoOther(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.NumBrokers(3), kfake.SeedTopics(3, testTopic))
	s := open(t, c.ListenAddrs(), func(o *Options) {
		o.timing.attempt, o.timing.publish, o.timing.silence = time.Hour, time.Hour, time.Hour
	})
	stop := silence(c, 0, -1)
	slow, quick := one(t, s, 0, 0, 5), one(t, s, 1, 100, 50)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stalled := make(chan []error, 1)
	go func() { stalled <- s.Publish(ctx, slow) }()
	for i := range quick {
		requireStored(t, publish(t, s, quick[i:i+1]))
	}
	require.Empty(t, stalled, "it waits")
	cancel()
	requireKind(t, bridge.FailureRetry, <-stalled)
	stop()
	publishUntilStored(t, s, slow)
	all := stored(t, c)
	require.Equal(t, idsOf(slow), ids(all[0]))
	require.Equal(t, idsOf(quick), ids(all[1]))
}

func TestOneRequestAPartitionAtATime(t *testing.T) {
	c := seeded(t, 1, kfake.SleepOutOfOrder())
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 20)
	var arrived atomic.Int64
	first, release := make(chan struct{}), make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if arrived.Add(1) == 1 {
			c.SleepControl(func() {
				close(first)
				<-release
			})
		}
		return nil, nil, false
	})
	var wg sync.WaitGroup
	wg.Go(func() { requireStored(t, publish(t, s, sent[:1])) })
	<-first
	started := make(chan struct{}, len(sent))
	for i := 1; i < len(sent); i++ {
		wg.Go(func() {
			started <- struct{}{}
			requireStored(t, publish(t, s, sent[i:i+1]))
		})
	}
	for i := 1; i < len(sent); i++ {
		<-started
	}
	// A request that is not held back by the lock arrives within milliseconds.
	require.Never(t, func() bool { return arrived.Load() > 1 }, 200*time.Millisecond, 10*time.Millisecond)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	results := s.Publish(ctx, sent[:1])
	requireKind(t, bridge.FailureRetry, results)
	require.ErrorContains(t, results[0], "not sent")
	close(release)
	wg.Wait()
}

func TestPartitionsOfABrokerGoInOneRequest(t *testing.T) {
	c := seeded(t, 4)
	s := open(t, c.ListenAddrs())
	var sent []bridge.Event
	for partition := range 4 {
		sent = append(sent, one(t, s, partition, 100*partition, 3)...)
	}
	requests := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	requireStored(t, publish(t, s, sent))
	require.Equal(t, 1, requests.Hits())

	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Partitions: []int32{2}, Err: kerr.NotEnoughReplicas, Count: 1})
	results := publish(t, s, sent)
	requireStored(t, slices.Concat(results[:6], results[9:]))
	requireKind(t, bridge.FailureRetry, results[6:9])
	require.ErrorContains(t, results[6], "partition 2")
	require.Equal(t, 2, requests.Hits(), "what failed is not sent again out of sight")

	for _, partition := range []int{-1, 4} {
		require.Equal(t, -1, s.Leader(partition), "nobody is known to lead what is not known")
	}
}

// A broker that takes no request of that size may take each of its batches.
func TestABatchIsSentAloneWhereTheRequestOfManyIsCut(t *testing.T) {
	c := seeded(t, 3)
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if len(r.(*kmsg.ProduceRequest).Topics[0].Partitions) > 1 {
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	s := open(t, c.ListenAddrs())
	var sent []bridge.Event
	for partition := range 3 {
		sent = append(sent, one(t, s, partition, 10*partition, 2)...)
	}
	requireStored(t, publish(t, s, sent))
	for partition, records := range stored(t, c) {
		require.Equal(t, idsOf(sent[2*partition:2*partition+2]), ids(records))
	}
}

// A broker that gave no answer is asked before it is sent anything again.
func TestWhatABrokerInDoubtSaysOfAPartitionIsThatPartitionsAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.NumBrokers(3))
	require.NoError(t, c.CreateTopic(testTopic, 3, map[string]string{minInSyncReplicas: "2"}))
	replicas := []int32{0, 1, 2}
	at := make([]placed, 3)
	for partition := range at {
		require.NoError(t, c.MoveTopicPartition(testTopic, int32(partition), 0))
		at[partition] = placed{replicas: replicas, inSync: replicas}
	}
	at[0].inSync = replicas[:1]
	answerMetadata(c, at...)
	s := open(t, c.ListenAddrs(), func(o *Options) { o.timing.attempt = 5 * time.Second })
	require.Eventually(t, func() bool { return s.limits.minSync.Load() == 2 }, within, 5*time.Millisecond)
	var sent []bridge.Event
	for partition := range at {
		sent = append(sent, one(t, s, partition, 10*partition, 2)...)
	}
	stop := silence(c, -1, -1)
	requireKind(t, bridge.FailureRetry, publish(t, s, sent[2:]))
	stop()

	requests := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	results := publish(t, s, sent)
	requireKind(t, bridge.FailureRetry, results[:2])
	require.ErrorContains(t, results[0], "partition 0: 1 of its replicas are in sync")
	requireStored(t, results[2:])
	require.Equal(t, 1, requests.Hits())
}

func TestAPartitionWithoutALeaderFailsAloneAndAtOnce(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(2), kfake.SeedTopics(2, testTopic))
	s := open(t, c.ListenAddrs())
	require.NoError(t, c.MoveTopicPartition(testTopic, 0, 0))
	require.NoError(t, c.MoveTopicPartition(testTopic, 1, 1))
	lost, kept := one(t, s, 0, 0, 2), one(t, s, 1, 10, 2)
	publishUntilStored(t, s, append(lost[:1:1], kept[:1]...))
	answerMetadata(c, placed{leader: -1, replicas: []int32{0}},
		placed{leader: 1, replicas: []int32{1}, inSync: []int32{1}})
	c.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Partitions: []int32{0}, Err: kerr.NotLeaderForPartition, Count: -1,
	})

	require.Eventually(t, func() bool {
		start := time.Now()
		results := publish(t, s, append(lost[1:2:2], kept[1]))
		requireKind(t, bridge.FailureRetry, results[:1])
		require.NoError(t, results[1])
		return strings.Contains(results[0].Error(), "no broker leads it now") && time.Since(start) < s.timing.attempt/2
	}, within, 10*time.Millisecond)
	// The sink hears of the leader after the client does, and until then asks a broker that still answers here.
	var err error
	require.Eventually(t, func() bool {
		err = s.Check(context.Background())
		return err != nil
	}, within, 10*time.Millisecond)
	requireKind(t, bridge.FailureRetry, []error{err})
	require.ErrorContains(t, err, "1 of 2 partitions")
}

func TestPartitionsThatAreAddedAreUsed(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	requireStored(t, publish(t, s, events(3, 3)))
	admin, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	require.NoError(t, err)
	defer admin.Close()
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.TimeoutMillis = 5000
	topic := kmsg.NewCreatePartitionsRequestTopic()
	topic.Topic, topic.Count = testTopic, 8
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(context.Background(), admin)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(res.Topics[0].ErrorCode))

	const key = "key-2"
	want := kgo.StickyKeyPartitioner(nil).ForTopic(testTopic).Partition(&kgo.Record{Key: []byte(key)}, 8)
	require.NotZero(t, want)
	require.Eventually(t, func() bool { return s.Partition(event(0, key)) == want }, within, 5*time.Millisecond)
	requireStored(t, publish(t, s, []bridge.Event{event(9, key)}))
	require.Equal(t, []string{"id-9"}, ids(stored(t, c)[want]))
}

func TestBytesAreLeftAloneAfterACancelledPublish(t *testing.T) {
	// The race detector fails this test if the sink writes to bytes that the client may still be reading.
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 200)
	want := make(map[string]string)
	for i := range sent {
		sent[i].Data = fmt.Appendf(nil, `{"n":%d,"text":%q}`, i, strings.Repeat("x", 2000))
		want[sent[i].ID] = string(sent[i].Data)
	}
	for i := range 30 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*100*time.Microsecond)
		s.Publish(ctx, sent)
		cancel()
	}
	for _, r := range stored(t, c)[0] {
		require.Equal(t, want[header(r, "ce_id")], string(r.Value))
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	c := seeded(t, 1)
	s, err := New(testOptions(t, c.ListenAddrs(), func(o *Options) {
		o.timing.attempt, o.timing.publish, o.timing.silence = time.Minute, time.Minute, time.Minute
	}))
	require.NoError(t, err)
	sent := one(t, s, 0, 0, 2)
	arrived := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(arrived)
		return nil, nil, true
	})
	sending, waiting := make(chan []error, 1), make(chan []error, 1)
	go func() { sending <- s.Publish(context.Background(), sent[:1]) }()
	<-arrived
	go func() { waiting <- s.Publish(context.Background(), sent[1:]) }()
	closeSink(t, s)
	for _, results := range []chan []error{sending, waiting} {
		select {
		case r := <-results:
			requireKind(t, bridge.FailureRetry, r)
			require.ErrorIs(t, r[0], errClosed)
		case <-time.After(within):
			require.FailNow(t, "Publish goes on after Close")
		}
	}
	requireKind(t, bridge.FailureRetry, s.Publish(context.Background(), sent))
	require.ErrorIs(t, s.Check(context.Background()), errClosed)
	require.NoError(t, s.Close(context.Background()), "again")
}

func TestCloseOfASinkThatNeverReachedABroker(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	s, err := New(testOptions(t, []string{listener.Addr().String()}))
	require.NoError(t, err)
	done := make(chan []error, 1)
	go func() { done <- s.Publish(context.Background(), events(1, 1)) }()
	closeSink(t, s)
	requireKind(t, bridge.FailureRetry, <-done)
}
