package page

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestAStreamThatIsBehindIsCutOffAndTheOthersGoOn(t *testing.T) {
	s := streams{open: make(map[*stream]struct{})}
	slow, fast := s.add(), s.add()
	for range streamBehind + 1 {
		s.send("second", 1)
		require.Equal(t, "event: second\ndata: 1\n\n", string(<-fast.messages))
	}
	for range streamBehind {
		<-slow.messages
	}
	_, ok := <-slow.messages
	require.False(t, ok, "it is cut off")
	require.Len(t, s.open, 1)
	for range MaxStreams - 1 {
		require.NotNil(t, s.add())
	}
	require.Nil(t, s.add())
	s.end(true)
	require.Nil(t, s.add())
}

func TestRecentWebhooksAreBounded(t *testing.T) {
	r := recent{maxBytes: 1 << 20}
	for range 100 {
		r.add(bridge.Answered{Result: accepted, Webhook: bridge.Webhook{Body: make([]byte, 200<<10)}}, true)
	}
	require.LessOrEqual(t, r.bytes, 1<<20)
	require.Len(t, r.kept, 16, "of 64 KiB each")
	w, size, ok := r.webhook(100)
	require.True(t, ok)
	require.Equal(t, 200<<10, size)
	require.Len(t, w.Body, maxRecentBody)
	_, _, ok = r.webhook(1)
	require.False(t, ok)
	for range 2 * maxRecent {
		r.add(bridge.Answered{Result: "unauthorized"}, true)
	}
	require.LessOrEqual(t, len(r.kept), maxRecent)
}

func TestSeriesHaveASecondForEachSecond(t *testing.T) {
	s := newSeries()
	at := time.Unix(1000, 0)
	for i := range shownSeconds + 10 {
		s.add(at.Add(time.Duration(i)*time.Second), map[string]float64{"requests.accepted": float64(2 * i)},
			map[string]float64{"journal.bytes": float64(i)})
	}
	shown := s.shown()
	require.Equal(t, shownSeconds, shown.Seconds)
	require.Len(t, shown.Columns["requests.accepted"], shownSeconds)
	require.InDelta(t, 2, shown.Columns["requests.accepted"][0], 0)
	require.InDelta(t, 10, shown.Columns["journal.bytes"][0], 0)
	require.InDelta(t, shownSeconds+9, shown.Columns["journal.bytes"][shownSeconds-1], 0)
}
