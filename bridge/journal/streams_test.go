package journal

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestAReplayIsARow(t *testing.T) {
	dir := t.TempDir()
	now := &clock{now: at()}
	j := open(t, Options{Dir: dir, Now: now.Now})
	for i := range 5 {
		mustAppend(t, j, webhook(fmt.Sprint(i)))
	}
	require.NoError(t, advance(t.Context(), j, "nats", 3))
	asked, err := j.AddReplay(t.Context(), Stream{
		Sink: "nats", Since: at().Add(-time.Hour), Until: at().Add(time.Hour), Rate: 2.5,
		Events: bridge.Filter{Application: "w", Type: "tensorlake.*", Routes: routes(t, "workflow.>")},
	})
	require.NoError(t, err)
	require.Equal(t, Replay, asked.Kind)
	require.EqualValues(t, 3, asked.Through, "it ends where the sink is")
	require.Equal(t, at(), asked.AskedAt)
	all, err := j.Streams(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Stream{asked}, all)

	moved := asked
	moved.Cursor, moved.Taken, moved.Acknowledged, moved.DeadLettered = 2, 5, 3, 1
	require.NoError(t, j.Move(t.Context(), []Move{{Stream: moved}}, nil))
	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir, Now: now.Now})
	all, err = j.Streams(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Stream{moved}, all, "durable")

	next, err := j.AddReplay(t.Context(), Stream{Sink: "nats"})
	require.NoError(t, err)
	require.Greater(t, next.ID, asked.ID)
	moved.Cursor, moved.End = 3, StreamDone
	require.NoError(t, j.Move(t.Context(), []Move{{Stream: moved}}, nil))
	cancelled, err := j.CancelReplay(t.Context(), moved.ID)
	require.NoError(t, err)
	require.False(t, cancelled, "it has ended")
	cancelled, err = j.CancelReplay(t.Context(), next.ID)
	require.NoError(t, err)
	require.True(t, cancelled)
	all, err = j.Streams(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	all, err = j.AllStreams(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{StreamDone, StreamCancelled}, []string{all[0].End, all[1].End})
	require.Equal(t, []time.Time{at(), at()}, []time.Time{all[0].EndedAt, all[1].EndedAt})

	_, err = j.AddReplay(t.Context(), Stream{Sink: "other"})
	require.ErrorContains(t, err, `"other"`)
	require.NoError(t, sound(t.Context(), j))
}

func TestOnlyTheLastStreamsThatHaveEndedAreRemembered(t *testing.T) {
	j := open(t, Options{})
	waiting, err := j.AddReplay(t.Context(), Stream{Sink: "nats"})
	require.NoError(t, err)
	for range keptStreams + 10 {
		s, err := j.AddReplay(t.Context(), Stream{Sink: "nats"})
		require.NoError(t, err)
		_, err = j.CancelReplay(t.Context(), s.ID)
		require.NoError(t, err)
	}
	all, err := j.AllStreams(t.Context())
	require.NoError(t, err)
	require.Len(t, all, keptStreams+1)
	require.Equal(t, waiting.ID, all[0].ID, "one that has not ended is kept")
}

func TestRetentionKeepsWhatAReplayStillNeeds(t *testing.T) {
	synctest.Test(t, retentionKeepsForAReplay)
}

// replayOfTen is a journal of ten delivered webhooks that are kept for an hour, and a replay of all of them, which has
// come to the fourth and is yet to say so.
func replayOfTen(t *testing.T) (j *Journal, now *clock, s Stream) {
	t.Helper()
	now = &clock{now: at()}
	j = open(t, Options{Now: now.Now, Retention: time.Hour})
	for i := range 10 {
		mustAppend(t, j, webhook(fmt.Sprint(i)))
	}
	require.NoError(t, advance(t.Context(), j, "nats", 10))
	s, err := j.AddReplay(t.Context(), Stream{Sink: "nats"})
	require.NoError(t, err)
	s.Cursor = 4
	return j, now, s
}

func retentionKeepsForAReplay(t *testing.T) {
	j, now, s := replayOfTen(t)
	require.NoError(t, j.Move(t.Context(), []Move{{Stream: s}}, nil))
	now.set(at().Add(2 * time.Hour))
	sweep(t)
	require.Equal(t, []string{"4", "5", "6", "7", "8", "9"}, ids(readAll(t, j)))
	s.Cursor, s.End = 10, StreamDone
	require.NoError(t, j.Move(t.Context(), []Move{{Stream: s}}, nil))
	sweep(t)
	require.Empty(t, readAll(t, j))
}

// Whoever cancels a replay does not wait for what it publishes meanwhile.
func TestRetentionKeepsNothingForACancelledReplay(t *testing.T) {
	synctest.Test(t, retentionAfterACancelledReplay)
}

func retentionAfterACancelledReplay(t *testing.T) {
	j, now, s := replayOfTen(t)
	cancel, move := newRequest(kindCancelReplay), newRequest(kindMove)
	cancel.seq, move.moves = s.ID, []Move{{Stream: s}}
	j.queue.mu.Lock()
	j.queue.waiting, j.queue.urgent = append(j.queue.waiting, cancel, move), j.queue.urgent+2
	j.queue.mu.Unlock()
	j.queue.nudge()
	<-move.done
	require.NoError(t, cancel.err)
	require.NoError(t, move.err)
	now.set(at().Add(2 * time.Hour))
	sweep(t)
	require.Empty(t, readAll(t, j))
}

// A replay to a dead sink must not fill the journal until senders get 503.
func TestAReplayEndsBeforeTheJournalIsFull(t *testing.T) {
	registry := prometheus.NewRegistry()
	var log records
	j := open(t, Options{MaxBytes: 4 << 20, Registerer: registry, Logger: log.logger()})
	var s Stream
	for i := range 400 {
		w := webhook(fmt.Sprint(i))
		w.Body = bytes.Repeat([]byte("x"), 20_000)
		mustAppend(t, j, w)
		require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
		if i == 10 {
			var err error
			s, err = j.AddReplay(t.Context(), Stream{Sink: "nats"})
			require.NoError(t, err)
		}
	}
	all, err := j.AllStreams(t.Context())
	require.NoError(t, err)
	require.Equal(t, s.ID, all[0].ID)
	require.Equal(t, StreamNoRoom, all[0].End)
	require.Equal(t, 1, log.count("replays were ended"))
	require.InDelta(t, 1, counterValue(t, registry, "fnbridge_journal_ended_replays_total"), 0)
}

func counterValue(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	require.FailNow(t, "no such metric", name)
	return 0
}
