package journal

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// mountain returns the dead letters of webhook 1, whose one name is long and which has many functions.
func mountain(functions int) []DeadLetter {
	name := strings.Repeat("жщ", 5500)
	escaped := strings.Repeat("%D0%B6%D1%89", 5500)
	letters := make([]DeadLetter, functions)
	for i := range letters {
		function := fmt.Sprintf("f%d", i)
		l := deadLetter(1, i)
		e := &l.Event
		e.ID, e.Subject, e.Function = fmt.Sprintf("%032x", i), "inv/"+function, function
		e.Source, e.Application = "/tensorlake/workflows/"+escaped, name
		e.Route = []string{"workflow", name, function, "success"}
		e.Data = fmt.Appendf(nil, `{"workflow_name":"%s","function":"%s","functions_total":%d}`, name, function, functions)
		l.ID = int64(i + 1)
		letters[i] = l
	}
	return letters
}

func TestLettersOfAWebhookStoreWhatTheyRepeatOnce(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}, MaxBytes: 8 << 20})
	mustAppend(t, j, webhook("a"))
	letters := mountain(600)
	for i := 0; i < len(letters); i += 50 {
		require.NoError(t, j.AddDeadLetters(t.Context(), letters[i:i+50]))
	}
	s, err := j.Status(t.Context())
	require.NoError(t, err)
	require.Less(t, s.Bytes, int64(1<<20), "of 80 MB")
	mustAppend(t, j, webhook("b"))

	requireAll := func(f DeadLetterFilter, expected []DeadLetter) {
		t.Helper()
		found, err := j.DeadLetters(t.Context(), f)
		require.NoError(t, err)
		require.Len(t, found, len(expected))
		for i := range found {
			require.Equal(t, expected[i], found[i])
		}
	}
	requireAll(DeadLetterFilter{}, letters)
	name := letters[0].Event.Application
	requireAll(DeadLetterFilter{Filter: bridge.Filter{Application: name}, AfterID: 590}, letters[590:])
	requireAll(DeadLetterFilter{Filter: bridge.Filter{Routes: routes(t, "workflow.*.f7.*")}}, letters[7:8])
	requireAll(DeadLetterFilter{Filter: bridge.Filter{Application: "other"}}, nil)
	count, size, err := j.CountDeadLetters(t.Context(), DeadLetterFilter{Limit: 2})
	require.NoError(t, err)
	require.Equal(t, []int64{2, int64(2 * len(letters[0].Event.Data))}, []int64{count, size})

	// The first one's event is what the others refer to, and stays as long as there are others.
	_, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{1}})
	require.NoError(t, err)
	other := letters[1]
	other.Sink, other.ID = "kafka", 601
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{other}))
	require.NoError(t, sound(t.Context(), j))
	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}, MaxBytes: 8 << 20})
	requireAll(DeadLetterFilter{}, append(letters[1:], other))
	require.NoError(t, j.Move(t.Context(),
		[]Move{{Stream: Stream{Kind: Live, Sink: "kafka"}, Stored: []Event{{1, 1}}}}, nil))
	_, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{Sink: "nats"})
	require.NoError(t, err)
	requireNoLetters(t, j)
}

// requireNoLetters asks whether dead letters have left nothing behind.
func requireNoLetters(t *testing.T, j *Journal) {
	t.Helper()
	var bytes, events int64
	require.NoError(t, j.views.db.QueryRowContext(t.Context(), `SELECT value, (SELECT count(*) FROM letter_events)
		FROM settings WHERE name = 'letter_bytes'`).Scan(&bytes, &events))
	require.Zero(t, bytes)
	require.Zero(t, events)
}

func TestLettersOfTwoVersionsAreSelectedTogether(t *testing.T) {
	j := open(t, Options{Dir: versionOne(t)})
	before := j.space.letters.Load()
	require.Greater(t, before, int64(5000))
	fresh := deadLetter(3, 1)
	fresh.Event.Application = "other"
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{fresh}))
	require.Equal(t, []int64{1, 2, 3, 4}, letterIDs(t, j, DeadLetterFilter{}))
	require.Equal(t, []int64{4}, letterIDs(t, j, DeadLetterFilter{Filter: bridge.Filter{Application: "other"}}))
	require.Equal(t, []int64{1, 2, 3}, letterIDs(t, j, DeadLetterFilter{Filter: bridge.Filter{Application: "w"}}))
	marked, err := j.RetryDeadLetters(t.Context(),
		DeadLetterFilter{Sink: "nats", Filter: bridge.Filter{Application: "other"}})
	require.NoError(t, err)
	require.Equal(t, int64(1), marked)
	require.Equal(t, []int64{4}, letterIDs(t, j, DeadLetterFilter{Retrying: true}))
	_, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{IDs: []int64{3, 4}})
	require.NoError(t, err)
	_, err = j.DropDeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.NoError(t, sound(t.Context(), j))
	requireNoLetters(t, j)
}

func TestDeadLettersCountBeforeTheyFillTheJournal(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 4 << 20})
	large := func(seq int64) DeadLetter {
		l := deadLetter(seq, 0)
		l.Event.Data = bytes.Repeat([]byte{'x'}, 100_000)
		return l
	}
	var refused error
	n := int64(0)
	for ; refused == nil; n++ {
		require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{large(n + 1)}))
		_, refused = j.Append(t.Context(), webhook(fmt.Sprint(n)))
	}
	require.ErrorIs(t, refused, ErrFull)
	require.ErrorIs(t, refused, ErrFullOfDeadLetters)
	require.ErrorContains(t, refused, "fnbridge dead-letters retry")
	require.InDelta(t, 31, n, 1, "three quarters of what the journal may hold")
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{large(n + 1)}), "delivery goes on")
	for err := error(nil); err == nil; n++ {
		require.Less(t, n, int64(50))
		err = j.AddDeadLetters(t.Context(), []DeadLetter{large(n + 2)})
		if err != nil {
			require.ErrorIs(t, err, ErrFullOfDeadLetters)
			require.ErrorContains(t, err, "fnbridge dead-letters drop")
		}
	}
	s, err := j.Status(t.Context())
	require.NoError(t, err)
	require.InDelta(t, 4<<20, s.Bytes, 150_000)
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{large(1)}), "one that is there needs no room")
	accepted, err := j.Append(t.Context(), webhook("0"))
	require.NoError(t, err)
	require.Equal(t, bridge.Duplicate, accepted)

	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir, MaxBytes: 4 << 20})
	_, err = j.Append(t.Context(), webhook("new"))
	require.ErrorIs(t, err, ErrFullOfDeadLetters)
	dropped, err := j.DropDeadLetters(t.Context(), DeadLetterFilter{Limit: 15})
	require.NoError(t, err)
	require.Equal(t, int64(15), dropped)
	mustAppend(t, j, webhook("new"))
}

// What AddDeadLetters is about to add has its room before the writer gets to it.
func TestLettersThatWaitHaveTheirRoom(t *testing.T) {
	s := space{limit: 1000}
	s.room.Store(math.MaxInt64) // the volume is not known
	s.claim(letterCost(mountain(3)))
	require.ErrorIs(t, s.reserve(1), ErrFull)
	s.release(letterCost(mountain(3)))
	require.NoError(t, s.reserve(1000))
	require.Less(t, letterCost(mountain(100)), int64(300_000), "what they repeat counts once")
}

func TestAnEventIsPackedAndUnpacked(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		letters := make([]byte, random.IntN(6))
		for i := range letters {
			letters[i] = "ab\x00\xff"[random.IntN(4)]
		}
		return string(letters)
	}
	event := func() (e bridge.Event) {
		for _, field := range packedTexts(&e) {
			*field = text()
		}
		e.Route = make([]string, random.IntN(4))
		for i := range e.Route {
			e.Route[i] = text()
		}
		if s := text(); s != "" {
			e.Data = []byte(s)
		}
		if random.IntN(2) == 0 {
			e.Time = at().Add(time.Duration(random.IntN(3)) * time.Second)
		}
		e.Origin.Webhook[random.IntN(2)] = byte(random.IntN(3))
		return e
	}
	for range 2000 {
		e, base := event(), event()
		packed := packEvent(&e, &base)
		unpacked, err := unpackEvent(packed, &base)
		require.NoError(t, err)
		require.Equal(t, e, unpacked)
		for end := range packed {
			_, err := unpackEvent(packed[:end], &base)
			require.ErrorIs(t, err, errPacked)
		}
		packed[random.IntN(len(packed))] ^= byte(1 + random.IntN(255))
		_, _ = unpackEvent(packed, &bridge.Event{}) // it may be wrong, and does not panic
	}
}
