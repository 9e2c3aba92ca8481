package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// at is a moment whose nanoseconds all count.
func at() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC) }

func webhook(id string) bridge.Webhook {
	return bridge.Webhook{ID: id, Timestamp: at(), ReceivedAt: at().Add(time.Second), Body: []byte(`{"id":"` + id + `"}`)}
}

// open opens a journal that the test closes at its end, if it has not done so itself.
func open(t *testing.T, o Options) *Journal {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Sinks == nil {
		o.Sinks = []string{"nats"}
	}
	j, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close(context.Background())) })
	return j
}

func mustAppend(t *testing.T, j *Journal, w bridge.Webhook) {
	t.Helper()
	accepted, err := j.Append(t.Context(), w)
	require.NoError(t, err)
	require.Equal(t, bridge.Stored, accepted, "webhook %s", w.ID)
}

func readAll(t *testing.T, j *Journal) []Webhook {
	t.Helper()
	found, err := j.Read(t.Context(), 0, 1_000_000, 1<<40)
	require.NoError(t, err)
	return found
}

// numbered returns webhooks as the journal keeps them.
func numbered(sent []bridge.Webhook) (stored []Webhook) {
	for i, w := range sent {
		stored = append(stored, Webhook{Seq: int64(i + 1), Webhook: w})
	}
	return stored
}

func ids(webhooks []Webhook) []string {
	names := make([]string, 0, len(webhooks))
	for _, w := range webhooks {
		names = append(names, w.ID)
	}
	return names
}

func TestAWebhookComesBackAsItWas(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	sent := []bridge.Webhook{
		webhook("msg_1"),
		{ID: "msg_empty", Timestamp: at(), ReceivedAt: at(), Body: []byte{}},
		{ID: "msg_big", Timestamp: at(), ReceivedAt: at(), Body: bytes.Repeat([]byte{0, 0xff, '\n', '"'}, 1<<18)},
		{ID: "msg ü \" ' \x00 \n", ReceivedAt: at(), Body: []byte("x")},
	}
	stored := numbered(sent)
	for _, w := range sent {
		mustAppend(t, j, w)
	}
	require.Equal(t, stored, readAll(t, j))
	require.Equal(t, int64(4), j.Head())

	require.NoError(t, j.Close(t.Context()))
	require.NoFileExists(t, filepath.Join(dir, "journal.db-wal"), "a clean end leaves one file")
	again := open(t, Options{Dir: dir})
	require.Equal(t, stored, readAll(t, again))
	require.Equal(t, int64(4), again.Head())
}

func TestANilBodyIsStoredAsEmpty(t *testing.T) {
	j := open(t, Options{})
	mustAppend(t, j, bridge.Webhook{ID: "a", ReceivedAt: at()})
	require.Equal(t,
		[]Webhook{{Seq: 1, Webhook: bridge.Webhook{ID: "a", ReceivedAt: at(), Body: []byte{}}}}, readAll(t, j))
}

func TestAppendNeedsAnID(t *testing.T) {
	j := open(t, Options{})
	_, err := j.Append(t.Context(), bridge.Webhook{Body: []byte("{}")})
	require.ErrorContains(t, err, "without an ID")
}

// Webhooks that come together are stored by one statement, unless one of them is known.
func TestADuplicateAmongManyIsFoundAndUsesNoNumber(t *testing.T) {
	j := open(t, Options{})
	const webhooks, senders = 40 * wideRows, 4 * wideRows
	var stored, duplicates atomic.Int64
	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			for i := sender / 2; i < webhooks; i += senders / 2 { // each is sent by two of them
				switch accepted, err := j.Append(t.Context(), webhook(fmt.Sprintf("msg_%d", i))); {
				case err != nil:
					t.Error(err)
				case accepted == bridge.Stored:
					stored.Add(1)
				case accepted == bridge.Duplicate:
					duplicates.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, webhooks, stored.Load())
	require.EqualValues(t, webhooks, duplicates.Load())
	require.EqualValues(t, webhooks, j.Head())
	found, err := j.Read(t.Context(), 0, 2*webhooks, 1<<30)
	require.NoError(t, err)
	require.Len(t, found, webhooks)
	for i, w := range found {
		require.EqualValues(t, i+1, w.Seq)
	}
}

func TestADuplicateIsFoundAndUsesNoNumber(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("a"))
	for range 3 {
		accepted, err := j.Append(t.Context(), webhook("a"))
		require.NoError(t, err)
		require.Equal(t, bridge.Duplicate, accepted)
	}
	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir})
	require.Equal(t, int64(1), j.Head())
	accepted, err := j.Append(t.Context(), webhook("a"))
	require.NoError(t, err)
	require.Equal(t, bridge.Duplicate, accepted)
	mustAppend(t, j, webhook("b"))
	require.Equal(t, int64(2), j.Head())
}

func TestOfTwoIdenticalWebhooksAtOnceOneIsNew(t *testing.T) {
	j := open(t, Options{})
	const rounds, callers = 200, 4
	for round := range rounds {
		id := fmt.Sprintf("msg_%d", round)
		var (
			start    = make(chan struct{})
			wg       sync.WaitGroup
			accepted [callers]bridge.Acceptance
			failures [callers]error
		)
		for i := range callers {
			wg.Go(func() {
				<-start
				accepted[i], failures[i] = j.Append(context.Background(), webhook(id))
			})
		}
		close(start)
		wg.Wait()
		fresh := 0
		for i := range callers {
			require.NoError(t, failures[i])
			if accepted[i] == bridge.Stored {
				fresh++
			}
		}
		require.Equal(t, 1, fresh, "round %d", round)
	}
	require.Len(t, readAll(t, j), rounds)
}

func TestReadIsBounded(t *testing.T) {
	j := open(t, Options{})
	for i := range 5 {
		mustAppend(t, j, bridge.Webhook{ID: fmt.Sprint(i + 1), ReceivedAt: at(), Body: make([]byte, 100)})
	}
	for name, c := range map[string]struct {
		after    int64
		count    int
		bytes    int64
		expected []string
	}{
		"everything":                      {0, 10, 1000, []string{"1", "2", "3", "4", "5"}},
		"after one":                       {3, 10, 1000, []string{"4", "5"}},
		"by count":                        {1, 2, 1000, []string{"2", "3"}},
		"by bytes, just so":               {0, 10, 300, []string{"1", "2", "3"}},
		"by bytes, one short":             {0, 10, 299, []string{"1", "2"}},
		"at least one, however few bytes": {2, 10, 1, []string{"3"}},
		"at least one, without bounds":    {2, 0, 0, []string{"3"}},
		"nothing behind the newest":       {5, 10, 1000, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := j.Read(t.Context(), c.after, c.count, c.bytes)
			require.NoError(t, err)
			require.Equal(t, c.expected, ids(found))
		})
	}
}

func TestChangedWakesForEveryAppend(t *testing.T) {
	j := open(t, Options{})
	first := j.Changed()
	require.Equal(t, first, j.Changed(), "one channel for all who wait")
	mustAppend(t, j, webhook("a"))
	<-first
	second := j.Changed()
	select {
	case <-second:
		require.Fail(t, "nothing was appended after the call")
	default:
	}
	mustAppend(t, j, webhook("b"))
	<-second
}

func TestAFollowerMissesNothing(t *testing.T) {
	j := open(t, Options{})
	const total = 500
	var wg sync.WaitGroup
	for part := range 5 {
		wg.Go(func() {
			for i := range total / 5 {
				_, err := j.Append(context.Background(), webhook(fmt.Sprintf("%d-%d", part, i)))
				if err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
	}
	var after int64
	for after < total {
		changed := j.Changed()
		found, err := j.Read(t.Context(), after, 50, 1<<20)
		require.NoError(t, err)
		if len(found) == 0 {
			select {
			case <-changed:
			case <-t.Context().Done():
				require.Fail(t, "woken too seldom")
			}
			continue
		}
		for _, w := range found {
			require.Equal(t, after+1, w.Seq, "no gaps, in order")
			require.LessOrEqual(t, w.Seq, j.Head()+maxBatchRequests)
			after = w.Seq
		}
	}
	wg.Wait()
}

func TestCursors(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Sinks: []string{"nats", "audit"}})
	for i := range 5 {
		mustAppend(t, j, webhook(fmt.Sprint(i)))
	}
	cursor := func(j *Journal, sink string) int64 {
		t.Helper()
		c, err := j.Cursor(t.Context(), sink)
		require.NoError(t, err)
		return c
	}
	finished := func(j *Journal, sink string) string {
		t.Helper()
		text, err := j.Finished(t.Context(), sink)
		require.NoError(t, err)
		return string(text)
	}
	require.Zero(t, cursor(j, "nats"), "new in an empty journal")
	require.NoError(t, advance(t.Context(), j, "nats", 3))
	require.Equal(t, int64(3), cursor(j, "nats"))
	require.NoError(t, advance(t.Context(), j, "nats", 2), "never back, and no error")
	require.Equal(t, int64(3), cursor(j, "nats"))
	require.Zero(t, cursor(j, "audit"))
	require.Empty(t, finished(j, "nats"))
	live := Stream{Kind: Live, Sink: "nats", Cursor: 3}
	require.NoError(t, j.Move(t.Context(), []Move{{Stream: live, Finished: []byte("5")}}, nil))
	require.NoError(t, j.Move(t.Context(), []Move{{Stream: live}}, nil))
	require.Equal(t, "5", finished(j, "nats"), "as it was")
	require.Empty(t, finished(j, "audit"))
	require.ErrorContains(t, advance(t.Context(), j, "nats", 6), "the newest is 5")
	require.ErrorContains(t, advance(t.Context(), j, "kafka", 1), `"kafka"`)
	_, err := j.Cursor(t.Context(), "kafka")
	require.ErrorContains(t, err, `"kafka"`)
	require.NoError(t, j.Close(t.Context()))

	var log bytes.Buffer
	j = open(t, Options{Dir: dir, Sinks: []string{"nats", "kafka"}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.Equal(t, int64(3), cursor(j, "nats"), "kept")
	require.Equal(t, "5", finished(j, "nats"), "kept")
	require.Equal(t, int64(5), cursor(j, "kafka"), "a new sink begins at the head")
	require.Contains(t, log.String(), "sink=audit", "the one that is left is named")
	require.Contains(t, log.String(), "webhooks=5")
	require.Contains(t, log.String(), `"fnbridge sinks forget audit"`)
	require.NoError(t, j.Close(t.Context()))

	log.Reset()
	j = open(t, Options{
		Dir: dir, Sinks: []string{"nats", "kafka", "audit"}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.Zero(t, cursor(j, "audit"), "a sink that comes back goes on where it was")
	require.Contains(t, log.String(), "a sink is configured again")
}

// Read shows a webhook as soon as it is committed. A sink that is quick may be done with it before the writer has
// counted it.
func TestAdvancePastWhatHasJustBeenCommitted(t *testing.T) {
	var (
		j     *Journal
		armed atomic.Bool
		calls int
		moved = make(chan error, 1)
	)
	now := func() time.Time {
		if !armed.Load() {
			return at()
		}
		if calls++; calls != 2 { // the second is between the commit and its answer
			return at()
		}
		found, err := j.views.webhooks(context.Background(), 0, 10, 1<<20)
		if err != nil || len(found) != 1 {
			t.Errorf("read: %d webhooks, %v", len(found), err)
		}
		go func() { moved <- advance(context.Background(), j, "nats", 1) }()
		for len(moved) == 0 { // either it was refused, or it waits for the writer
			j.queue.mu.Lock()
			waiting := len(j.queue.waiting)
			j.queue.mu.Unlock()
			if waiting > 0 {
				break
			}
			runtime.Gosched()
		}
		return at()
	}
	j = open(t, Options{Now: now, Retention: 1000 * time.Hour})
	armed.Store(true)
	mustAppend(t, j, webhook("a"))
	require.NoError(t, <-moved)
	cursor, err := j.Cursor(t.Context(), "nats")
	require.NoError(t, err)
	require.Equal(t, int64(1), cursor)
}

func TestAdvancesOfOneBatchCollapseToTheHighest(t *testing.T) {
	j := open(t, Options{})
	for i := range 50 {
		mustAppend(t, j, webhook(fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for seq := range int64(50) {
		wg.Go(func() {
			if err := advance(context.Background(), j, "nats", seq+1); err != nil {
				t.Errorf("advance to %d: %v", seq+1, err)
			}
		})
	}
	wg.Wait()
	cursor, err := j.Cursor(t.Context(), "nats")
	require.NoError(t, err)
	require.Equal(t, int64(50), cursor)
	status, err := j.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(50), status.Sinks[0].Cursor, "durable too")
}

func deadLetter(seq int64, index int) DeadLetter {
	return DeadLetter{
		Sink: "nats", WebhookSeq: seq, FirstAt: at(), LastAt: at(),
		DeadLetter: bridge.DeadLetter{Reason: "too large", Attempts: 1, Event: bridge.Event{
			WebhookID: "msg_1", Origin: bridge.Origin{Webhook: bridge.WebhookDigest("msg_1", nil), Index: index, Replay: 7},
			ID: "e1", Type: "tensorlake.x", Source: "/tensorlake", Subject: "inv/fn", PartitionKey: "inv",
			Sequence: "1.2", SourceID: "src",
			Time: time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), Data: []byte(`{"n":1}`), About: bridge.About{
				Route:       []string{"workflow", "w", "f.1", "success"},
				Application: "w", Version: "3", Function: "f", Request: "inv", Project: "p", Sandbox: "s", SandboxName: "sn",
				Status: "success", Outcome: "failure", Reason: "out_of_memory",
			},
		}},
	}
}

// gauges returns a gauge's values by the value of their one label, "" for none.
func gauges(t *testing.T, registry *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	values := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			label := ""
			for _, pair := range m.GetLabel() {
				label = pair.GetValue()
			}
			values[label] = m.GetGauge().GetValue()
		}
	}
	return values
}

func TestDeadLetters(t *testing.T) {
	dir := t.TempDir()
	registry := prometheus.NewRegistry()
	j := open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}, Registerer: registry})
	first, second := deadLetter(1, 0), deadLetter(1, 1)
	other := DeadLetter{
		Sink: "kafka", WebhookSeq: 1,
		DeadLetter: bridge.DeadLetter{Event: bridge.Event{ID: "e1", Origin: first.Event.Origin}},
	}
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{first, second, other}))
	require.NoError(t, j.AddDeadLetters(t.Context(), nil))

	later := second
	later.Reason, later.Attempts, later.LastAt = "still too large", 2, at().Add(time.Hour)
	later.FirstAt, later.Event.ID = at().Add(time.Hour), "another"
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{later}))
	second.Reason, second.Attempts, second.LastAt = later.Reason, 3, later.LastAt

	first.ID, second.ID, other.ID = 1, 2, 3
	other.Event.Route = []string{}
	for name, c := range map[string]struct {
		filter   DeadLetterFilter
		expected []DeadLetter
	}{
		"all":       {DeadLetterFilter{}, []DeadLetter{first, second, other}},
		"of a sink": {DeadLetterFilter{Sink: "nats"}, []DeadLetter{first, second}},
		"a page":    {DeadLetterFilter{Limit: 1}, []DeadLetter{first}},
		"the next":  {DeadLetterFilter{Limit: 1, AfterID: 1}, []DeadLetter{second}},
		"the end":   {DeadLetterFilter{Sink: "nats", AfterID: 2}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			letters, err := j.DeadLetters(t.Context(), c.filter)
			require.NoError(t, err)
			require.Equal(t, c.expected, letters)
		})
	}
	require.ErrorContains(t, j.AddDeadLetters(t.Context(), []DeadLetter{{Sink: "other"}}), `"other"`)

	expected := map[string]float64{"kafka": 1, "nats": 2}
	require.Equal(t, expected, gauges(t, registry, "fnbridge_dead_letters"))
	require.NoError(t, j.Close(t.Context()))
	open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}, Registerer: registry})
	require.Equal(t, expected, gauges(t, registry, "fnbridge_dead_letters"), "and after a start")
}

func TestStatus(t *testing.T) {
	j := open(t, Options{Sinks: []string{"nats", "kafka"}, MaxBytes: 10 << 20})
	empty, err := j.Status(t.Context())
	require.NoError(t, err)
	require.Positive(t, empty.Bytes)
	require.Positive(t, empty.FilesBytes)
	require.Equal(t, Status{Bytes: empty.Bytes, MaxBytes: 10 << 20, FilesBytes: empty.FilesBytes, Sinks: []SinkStatus{
		{Sink: "kafka", Configured: true, State: SinkState{Sink: "kafka"}},
		{Sink: "nats", Configured: true, State: SinkState{Sink: "nats"}},
	}}, empty)

	for i := range 3 {
		w := webhook(fmt.Sprint(i))
		w.ReceivedAt = at().Add(time.Duration(i) * time.Minute)
		mustAppend(t, j, w)
	}
	down := SinkState{
		Sink: "kafka", State: "down", LastError: "connection refused",
		LastErrorAt: at(), Since: at().Add(-time.Hour), StandsStill: "partition 3",
	}
	require.NoError(t, j.Move(t.Context(), nil, &down))
	require.ErrorContains(t, j.Move(t.Context(), nil, &SinkState{Sink: "other"}), `"other"`)
	require.NoError(t, advance(t.Context(), j, "kafka", 1))
	require.NoError(t, advance(t.Context(), j, "nats", 3))
	letter := deadLetter(1, 0)
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{letter}))

	s, err := j.Status(t.Context())
	require.NoError(t, err)
	require.Positive(t, s.DeadLetterBytes)
	parts := Parts{
		WaitingWebhooks: 2, WaitingBytes: s.WaitingBytes, KeptWebhooks: 1, KeptBytes: s.KeptBytes,
		DeadLetterBytes: s.DeadLetterBytes,
	}
	require.Equal(t, Status{
		Bytes: s.Bytes, MaxBytes: 10 << 20, FilesBytes: s.FilesBytes, Parts: parts, Head: 3, Webhooks: 3,
		OldestReceivedAt: at(), LastAcceptedAt: at().Add(2 * time.Minute), Sinks: []SinkStatus{
			{Sink: "kafka", Configured: true, Cursor: 1, Backlog: 2, OldestUndelivered: at().Add(time.Minute), State: down},
			{Sink: "nats", Configured: true, Cursor: 3, DeadLetters: 1, State: SinkState{Sink: "nats"}},
		},
	}, s)
}

func TestAnAppendWhoseCallerHasGone(t *testing.T) {
	j := open(t, Options{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := j.Append(gone, webhook("a"))
	require.ErrorIs(t, err, context.Canceled)
	// Callers that leave at any moment: whatever the answer, the journal and its accounts stay whole.
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			go cancel()
			_, err := j.Append(ctx, webhook(fmt.Sprintf("gone-%d", i)))
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("append: %v", err)
			}
		})
	}
	wg.Wait()
	mustAppend(t, j, webhook("last"))
	require.Zero(t, j.space.reserved.Load())
	all := readAll(t, j)
	require.Equal(t, "last", all[len(all)-1].ID)
	require.Len(t, all, int(j.Head()))
}

// While the disk hangs, callers come and give up for as long as it takes. What they leave must not gather.
func TestWhatIsGivenUpLeavesTheQueue(t *testing.T) {
	j := &Journal{queue: newQueue()} // no writer: its disk hangs
	j.space.limit = 1 << 20
	j.space.room.Store(math.MaxInt64)
	waiting := func() int {
		j.queue.mu.Lock()
		defer j.queue.mu.Unlock()
		return len(j.queue.waiting)
	}
	patient, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _, _ = j.Append(patient, webhook("stays")) })
	require.Eventually(t, func() bool { return waiting() == 1 }, time.Minute, time.Millisecond)
	for i := range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := j.Append(ctx, webhook(fmt.Sprint(i)))
			gaveUp <- err
		}()
		require.Eventually(t, func() bool { return waiting() == 2 }, time.Minute, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-gaveUp, context.Canceled)
		require.Equal(t, 1, waiting(), "what was given up is still held")
	}
	require.Equal(t, "stays", j.queue.waiting[0].webhook.ID)
}

func TestClose(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("a"))
	require.NoError(t, j.Close(t.Context()))
	require.NoError(t, j.Close(t.Context()), "again")

	_, err := j.Append(t.Context(), webhook("b"))
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.Read(t.Context(), 0, 1, 1)
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.Cursor(t.Context(), "nats")
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, advance(t.Context(), j, "nats", 1), ErrClosed)
	require.ErrorIs(t, advance(t.Context(), j, "nats", 0), ErrClosed)
	require.ErrorIs(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(1, 0)}), ErrClosed)
	require.ErrorIs(t, j.Move(t.Context(), nil, &SinkState{Sink: "nats"}), ErrClosed)
	_, err = j.Status(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.DeadLetters(t.Context(), DeadLetterFilter{})
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.Select(t.Context(), WebhookFilter{}, 1, 1)
	require.ErrorIs(t, err, ErrClosed)
	_, _, err = j.Count(t.Context(), WebhookFilter{})
	require.ErrorIs(t, err, ErrClosed)
	_, _, err = j.CountDeadLetters(t.Context(), DeadLetterFilter{})
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.RetryDeadLetters(t.Context(), DeadLetterFilter{})
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{1}})
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.AddReplay(t.Context(), Stream{Sink: "nats"})
	require.ErrorIs(t, err, ErrClosed)
	_, err = j.CancelReplay(t.Context(), 1)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, j.DeadLettersPublished(t.Context(), []DeadLetter{deadLetter(1, 0)}), ErrClosed)
}

func TestCloseGoesOnWhenItsCallerDoesNotWait(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Close(gone); err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	require.NoError(t, j.Close(t.Context()))
	open(t, Options{Dir: dir})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Registerer: registry, MaxBytes: 1 << 30})
	_, err := Open(t.Context(), Options{Dir: t.TempDir(), Registerer: registry})
	require.ErrorContains(t, err, "register the journal's metrics", "one registry shows one journal")
	for i := range 3 {
		mustAppend(t, j, webhook(fmt.Sprint(i)))
	}
	s, err := j.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"": float64(s.Bytes)}, gauges(t, registry, "fnbridge_journal_bytes"))
	require.Equal(t, map[string]float64{"": 1 << 30}, gauges(t, registry, "fnbridge_journal_max_bytes"))
	require.Equal(t, map[string]float64{"": 3}, gauges(t, registry, "fnbridge_journal_webhooks"))
	require.Equal(t, map[string]float64{"nats": 0}, gauges(t, registry, "fnbridge_dead_letters"))
	families, err := registry.Gather()
	require.NoError(t, err)
	histograms := 0
	for _, family := range families {
		if h := family.GetMetric()[0].GetHistogram(); h != nil {
			histograms++
			require.Contains(t,
				[]string{"fnbridge_journal_commit_duration_seconds", "fnbridge_journal_commit_requests"}, family.GetName())
			require.Equal(t, uint64(3), h.GetSampleCount(), family.GetName())
			require.Positive(t, h.GetSampleSum())
		}
	}
	require.Equal(t, 2, histograms)
	require.NoError(t, j.Close(t.Context()))
	families, err = registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families, "a closed journal shows nothing")
}

func TestCloseUnderLoadLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	var (
		mu    sync.Mutex
		acked []string
		wg    sync.WaitGroup
		some  = make(chan struct{})
		once  sync.Once
	)
	for caller := range 32 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d", caller, i)
				_, err := j.Append(context.Background(), webhook(id))
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				acked = append(acked, id)
				enough := len(acked) > 200
				mu.Unlock()
				if enough {
					once.Do(func() { close(some) })
				}
			}
		})
	}
	<-some
	require.NoError(t, j.Close(t.Context()))
	wg.Wait()
	require.ElementsMatch(t, acked, ids(readAll(t, open(t, Options{Dir: dir}))))
}

func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("a"))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		info, err := entry.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), entry.Name())
		names = append(names, entry.Name())
	}
	require.Equal(t, []string{
		"fnbridge.lock", "journal.db", "journal.db-boot", "journal.db-reserve", "journal.db-shm", "journal.db-wal",
	}, names)
}

func TestOptionsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		says    string
	}{
		"no directory":        {Options{}, "needs a data directory"},
		"negative size":       {Options{Dir: "x", MaxBytes: -1}, "must not be negative"},
		"negative retention":  {Options{Dir: "x", Retention: -1}, "must not be negative"},
		"a sink twice":        {Options{Dir: "x", Sinks: []string{"a", "b", "a"}}, "a sink twice"},
		"a sink with no name": {Options{Dir: "x", Sinks: []string{""}}, "without a name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), c.options)
			require.ErrorContains(t, err, c.says)
			require.NoDirExists(t, "x")
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(t.Context(), Options{Dir: file})
	require.ErrorContains(t, err, "is not a directory")
}

func TestPathsThatLookLikeParameters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "50% of ?mode=memory&x#y ü")
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("a"))
	require.FileExists(t, filepath.Join(dir, "journal.db"))
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, r.Close())
}
