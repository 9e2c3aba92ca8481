package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func letterIDs(t *testing.T, j *Journal, f DeadLetterFilter) []int64 {
	t.Helper()
	letters, err := j.DeadLetters(t.Context(), f)
	require.NoError(t, err)
	found := make([]int64, 0, len(letters))
	for _, l := range letters {
		found = append(found, l.ID)
	}
	return found
}

// variedLetters stores five letters with the IDs 1 to 5 that differ in what a filter can tell.
func variedLetters(t *testing.T, j *Journal) {
	t.Helper()
	letters := make([]DeadLetter, 5)
	for i := range letters {
		letters[i] = deadLetter(int64(i+1), 0)
		letters[i].LastAt = at().Add(time.Duration(i) * time.Hour)
	}
	letters[0].Event.Type, letters[1].Event.Type = "tensorlake.a.x", "tensorlake.a*y"
	letters[2].Event.Application = "other"
	letters[3].Event.Route = []string{"application", "w*a", "request", "failed"}
	letters[4].Sink = "kafka"
	require.NoError(t, j.AddDeadLetters(t.Context(), letters))
}

// notePublished notes that letters were published as they are now.
func notePublished(t *testing.T, j *Journal, ids ...int64) {
	t.Helper()
	letters, err := j.DeadLetters(t.Context(), DeadLetterFilter{IDs: ids})
	require.NoError(t, err)
	require.Len(t, letters, len(ids))
	require.NoError(t, j.DeadLettersPublished(t.Context(), letters))
}

func TestDeadLettersAreSelected(t *testing.T) {
	j := open(t, Options{Sinks: []string{"kafka", "nats"}})
	variedLetters(t, j)
	marked, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{2, 5}})
	require.NoError(t, err)
	require.Equal(t, int64(2), marked)
	notePublished(t, j, 1, 2)
	for name, c := range map[string]struct {
		filter   DeadLetterFilter
		expected []int64
	}{
		"all":         {DeadLetterFilter{}, []int64{1, 2, 3, 4, 5}},
		"sink":        {DeadLetterFilter{Sink: "kafka"}, []int64{5}},
		"application": {DeadLetterFilter{Filter: bridge.Filter{Application: "other"}}, []int64{3}},
		"route": {
			DeadLetterFilter{Filter: bridge.Filter{Routes: routes(t, "application.w_a.>,application.other.>")}}, []int64{4},
		},
		"type":                     {DeadLetterFilter{Filter: bridge.Filter{Type: "tensorlake.a.x"}}, []int64{1}},
		"types that begin so":      {DeadLetterFilter{Filter: bridge.Filter{Type: "tensorlake.a*"}}, []int64{1, 2}},
		"a star within is a star":  {DeadLetterFilter{Filter: bridge.Filter{Type: "tensorlake.a**"}}, []int64{2}},
		"every type":               {DeadLetterFilter{Filter: bridge.Filter{Type: "*"}}, []int64{1, 2, 3, 4, 5}},
		"no wildcards of SQL":      {DeadLetterFilter{Filter: bridge.Filter{Type: "tensorlake_*"}}, []int64{}},
		"ids":                      {DeadLetterFilter{IDs: []int64{4, 1, 77}}, []int64{1, 4}},
		"ids of a sink":            {DeadLetterFilter{Sink: "nats", IDs: []int64{4, 5}}, []int64{4}},
		"no ids":                   {DeadLetterFilter{IDs: []int64{}}, []int64{}},
		"since":                    {DeadLetterFilter{Since: at().Add(3 * time.Hour)}, []int64{4, 5}},
		"until":                    {DeadLetterFilter{Until: at().Add(time.Hour)}, []int64{1}},
		"retrying":                 {DeadLetterFilter{Retrying: true}, []int64{2, 5}},
		"retrying of a sink":       {DeadLetterFilter{Sink: "nats", Retrying: true}, []int64{2}},
		"unpublished":              {DeadLetterFilter{Unpublished: true}, []int64{3, 4, 5}},
		"the rest of a page":       {DeadLetterFilter{Sink: "nats", Unpublished: true, AfterID: 3}, []int64{4}},
		"a page":                   {DeadLetterFilter{Limit: 2}, []int64{1, 2}},
		"everything has to apply":  {DeadLetterFilter{Sink: "nats", Retrying: true, Unpublished: true}, []int64{}},
		"a time of the far future": {DeadLetterFilter{Since: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, []int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.expected, letterIDs(t, j, c.filter))
			count, bytes, err := j.CountDeadLetters(t.Context(), c.filter)
			require.NoError(t, err)
			require.Len(t, c.expected, int(count))
			require.Equal(t, 7*count, bytes)
		})
	}
}

func TestTheMarksOfALetter(t *testing.T) {
	dir := t.TempDir()
	now := &clock{now: at()}
	j := open(t, Options{Dir: dir, Now: now.Now})
	mustAppend(t, j, webhook("a"))
	letter := deadLetter(1, 0)
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{letter, deadLetter(1, 1)}))
	only := func() DeadLetter {
		t.Helper()
		found, err := j.DeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{1}})
		require.NoError(t, err)
		require.Len(t, found, 1)
		return found[0]
	}
	marked, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{1}})
	require.NoError(t, err)
	require.Equal(t, int64(1), marked)
	now.set(at().Add(time.Minute))
	marked, err = j.RetryDeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{1}})
	require.NoError(t, err)
	require.Zero(t, marked, "it was marked already")
	first := only()
	gone := first
	gone.ID = 9
	require.NoError(t, j.DeadLettersPublished(t.Context(), []DeadLetter{first, gone}))
	require.NoError(t, j.DeadLettersPublished(t.Context(), nil))
	require.Equal(t, at(), only().RetryAt)
	require.Equal(t, at().Add(time.Minute), only().PublishedAt)
	require.NoError(t, j.Close(t.Context()))

	j = open(t, Options{Dir: dir, Now: now.Now})
	require.Equal(t, at(), only().RetryAt, "durable")
	require.Equal(t, at().Add(time.Minute), only().PublishedAt)
	letter.Attempts, letter.Reason, letter.LastAt = 4, "still too large", at().Add(2*time.Minute)
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{letter}))
	letter.ID, letter.Attempts = 1, 5
	require.Equal(t, letter, only(), "tried again in vain, it waits for somebody as at first")
	require.NoError(t, j.DeadLettersPublished(t.Context(), []DeadLetter{first}))
	require.Equal(t, letter, only(), "what was published is not what it is now")

	stored := []Move{{Stream: Stream{Kind: Live, Sink: "nats"}, Stored: []Event{{1, 0}, {1, 0}, {9, 0}}}}
	require.NoError(t, j.Move(t.Context(), stored, nil))
	require.Equal(t, []int64{2}, letterIDs(t, j, DeadLetterFilter{}), "it reached its sink")
	require.NoError(t, j.Move(t.Context(), stored, nil), "gone already")
	letter.Sink = "other"
	require.ErrorContains(t, j.DeadLettersPublished(t.Context(), []DeadLetter{letter}), `"other"`)
	require.NoError(t, sound(t.Context(), j))
}

func TestOnlyASinkOfItsOwnChangesALetter(t *testing.T) {
	j := open(t, Options{Sinks: []string{"kafka", "nats"}})
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(1, 0)}))
	require.NoError(t, j.Move(t.Context(),
		[]Move{{Stream: Stream{Kind: Live, Sink: "kafka"}, Stored: []Event{{1, 0}}}}, nil))
	other := deadLetter(1, 0)
	other.ID, other.Sink = 1, "kafka"
	require.NoError(t, j.DeadLettersPublished(t.Context(), []DeadLetter{other}))
	require.Equal(t, []int64{1}, letterIDs(t, j, DeadLetterFilter{Unpublished: true}))
}

func TestLettersOfASinkThatIsGone(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}})
	variedLetters(t, j)
	require.NoError(t, j.Close(t.Context()))
	registry := prometheus.NewRegistry()
	j = open(t, Options{Dir: dir, Sinks: []string{"nats"}, Registerer: registry})
	for _, f := range []DeadLetterFilter{{}, {Sink: "kafka"}, {IDs: []int64{1, 5}}} {
		_, err := j.RetryDeadLetters(t.Context(), f)
		require.ErrorContains(t, err, "dead letters of kafka cannot be sent again: no such sink is configured")
	}
	require.Empty(t, letterIDs(t, j, DeadLetterFilter{Retrying: true}), "nothing was marked")
	marked, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{Sink: "nats"})
	require.NoError(t, err)
	require.Equal(t, int64(4), marked)
	dropped, err := j.DropDeadLetters(t.Context(), DeadLetterFilter{Sink: "kafka"})
	require.NoError(t, err)
	require.Equal(t, int64(1), dropped)
	require.Equal(t, map[string]float64{"kafka": 0, "nats": 4}, gauges(t, registry, "fnbridge_dead_letters"))
}

func TestManyLettersChangeInSteps(t *testing.T) {
	dir := t.TempDir()
	registry := prometheus.NewRegistry()
	j := open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}, Registerer: registry})
	const total = 3*maxChangedLetters + 7
	letters := make([]DeadLetter, total)
	for i := range letters {
		letters[i] = deadLetter(int64(i+1), 0)
		if i%3 == 0 {
			letters[i].Sink = "kafka"
		}
	}
	require.NoError(t, j.AddDeadLetters(t.Context(), letters))
	some := make([]int64, maxChangedLetters+1)
	for i := range some {
		some[i] = int64(i + 1)
	}
	marked, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{IDs: some})
	require.NoError(t, err)
	require.Equal(t, int64(maxChangedLetters+1), marked)
	marked, err = j.RetryDeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, int64(total-maxChangedLetters-1), marked, "those that were not")

	// Webhooks get in between, and nothing is waited for to the end.
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := j.Append(context.Background(), webhook(fmt.Sprint(i))); err != nil {
				t.Errorf("append: %v", err)
			}
		})
	}
	dropped, err := j.DropDeadLetters(t.Context(), DeadLetterFilter{Sink: "nats", Retrying: true})
	require.NoError(t, err)
	wg.Wait()
	kafka := (total + 2) / 3
	require.Equal(t, int64(total-kafka), dropped)
	require.Equal(t, map[string]float64{"kafka": float64(kafka), "nats": 0}, gauges(t, registry, "fnbridge_dead_letters"))
	left := letterIDs(t, j, DeadLetterFilter{Limit: total})
	require.Len(t, left, kafka)

	backwards := make([]int64, 0, 2*kafka)
	for i := range left {
		backwards = append(backwards, left[len(left)-1-i], left[i])
	}
	dropped, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{IDs: backwards, Limit: kafka - 3})
	require.NoError(t, err)
	require.Equal(t, int64(kafka-3), dropped)
	require.Equal(t, left[kafka-3:], letterIDs(t, j, DeadLetterFilter{}), "the first of them, each once")
	_, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{IDs: backwards})
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"kafka": 0, "nats": 0}, gauges(t, registry, "fnbridge_dead_letters"))
	require.NoError(t, sound(t.Context(), j))
	require.NoError(t, j.Close(t.Context()))
	open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}, Registerer: registry})
	require.Equal(t, map[string]float64{"kafka": 0, "nats": 0},
		gauges(t, registry, "fnbridge_dead_letters"), "as the database has it")
}

func TestADropGivesItsSpaceBack(t *testing.T) {
	j := open(t, Options{MaxBytes: 4 << 20})
	large := make([]DeadLetter, 45)
	for i := range large {
		large[i] = deadLetter(int64(i+1), 0)
		large[i].Event.Data = make([]byte, 100_000)
	}
	require.NoError(t, j.AddDeadLetters(t.Context(), large))
	_, err := j.Append(t.Context(), webhook("a"))
	require.ErrorIs(t, err, ErrFull)
	dropped, err := j.DropDeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, int64(45), dropped)
	mustAppend(t, j, webhook("a"))
}

func TestWhoWaitsWakesForWhatIsToDo(t *testing.T) {
	j := open(t, Options{})
	quiet := func(ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
			require.Fail(t, "there is nothing to do")
		default:
		}
	}
	added, streams := j.DeadLettersAdded(), j.StreamsChanged()
	require.NoError(t, j.AddDeadLetters(t.Context(), nil))
	mustAppend(t, j, webhook("a"))
	quiet(added)
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(1, 0)}))
	<-added
	added = j.DeadLettersAdded()
	notePublished(t, j, 1)
	quiet(streams)
	_, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	<-streams
	again := j.StreamsChanged()
	_, err = j.RetryDeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	quiet(again)
	_, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	<-again
	quiet(added)
}

func TestWhatIsToPublishIsFoundByIndex(t *testing.T) {
	j := open(t, Options{})
	f := DeadLetterFilter{Sink: "nats", Unpublished: true}
	query, args, err := f.statement(schemaVersion,
		"EXPLAIN QUERY PLAN SELECT data FROM dead_letters", "ORDER BY id LIMIT 10")
	require.NoError(t, err)
	var id, parent, unused int64
	var plan string
	require.NoError(t, j.views.db.QueryRowContext(t.Context(), query, args...).Scan(&id, &parent, &unused, &plan))
	require.Equal(t, "SEARCH dead_letters USING INDEX dead_letters_to_publish (sink=? AND id>?)", plan)
}

func TestAnOutageThatComesAndGoesIsSaidOnceAMinute(t *testing.T) { synctest.Test(t, outageLines) }

func outageLines(t *testing.T) {
	var o outage
	require.True(t, o.begin("full"))
	require.False(t, o.begin("full"), "said")
	require.True(t, o.end())
	require.False(t, o.end())
	for range 10 {
		require.False(t, o.begin("full"), "the same again")
		require.False(t, o.end(), "nobody heard that it began")
	}
	require.True(t, o.begin("read-only"), "another reason")
	require.True(t, o.end())
	require.False(t, o.begin("read-only"))
	<-time.After(outageInterval)
	require.True(t, o.begin("read-only"), "it lasts")
	require.True(t, o.end())
}

func TestACommandOpensTheJournalAsItIs(t *testing.T) {
	dir := t.TempDir()
	now := &clock{now: at()}
	j := open(t, Options{
		Dir: dir, Sinks: []string{"kafka", "nats"}, MaxBytes: 32 << 20,
		Retention: time.Hour, Now: now.Now,
	})
	mustAppend(t, j, webhook("a"))
	require.NoError(t, advance(t.Context(), j, "nats", 1))
	variedLetters(t, j)
	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir, Sinks: []string{"nats"}, MaxBytes: 32 << 20, Retention: 1000 * time.Hour, Now: now.Now})
	before, err := j.Status(t.Context())
	require.NoError(t, err)
	_, err = Open(t.Context(), Options{Dir: dir, KeepSinks: true})
	var locked *LockedError
	require.ErrorAs(t, err, &locked)
	require.NoError(t, j.Close(t.Context()))

	now.set(at().Add(1000 * time.Hour)) // long past the usual retention
	j = open(t, Options{Dir: dir, Sinks: []string{}, KeepSinks: true, Now: now.Now})
	marked, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{Sink: "nats"})
	require.NoError(t, err)
	require.Equal(t, int64(4), marked)
	_, err = j.RetryDeadLetters(t.Context(), DeadLetterFilter{})
	require.ErrorContains(t, err, "dead letters of kafka cannot")
	dropped, err := j.DropDeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{1}})
	require.NoError(t, err)
	require.Equal(t, int64(1), dropped)
	require.Equal(t, int64(32<<20), j.space.limit)
	require.NoError(t, j.Close(t.Context()))

	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	after, err := r.Status(t.Context())
	require.NoError(t, err)
	before.Sinks[1].DeadLetters--
	require.Less(t, after.DeadLetterBytes, before.DeadLetterBytes)
	before.Bytes, before.FilesBytes, before.DeadLetterBytes = after.Bytes, after.FilesBytes, after.DeadLetterBytes
	require.Equal(t, before, after)
}

func TestACommandDeletesNoWebhooks(t *testing.T) { synctest.Test(t, aCommandDeletesNoWebhooks) }

func aCommandDeletesNoWebhooks(t *testing.T) {
	dir := t.TempDir()
	now := &clock{now: at()}
	j := open(t, Options{Dir: dir, Now: now.Now})
	mustAppend(t, j, webhook("a"))
	require.NoError(t, advance(t.Context(), j, "nats", 1))
	require.NoError(t, j.Close(t.Context()))
	now.set(at().Add(100 * DefaultRetention))
	j = open(t, Options{Dir: dir, Sinks: []string{}, KeepSinks: true, Now: now.Now})
	sweep(t)
	require.Equal(t, []string{"a"}, ids(readAll(t, j)))
}

func TestACommandNeedsAJournal(t *testing.T) {
	for name, o := range map[string]Options{
		"sinks": {Sinks: []string{"nats"}}, "size": {MaxBytes: 1 << 20}, "retention": {Retention: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			o.Dir, o.KeepSinks = t.TempDir(), true
			_, err := Open(t.Context(), o)
			require.ErrorContains(t, err, "from the serve before")
		})
	}
	dir := t.TempDir()
	_, err := Open(t.Context(), Options{Dir: dir, KeepSinks: true})
	require.ErrorIs(t, err, os.ErrNotExist)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)

	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Open(t.Context(), Options{Dir: file, KeepSinks: true})
	require.EqualError(t, err, "FNBRIDGE_DATA_DIR ("+file+") is not a directory: name the one that serve uses")
	_, err = OpenReader(t.Context(), file)
	require.EqualError(t, err, "FNBRIDGE_DATA_DIR ("+file+") is not a directory: name the one that serve uses")
}

func routes(t *testing.T, text string) bridge.Routes {
	t.Helper()
	r, err := bridge.ParseRoutes(text)
	require.NoError(t, err)
	return r
}

func TestDeadLettersAreSelectedByTheirReason(t *testing.T) {
	j := open(t, Options{Sinks: []string{"kafka", "nats"}})
	letters := make([]DeadLetter, 4)
	for i, reason := range []string{
		"has 9001 bytes [max?]", "has 9002 bytes [max?]", "has 9002 bytes max", "it's * else",
	} {
		letters[i] = deadLetter(int64(i+1), 0)
		letters[i].Reason = reason
	}
	require.NoError(t, j.AddDeadLetters(t.Context(), letters))
	for pattern, expected := range map[string][]int64{
		"has * bytes [max?]": {1, 2}, "has 9002 bytes [max?]": {2}, "has 9002*": {2, 3}, "it's * else": {4}, "has": {},
		"*": {1, 2, 3, 4},
	} {
		require.Equal(t, expected, letterIDs(t, j, DeadLetterFilter{Reason: pattern}), pattern)
	}
	reasons, err := j.LetterReasons(t.Context())
	require.NoError(t, err)
	require.Len(t, reasons, 4)
	retried, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{Reason: "has * bytes [max?]"})
	require.NoError(t, err)
	require.EqualValues(t, 2, retried)
	require.Equal(t, []int64{1, 2}, letterIDs(t, j, DeadLetterFilter{Retrying: true}))
	dropped, err := j.DropDeadLetters(t.Context(), DeadLetterFilter{Reason: "has 9002 bytes max"})
	require.NoError(t, err)
	require.EqualValues(t, 1, dropped)
}
