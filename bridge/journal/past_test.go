package journal

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestAWebhookIsKnownWhileItsSignatureIsValid(t *testing.T) { synctest.Test(t, knownWhileValid) }

func knownWhileValid(t *testing.T) {
	const tolerance = time.Hour
	dir := t.TempDir()
	now := &clock{now: at()}
	o := Options{Dir: dir, Retention: time.Second, Tolerance: tolerance, Now: now.Now}
	j := open(t, o)
	signed := func(w bridge.Webhook, offset time.Duration) bridge.Webhook {
		w.Timestamp, w.ReceivedAt = at().Add(offset), now.Now()
		return w
	}
	deliver := func(to time.Duration) {
		t.Helper()
		require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
		now.set(at().Add(to))
		sweep(t)
	}
	early, other := signed(with("a", "1"), -tolerance/2), signed(with("a", "2"), 0)
	ahead, retried := signed(with("b", "1"), tolerance), signed(with("c", "1"), 0)
	requireAccepted(t, j, bridge.Stored, early)
	requireAccepted(t, j, bridge.StoredReusedID, other)
	requireAccepted(t, j, bridge.Stored, ahead)
	requireAccepted(t, j, bridge.Stored, retried)
	now.set(at().Add(tolerance / 2))
	again := signed(retried, tolerance/2)
	requireAccepted(t, j, bridge.Duplicate, again)
	deliver(tolerance/2 - time.Second)
	require.Empty(t, readAll(t, j), "they are gone")

	for range 2 {
		for _, w := range []bridge.Webhook{early, other, ahead, retried, again} {
			requireAccepted(t, j, bridge.Duplicate, w)
		}
		require.NoError(t, sound(t.Context(), j))
		require.NoError(t, j.Close(t.Context()))
		j = open(t, o)
	}
	requireAccepted(t, j, bridge.StoredReusedID, signed(with("c", "2"), tolerance/2))
	deliver(tolerance + tolerance/4)
	for _, w := range []bridge.Webhook{ahead, again} {
		requireAccepted(t, j, bridge.Duplicate, w)
	}
	deliver(2*tolerance + time.Second)
	require.False(t, j.remembersPast(t), "nothing is kept for longer than a signature is valid")
	requireAccepted(t, j, bridge.Stored, early) // as any new one: ingest refuses the signature
}

// remembersPast tells whether anything is remembered.
func (j *Journal) remembersPast(t *testing.T) (remembers bool) {
	t.Helper()
	row := j.views.db.QueryRowContext(t.Context(), `SELECT EXISTS (SELECT 1 FROM past_webhooks)`)
	require.NoError(t, row.Scan(&remembers))
	return remembers
}

// Webhooks that come together are stored by one statement, unless one of them is past.
func TestAPastWebhookIsKnownAmongMany(t *testing.T) { synctest.Test(t, pastAmongMany) }

func pastAmongMany(t *testing.T) {
	const senders, each = 4 * wideRows, 10
	now := &clock{now: at()}
	j := open(t, Options{Retention: time.Second, Tolerance: time.Hour, Now: now.Now})
	for i := range senders {
		mustAppend(t, j, webhook(fmt.Sprintf("past_%d", i)))
	}
	require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
	now.set(at().Add(time.Minute))
	sweep(t)
	require.Empty(t, readAll(t, j), "they are gone")

	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			for i := range each {
				w, want := webhook(fmt.Sprintf("new_%d_%d", sender, i)), bridge.Stored
				if i == each/2 {
					w, want = webhook(fmt.Sprintf("past_%d", sender)), bridge.Duplicate
				}
				accepted, err := j.Append(t.Context(), w)
				if err != nil || accepted != want {
					t.Error(w.ID, accepted, err)
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, senders*each, j.Head(), "those that were past have no new number")
}

func TestASmallJournalKnowsWhatItHadNoRoomFor(t *testing.T) {
	now := &clock{now: at()}
	j := open(t, Options{MaxBytes: 256 << 10, Tolerance: time.Hour, Now: now.Now})
	var sent []bridge.Webhook
	for i := range 300 {
		w := heavy(fmt.Sprint(i), 2000)
		w.Timestamp = at()
		sent = append(sent, w)
		require.Eventually(t, func() bool {
			_, err := j.Append(t.Context(), w)
			return err == nil
		}, time.Minute, time.Millisecond)
		require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
	}
	s, err := j.Status(t.Context())
	require.NoError(t, err)
	require.Less(t, s.Webhooks, int64(200), "most have gone before their time")
	for _, w := range sent {
		requireAccepted(t, j, bridge.Duplicate, w)
	}
}

func TestAMemoryThatFillsTheJournalIsToldAndPasses(t *testing.T) { synctest.Test(t, memoryThatFills) }

func memoryThatFills(t *testing.T) {
	now := &clock{now: at()}
	j := open(t, Options{MaxBytes: 320 << 10, Tolerance: time.Hour, Now: now.Now})
	var err error
	for i := 0; err == nil; i++ {
		require.Less(t, i, 10_000, "it never gets full")
		_, err = j.Append(t.Context(), heavy(fmt.Sprintf("msg_%027d", i), 10))
		require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
		synctest.Wait() // for what may go
	}
	require.ErrorIs(t, err, ErrFull)
	require.ErrorContains(t, err, "shorten FNBRIDGE_WEBHOOK_TOLERANCE")
	accepted, err := j.Append(t.Context(), heavy(fmt.Sprintf("msg_%027d", 0), 10))
	require.NoError(t, err)
	require.Equal(t, bridge.Duplicate, accepted)
	now.set(at().Add(time.Hour + time.Second))
	sweep(t)
	require.False(t, j.remembersPast(t))
	w := heavy("new", 10)
	w.Timestamp = now.Now()
	requireAccepted(t, j, bridge.Stored, w)
}

func TestACommandForgetsNothing(t *testing.T) { synctest.Test(t, aCommandForgetsNothing) }

func aCommandForgetsNothing(t *testing.T) {
	dir := t.TempDir()
	now := &clock{now: at()}
	j := open(t, Options{Dir: dir, Retention: time.Second, Tolerance: time.Hour, Now: now.Now})
	mustAppend(t, j, webhook("a"))
	require.NoError(t, advance(t.Context(), j, "nats", 1))
	now.set(at().Add(time.Minute))
	sweep(t)
	require.Empty(t, readAll(t, j))
	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir, Sinks: []string{}, KeepSinks: true, Now: now.Now})
	sweep(t)
	require.True(t, j.remembersPast(t))
}
