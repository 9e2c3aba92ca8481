package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// tailing is a Tail that runs until the test ends.
type tailing struct {
	received chan bridge.Received
	ended    chan error
	stop     context.CancelFunc
}

func startTail(t *testing.T, o Options, from bridge.TailStart) *tailing {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tl := &tailing{received: make(chan bridge.Received, 10_000), ended: make(chan error, 1), stop: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tl.ended <- Tail(ctx, o, from, func(r bridge.Received) error {
			tl.received <- r
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return tl
}

func (tl *tailing) next(t *testing.T, n int) []bridge.Received {
	t.Helper()
	timeout := time.After(within)
	out := make([]bridge.Received, 0, n)
	for range n {
		select {
		case r := <-tl.received:
			out = append(out, r)
		case err := <-tl.ended:
			require.FailNow(t, "Tail ended", "%v", err)
		case <-timeout:
			require.FailNow(t, "records did not come", "%d of %d", len(out), n)
		}
	}
	return out
}

func (tl *tailing) nothingElse(t *testing.T) {
	t.Helper()
	require.Never(t, func() bool { return len(tl.received) > 0 }, 200*time.Millisecond, 10*time.Millisecond)
}

func receivedIDs(received []bridge.Received) []string {
	out := make([]string, len(received))
	for i, r := range received {
		out[i] = r.Event.ID
	}
	return out
}

func TestTailAll(t *testing.T) {
	for _, format := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured} {
		for _, compression := range []string{"none", "zstd"} {
			t.Run(format.String()+" "+compression, func(t *testing.T) {
				c := seeded(t, 3)
				s := open(t, c.ListenAddrs(), func(o *Options) { o.Format, o.Compression = format, compression })
				sent := events(100, 10)
				requireStored(t, publish(t, s, sent))
				tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
				got := tl.next(t, len(sent))
				require.ElementsMatch(t, idsOf(sent), receivedIDs(got))
				tl.nothingElse(t)
				for _, r := range got {
					var n int
					_, err := fmt.Sscanf(r.Event.ID, "id-%d", &n)
					require.NoError(t, err)
					want := sent[n]
					require.Equal(t, want.Type, r.Event.Type)
					require.True(t, want.Time.Equal(r.Event.Time))
					require.JSONEq(t, string(want.Data), string(r.Event.Data))
					require.Equal(t, want.PartitionKey, r.Key)
					require.WithinDuration(t, time.Now(), r.StoredAt, time.Minute)
					require.True(t, strings.HasPrefix(r.Address, fmt.Sprintf("%s/%d@", testTopic, s.Partition(want))), r.Address)
				}
			})
		}
	}
}

func TestTailEndsWithWhatIsStored(t *testing.T) {
	c := seeded(t, 3)
	end := bridge.TailStart{All: true, End: true}
	require.NoError(t, <-startTail(t, testOptions(t, c.ListenAddrs()), end).ended, "nothing is stored")
	s := open(t, c.ListenAddrs())
	sent := events(100, 10)
	requireStored(t, publish(t, s, sent))
	tl := startTail(t, testOptions(t, c.ListenAddrs()), end)
	require.NoError(t, <-tl.ended)
	require.Len(t, tl.received, 100)
	require.ElementsMatch(t, idsOf(sent), receivedIDs(tl.next(t, 100)))
	missing := testOptions(t, c.ListenAddrs(), func(o *Options) { o.Topic = "missing" })
	require.ErrorContains(t, <-startTail(t, missing, end).ended, "missing")
}

func TestTailWithPatienceEndsWhereAPartitionCannotBeRead(t *testing.T) {
	c := seeded(t, 3)
	requireStored(t, publish(t, open(t, c.ListenAddrs()), events(100, 10)))
	c.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if r.(*kmsg.FetchRequest).Topics[0].Partitions[0].Partition == 0 {
			return nil, errors.New("cut the connection"), true
		}
		return nil, nil, false
	})
	from := bridge.TailStart{All: true, End: true, Patience: time.Second}
	select {
	case err := <-startTail(t, testOptions(t, c.ListenAddrs()), from).ended:
		require.ErrorContains(t, err, "nothing could be read for 1s: ")
	case <-time.After(within):
		require.FailNow(t, "it goes on")
	}
}

func TestTailKeepsTheOrderOfAPartition(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
	sent := one(t, s, 0, 0, 300)
	for i := 0; i < len(sent); i += 50 {
		requireStored(t, publish(t, s, sent[i:i+50]))
	}
	got := tl.next(t, len(sent))
	require.Equal(t, idsOf(sent), receivedIDs(got))
	require.Equal(t, testTopic+"/0@299", got[299].Address)
}

func TestTailOnlyWhatIsNew(t *testing.T) {
	c := seeded(t, 1) // partitions find their places one by one
	s := open(t, c.ListenAddrs())
	requireStored(t, publish(t, s, events(10, 10)))
	var l logs
	tl := startTail(t, testOptions(t, c.ListenAddrs(), withLogs(&l)), bridge.TailStart{})
	// What is published before Tail has found its place may or may not be shown; what comes later is.
	n := 100
	require.Eventually(t, func() bool {
		n++
		requireStored(t, publish(t, s, []bridge.Event{event(n, "a"), event(n, "b"), event(n, "c"), event(n, "d")}))
		return len(tl.received) > 0
	}, within, 20*time.Millisecond)
	for _, r := range tl.next(t, len(tl.received)) {
		require.Greater(t, len(r.Event.ID), len("id-10"), "old record %s", r.Event.ID)
	}
	requireStored(t, publish(t, s, []bridge.Event{event(9999, "a")}))
	require.Eventually(t, func() bool { return (<-tl.received).Event.ID == "id-9999" }, within, time.Millisecond)
}

func TestTailSince(t *testing.T) {
	c := seeded(t, 2)
	producer, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer producer.Close()
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	put := func(partition int32, when time.Time, value string) {
		require.NoError(t, producer.ProduceSync(context.Background(), &kgo.Record{
			Topic: testTopic, Partition: partition, Timestamp: when, Value: []byte(value),
		}).FirstErr())
	}
	put(0, at.Add(-time.Minute), "old")
	put(0, at, "on time")
	put(0, at.Add(time.Minute), "later")
	put(1, at.Add(-time.Second), "old too") // partition 1 has nothing to start with

	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{Since: at})
	got := tl.next(t, 2)
	require.Equal(t, "on time", string(got[0].Event.Data))
	require.Empty(t, got[0].Event.ID)
	require.Equal(t, "later", string(got[1].Event.Data))
	tl.nothingElse(t)
	put(1, time.Now(), "new")
	require.Equal(t, "new", string(tl.next(t, 1)[0].Event.Data))
}

func TestTailShowsARecordThatIsNoCloudEvent(t *testing.T) {
	c := seeded(t, 1)
	producer, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	require.NoError(t, err)
	defer producer.Close()
	require.NoError(t, producer.ProduceSync(context.Background(), &kgo.Record{
		Topic: testTopic, Value: []byte("{broken"),
		Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
	}, &kgo.Record{Topic: testTopic}).FirstErr())
	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
	got := tl.next(t, 2)
	require.Equal(t, "{broken", string(got[0].Event.Data))
	require.Empty(t, got[1].Event.Data)
}

func TestTailWaitsForTheTopic(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1))
	var l logs
	tl := startTail(t, testOptions(t, c.ListenAddrs(), withLogs(&l)), bridge.TailStart{})
	require.Eventually(t, func() bool { return strings.Contains(l.String(), "does not exist") },
		within, 5*time.Millisecond)
	require.NoError(t, c.CreateTopic(testTopic, 3, nil))
	s := open(t, c.ListenAddrs())
	publishUntilStored(t, s, events(12, 12))
	require.ElementsMatch(t, idsOf(events(12, 12)), receivedIDs(tl.next(t, 12)),
		"all of it: none of it is older than the wait")
	require.Equal(t, 1, strings.Count(l.String(), "does not exist"), "said once")
	require.Contains(t, l.String(), "reading the Kafka topic")
}

func TestTailSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	opts := []kfake.Opt{reserved(t, 1), kfake.SeedTopics(2, testTopic), kfake.DataDir(dir), kfake.SyncWrites()}
	c, err := kfake.NewCluster(opts...)
	require.NoError(t, err)
	s := open(t, c.ListenAddrs())
	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
	sent := events(20, 5)
	publishUntilStored(t, s, sent[:10])
	tl.next(t, 10)
	c.Close()
	newCluster(t, opts...)
	publishUntilStored(t, s, sent[10:])
	require.Subset(t, receivedIDs(tl.next(t, 10)), idsOf(sent[10:]))
}

func TestTailOfATopicThatIsMadeAnew(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
	requireStored(t, publish(t, s, events(5, 1)))
	tl.next(t, 5)
	require.NoError(t, c.DeleteTopic(testTopic))
	require.NoError(t, c.CreateTopic(testTopic, 1, nil))
	publishUntilStored(t, s, []bridge.Event{event(77, "k")})
	require.Equal(t, []string{"id-77"}, receivedIDs(tl.next(t, 1)))
}

func TestTailSkipsWhatWasDeleted(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, c.ListenAddrs())
	sent := one(t, s, 0, 0, 10)
	requireStored(t, publish(t, s, sent))
	require.NoError(t, c.DeleteRecords(testTopic, 0, 4))
	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
	require.Equal(t, idsOf(sent[4:]), receivedIDs(tl.next(t, 6)))
}

func TestTailOfATransactionalTopic(t *testing.T) {
	c := seeded(t, 1)
	producer, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID("tx"),
		kgo.DefaultProduceTopic(testTopic))
	require.NoError(t, err)
	defer producer.Close()
	for _, value := range []string{"a", "b"} {
		require.NoError(t, producer.BeginTransaction())
		require.NoError(t, producer.ProduceSync(context.Background(), kgo.StringRecord(value)).FirstErr())
		require.NoError(t, producer.EndTransaction(context.Background(), kgo.TryCommit))
	}
	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
	got := tl.next(t, 2)
	require.Equal(t, "ab", string(got[0].Event.Data)+string(got[1].Event.Data))
	require.NoError(t, producer.BeginTransaction())
	require.NoError(t, producer.ProduceSync(context.Background(), kgo.StringRecord("c")).FirstErr())
	require.NoError(t, producer.EndTransaction(context.Background(), kgo.TryCommit))
	require.Equal(t, "c", string(tl.next(t, 1)[0].Event.Data))
	// The mark at the end of a transaction is passed, and not asked for again and again.
	fetches := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Observe: true, Count: -1})
	require.Never(t, func() bool { return fetches.Hits() > 10 }, 300*time.Millisecond, 10*time.Millisecond)
}

func TestTailEnds(t *testing.T) {
	c := seeded(t, 2)
	s := open(t, c.ListenAddrs())
	requireStored(t, publish(t, s, events(10, 10)))

	enough := errors.New("enough")
	calls := 0
	err := Tail(context.Background(), testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true},
		func(bridge.Received) error {
			if calls++; calls == 3 {
				return enough
			}
			return nil
		})
	require.ErrorIs(t, err, enough)
	require.Equal(t, 3, calls)

	tl := startTail(t, testOptions(t, c.ListenAddrs()), bridge.TailStart{All: true})
	tl.next(t, 10)
	tl.stop()
	select {
	case err := <-tl.ended:
		require.NoError(t, err)
	case <-time.After(within):
		require.FailNow(t, "Tail goes on without its context")
	}

	_, err = New(Options{})
	require.Error(t, err)
	require.Error(t, Tail(context.Background(), Options{}, bridge.TailStart{}, func(bridge.Received) error { return nil }))
}

func TestTailGivesUpOnWhatAPersonHasToMend(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser(saslPlain, "admin", "admin"), kfake.User(saslPlain, "bridge", password))
	err := Tail(context.Background(), testOptions(t, c.ListenAddrs(), withSASL(saslPlain)), bridge.TailStart{},
		func(bridge.Received) error { return nil })
	requireKind(t, bridge.FailureBlocked, []error{err})
}
