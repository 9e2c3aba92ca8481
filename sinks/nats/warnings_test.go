package nats_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func keys(warnings []bridge.Warning) []string {
	list := make([]string, len(warnings))
	for i, w := range warnings {
		list[i] = w.Key
	}
	return list
}

func TestWarningsFollowTheStream(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	config := natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, MaxAge: 168 * time.Hour, Duplicates: 10 * time.Minute,
		MaxMsgs: 1000, MaxBytes: 1 << 20, Discard: natsjs.DiscardNew,
	}
	createStream(t, js, config)
	sink := open(t, options(t, srv.URL()))
	require.NoError(t, sink.Check(t.Context()))
	require.Equal(t, []string{"stream_max_msgs", "stream_max_bytes"}, keys(sink.Warnings()))
	require.Contains(t, sink.Warnings()[0].Text, "refuses what comes when it has 1000 messages")
	require.Contains(t, sink.Warnings()[0].Text, "raise or remove max_msgs")

	config.MaxMsgs, config.MaxBytes = -1, -1
	_, err := js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, sink.Check(t.Context()))
	require.Empty(t, sink.Warnings(), "it has been mended")
}

// A letter at its address is the only copy, if webhooks are not stored.
func TestTheStreamOfDeadLettersIsWarnedOf(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	config := natsjs.StreamConfig{
		Name: "DEAD", Subjects: []string{deadLetters}, Storage: natsjs.MemoryStorage, Retention: natsjs.WorkQueuePolicy,
		MaxMsgs: 1,
	}
	createStream(t, js, config)
	logs := &logbook{}
	o := withDeadLetters(t, srv.URL())
	o.Logger = logs.logger()
	sink := open(t, o)
	want := []string{"dead_letter_stream_memory", "dead_letter_stream_retention", "dead_letter_stream_max_msgs"}
	require.Eventually(t, func() bool { return slices.Equal(want, keys(sink.Warnings())) },
		bound, 20*time.Millisecond, "at the start")
	require.Contains(t, sink.Warnings()[0].Text, "dead letters go to stream DEAD: it is kept in memory")
	require.Equal(t, 1, strings.Count(logs.String(), "the stream of the dead letters may lose some"), "%s", logs)

	// As "fnbridge check" does.
	config.MaxMsgs = -1
	_, err := js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, sink.CheckDeadLetters(t.Context()))
	require.Equal(t, want[:2], keys(sink.Warnings()))
	require.NoError(t, js.DeleteStream(t.Context(), "DEAD"))
	createStream(t, js, natsjs.StreamConfig{Name: "DEAD", Subjects: []string{deadLetters}})
	require.NoError(t, sink.CheckDeadLetters(t.Context()))
	require.Empty(t, sink.Warnings(), "it has been mended")
}

// Half of a stream was filled in an hour, so the other half is in another.
func TestAStreamThatFillsUp(t *testing.T) {
	for name, tt := range map[string]struct {
		maxAge  time.Duration
		discard natsjs.DiscardPolicy
		fills   bool
		then    string
	}{
		"and drops":                    {168 * time.Hour, natsjs.DiscardOld, true, "the oldest events go before their age"},
		"and refuses":                  {0, natsjs.DiscardNew, true, "new events are refused and wait"},
		"not, since it ages before it": {90 * time.Minute, natsjs.DiscardOld, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			storage, found := nats.StorageOf(now, natsjs.StreamInfo{
				Config: natsjs.StreamConfig{Name: "S", MaxAge: tt.maxAge, MaxBytes: 2 << 20, Discard: tt.discard, Replicas: 1},
				State:  natsjs.StreamState{Msgs: 1000, Bytes: 1 << 20, FirstTime: now.Add(-time.Hour), LastTime: now},
			}, natsjs.Tier{})
			require.Equal(t, int64(1<<20), storage.UsedBytes)
			require.Equal(t, int64(2<<20), storage.LimitBytes)
			in, fills := storage.FullIn(now)
			require.Equal(t, tt.fills, fills)
			if !fills {
				require.Empty(t, found)
				return
			}
			require.InDelta(t, time.Hour, in, float64(time.Minute))
			require.Equal(t, []string{"stream_filling"}, keys(found))
			require.Contains(t, found[0].Text, tt.then)
		})
	}
}

func TestAnAccountThatIsFull(t *testing.T) {
	tier := natsjs.Tier{Store: 10 << 20, Limits: natsjs.AccountLimits{MaxStore: 10 << 20}}
	storage, found := nats.StorageOf(time.Now(), natsjs.StreamInfo{
		Config: natsjs.StreamConfig{Name: "S", MaxBytes: 2 << 20, Replicas: 1},
	}, tier)
	require.Equal(t, "the account's storage", storage.Of, "it is full first")
	require.Equal(t, []string{"stream_filling"}, keys(found))
	require.Contains(t, found[0].Text, "is full (10485760 of 10485760 bytes)")
}

func TestAnAccountThatDemandsABound(t *testing.T) {
	srv := natsserver.Single(t, natsserver.Accounts(t, `accounts { A: {
		jetstream: {max_store: 16MB, max_bytes_required: true}, users: [{user: bridge, password: s3cret}]
	} }`))
	o := options(t, srv.URL())
	o.User, o.Password = "bridge", "s3cret"
	err := open(t, o).Publish(t.Context(), sinktest.Events("unbounded", 1, 1))[0]
	require.Equal(t, bridge.FailureBlocked, bridge.KindOf(err))
	require.ErrorContains(t, err, "set MAX_BYTES")

	o.MaxBytes = 4 << 20
	sink := open(t, o)
	requirePublishes(t, sink, "bounded")
	storage, known := sink.Storage()
	require.True(t, known)
	require.Positive(t, storage.UsedBytes)
	require.Equal(t, int64(4<<20), storage.LimitBytes, "the smaller of the two")
}
