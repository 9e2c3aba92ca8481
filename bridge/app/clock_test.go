package app_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/embeddednats"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

// steppedClock is the machine's clock after somebody has set it: the time of day jumps, and the monotonic clock, which
// a time.Time carries along for measuring, goes on as before.
type steppedClock struct {
	ahead atomic.Int64 // seconds
	asked atomic.Int64
}

// now is what time.Now would say. There is no way to make such a time but to write into its memory; TestASteppedClock
// holds that this is still how a time is laid out.
func (c *steppedClock) now() time.Time {
	c.asked.Add(1)
	t := time.Now()
	const seconds = 30 // where the seconds of the time of day begin, above the nanoseconds
	(*struct {
		wall      uint64
		monotonic int64
		location  *time.Location
	})(unsafe.Pointer(&t)).wall += uint64(c.ahead.Load()) << seconds
	return t
}

func (c *steppedClock) step(by time.Duration) { c.ahead.Add(int64(by / time.Second)) }

const (
	day  = 24 * time.Hour
	year = 365 * day
	// clockBound is long for a loaded machine that waits half a minute between two tries, and short beside every step.
	clockBound = 3 * time.Minute
)

func TestASteppedClock(t *testing.T) {
	var c steppedClock
	for _, by := range []time.Duration{time.Hour, -3 * time.Hour, 30 * year, -50 * year} {
		before, unstepped := c.now(), time.Now()
		c.step(by)
		after := c.now()
		require.WithinDuration(t, unstepped.Add(time.Duration(c.ahead.Load())*time.Second), after.Round(0), time.Minute)
		require.Less(t, after.Sub(before).Abs(), time.Minute, "the monotonic clock must not step")
		require.False(t, after.Before(before))
	}
}

// keySender sends the webhooks of one key, each once the one before has been accepted, as a sender that signs every try
// anew.
type keySender struct {
	key      string
	accepted atomic.Int64
	late     atomic.Int64 // tries that the clock made too old or too new on their way
}

func (s *keySender) send(ctx context.Context, r *running, clock *steppedClock) {
	pace := time.NewTicker(5 * time.Millisecond) // the clock is what is tested, and the load is only there
	defer pace.Stop()
	for { // the request under way is seen through
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		n := s.accepted.Load()
		id := fmt.Sprintf("msg_%s_%d", s.key, n)
		req := r.signedAt(id, //nolint:contextcheck // the request has the context of the test
			fmt.Sprintf(`{"workflow_name":"clock","invocation_id":%q,"fn_status":{"fn_%d":"success"}}`, s.key, n), clock.now())
		resp, err := r.http.Do(req)
		if err != nil {
			r.t.Errorf("%s: %v", id, err)
			return
		}
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusAccepted:
			s.accepted.Add(1)
		case http.StatusUnauthorized:
			s.late.Add(1)
		default:
			r.t.Errorf("%s was answered %d", id, resp.StatusCode)
			return
		}
	}
}

// stretch is one time between start and stop of the bridge, with load from every sender.
type stretch struct {
	*running
	clock   *steppedClock
	senders []*keySender
	end     func()
}

func begin(t *testing.T, dir string, clock *steppedClock, senders []*keySender, changes map[string]string) *stretch {
	t.Helper()
	r := startAt(t, dir, changes, clock.now)
	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	for _, s := range senders {
		sending.Go(func() { s.send(ctx, r, clock) })
	}
	quiet := sync.OnceFunc(func() { cancel(); sending.Wait() })
	t.Cleanup(quiet)
	return &stretch{running: r, clock: clock, senders: senders, end: quiet}
}

// awaitAccepted waits until every sender has had some more webhooks accepted.
func (s *stretch) awaitAccepted() {
	s.t.Helper()
	for _, sender := range s.senders {
		target := sender.accepted.Load() + 20
		require.Eventually(s.t, func() bool { return sender.accepted.Load() >= target }, clockBound, 5*time.Millisecond,
			"%s is at %d of %d", sender.key, sender.accepted.Load(), target)
	}
}

func (s *stretch) metric(series string) float64 {
	s.t.Helper()
	_, text := s.get("/metrics")
	return s.sample(text, series)
}

func (s *stretch) sample(text, series string) float64 {
	s.t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (.*)$`).FindStringSubmatch(text)
	require.NotNil(s.t, found, series)
	value, err := strconv.ParseFloat(found[1], 64)
	require.NoError(s.t, err)
	return value
}

func (s *stretch) awaitMetric(series string, holds func(float64) bool) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return holds(s.metric(series)) }, clockBound, 10*time.Millisecond, series)
}

func zero(v float64) bool     { return v == 0 }
func positive(v float64) bool { return v > 0 }

const (
	sinkUp       = `fnbridge_sink_up{sink="nats"}`
	sinkBacklog  = `fnbridge_sink_backlog_webhooks{sink="nats"}`
	sinkPublish  = `fnbridge_publish_duration_seconds_count{sink="nats"}`
	journalHolds = `fnbridge_journal_webhooks`
)

// The clock is set by hours, days and decades, in either direction, while the sink is there, while it is away, and
// while the bridge is down.
func TestAClockThatIsSetLosesNothing(t *testing.T) {
	t.Parallel()
	server, err := embeddednats.Start(t.Context(), embeddednats.Options{Listen: "127.0.0.1:0", Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Shutdown(context.WithoutCancel(t.Context()))) })
	proxy := faultproxy.New(t, server.Addr().String())
	dir := t.TempDir()
	// Retention is short, so that after every step forward all that is delivered is past it.
	changes := map[string]string{"NATS_URL": "nats://" + proxy.Addr(), "RETENTION": "1m"}
	var clock steppedClock
	senders := []*keySender{{key: "a"}, {key: "b"}, {key: "c"}}

	s := begin(t, dir, &clock, senders, changes)
	s.awaitMetric(sinkUp, positive)
	for _, by := range []time.Duration{time.Hour, -2 * day, 30 * year, -40 * year} {
		clock.step(by)
		s.awaitAccepted()

		proxy.Stall()
		proxy.Cut()
		s.awaitMetric(sinkUp, zero)
		clock.step(by)
		s.awaitAccepted()
		if by > 0 {
			require.Eventually(t, func() bool {
				_, text := s.get("/metrics")
				return s.sample(text, journalHolds) < s.sample(text, sinkBacklog)+float64(len(senders)*20)
			}, clockBound, 10*time.Millisecond, "%v: what has been delivered is past its retention", by)
		}
		clock.step(-by)
		tries := s.metric(sinkPublish)
		s.awaitAccepted()
		require.Less(t, s.metric(sinkPublish)-tries, 20., "%v: a sink that is away is asked rarely", by)
		waiting := s.metric(sinkBacklog)
		require.GreaterOrEqual(t, s.metric(journalHolds), waiting, "%v: what waits is kept, whatever its age", by)
		proxy.Resume()
		// A wait that was reckoned from the time of day would now last as long as the step.
		s.awaitMetric(sinkUp, positive)
		s.awaitAccepted()
	}
	s.end() // what is accepted from now on would be kept for its retention
	clock.step(30 * day)
	s.awaitMetric(sinkBacklog, zero)
	// The sweep has its own pace; once all is past its retention and delivered, it is gone.
	s.awaitMetric(journalHolds, zero)

	asked := clock.asked.Load()
	for range 20 { // some time in which there is nothing to do
		s.metric(sinkUp)
	}
	require.Less(t, clock.asked.Load()-asked, int64(1000), "something spins")
	require.NoError(t, s.stop())

	// Starts find webhooks of the future and of the past.
	for _, by := range []time.Duration{-3 * year, 6 * year, -3 * day} {
		clock.step(by)
		proxy.Stall()
		proxy.Cut()
		s = begin(t, dir, &clock, senders, changes)
		s.awaitAccepted()
		clock.step(by)
		s.awaitAccepted()
		s.end()
		require.NoError(t, s.stop())
	}
	proxy.Resume()
	s = begin(t, dir, &clock, senders, changes)
	s.awaitAccepted()
	s.end()
	s.awaitMetric(sinkBacklog, zero)

	total := int64(0)
	for _, sender := range senders {
		total += sender.accepted.Load()
		t.Logf("key %s: %d webhooks, %d tries signed too long before or after",
			sender.key, sender.accepted.Load(), sender.late.Load())
	}
	next := make(map[string]int64)
	for _, m := range inStream(t, server.ClientURL(), "TENSORLAKE", int(total)) {
		key := m.Headers().Get("ce-partitionkey")
		require.Equal(t, fmt.Sprintf("%s/fn_%d", key, next[key]), m.Headers().Get("ce-subject"), "the order of key %s", key)
		next[key]++
	}
	for _, sender := range senders {
		require.Equal(t, sender.accepted.Load(), next[sender.key], "key %s", sender.key)
	}
}

// The age of a signature is judged by the clock as it is now set, and retention forgets by it.
func TestSignaturesAreJudgedByTheClockAsItIsSet(t *testing.T) {
	var clock steppedClock
	r := startAt(t, t.TempDir(), map[string]string{"WEBHOOK_TOLERANCE": "5m"}, clock.now)
	status := func(id string, at time.Time) int {
		resp, err := r.http.Do(r.signedAt(id, workflow, at))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	for i, by := range []time.Duration{10 * time.Minute, -20 * time.Minute, 20 * year, -40 * year} {
		id, before := fmt.Sprintf("msg_%d", i), clock.now()
		require.Equal(t, http.StatusAccepted, status(id, before))
		clock.step(by)
		require.Equal(t, http.StatusUnauthorized, status(id+"_late", before), "%v", by)
		require.Equal(t, http.StatusOK, status(id, clock.now()), "%v: the same webhook, signed anew", by)
		require.Equal(t, http.StatusAccepted, status(id+"_anew", clock.now().Add(-4*time.Minute)), "%v", by)
	}
	r.inStream(2) // the same facts all the time
	require.NotContains(t, strings.ToLower(r.log.String()), "panic")
}
