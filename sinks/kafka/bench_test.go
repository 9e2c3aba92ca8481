package kafka

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// BenchmarkPublish stores 512 events over eight partitions a call, by turns with the sink and with franz-go, and
// reports what of franz-go's rate the sink reaches. The broker runs in the same process and stores nothing.
func BenchmarkPublish(b *testing.B) {
	const perCall = 512
	for _, compression := range []string{"none", "lz4"} {
		b.Run(compression, func(b *testing.B) {
			c := newCluster(b, kfake.NumBrokers(1), kfake.SeedTopics(8, testTopic), kfake.BlackholeProduce())
			s := open(b, c.ListenAddrs(), func(o *Options) { o.Compression, o.timing = compression, timing{} })
			codec := kgo.NoCompression()
			if compression == "lz4" {
				codec = kgo.Lz4Compression()
			}
			other, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic(testTopic),
				kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(0), kgo.DisableIdempotentWrite(),
				kgo.RequiredAcks(kgo.AllISRAcks()))
			require.NoError(b, err)
			defer other.Close()
			batch := events(perCall, 100)
			for i := range batch {
				batch[i].Data = fmt.Appendf(nil, `{"n":%d,"text":%q}`, i, strings.Repeat("some text ", 38))
			}
			bySink := func() { requireStored(b, s.Publish(context.Background(), batch)) }
			byFranz := func() {
				require.NoError(b, other.ProduceSync(context.Background(), franzRecords(b, batch)...).FirstErr())
			}
			bySink()
			byFranz()

			var sink, franz time.Duration
			b.ReportAllocs()
			for b.Loop() {
				began := time.Now()
				bySink()
				between := time.Now()
				byFranz()
				sink += between.Sub(began)
				franz += time.Since(between)
			}
			b.ReportMetric(float64(perCall*b.N)/sink.Seconds(), "events/s")
			b.ReportMetric(franz.Seconds()/sink.Seconds(), "of-franz-go")
		})
	}
}

func franzRecords(b *testing.B, events []bridge.Event) []*kgo.Record {
	b.Helper()
	records := make([]*kgo.Record, len(events))
	for i, e := range events {
		headers, body, err := cloudevents.Binary.Encode(e, cloudevents.KafkaPrefix)
		require.NoError(b, err)
		records[i] = &kgo.Record{Key: []byte(e.PartitionKey), Value: body}
		for _, h := range headers {
			records[i].Headers = append(records[i].Headers, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value)})
		}
	}
	return records
}
