package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

// Who the brokers of these tests know.
const (
	apacheUser     = "alice"
	apachePassword = "s3cr\"et"
)

// unhurried are durations for a real broker, which needs a moment to start, to elect and to compile itself.
func unhurried() timing {
	t := quick()
	t.refresh, t.pace, t.reset, t.blocked = 200*time.Millisecond, 10*time.Millisecond, 200*time.Millisecond, 0
	t.create, t.missing = 500*time.Millisecond, 2*time.Second
	return t
}

// toTopic has a sink publish to the topic with durations for a real broker.
func toTopic(topic string) func(*Options) {
	return func(o *Options) { o.Topic, o.timing = topic, unhurried() }
}

// TestApacheKafka holds the sink against one real broker.
func TestApacheKafka(t *testing.T) {
	t.Parallel()
	var proxy *faultproxy.Proxy
	c := apachekafka.Start(t, apachekafka.Options{
		Users:              map[string]string{apacheUser: apachePassword},
		ClientCertificates: true,
		Proxy: func(_ int, address string) string {
			proxy = faultproxy.New(t, address)
			return proxy.Addr()
		},
	})
	t.Run("java", func(t *testing.T) { testApacheJava(t, c) })
	t.Run("security", func(t *testing.T) { testApacheSecurity(t, c) })
	t.Run("rotation", func(t *testing.T) { testApacheRotation(t, c) })
	t.Run("topics", func(t *testing.T) { testApacheTopics(t, c) })
	t.Run("limits", func(t *testing.T) { testApacheLimits(t, c) })
	t.Run("tail", func(t *testing.T) { testApacheTail(t, c) })
	t.Run("conformance", func(t *testing.T) {
		sinktest.Run(t, func(t *testing.T) sinktest.Broker {
			t.Cleanup(proxy.Resume)
			b := apacheBroker(t, c, c.ProxiedBrokers(), 4)
			b.Faults = sinktest.Faults{
				Unreachable: true,
				Stop:        func(t *testing.T) { c.Stop(t, 1) },
				Start:       func(t *testing.T) { c.StartNode(t, 1) },

				Stall:            func(*testing.T) { proxy.Stall() },
				StallMidResponse: func(*testing.T) { proxy.StallAnswersAfter(7) },
				Resume:           func(*testing.T) { proxy.Resume() },
				DropConnections:  func(*testing.T) { proxy.Cut() },
				CutMidResponse: func(t *testing.T) {
					t.Helper()
					select {
					case <-proxy.CutAnswersAfter(7):
					case <-time.After(within):
						require.FailNow(t, "no answer came to be cut")
					}
				},
				AnswerLate:   func(*testing.T) { proxy.DelayAnswers(2 * b.attempt) },
				AnswerInTime: func(*testing.T) { proxy.Resume() },
			}
			return b.Broker
		})
	})
}

// TestApacheKafkaCluster holds the sink against three real brokers.
func TestApacheKafkaCluster(t *testing.T) {
	t.Parallel()
	c := apachekafka.Start(t, apachekafka.Options{Nodes: 3})
	t.Run("a node that freezes is replaced", func(t *testing.T) { testApacheFrozenNode(t, c) })
	t.Run("the one in BROKERS is gone", func(t *testing.T) { testApacheLastKnown(t, c) })
	t.Run("a node restarts", func(t *testing.T) { testApacheRestart(t, c) })
	t.Run("too few in sync", func(t *testing.T) { testApacheTooFewInSync(t, c) })
	t.Run("conformance", func(t *testing.T) {
		sinktest.Run(t, func(t *testing.T) sinktest.Broker {
			b := apacheBroker(t, c, c.Brokers(), 1)
			frozen := 0
			resume := func(t *testing.T) {
				t.Helper()
				if frozen != 0 {
					c.Resume(t, frozen)
					frozen = 0
				}
			}
			t.Cleanup(func() { resume(t) })
			b.Faults = sinktest.Faults{
				Stall: func(t *testing.T) {
					t.Helper()
					frozen = c.Leader(t, b.topic, 0)
					c.Pause(t, frozen)
				},
				Resume: resume,
				ChangeLeader: func(t *testing.T) {
					t.Helper()
					killed := c.Leader(t, b.topic, 0)
					c.Kill(t, killed)
					require.NotEqual(t, killed, c.Leader(t, b.topic, 0))
					c.StartNode(t, killed)
				},
			}
			return b.Broker
		})
	})
}

// TestApacheKafkaLimits meets brokers that end connections, and hold back clients.
func TestApacheKafkaLimits(t *testing.T) {
	c := apachekafka.Start(t, apachekafka.Options{
		Users: map[string]string{apacheUser: apachePassword},
		Config: map[string]string{
			"connections.max.idle.ms":   "2000",
			"connections.max.reauth.ms": "2000",
			"socket.request.max.bytes":  "300000",
		},
	})
	// onTime publishes and checks, again and again, and then when nothing was sent for longer than a connection lasts.
	onTime := func(t *testing.T, s *Sink) {
		t.Helper()
		for began := time.Now(); time.Since(began) < 7*time.Second; {
			requireStored(t, publish(t, s, events(20, 20)))
			require.NoError(t, s.Check(t.Context()))
		}
		idle := time.NewTicker(3 * time.Second)
		defer idle.Stop()
		for range 2 {
			<-idle.C
			require.NoError(t, s.Check(t.Context()))
			<-idle.C
			requireStored(t, publish(t, s, events(20, 20)))
		}
	}
	unheard := func(o *Options) { o.timing = timing{} } // as in production
	t.Run("ended connections", func(t *testing.T) {
		t.Run("idle connections", func(t *testing.T) {
			t.Parallel()
			c.CreateTopic(t, "idle", 4, 1, nil)
			s := open(t, c.Brokers(), toTopic("idle"), unheard)
			requireStored(t, publish(t, s, events(1, 1)))
			onTime(t, s)
		})
		t.Run("logins that run out", func(t *testing.T) {
			t.Parallel()
			c.CreateTopic(t, "logins", 4, 1, nil)
			s := open(t, c.SASLBrokers(), toTopic("logins"), unheard, func(o *Options) {
				o.TLS, o.TLSCAFile = true, c.CA().CAFile
				o.SASLMechanism, o.SASLUsername, o.SASLPassword = saslScramSHA256, apacheUser, apachePassword
			})
			requireStored(t, publish(t, s, events(1, 1)))
			onTime(t, s)
		})
		t.Run("requests that are too large", func(t *testing.T) {
			t.Parallel()
			c.CreateTopic(t, "requests", 1, 1, nil)
			s := open(t, c.Brokers(), toTopic("requests"), unheard)
			sent := events(21, 1)
			for i := range sent {
				sent[i].Data = fmt.Appendf(nil, `{"text":"%060000d"}`, i)
			}
			requireStored(t, publish(t, s, sent[:19]))
			sent[19].Data = fmt.Appendf(nil, `{"text":"%0400000d"}`, 19)
			var results []error
			require.Eventually(t, func() bool {
				results = publish(t, s, sent[19:])
				return bridge.KindOf(results[0]) == bridge.FailureReject
			}, within, 100*time.Millisecond)
			require.ErrorContains(t, results[0], "socket.request.max.bytes")
			requireStored(t, results[1:])
			require.Equal(t, slices.Concat(idsOf(sent[:19]), idsOf(sent[20:])), ids(apacheRecords(t, c, "requests")[0]))
		})
	})
	t.Run("a quota", func(t *testing.T) {
		c.CreateTopic(t, "quota", 12, 1, nil)
		limitClient(t, c, 500_000)
		s := open(t, c.Brokers(), toTopic("quota"), unheard)
		sent := events(60, 60)
		for i := range sent {
			sent[i].Data = fmt.Appendf(nil, `{"text":"%0120000d"}`, i)
		}
		for left := sent; len(left) > 0; {
			var failed []bridge.Event
			for i, err := range publish(t, s, left) {
				if err != nil {
					require.ErrorContains(t, err, "quota")
					failed = append(failed, left[i])
				}
			}
			left = failed
		}
		require.ElementsMatch(t, idsOf(sent), ids(slices.Concat(apacheRecords(t, c, "quota")...)), "stored once each")
	})
}

// limitClient has the brokers take so many bytes a second from sinks.
func limitClient(t *testing.T, c *apachekafka.Cluster, bytesPerSecond float64) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	entry := kmsg.AlterClientQuotasRequestEntry{
		Entity: []kmsg.AlterClientQuotasRequestEntryEntity{{Type: "client-id", Name: new(clientID)}},
		Ops:    []kmsg.AlterClientQuotasRequestEntryOp{{Key: "producer_byte_rate", Value: bytesPerSecond}},
	}
	req := kmsg.NewPtrAlterClientQuotasRequest()
	req.Entries = append(req.Entries, entry)
	answer, err := req.RequestWith(ctx, client)
	require.NoError(t, err)
	require.Zero(t, answer.Entries[0].ErrorCode)
}

// apacheTopics numbers the topics of the conformance suite, each of which is new.
var apacheTopics atomic.Int32 //nolint:gochecknoglobals // names must differ between tests that share a cluster

type apachePlace struct {
	sinktest.Broker
	topic   string
	attempt time.Duration // that its sinks give a request
}

// apacheBroker is a new topic for the conformance suite, without faults.
func apacheBroker(t *testing.T, c *apachekafka.Cluster, brokers []string, partitions int) apachePlace {
	t.Helper()
	topic := fmt.Sprintf("conformance-%d", apacheTopics.Add(1))
	const maxBytes = 100_000
	letters := topic + "-dead-letters"
	for _, topic := range []string{topic, letters} {
		c.CreateTopic(t, topic, partitions, len(c.Nodes()), map[string]string{maxMessageBytes: fmt.Sprint(maxBytes)})
	}
	o := Options{timing: unhurried()}
	hasty(&o)
	return apachePlace{topic: topic, attempt: o.timing.attempt, Broker: sinktest.Broker{
		NewSink: func(t *testing.T) bridge.Sink {
			t.Helper()
			s, err := New(testOptions(t, brokers, toTopic(topic), hasty))
			require.NoError(t, err)
			return s
		},
		DeadLetters: &sinktest.DeadLetterTest{
			NewSink: func(t *testing.T) bridge.DeadLetterPublisher {
				t.Helper()
				s, err := New(testOptions(t, brokers, toTopic(topic), hasty, func(o *Options) { o.DeadLetter = letters }))
				require.NoError(t, err)
				return s
			},
			Stored:    func(t *testing.T) []sinktest.Letter { return lettersIn(t, apacheRecords(t, c, letters)) },
			AddressOf: func(bridge.Event) string { return topic },
		},
		Stored:       func(t *testing.T) []sinktest.Record { return recordsIn(t, apacheRecords(t, c, topic)) },
		TooLarge:     maxBytes + 1,
		PublishBound: o.timing.publish + slack,
		RecoverBound: within,
	}}
}

// apacheRecords reads all of a topic with franz-go, by partition.
func apacheRecords(t *testing.T, c *apachekafka.Cluster, topic string) [][]*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()

	of := kmsg.NewMetadataRequestTopic()
	of.Topic = &topic
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Topics = append(metadata.Topics, of)
	known, err := metadata.RequestWith(ctx, client)
	require.NoError(t, err)
	require.Zero(t, known.Topics[0].ErrorCode)
	records := make([][]*kgo.Record, len(known.Topics[0].Partitions))

	ends := kmsg.NewListOffsetsRequestTopic()
	ends.Topic = topic
	for p := range records {
		end := kmsg.NewListOffsetsRequestTopicPartition()
		end.Partition, end.Timestamp = int32(p), -1
		ends.Partitions = append(ends.Partitions, end)
	}
	offsets := kmsg.NewPtrListOffsetsRequest()
	offsets.Topics = append(offsets.Topics, ends)
	answer, err := offsets.RequestWith(ctx, client)
	require.NoError(t, err)
	// Each partition is read up to where it ends now, since more may be stored meanwhile.
	left := make(map[int32]int64, len(records))
	for _, topic := range answer.Topics {
		require.Len(t, topic.Partitions, len(records))
		for _, p := range topic.Partitions {
			require.Zero(t, p.ErrorCode)
			if p.Offset > 0 {
				left[p.Partition] = p.Offset
			}
		}
	}
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "partitions of %s that are not read up to their ends: %v", topic, left)
		fetches.EachRecord(func(r *kgo.Record) {
			records[r.Partition] = append(records[r.Partition], r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return records
}

// testApacheJava reads with Kafka's own tools what the sink wrote.
func testApacheJava(t *testing.T, c *apachekafka.Cluster) {
	const topic, partitions = "java", 12
	c.CreateTopic(t, topic, partitions, 1, nil)
	keys := []string{"", " ", "\x00", "a", "ab", "abc", "abcd", "Ünïcödé 漢字 🚀", "not utf-8 \xff\xfe"}
	for i := range 500 {
		keys = append(keys, fmt.Sprintf("invocation-%d", i))
	}
	picked := apachekafka.JavaPartitions(t, keys, partitions)

	t.Run("keys go where the Java client would put them", func(t *testing.T) {
		s := open(t, c.Brokers(), toTopic(topic))
		require.Eventually(t, func() bool { return s.Partition(event(0, "k")) >= 0 }, within, 5*time.Millisecond)
		for i, key := range keys {
			require.Equal(t, picked[i], s.Partition(event(0, key)), "key %q", key)
		}
	})

	t.Run("the console consumer reads every compression", func(t *testing.T) {
		want := make(map[string]int) // partition by ID
		began := time.Now().Truncate(time.Millisecond)
		for n, compression := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
			s := open(t, c.Brokers(), toTopic(topic), func(o *Options) { o.Compression = compression })
			var sent []bridge.Event
			for i := range 20 {
				key := 9 + n*20 + i // what a terminal can show
				sent = append(sent, event(key, keys[key]))
				want[sent[i].ID] = picked[key]
			}
			requireStored(t, publish(t, s, sent))
		}
		for _, r := range c.ConsoleConsume(t, topic, len(want)) {
			headers := make(map[string]string)
			for _, h := range r.Headers {
				headers[h.Key] = h.Value
			}
			partition, ok := want[headers["ce_id"]]
			require.True(t, ok, "%+v", r)
			delete(want, headers["ce_id"])
			require.Equal(t, partition, r.Partition)
			require.Equal(t, headers["ce_partitionkey"], r.Key)
			require.Equal(t, "tensorlake.workflow.function.success", headers["ce_type"])
			require.Equal(t, "1.0", headers["ce_specversion"])
			require.Equal(t, "application/json", headers["content-type"])
			require.JSONEq(t, fmt.Sprintf(`{"n":%s}`, headers["ce_id"][len("id-"):]), r.Value)
			require.False(t, r.Timestamp.Before(began), "%v is before %v", r.Timestamp, began)
			require.False(t, r.Timestamp.After(time.Now()), "%v lies ahead", r.Timestamp)
		}
		require.Empty(t, want)
	})
}

// testApacheSecurity logs in, and fails to, in every way.
func testApacheSecurity(t *testing.T, c *apachekafka.Cluster) {
	const topic = "security"
	c.CreateTopic(t, topic, 2, 1, nil)
	ca := c.CA()
	overTLS := func(o *Options) { o.TLS, o.TLSCAFile = true, ca.CAFile }
	as := func(mechanism, user, password string) func(*Options) {
		return func(o *Options) { o.SASLMechanism, o.SASLUsername, o.SASLPassword = mechanism, user, password }
	}
	sink := func(t *testing.T, brokers []string, change ...func(*Options)) *Sink {
		t.Helper()
		return open(t, brokers, append([]func(*Options){toTopic(topic)}, change...)...)
	}
	// refused says what both Publish and Check make of a refusal.
	refused := func(t *testing.T, s *Sink, kind bridge.FailureKind) error {
		t.Helper()
		results := publish(t, s, events(3, 3))
		requireKind(t, kind, results)
		err := s.Check(t.Context())
		require.Error(t, err)
		require.Equal(t, kind.String(), bridge.KindOf(err).String(), "%v", err)
		require.NotContains(t, results[0].Error()+err.Error(), apachePassword)
		return results[0]
	}

	for _, mechanism := range []string{saslPlain, saslScramSHA256, saslScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			s := sink(t, c.SASLBrokers(), overTLS, as(mechanism, apacheUser, apachePassword))
			requireStored(t, publish(t, s, events(10, 5)))
			require.NoError(t, s.Check(t.Context()))
		})
		for name, user := range map[string]string{"wrong password": apacheUser, "unknown user": "mallory"} {
			t.Run(mechanism+" "+name, func(t *testing.T) {
				err := refused(t, sink(t, c.SASLBrokers(), overTLS, as(mechanism, user, "guess")), bridge.FailureBlocked)
				require.ErrorIs(t, err, kafkago.SASLAuthenticationFailed)
				require.ErrorContains(t, err, "SASL_PASSWORD")
			})
		}
	}

	t.Run("a password that changes", func(t *testing.T) {
		s := sink(t, c.SASLBrokers(), overTLS, as(saslScramSHA512, apacheUser, apachePassword))
		requireStored(t, publish(t, s, events(10, 5)))
		c.ChangePassword(t, apacheUser, "another")
		c.Kill(t, 1)
		c.StartNode(t, 1)
		var last error
		require.Eventually(t, func() bool {
			last = publish(t, s, events(1, 1))[0]
			return bridge.KindOf(last) == bridge.FailureBlocked
		}, within, 10*time.Millisecond)
		require.ErrorIs(t, last, kafkago.SASLAuthenticationFailed)
		c.ChangePassword(t, apacheUser, apachePassword)
		publishUntilStored(t, s, events(10, 5))
	})

	t.Run("an authority that is not trusted", func(t *testing.T) {
		err := refused(t,
			sink(t, c.SASLBrokers(), func(o *Options) { o.TLS = true }, as(saslPlain, apacheUser, apachePassword)),
			bridge.FailureBlocked)
		require.ErrorContains(t, err, "TLS_CA_FILE")
	})
	t.Run("a client certificate", func(t *testing.T) {
		s := sink(t, c.TLSBrokers(), overTLS, func(o *Options) {
			o.TLSCertFile, o.TLSKeyFile = ca.ClientCertFile, ca.ClientKeyFile
		})
		requireStored(t, publish(t, s, events(10, 5)))
		require.NoError(t, s.Check(t.Context()))
	})
	t.Run("no client certificate", func(t *testing.T) {
		err := refused(t, sink(t, c.TLSBrokers(), overTLS), bridge.FailureBlocked)
		require.ErrorContains(t, err, "TLS_CERT_FILE")
	})
	t.Run("an expired client certificate", func(t *testing.T) {
		cert, key := ca.IssueExpired(t, "expired")
		err := refused(t, sink(t, c.TLSBrokers(), overTLS, func(o *Options) { o.TLSCertFile, o.TLSKeyFile = cert, key }),
			bridge.FailureBlocked)
		require.ErrorContains(t, err, "TLS_CERT_FILE")
	})
	t.Run("TLS at a plaintext listener", func(t *testing.T) {
		err := refused(t, sink(t, c.Brokers(), overTLS), bridge.FailureRetry)
		require.ErrorContains(t, err, "TLS and the SASL settings")
	})
	t.Run("plain text at a TLS listener", func(t *testing.T) {
		err := refused(t, sink(t, c.TLSBrokers()), bridge.FailureRetry)
		require.ErrorContains(t, err, "TLS and the SASL settings")
	})
	t.Run("no credentials at a SASL listener", func(t *testing.T) {
		err := refused(t, sink(t, c.SASLBrokers(), overTLS), bridge.FailureRetry)
		require.ErrorContains(t, err, "TLS and the SASL settings")
	})

	t.Run("an ACL against writing", func(t *testing.T) {
		c.DenyWrite(t, apacheUser, topic)
		s := sink(t, c.SASLBrokers(), overTLS, as(saslPlain, apacheUser, apachePassword))
		var results []error
		require.Eventually(t, func() bool {
			results = publish(t, s, events(10, 5))
			return results[0] != nil
		}, within, 10*time.Millisecond)
		requireKind(t, bridge.FailureBlocked, results)
		require.ErrorIs(t, results[0], kafkago.TopicAuthorizationFailed)
		c.AllowWrite(t, topic)
		publishUntilStored(t, s, events(10, 5))
	})
}

// testApacheTopics has the sink create topics, and miss them.
func testApacheTopics(t *testing.T, c *apachekafka.Cluster) {
	t.Run("created", func(t *testing.T) {
		s := open(t, c.Brokers(), toTopic("created"), func(o *Options) {
			o.CreateTopic, o.Partitions, o.ReplicationFactor = true, 5, 1
		})
		// Brokers say what they lead before they know it themselves, which is nothing to bother anybody with.
		require.NoError(t, s.Check(t.Context()))
		requireStored(t, publish(t, s, events(20, 20)))
		require.Len(t, apacheRecords(t, c, "created"), 5)
	})
	t.Run("created by two at once", func(t *testing.T) {
		create := func(o *Options) { o.CreateTopic, o.Partitions, o.ReplicationFactor = true, 2, 1 }
		first := open(t, c.Brokers(), toTopic("raced"), create)
		second := open(t, c.Brokers(), toTopic("raced"), create)
		publishUntilStored(t, first, events(5, 5))
		publishUntilStored(t, second, events(5, 5))
		require.Len(t, apacheRecords(t, c, "raced"), 2)
	})
	t.Run("more replicas than brokers", func(t *testing.T) {
		s := open(t, c.Brokers(), toTopic("replicas"), func(o *Options) {
			o.CreateTopic, o.Partitions, o.ReplicationFactor = true, 1, 3
		})
		results := publish(t, s, events(1, 1))
		requireKind(t, bridge.FailureBlocked, results)
		require.ErrorContains(t, results[0], "REPLICATION_FACTOR")
	})
	t.Run("missing until it is there", func(t *testing.T) {
		s := open(t, c.Brokers(), toTopic("missing"))
		results := publish(t, s, events(1, 1))
		requireKind(t, bridge.FailureBlocked, results)
		require.ErrorContains(t, results[0], "CREATE_TOPIC")
		c.CreateTopic(t, "missing", 1, 1, nil)
		publishUntilStored(t, s, events(1, 1))

		c.DeleteTopic(t, "missing")
		require.Eventually(t, func() bool {
			err := publish(t, s, events(1, 1))[0]
			return err != nil && bridge.KindOf(err) == bridge.FailureBlocked
		}, within, 50*time.Millisecond)
		c.CreateTopic(t, "missing", 3, 1, nil)
		publishUntilStored(t, s, events(10, 10))
		require.Len(t, slices.Concat(apacheRecords(t, c, "missing")...), 10)
	})
}

// testApacheLimits meets the limits that a topic has.
func testApacheLimits(t *testing.T, c *apachekafka.Cluster) {
	large := func(n, size int) bridge.Event {
		e := event(n, "key")
		data := make([]byte, size)
		for i := range data {
			data[i] = byte('a' + i%26)
		}
		e.Data = fmt.Appendf(nil, `{"text":%q}`, data)
		return e
	}

	t.Run("the sink reads max.message.bytes", func(t *testing.T) {
		c.CreateTopic(t, "described", 1, 1, map[string]string{maxMessageBytes: "20000", minInSyncReplicas: "1"})
		s := open(t, c.Brokers(), toTopic("described"))
		publishUntilStored(t, s, events(1, 1))
		require.Eventually(t, func() bool { return s.limits.maxBytes.Load() == 20000 && s.limits.minSync.Load() == 1 },
			within, 5*time.Millisecond)
		c.ConfigureTopic(t, "described", map[string]string{maxMessageBytes: "30000"})
		require.Eventually(t, func() bool { return s.limits.maxBytes.Load() == 30000 }, within, 5*time.Millisecond)

		results := publish(t, s, []bridge.Event{event(1, "key"), large(2, 40_000), event(3, "key")})
		require.NoError(t, results[0])
		requireKind(t, bridge.FailureReject, results[1:2])
		require.ErrorContains(t, results[1], "30000")
		require.NoError(t, results[2])
	})

	t.Run("the broker's word counts when the sink does not know the limit", func(t *testing.T) {
		c.CreateTopic(t, "undescribed", 1, 1, nil)
		s := open(t, c.Brokers(), toTopic("undescribed"), func(o *Options) { o.timing.describe = time.Hour })
		publishUntilStored(t, s, events(1, 1))
		require.Eventually(t, func() bool { return s.limits.maxBytes.Load() == 1048588 }, within, 5*time.Millisecond)
		c.ConfigureTopic(t, "undescribed", map[string]string{maxMessageBytes: "20000"})
		var results []error
		require.Eventually(t, func() bool {
			results = publish(t, s, []bridge.Event{event(1, "key"), event(2, "key"), large(3, 30_000), event(4, "key")})
			return results[2] != nil
		}, within, 10*time.Millisecond)
		requireKind(t, bridge.FailureReject, results[2:3])
		require.ErrorIs(t, results[2], kafkago.MessageSizeTooLarge)
		requireStored(t, slices.Concat(results[:2], results[3:]))
	})

	t.Run("what shrinks by compression passes", func(t *testing.T) {
		c.CreateTopic(t, "compressed", 1, 1, map[string]string{maxMessageBytes: "10000"})
		s := open(t, c.Brokers(), toTopic("compressed"), func(o *Options) { o.Compression = "lz4" })
		publishUntilStored(t, s, events(1, 1))
		require.Eventually(t, func() bool { return s.limits.maxBytes.Load() == 10000 }, within, 5*time.Millisecond)
		requireStored(t, publish(t, s, []bridge.Event{large(1, 40_000), large(2, 40_000)}))
	})

	t.Run("min.insync.replicas above the number of replicas counts as that number", func(t *testing.T) {
		c.CreateTopic(t, "insync", 1, 1, map[string]string{minInSyncReplicas: "2"})
		s := open(t, c.Brokers(), toTopic("insync"))
		requireStored(t, publish(t, s, events(3, 3)))
		require.Eventually(t, func() bool { return s.limits.minSync.Load() == 2 }, within, 5*time.Millisecond)
		require.NoError(t, s.Check(t.Context()))
	})
}

// testApacheTail reads with Tail what the sink wrote, before and after Tail began.
func testApacheTail(t *testing.T, c *apachekafka.Cluster) {
	const topic = "tail"
	c.CreateTopic(t, topic, 3, 1, nil)
	s := open(t, c.Brokers(), toTopic(topic), func(o *Options) { o.Compression = "zstd" })
	requireStored(t, publish(t, s, events(50, 10)))

	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	received := make(chan bridge.Received, 200)
	ended := make(chan error, 1)
	o := testOptions(t, c.Brokers(), toTopic(topic))
	go func() {
		ended <- Tail(ctx, o, bridge.TailStart{All: true}, func(r bridge.Received) error {
			received <- r
			return nil
		})
	}()
	next := func() bridge.Received {
		select {
		case r := <-received:
			return r
		case <-ctx.Done():
			require.FailNow(t, "Tail did not show everything")
			return bridge.Received{}
		}
	}
	want := make(map[string]bool)
	for _, e := range events(50, 10) {
		want[e.ID] = true
	}
	for range 50 {
		r := next()
		require.True(t, want[r.Event.ID], "%+v", r)
		delete(want, r.Event.ID)
		require.Equal(t, r.Event.PartitionKey, r.Key)
		require.WithinDuration(t, time.Now(), r.StoredAt, time.Minute)
	}
	requireStored(t, publish(t, s, []bridge.Event{event(100, "new")}))
	require.Equal(t, "id-100", next().Event.ID)
	cancel()
	require.NoError(t, <-ended)
}

// testApacheFrozenNode freezes a broker for good: its partition gets another leader, and the others go on meanwhile.
func testApacheFrozenNode(t *testing.T, c *apachekafka.Cluster) {
	const topic = "frozen"
	c.CreateTopic(t, topic, 3, 3, nil)
	s := open(t, c.Brokers(), toTopic(topic), hasty)
	publishUntilStored(t, s, events(30, 30))
	frozen := c.Leader(t, topic, 0)
	behind := one(t, s, 0, 100, 5)
	c.Pause(t, frozen)
	defer c.Resume(t, frozen)
	results := publish(t, s, behind)
	requireKind(t, bridge.FailureRetry, results)
	publishUntilStored(t, s, behind)
	require.NotEqual(t, frozen, c.Leader(t, topic, 0))
}

// testApacheLastKnown kills the one broker that the sink was told of.
func testApacheLastKnown(t *testing.T, c *apachekafka.Cluster) {
	const topic = "lastknown"
	c.CreateTopic(t, topic, 6, 3, nil)
	s := open(t, c.Brokers()[:1], toTopic(topic), hasty)
	publishUntilStored(t, s, events(30, 30))
	c.Kill(t, 1)
	defer c.StartNode(t, 1)
	publishUntilStored(t, s, events(60, 60)[30:])
	require.Eventually(t, func() bool { return s.Check(t.Context()) == nil }, within, 10*time.Millisecond)
	publishUntilStored(t, s, events(90, 90)[60:])
}

// testApacheRestart stops a node in good order, which hands over what it leads, and starts it again while events flow.
func testApacheRestart(t *testing.T, c *apachekafka.Cluster) {
	const topic = "restart"
	c.CreateTopic(t, topic, 3, 3, nil)
	s := open(t, c.Brokers(), toTopic(topic), hasty)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan []bridge.Event, 1)
	go func() {
		var acknowledged []bridge.Event
		defer func() { sent <- acknowledged }()
		for n := 0; ctx.Err() == nil; n++ {
			e := event(n, fmt.Sprintf("key-%d", n%10))
			for ctx.Err() == nil {
				if s.Publish(ctx, []bridge.Event{e})[0] == nil {
					acknowledged = append(acknowledged, e)
					break
				}
			}
		}
	}()
	node := c.Leader(t, topic, 0)
	c.Stop(t, node)
	c.StartNode(t, node)
	publishUntilStored(t, s, []bridge.Event{event(-1, "last")})
	cancel()
	acknowledged := <-sent
	require.NotEmpty(t, acknowledged)

	position := make(map[string]int) // where each was stored first
	for _, records := range apacheRecords(t, c, topic) {
		for i, id := range ids(records) {
			if _, ok := position[id]; !ok {
				position[id] = i
			}
		}
	}
	last := make(map[string]int)
	for _, e := range acknowledged {
		at, ok := position[e.ID]
		require.True(t, ok, "%s was acknowledged and is not stored", e.ID)
		if before, ok := last[e.PartitionKey]; ok {
			require.Greater(t, at, before, "%s of %s is out of order", e.ID, e.PartitionKey)
		}
		last[e.PartitionKey] = at
	}
	t.Logf("%d events were acknowledged while a node restarted.", len(acknowledged))
}

// testApacheTooFewInSync kills a follower of a topic that needs all three.
func testApacheTooFewInSync(t *testing.T, c *apachekafka.Cluster) {
	const topic = "allinsync"
	c.CreateTopic(t, topic, 1, 3, map[string]string{minInSyncReplicas: "3"})
	s := open(t, c.Brokers(), toTopic(topic), hasty)
	publishUntilStored(t, s, events(3, 3))
	follower := c.Leader(t, topic, 0)%3 + 1
	c.Kill(t, follower)
	// At first the follower is missed only after the append, then before it.
	require.Eventually(t, func() bool {
		results := publish(t, s, []bridge.Event{event(10, "key")})
		requireKind(t, bridge.FailureRetry, results)
		return errors.Is(results[0], kafkago.NotEnoughReplicas)
	}, within, 10*time.Millisecond)
	require.Eventually(t, func() bool { return s.Check(t.Context()) != nil }, within, 10*time.Millisecond)
	c.StartNode(t, follower)
	publishUntilStored(t, s, []bridge.Event{event(10, "key")})
}
