package kafka

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"net"
	"runtime"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
)

// stranger listens and gives whoever sends something the same answer, until the test ends.
func stranger(t *testing.T, answer func(request []byte) []byte) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 4096)
			for {
				_ = conn.SetReadDeadline(time.Now().Add(time.Second))
				n, err := conn.Read(buffer)
				if err != nil {
					break
				}
				if _, err := conn.Write(answer(buffer[:n])); err != nil {
					break
				}
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return listener.Addr().String()
}

// allocated is how many bytes f allocates, and what else does meanwhile.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestAPortThatSpeaksSomethingElse(t *testing.T) {
	claims := func(count uint32) string { // an answer to ApiVersions
		return string(binary.BigEndian.AppendUint32([]byte("\x00\x00\x00\x3c\x00\x00\x00\x01\x00\x00"), count)) +
			string(make([]byte, 50))
	}
	for name, tt := range map[string]struct {
		answer, want string
		kind         bridge.FailureKind
	}{
		"HTTP": {
			"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
			"answers HTTP, not Kafka: check the host and port in BROKERS", bridge.FailureBlocked,
		},
		"NATS":         {"INFO {\"server_id\":\"x\"}\r\n", `answers "INFO…", not Kafka`, bridge.FailureBlocked},
		"SSH":          {"SSH-2.0-OpenSSH_9.9\r\n", `answers "SSH-…", not Kafka`, bridge.FailureBlocked},
		"a large one":  {"\x7f\xff\xff\xff\x00\x00\x00\x01", "claims an answer of 2147483647 bytes", bridge.FailureRetry},
		"a negative":   {"\xff\xff\xff\xff\x00\x00\x00\x01", "is it a broker of Kafka?", bridge.FailureRetry},
		"a count":      {claims(math.MaxInt32), "claims 2147483647 elements and has 50 bytes for them", bridge.FailureRetry},
		"a less count": {claims(100_000_000), "claims 100000000 elements", bridge.FailureRetry},
	} {
		t.Run(name, func(t *testing.T) {
			address := stranger(t, func([]byte) []byte { return []byte(tt.answer) })
			s := open(t, []string{address})
			var results []error
			used := allocated(func() { results = publish(t, s, events(1, 1)) })
			requireKind(t, tt.kind, append(results, s.Check(context.Background())))
			require.ErrorContains(t, results[0], address)
			require.ErrorContains(t, results[0], tt.want)
			require.ErrorContains(t, s.Check(context.Background()), tt.want)
			require.Less(t, used, uint64(10<<20))
		})
	}
}

// A broker before Kafka 1.0 answers a login with bare bytes, whose length nothing bounds.
func TestTheOldLoginIsRefused(t *testing.T) {
	c := seeded(t, 1, kfake.EnableSASL(), kfake.Superuser(saslPlain, "bridge", password))
	c.ControlKey(int16(kmsg.ApiVersions), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		res := r.ResponseKind().(*kmsg.ApiVersionsResponse)
		res.ApiKeys = append(res.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: int16(kmsg.SASLHandshake)})
		return res, nil, true
	})
	s := open(t, c.ListenAddrs(), withSASL(saslPlain))
	results := publish(t, s, events(1, 1))
	requireKind(t, bridge.FailureBlocked, results)
	require.ErrorContains(t, results[0], "version 1.0")
}

// The library panics at some answers, in the goroutine of whoever asked.
func TestAPanicOfTheLibraryIsAnError(t *testing.T) {
	_, err := request(t.Context(), func(context.Context, *struct{}) (*struct{}, error) { panic("index") }, nil)
	require.ErrorContains(t, err, "the Kafka library cannot read the answer")
}

func TestAnAnswerForAnotherTopicIsAnError(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	require.NoError(t, s.Check(context.Background()))
	c.ControlKey(int16(kmsg.ListOffsets), func(r kmsg.Request) (kmsg.Response, error, bool) {
		res := r.ResponseKind().(*kmsg.ListOffsetsResponse)
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = "another"
		p := kmsg.NewListOffsetsResponseTopicPartition()
		p.Timestamp = 5
		topic.Partitions = append(topic.Partitions, p)
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
	err := s.Check(context.Background())
	requireKind(t, bridge.FailureRetry, []error{err})
	require.ErrorContains(t, err, "the broker's answer leaves it out")
	require.NoError(t, s.Check(context.Background()))
}

func TestAnAnswerToNothingEndsTheConnection(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	go func() {
		_, _ = server.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x01"))
		_ = server.Close()
	}()
	c := &plainConn{Conn: client, address: "broker:9092"}
	_, err := c.Read(make([]byte, 10))
	require.ErrorContains(t, err, "broker:9092 answers what it was not asked")
}

// answerOf is what a broker writes.
func answerOf(tb testing.TB, version int16, m protocol.Message) []byte {
	tb.Helper()
	var b bytes.Buffer
	require.NoError(tb, protocol.WriteResponse(&b, version, 1, m))
	return b.Bytes()
}

// samples are answers of every kind, in the oldest version that the library asks for and the newest.
func samples(tb testing.TB, do func(key protocol.ApiKey, version int16, frame []byte)) {
	tb.Helper()
	all := []protocol.Message{
		&apiversions.Response{ApiKeys: []apiversions.ApiKeyResponse{{ApiKey: 1, MaxVersion: 3}, {ApiKey: 18}}},
		&metadata.Response{
			Brokers: []metadata.ResponseBroker{{NodeID: 1, Host: "broker", Port: 9092, Rack: "a"}},
			Topics: []metadata.ResponseTopic{{Name: testTopic, Partitions: []metadata.ResponsePartition{
				{LeaderID: 1, ReplicaNodes: []int32{1, 2}, IsrNodes: []int32{1}, OfflineReplicas: []int32{2}}, {PartitionIndex: 1},
			}}},
		},
		&produce.Response{Topics: []produce.ResponseTopic{{Topic: testTopic, Partitions: []produce.ResponsePartition{{
			ErrorCode: 87, RecordErrors: []produce.ResponseError{{BatchIndex: 1, BatchIndexErrorMessage: "no"}},
			ErrorMessage: "no",
		}}}}},
		&listoffsets.Response{
			Topics: []listoffsets.ResponseTopic{{Topic: testTopic, Partitions: []listoffsets.ResponsePartition{{Offset: 7}}}},
		},
		&createtopics.Response{Topics: []createtopics.ResponseTopic{{
			Name: testTopic, ErrorMessage: "no", Configs: []createtopics.ResponseTopicConfig{{Name: "a", Value: "b"}},
		}}},
		&saslhandshake.Response{Mechanisms: []string{"PLAIN", "SCRAM-SHA-256"}},
		&saslauthenticate.Response{ErrorMessage: "no", AuthBytes: []byte("r=1,s=2,i=4096")},
	}
	for _, compression := range []kafkago.Compression{0, kafkago.Gzip, kafkago.Snappy, kafkago.Lz4, kafkago.Zstd} {
		records := protocol.NewRecordReader(
			protocol.Record{
				Key: protocol.NewBytes([]byte("k")), Value: protocol.NewBytes([]byte("v")),
				Headers: []protocol.Header{{Key: "a", Value: []byte("b")}, {Key: "c"}},
			},
			protocol.Record{Value: protocol.NewBytes(bytes.Repeat([]byte("v"), 1000))},
		)
		all = append(all,
			&fetch.Response{Topics: []fetch.ResponseTopic{{Topic: testTopic, Partitions: []fetch.ResponsePartition{{
				AbortedTransactions: []fetch.ResponseTransaction{{ProducerID: 1}},
				RecordSet:           protocol.RecordSet{Version: 2, Attributes: protocol.Attributes(compression), Records: records},
			}}}}})
	}
	for _, m := range all {
		key := m.ApiKey()
		if key != protocol.Fetch { // whose records can be written once
			do(key, key.MinVersion(), answerOf(tb, key.MinVersion(), m))
		}
		do(key, key.MaxVersion(), answerOf(tb, key.MaxVersion(), m))
	}
}

func TestAnswersAreTaken(t *testing.T) {
	samples(t, func(key protocol.ApiKey, version int16, frame []byte) {
		require.NoError(t, tryAnswer(key, version, frame), "%v v%d", key, version)
		for n := range len(frame) - 1 {
			cut := bytes.Clone(frame[:n])
			if len(cut) >= 4 {
				binary.BigEndian.PutUint32(cut, uint32(len(cut)-4))
			}
			_ = tryAnswer(key, version, cut) // in peace
		}
	})
}

// FuzzAnswer holds that nothing a peer says costs more than a connection: no panic, no memory that its bytes do not
// account for, and what is taken is what the library then reads from the connection.
func FuzzAnswer(f *testing.F) {
	samples(f, func(key protocol.ApiKey, version int16, frame []byte) { f.Add(int16(key), version, frame) })
	f.Add(int16(protocol.ApiVersions), int16(0), []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, key, version int16, frame []byte) {
		api := protocol.ApiKey(key)
		if _, ok := answers[api]; !ok || version < api.MinVersion() || version > api.MaxVersion() {
			return // only that is asked
		}
		c := &plainConn{Conn: oneSided{in: bytes.NewReader(frame)}, key: api, version: version, waiting: true}
		var err error
		used := allocated(func() {
			_, _, err = protocol.ReadResponse(bufio.NewReader(c), api, version)
		})
		if api != protocol.Fetch { // whose decompressors have windows
			require.Less(t, used, uint64(1<<20+200*len(frame)), "%v", err)
		}
	})
}

// oneSided is a connection that only answers.
type oneSided struct {
	net.Conn
	in io.Reader
}

func (o oneSided) Read(b []byte) (int, error) { return o.in.Read(b) }
