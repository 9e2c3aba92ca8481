package journal

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// positioned is a journal of ten webhooks, received a minute apart, that its sink is through with: the broker gave each
// the number that it has, and a checkpoint was made at every second one.
func positioned(t *testing.T, dir string, now *clock) *Journal {
	t.Helper()
	j := open(t, Options{Dir: dir, Now: now.Now, Retention: 24 * time.Hour})
	for i := int64(1); i <= 10; i++ {
		w := webhook(fmt.Sprint(i))
		w.ReceivedAt = at().Add(time.Duration(i) * time.Minute)
		mustAppend(t, j, w)
		moveTo(t, j, i, i, i%2 == 0)
	}
	now.set(at().Add(time.Hour))
	return j
}

func moveTo(t *testing.T, j *Journal, cursor, number int64, checkpoint bool) {
	t.Helper()
	require.NoError(t, j.Move(t.Context(), []Move{{
		Stream: Stream{Kind: Live, Sink: "nats", Cursor: cursor}, Position: upTo(number), Checkpoint: checkpoint,
	}}, nil))
}

func upTo(number int64) bridge.Position { return bridge.Position{"stream EVENTS": {Last: number}} }

func wentBackTo(number int64) []bridge.WentBack {
	return []bridge.WentBack{{Log: "stream EVENTS", Acknowledged: 10, Ends: number, Whole: true}}
}

func missingOf(t *testing.T, j *Journal) *Missing {
	t.Helper()
	s, err := j.Status(t.Context())
	require.NoError(t, err)
	return s.Sinks[0].Missing
}

func TestWhatMayBeMissingBeginsBehindACheckpointThatTheBrokerHolds(t *testing.T) {
	dir, now := t.TempDir(), &clock{now: at()}
	j := positioned(t, dir, now)
	p, err := j.Position(t.Context(), "nats")
	require.NoError(t, err)
	require.Equal(t, upTo(10), p)

	m, err := j.NoteMissing(t.Context(), "nats", wentBackTo(7), upTo(7), false)
	require.NoError(t, err)
	require.Equal(t, Missing{
		FoundAt: now.Now(), Found: wentBackTo(7)[0].String(), After: 6, Through: 10, Since: at().Add(7 * time.Minute),
	}, m)
	require.Equal(t, "fnbridge replay --sink nats --since "+at().Add(7*time.Minute).Format(time.RFC3339),
		m.Command("nats"))
	require.NoError(t, j.Close(t.Context()))

	j = open(t, Options{Dir: dir, Now: now.Now, Retention: 24 * time.Hour})
	require.Equal(t, &m, missingOf(t, j), "durable")
	p, err = j.Position(t.Context(), "nats")
	require.NoError(t, err)
	require.Equal(t, upTo(7), p)

	// It went back further before it was replayed.
	m, err = j.NoteMissing(t.Context(), "nats", wentBackTo(3), upTo(3), false)
	require.NoError(t, err)
	require.EqualValues(t, 2, m.After)
	m, err = j.NoteMissing(t.Context(), "nats", wentBackTo(1), upTo(1), false)
	require.NoError(t, err)
	require.True(t, m.All, "no checkpoint is as old")
	require.EqualValues(t, 10, m.Webhooks())
	require.Equal(t, "fnbridge replay --sink nats --all", m.Command("nats"))
}

func TestWhatWasStoredAgainIsNotBehindAnOlderCheckpoint(t *testing.T) {
	j := positioned(t, t.TempDir(), &clock{now: at()})
	// A dead letter of webhook 5 has reached the broker as number 11.
	require.NoError(t, j.Move(t.Context(), []Move{{
		Stream: Stream{Kind: Retry, Sink: "nats"}, Stored: []Event{{WebhookSeq: 5}},
	}}, nil))
	m, err := j.NoteMissing(t.Context(), "nats", wentBackTo(10), upTo(10), false)
	require.NoError(t, err)
	require.EqualValues(t, 4, m.After)
}

func TestWhatALiveStreamStoredAgainIsBehindItsCheckpoint(t *testing.T) {
	j := positioned(t, t.TempDir(), &clock{now: at()})
	mustAppend(t, j, webhook("11"))
	require.NoError(t, j.Move(t.Context(), []Move{{
		Stream: Stream{Kind: Live, Sink: "nats", Cursor: 11}, Position: upTo(11), Checkpoint: true,
		Stored: []Event{{WebhookSeq: 11}},
	}}, nil))
	m, err := j.NoteMissing(t.Context(), "nats", wentBackTo(11), upTo(11), false)
	require.NoError(t, err)
	require.EqualValues(t, 11, m.After)
}

func TestWhatIsMissingEndsWithAReplayOfAllOfIt(t *testing.T) {
	for name, c := range map[string]struct {
		ask   Stream
		end   string
		still bool
		back  time.Duration // by which the clock is set back meanwhile
	}{
		"all":                {Stream{}, StreamDone, false, 0},
		"since then":         {Stream{Since: at().Add(7 * time.Minute)}, StreamDone, false, 0},
		"nobody wants it":    {Stream{}, StreamCancelled, false, 0},
		"later ones":         {Stream{Since: at().Add(8 * time.Minute)}, StreamDone, true, 0},
		"earlier ones":       {Stream{Until: at().Add(9 * time.Minute)}, StreamDone, true, 0},
		"some events":        {Stream{Events: bridge.Filter{Application: "a"}}, StreamDone, true, 0},
		"there was no place": {Stream{}, StreamNoRoom, true, 0},
		"the clock is right": {Stream{}, StreamDone, false, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			now := &clock{now: at()}
			j := positioned(t, t.TempDir(), now)
			before, err := j.AddReplay(t.Context(), Stream{Sink: "nats"})
			require.NoError(t, err)
			now.set(now.Now().Add(time.Second))
			_, err = j.NoteMissing(t.Context(), "nats", wentBackTo(7), upTo(7), false)
			require.NoError(t, err)
			before.Cursor, before.End = before.Through, StreamDone
			require.NoError(t, j.Move(t.Context(), []Move{{Stream: before}}, nil))
			require.NotNil(t, missingOf(t, j), "a replay from before may be what is missing")

			now.set(now.Now().Add(-c.back))
			c.ask.Sink = "nats"
			asked, err := j.AddReplay(t.Context(), c.ask)
			require.NoError(t, err)
			require.NotNil(t, missingOf(t, j))
			switch c.end {
			case StreamDone:
				asked.Cursor, asked.End = asked.Through, StreamDone
				require.NoError(t, j.Move(t.Context(), []Move{{Stream: asked}}, nil))
			case StreamCancelled:
				_, err := j.CancelReplay(t.Context(), asked.ID)
				require.NoError(t, err)
			}
			require.Equal(t, c.still, missingOf(t, j) != nil)
		})
	}
}

func TestTheBridgesOwnReplayIsOfWhatMayBeMissing(t *testing.T) {
	now := &clock{now: at()}
	j := positioned(t, t.TempDir(), now)
	m, err := j.NoteMissing(t.Context(), "nats", wentBackTo(7), upTo(7), true)
	require.NoError(t, err)
	streams, err := j.Streams(t.Context())
	require.NoError(t, err)
	require.Len(t, streams, 1)
	s := streams[0]
	require.Equal(t, []int64{m.Replay, 6, 10}, []int64{s.ID, s.Cursor, s.Through})
	s.Cursor, s.End = s.Through, StreamDone
	require.NoError(t, j.Move(t.Context(), []Move{{Stream: s}}, nil))
	require.Nil(t, missingOf(t, j))
}

func TestCheckpointsAreFewAndReachFarBack(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), Retention: 24 * time.Hour})
	const n = 300
	for i := int64(1); i <= n; i++ {
		mustAppend(t, j, webhook(fmt.Sprint(i)))
		moveTo(t, j, i, i, true)
	}
	var kept int
	require.NoError(t, j.views.db.QueryRowContext(t.Context(), "SELECT count(*) FROM checkpoints").Scan(&kept))
	require.LessOrEqual(t, kept, keptCheckpoints)
	m, err := j.NoteMissing(t.Context(), "nats", wentBackTo(n-1), upTo(n-1), false)
	require.NoError(t, err)
	require.EqualValues(t, 1, m.Webhooks(), "the newest are near")
	m, err = j.NoteMissing(t.Context(), "nats", wentBackTo(5), upTo(5), false)
	require.NoError(t, err)
	require.False(t, m.All, "the oldest are kept, too")
}
