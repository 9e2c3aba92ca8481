package journal

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASearchGoesFromTheNewestOn(t *testing.T) {
	j := open(t, Options{})
	for i := range 30 {
		w := heavy(fmt.Sprintf("msg_%d", i), 10)
		w.ReceivedAt = at().Add(time.Duration(i) * time.Minute)
		w.Body = fmt.Appendf(nil, `{"n":%d,"of":"%d"}`, i, i%3)
		mustAppend(t, j, w)
	}
	all := func(s Search, count int) (found []int64) {
		for !s.Ended() {
			page, err := j.SearchNext(t.Context(), &s, count, 1<<20)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page), count)
			for _, w := range page {
				found = append(found, w.Seq)
			}
		}
		done, total := s.Looked()
		require.Equal(t, total, done)
		return found
	}
	var third []int64
	for seq := int64(30); seq >= 1; seq -= 3 {
		third = append(third, seq)
	}
	texts := [][]byte{[]byte("nothing"), []byte(`"2"`)}
	require.Equal(t, third, all(Search{Holds: texts}, 100))
	require.Equal(t, third, all(Search{Holds: texts}, 3), "page by page")
	require.Equal(t, third[2:], all(Search{Holds: texts, Before: 25}, 100))
	require.Equal(t, third[:4], all(Search{Holds: texts, Since: at().Add(20 * time.Minute)}, 100))
	require.Empty(t, all(Search{Since: at().Add(time.Hour)}, 100))
	require.Len(t, all(Search{}, 7), 30)
	require.Empty(t, all(Search{Holds: texts[:1]}, 100))
}

func TestADroppedLetterLeavesAMarkForAsLongAsItsWebhook(t *testing.T) {
	synctest.Test(t, droppedLetter)
}

func droppedLetter(t *testing.T) {
	dir := t.TempDir()
	now := &clock{now: at()}
	j := open(t, Options{Dir: dir, Sinks: []string{"nats"}, Retention: time.Hour, Now: now.Now})
	mustAppend(t, j, webhook("a"))
	mustAppend(t, j, webhook("b"))
	require.NoError(t, advance(t.Context(), j, "nats", 2))
	for seq := int64(1); seq <= 3; seq++ { // the third has gone before
		require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(seq, 0), deadLetter(seq, 1)}))
	}
	lettered := func() []Lettered {
		found, err := j.Lettered(t.Context(), []int64{1, 2, 4})
		require.NoError(t, err)
		return found
	}
	require.ElementsMatch(t, []Lettered{{"nats", 1, false}, {"nats", 2, false}}, lettered())
	dropped, err := j.DropDeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.EqualValues(t, 6, dropped)
	require.ElementsMatch(t, []Lettered{{"nats", 1, true}, {"nats", 2, true}}, lettered())
	marksOf := func(seq int64) (ids []int64) {
		found, err := j.LettersOf(t.Context(), seq)
		require.NoError(t, err)
		for _, m := range found {
			require.False(t, m.DroppedAt.IsZero())
			ids = append(ids, m.ID)
		}
		slices.Sort(ids)
		return ids
	}
	require.Equal(t, []int64{1, 2}, marksOf(1))
	require.Equal(t, []int64{3, 4}, marksOf(2))
	require.Empty(t, marksOf(3))

	// One that is a dead letter again is that alone.
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(2, 0)}))
	found, err := j.LettersOf(t.Context(), 2)
	require.NoError(t, err)
	require.Len(t, found, 2)
	slices.SortFunc(found, func(a, b LetterMark) int { return a.EventIndex - b.EventIndex })
	require.Equal(t, deadLetter(2, 0).Reason, found[0].Reason)
	require.True(t, found[0].DroppedAt.IsZero())
	require.ElementsMatch(t, []Lettered{{"nats", 1, true}, {"nats", 2, false}}, lettered())

	require.NoError(t, j.Close(t.Context()))
	now.set(at().Add(2 * time.Hour))
	j = open(t, Options{Dir: dir, Sinks: []string{"nats"}, Retention: time.Hour, Now: now.Now})
	sweep(t)
	require.Empty(t, readAll(t, j))
	require.Empty(t, marksOf(1), "they went with the webhook")
	require.NoError(t, sound(t.Context(), j))
}
