package interop

import (
	"net/url"
	"testing"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
)

// formats are those that are CloudEvents.
func formats() []cloudevents.Format {
	return []cloudevents.Format{cloudevents.Binary, cloudevents.Structured}
}

// decodedFor is what reads the SDK's strings of a message in NATS: it hands header values on as they are, so what is
// not printable ASCII stays percent-encoded.
func decodedFor(format cloudevents.Format) func(*testing.T, string) string {
	if format == cloudevents.Structured {
		return nil
	}
	return func(t *testing.T, value string) string {
		t.Helper()
		decoded, err := url.PathUnescape(value)
		require.NoError(t, err)
		return decoded
	}
}

// The CloudEvents SDK for Go reads what fnbridge writes.
func TestOfficialSDKReadsNATS(t *testing.T) {
	for name, e := range sinktest.LegalEvents() {
		for _, format := range formats() {
			t.Run(name+"/"+format.String(), func(t *testing.T) {
				headers, body, err := format.Encode(e, cloudevents.NATSPrefix)
				require.NoError(t, err)
				m := natsgo.NewMsg("s")
				for _, h := range headers {
					m.Header.Set(h.Name, h.Value)
				}
				m.Data = body
				requireSDKReads(t, e, nats_jetstream.NewMessage(m), decodedFor(format))
			})
		}
	}
}

func TestOfficialSDKReadsKafka(t *testing.T) {
	for name, e := range sinktest.LegalEvents() {
		for _, format := range formats() {
			t.Run(name+"/"+format.String(), func(t *testing.T) {
				headers, body, err := format.Encode(e, cloudevents.KafkaPrefix)
				require.NoError(t, err)
				m := sarama.ConsumerMessage{Value: body, Topic: "t"}
				for _, h := range headers {
					m.Headers = append(m.Headers, &sarama.RecordHeader{Key: []byte(h.Name), Value: []byte(h.Value)})
				}
				requireSDKReads(t, e, kafka_sarama.NewMessageFromConsumerMessage(&m), nil)
			})
		}
	}
}

// requireSDKReads holds what the SDK reads against e, whose id, type and extensions decode may have to decode first.
func requireSDKReads(t *testing.T, e bridge.Event, m binding.Message, decode func(*testing.T, string) string) {
	t.Helper()
	got, err := binding.ToEvent(t.Context(), m)
	require.NoError(t, err)
	require.NoError(t, got.Validate())
	require.Equal(t, "1.0", got.SpecVersion())
	require.Equal(t, e.Source, got.Source())
	require.Equal(t, e.Subject, got.Subject())
	require.Equal(t, "application/json", got.DataContentType())
	require.True(t, e.Time.Equal(got.Time()), "%s, %s", e.Time, got.Time())
	require.Equal(t, string(e.Data), string(got.Data()), "byte for byte")

	extension := func(name string) string {
		value, _ := got.Extensions()[name].(string)
		return value
	}
	for name, values := range map[string][2]string{
		"id":           {e.ID, got.ID()},
		"type":         {e.Type, got.Type()},
		"partitionkey": {e.PartitionKey, extension("partitionkey")},
		"sequence":     {e.Sequence, extension("sequence")},
		"sourceid":     {e.SourceID, extension("sourceid")},
		"webhookid":    {e.WebhookID, extension("webhookid")},
	} {
		want, have := values[0], values[1]
		if want != have && decode != nil {
			have = decode(t, have)
		}
		require.Equal(t, want, have, name)
	}
}
