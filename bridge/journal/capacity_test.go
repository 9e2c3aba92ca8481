package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// clock is a time that the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// records is a log that can be read while it is written.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) count(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Count(r.text.Bytes(), []byte(part))
}

func (r *records) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func heavy(id string, size int) bridge.Webhook {
	body := `{"":"` + strings.Repeat("x", max(size-7, 0)) + `"}`
	return bridge.Webhook{ID: id, Timestamp: at(), ReceivedAt: at(), Body: []byte(body)}
}

// fill appends until the journal refuses, and returns how many it took.
func fill(t *testing.T, j *Journal, prefix string, size int) int {
	t.Helper()
	for i := range 100_000 {
		_, err := j.Append(t.Context(), heavy(fmt.Sprintf("%s-%d", prefix, i), size))
		if err != nil {
			require.ErrorIs(t, err, ErrFull)
			return i
		}
	}
	require.Fail(t, "it never gets full")
	return 0
}

func TestAFullJournalRefusesAndRecoversByItself(t *testing.T) {
	for name, c := range map[string]struct {
		size  int
		limit int64
	}{"small bodies": {300, 256 << 10}, "large bodies": {100_000, 3 << 20}} {
		t.Run(name, func(t *testing.T) {
			size, limit := c.size, c.limit
			var log records
			registry := prometheus.NewRegistry()
			dir := t.TempDir()
			now := &clock{now: at()}
			j := open(t, Options{
				Dir: dir, MaxBytes: limit,
				Sinks: []string{"kafka", "nats"}, Logger: log.logger(), Registerer: registry, Now: now.Now,
			})
			stored := fill(t, j, "first", size)
			require.Greater(t, stored, 10)
			require.LessOrEqual(t, gauges(t, registry, "fnbridge_journal_bytes")[""], float64(limit))
			require.InDelta(t, limit, gauges(t, registry, "fnbridge_journal_bytes")[""],
				float64(limit/8), "refused only when it is full")
			require.InDelta(t, limit, gauges(t, registry, "fnbridge_journal_max_bytes")[""], 0)
			require.InDelta(t, stored, gauges(t, registry, "fnbridge_journal_webhooks")[""], 0)

			accepted, err := j.Append(t.Context(), heavy("first-0", size))
			require.NoError(t, err, "one that is there needs no room")
			require.Equal(t, bridge.Duplicate, accepted)

			// What delivery needs still goes.
			require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(1, 0)}))
			require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
			_, err = j.Append(t.Context(), heavy("second", size))
			require.ErrorIs(t, err, ErrFull, "the other sink has nothing yet")
			require.Len(t, readAll(t, j), stored, "and so nothing was deleted")
			require.Equal(t, 1, log.count("nearly full"), "said once")

			require.NoError(t, advance(t.Context(), j, "kafka", j.Head()/2))
			require.Eventually(t, func() bool {
				_, err := j.Append(t.Context(), heavy("second", size))
				return err == nil
			}, time.Minute, time.Millisecond)
			require.Equal(t, 1, log.count("nearly full"))

			kept, err := j.Read(t.Context(), int64(stored/2), stored, 1<<30)
			require.NoError(t, err)
			require.Equal(t, int64(stored/2)+1, kept[0].Seq, "nothing undelivered was deleted")
			require.Equal(t, j.Head(), kept[len(kept)-1].Seq)
			require.Len(t, kept, int(j.Head())-stored/2)

			require.NoError(t, advance(t.Context(), j, "kafka", j.Head()))
			require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
			before := j.Head()
			require.Greater(t, fill(t, j, "again", size), stored/2, "delivered ones make room one after the other")
			require.Equal(t, 1, log.count("nearly full"), "one time of need, said once")
			kept, err = j.Read(t.Context(), before, stored, 1<<30)
			require.NoError(t, err)
			require.Equal(t, before+1, kept[0].Seq)
			require.Len(t, kept, int(j.Head()-before))
			require.NoError(t, sound(t.Context(), j))
		})
	}
}

func TestTheTimeOfNeedEndsWhenThereIsRoom(t *testing.T) { synctest.Test(t, theTimeOfNeedEnds) }

func theTimeOfNeedEnds(t *testing.T) {
	var log records
	now := &clock{now: at()}
	j := open(t, Options{MaxBytes: 1 << 20, Logger: log.logger(), Now: now.Now, Retention: time.Hour})
	for round := range 2 {
		fill(t, j, fmt.Sprint(round), 20_000)
		synctest.Wait()
		require.Equal(t, round+1, log.count("nearly full"), "each time said once")
		require.Equal(t, round, log.count("has room again"))
		require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
		now.set(now.Now().Add(2 * time.Hour))
		sweep(t)
		require.Equal(t, round+1, log.count("has room again"))
		require.Empty(t, readAll(t, j))
	}
}

func TestAFullJournalIsFullAfterAStart(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 256 << 10})
	stored := fill(t, j, "a", 1000)
	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir, MaxBytes: 256 << 10})
	_, err := j.Append(t.Context(), heavy("b", 1000))
	require.ErrorIs(t, err, ErrFull)
	require.NoError(t, advance(t.Context(), j, "nats", int64(stored)))
	require.Eventually(t, func() bool {
		_, err := j.Append(t.Context(), heavy("b", 1000))
		return err == nil
	}, time.Minute, time.Millisecond)
}

func TestALargeWebhookMakesItsOwnRoom(t *testing.T) {
	j := open(t, Options{MaxBytes: 2 << 20})
	for i := range 14 {
		mustAppend(t, j, heavy(fmt.Sprint(i), 100_000))
	}
	require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
	require.Less(t, j.space.used.Load(), int64(2<<20)/100*highMarkPercent, "not under pressure by itself")
	require.Eventually(t, func() bool {
		_, err := j.Append(t.Context(), heavy("large", 1<<20))
		return err == nil
	}, time.Minute, time.Millisecond)
}

func TestConcurrentAppendsStayWithinTheLimit(t *testing.T) {
	const limit = 1 << 20
	j := open(t, Options{MaxBytes: limit})
	var wg sync.WaitGroup
	for caller := range 64 {
		wg.Go(func() {
			for i := range 100 {
				_, _ = j.Append(context.Background(), heavy(fmt.Sprintf("%d-%d", caller, i), 3000))
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, j.space.used.Load(), int64(limit))
	require.Zero(t, j.space.reserved.Load())
}

// inBubble returns a test that runs in a synctest bubble.
func inBubble(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

// sweep lets the retention run. In a synctest bubble the ticker's time passes at once, and Wait returns when
// the writer has nothing left to do.
func sweep(t *testing.T) {
	t.Helper()
	<-time.After(2 * time.Minute)
	synctest.Wait()
}

func TestRetention(t *testing.T) {
	const day = 24 * time.Hour
	type arrival struct {
		id string
		at time.Duration // after the start
	}
	for name, c := range map[string]struct {
		arrivals []arrival
		cursor   map[string]int64
		now      time.Duration
		left     []string
	}{
		"delivered and old goes, delivered and young stays": {
			arrivals: []arrival{{"a", 0}, {"b", day}, {"c", 2 * day}},
			cursor:   map[string]int64{"nats": 3, "kafka": 3}, now: 4*day + time.Second, left: []string{"c"},
		},
		"just at its age it stays": {
			arrivals: []arrival{{"a", 0}}, cursor: map[string]int64{"nats": 1, "kafka": 1}, now: 3 * day, left: []string{"a"},
		},
		"what one sink lacks stays, whatever its age": {
			arrivals: []arrival{{"a", 0}, {"b", 0}, {"c", 0}},
			cursor:   map[string]int64{"nats": 3, "kafka": 1}, now: 1000 * day, left: []string{"b", "c"},
		},
		"all of it goes": {
			arrivals: []arrival{{"a", 0}, {"b", 0}}, cursor: map[string]int64{"nats": 2, "kafka": 2},
			now: 4 * day, left: []string{},
		},
		"one from the far future is old": {
			arrivals: []arrival{{"a", 0}, {"future", 1000 * day}, {"b", day}, {"c", 4 * day}},
			cursor:   map[string]int64{"nats": 4, "kafka": 4}, now: 5 * day, left: []string{"c"},
		},
		"one from the near future does not go before its time": {
			arrivals: []arrival{{"a", 0}, {"future", 8 * day}, {"b", day}},
			cursor:   map[string]int64{"nats": 3, "kafka": 3}, now: 5 * day, left: []string{"future", "b"},
		},
		"one from the past does not take the young ones before it": {
			arrivals: []arrival{{"a", 4 * day}, {"past", -1000 * day}, {"b", 4 * day}},
			cursor:   map[string]int64{"nats": 3, "kafka": 3}, now: 5 * day, left: []string{"a", "past", "b"},
		},
		"a clock that went back by less than the retention deletes nothing": {
			arrivals: []arrival{{"a", 0}, {"b", day}},
			cursor:   map[string]int64{"nats": 2, "kafka": 2}, now: -2 * day, left: []string{"a", "b"},
		},
		"a clock that went back by years deletes nothing that a sink lacks": {
			arrivals: []arrival{{"a", 0}, {"b", day}},
			cursor:   map[string]int64{"nats": 2, "kafka": 1}, now: -1000 * day, left: []string{"b"},
		},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			now := &clock{now: at()}
			dir := t.TempDir()
			j := open(t, Options{Dir: dir, Sinks: []string{"nats", "kafka"}, Retention: 3 * day, Now: now.Now})
			for _, a := range c.arrivals {
				w := webhook(a.id)
				w.ReceivedAt = at().Add(a.at)
				mustAppend(t, j, w)
			}
			for sink, cursor := range c.cursor {
				require.NoError(t, advance(t.Context(), j, sink, cursor))
			}
			now.set(at().Add(c.now))
			sweep(t)
			require.Equal(t, c.left, ids(readAll(t, j)))
			for _, id := range c.left {
				accepted, err := j.Append(t.Context(), webhook(id))
				require.NoError(t, err)
				require.Equal(t, bridge.Duplicate, accepted, "what is kept is deduped")
			}

			// The numbers go on after a start, even from an empty table.
			require.NoError(t, j.Close(t.Context()))
			j = open(t, Options{Dir: dir, Sinks: []string{"nats", "kafka"}, Retention: 3 * day, Now: now.Now})
			require.Equal(t, int64(len(c.arrivals)), j.Head())
			mustAppend(t, j, webhook("next"))
			found, err := j.Read(t.Context(), int64(len(c.arrivals)), 10, 1<<20)
			require.NoError(t, err)
			require.Equal(t, []string{"next"}, ids(found))
			require.Equal(t, int64(len(c.arrivals)+1), found[0].Seq)
			s, err := j.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, int64(len(c.left)+1), s.Webhooks)
			for _, sink := range s.Sinks {
				require.Equal(t, int64(len(c.arrivals)+1)-c.cursor[sink.Sink], sink.Backlog, sink.Sink)
			}
		}))
	}
}

func TestRetentionInManySteps(t *testing.T) { synctest.Test(t, retentionInManySteps) }

func retentionInManySteps(t *testing.T) {
	now := &clock{now: at()}
	j := open(t, Options{Now: now.Now, Retention: time.Hour})
	const total = 3*maxDeletedWebhooks + 7
	var wg sync.WaitGroup
	for part := range 16 {
		wg.Go(func() {
			for i := part; i < total; i += 16 {
				if _, err := j.Append(context.Background(), webhook(fmt.Sprint(i))); err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, advance(t.Context(), j, "nats", total-1))
	now.set(at().Add(2 * time.Hour))
	sweep(t)
	left := readAll(t, j)
	require.Len(t, left, 1)
	require.Equal(t, int64(total), left[0].Seq)
	require.NoError(t, sound(t.Context(), j))
}

func TestWithoutSinksNothingIsDelivered(t *testing.T) {
	synctest.Test(t, withoutSinksNothingIsDelivered)
}

func withoutSinksNothingIsDelivered(t *testing.T) {
	now := &clock{now: at()}
	j := open(t, Options{Now: now.Now, Retention: time.Hour, Sinks: []string{}})
	mustAppend(t, j, webhook("a"))
	now.set(at().Add(1000 * time.Hour))
	sweep(t)
	require.Equal(t, []string{"a"}, ids(readAll(t, j)))
}

// Checkpoints run beside the commits, which go on filling the log meanwhile.
func TestTheLogBeginsAnewWhileTheWriterIsBusy(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 1 << 30})
	const callers, each, size = 8, 40, 512 << 10
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				_, err := j.Append(t.Context(), heavy(fmt.Sprintf("%d-%d", caller, i), size))
				errs[caller] = errors.Join(errs[caller], err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	info, err := os.Stat(filepath.Join(dir, "journal.db-wal"))
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), j.limits.keep, "%d bytes were written", callers*each*size)
	require.Len(t, readAll(t, j), callers*each)
}
