package journal

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// What waits and what is only kept are two figures, and so is what the files take.
func TestWhatWaitsIsToldFromWhatIsKept(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}, Registerer: registry})
	status := func() Status {
		s, err := j.views.status(t.Context())
		require.NoError(t, err)
		require.InDelta(t, s.WaitingWebhooks, gauges(t, registry, "fnbridge_journal_waiting_webhooks")[""], 0)
		require.InDelta(t, s.WaitingBytes, gauges(t, registry, "fnbridge_journal_waiting_bytes")[""], 0)
		return s
	}
	const webhooks, size = 3000, 3000
	for i := range webhooks {
		mustAppend(t, j, heavy(fmt.Sprint(i), size))
	}
	s := status()
	require.EqualValues(t, webhooks, s.WaitingWebhooks)
	require.Zero(t, s.KeptWebhooks)
	require.InEpsilon(t, webhooks*4096, s.WaitingBytes, 0.1)

	// One sink has nearly all, the other only a part: both are waited for.
	require.NoError(t, advance(t.Context(), j, "nats", webhooks-10))
	require.NoError(t, advance(t.Context(), j, "kafka", 1000))
	s = status()
	require.EqualValues(t, 2000, s.WaitingWebhooks)
	require.EqualValues(t, 1000, s.KeptWebhooks)
	require.InEpsilon(t, 2000*4096, s.WaitingBytes, 0.1)
	require.InEpsilon(t, 1000*4096, s.KeptBytes, 0.2)

	require.NoError(t, advance(t.Context(), j, "kafka", webhooks))
	require.EqualValues(t, 10, status().WaitingWebhooks)
	require.NoError(t, advance(t.Context(), j, "nats", webhooks))
	s = status()
	require.Zero(t, s.WaitingWebhooks)
	require.Zero(t, s.WaitingBytes)
	require.EqualValues(t, webhooks, s.KeptWebhooks)
	require.GreaterOrEqual(t, s.FilesBytes, s.Bytes/2)
}

// The journal knows when the last webhook came, when that has gone, and after a restart.
func TestTheLastAcceptedWebhookIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, now := t.TempDir(), &clock{now: at()}
		o := Options{Dir: dir, Sinks: []string{"nats"}, Now: now.Now, Retention: time.Hour}
		j := open(t, o)
		require.Zero(t, j.LastAccepted())
		mustAppend(t, j, webhook("a"))
		accepted := webhook("a").ReceivedAt
		require.True(t, j.LastAccepted().Equal(accepted))
		require.NoError(t, advance(t.Context(), j, "nats", 1))
		now.set(at().Add(100 * time.Hour))
		<-time.After(10 * time.Minute) // of the bubble: sweeps come and go
		synctest.Wait()
		require.Empty(t, readAll(t, j), "the retention has passed")
		require.True(t, j.LastAccepted().Equal(accepted))
		s, err := j.views.status(t.Context())
		require.NoError(t, err)
		require.True(t, s.LastAcceptedAt.Equal(accepted))
		require.NoError(t, j.Close(t.Context()))
		j = open(t, o)
		require.True(t, j.LastAccepted().Equal(accepted))
	})
}

// The newest webhook is deleted, and older ones stay for a sink that was removed.
func TestTheLastAcceptedWebhookIsNotOneThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, now := t.TempDir(), &clock{now: at()}
		o := Options{Dir: dir, Sinks: []string{"nats", "kafka"}, Now: now.Now, Retention: time.Hour}
		j := open(t, o)
		mustAppend(t, j, webhook("a"))
		require.NoError(t, j.Close(t.Context()))
		o.Sinks = []string{"nats"}
		j = open(t, o)
		newest := webhook("b")
		newest.ReceivedAt = newest.ReceivedAt.Add(time.Hour)
		mustAppend(t, j, newest)
		require.NoError(t, advance(t.Context(), j, "nats", 2))
		now.set(at().Add(100 * time.Hour))
		<-time.After(10 * time.Minute)
		synctest.Wait()
		require.Len(t, readAll(t, j), 1, "what waits stays")
		require.NoError(t, j.Close(t.Context()))
		j = open(t, o)
		require.True(t, j.LastAccepted().Equal(newest.ReceivedAt))
	})
}
