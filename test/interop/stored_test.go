package interop

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/kafka"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// within bounds everything that a test waits for.
const within = time.Minute

// What the sinks store, events and dead letters, the SDK reads as fnbridge does. That this is what was sent, the
// conformance suite of sinks/sinktest holds.
func TestOfficialSDKReadsStreams(t *testing.T) {
	for _, format := range formats() {
		t.Run(format.String(), func(t *testing.T) {
			server := natsserver.Single(t)
			sink, err := nats.New(nats.Options{
				Name: "nats", URL: server.URL(), Stream: "TENSORLAKE", CreateStream: true, Replicas: 1, Format: format,
				Subject: template(t, "tensorlake.{route}"), DeadLetter: natsserver.DeadLetters + "tensorlake",
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, sink.Close(context.WithoutCancel(t.Context()))) })
			sent := publish(t, sink)

			stored := natsserver.Messages(t, natsserver.Connect(t, server.URL()), "TENSORLAKE")
			require.Len(t, stored, sent)
			for _, m := range stored {
				var headers []cloudevents.Header
				for name := range m.Headers() {
					headers = append(headers, cloudevents.Header{Name: name, Value: m.Headers().Get(name)})
				}
				e, err := cloudevents.Decode(headers, cloudevents.NATSPrefix, m.Data())
				require.NoError(t, err)
				message := nats_jetstream.NewMessage(&natsgo.Msg{Header: m.Headers(), Data: m.Data()})
				requireSDKReads(t, e, message, decodedFor(format))
			}
		})
	}
}

// The SDK's Kafka side reads with Sarama, so that client is seen to read them too.
func TestOfficialSDKReadsTopics(t *testing.T) {
	for _, format := range formats() {
		t.Run(format.String(), func(t *testing.T) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "events", "dead-letters"))
			require.NoError(t, err)
			t.Cleanup(cluster.Close)
			sink, err := kafka.New(kafka.Options{
				Name: "kafka", Brokers: cluster.ListenAddrs(), Topic: "events", Key: template(t, "{partitionkey}"), Format: format,
				DeadLetter: "dead-letters",
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, sink.Close(context.WithoutCancel(t.Context()))) })
			sent := publish(t, sink)

			stored := append(consume(t, cluster, "events"), consume(t, cluster, "dead-letters")...)
			require.Len(t, stored, sent)
			for _, m := range stored {
				var headers []cloudevents.Header
				for _, h := range m.Headers {
					headers = append(headers, cloudevents.Header{Name: string(h.Key), Value: string(h.Value)})
				}
				e, err := cloudevents.Decode(headers, cloudevents.KafkaPrefix, m.Value)
				require.NoError(t, err)
				requireSDKReads(t, e, kafka_sarama.NewMessageFromConsumerMessage(m), nil)
			}
		})
	}
}

func template(t *testing.T, text string) bridge.Template {
	t.Helper()
	parsed, err := bridge.ParseTemplate(text)
	require.NoError(t, err)
	return parsed
}

// publish stores events and a dead letter of each, and returns how many messages that makes.
func publish(t *testing.T, sink bridge.DeadLetterPublisher) int {
	t.Helper()
	hostile := slices.DeleteFunc(sinktest.HostileEvents(), func(e bridge.Event) bool {
		return strings.TrimSpace(e.ID) != e.ID // the SDK trims these
	})
	events := append(sinktest.Events("interop", 30, 7), hostile...)
	letters := make([]bridge.DeadLetter, len(events))
	for i, e := range events {
		letters[i] = bridge.DeadLetter{Event: e, Reason: "it is too large", Attempts: 1}
	}
	for _, err := range append(sink.Publish(t.Context(), events), sink.PublishDeadLetters(t.Context(), letters)...) {
		require.NoError(t, err)
	}
	return len(events) + len(letters)
}

// consume reads all that the topic holds, with Sarama.
func consume(t *testing.T, cluster *kfake.Cluster, topic string) (all []*sarama.ConsumerMessage) {
	t.Helper()
	client, err := sarama.NewClient(cluster.ListenAddrs(), sarama.NewConfig())
	require.NoError(t, err)
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	require.NoError(t, err)
	defer consumer.Close()
	timeout := time.After(within)
	for partition := range int32(len(cluster.PartitionInfos(topic))) {
		end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
		require.NoError(t, err)
		messages, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
		require.NoError(t, err)
		for next := int64(0); next < end; {
			select {
			case m := <-messages.Messages():
				all, next = append(all, m), m.Offset+1
			case <-timeout:
				require.FailNow(t, "not read to the end", "%s %d at %d of %d", topic, partition, next, end)
			}
		}
		require.NoError(t, messages.Close())
	}
	return all
}
