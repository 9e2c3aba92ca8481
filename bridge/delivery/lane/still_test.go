package lane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestPlacesAreThoseThatWereAdded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var p Places
		want := make(map[int]bool)
		require.True(t, p.Empty())
		for range random.IntN(60) + 1 {
			place := random.IntN(40)
			p.Add(place)
			want[place] = true
			end := -1
			for _, r := range p.ranges() {
				require.Greater(t, r.from, end, "ranges that touch are one")
				require.Greater(t, r.to, r.from)
				end = r.to
			}
		}
		for place := range 42 {
			require.Equal(t, want[place], p.Has(place), "%d of %v", place, p)
		}
	}
}

// opened returns a webhook whose events have all been taken, and their items.
func opened(w *Window, number int64, events int) []*Item {
	hook := &Webhook{Number: number, Live: true}
	w.Add(hook)
	items := make([]*Item, events)
	for i := range items {
		items[i] = &Item{Webhook: hook, Key: fmt.Sprint("k", number), Event: &bridge.Event{Origin: bridge.Origin{Index: i}}}
		w.Take(items[i])
	}
	w.Exhaust(hook)
	return items
}

func TestWhatIsFinishedBeyondTheCursorIsWrittenDownAndRead(t *testing.T) {
	w, left := NewWindow(10), NewLeft()
	require.Empty(t, w.Finished(left, &Finished{}))
	var items [][]*Item
	for n := range int64(6) {
		items = append(items, opened(&w, 11+n, 4))
	}
	w.Advance(left)
	require.Empty(t, w.Finished(left, &Finished{}), "nothing is finished")
	w.Finish(items[0][1])
	w.Finish(items[0][3])
	for _, n := range []int{1, 4} {
		for _, it := range items[n] {
			w.Finish(it)
		}
	}
	// Of the last one everything is left behind.
	for _, it := range items[5] {
		left.Leave(it, time.Time{})
		w.PutBack(it)
	}
	left.Put(items[5][0].Webhook)
	w.Advance(left)
	require.EqualValues(t, 10, w.Cursor())

	f, err := ReadFinished(w.Finished(left, &Finished{}))
	require.NoError(t, err)
	again, err := ReadFinished(w.Finished(left, &Finished{}))
	require.NoError(t, err)
	for n, want := range []string{
		"10: false []", "11: false [1 3]", "12: true []", "13: false []", "14: false []", "15: true []", "16: false []",
		"17: false []",
	} {
		all, places := f.Of(int64(10 + n))
		of := []int{}
		for i := range 4 {
			if places.Has(i) {
				of = append(of, i)
			}
		}
		require.Equal(t, want, fmt.Sprintf("%d: %t %v", 10+n, all, of))
	}

	// A run that has not come as far again hands on what the one before it had.
	w, left = NewWindow(10), NewLeft()
	opened(&w, 11, 4)
	f, err = ReadFinished(w.Finished(left, &again))
	require.NoError(t, err)
	for number, want := range map[int64]bool{12: true, 13: false, 15: true, 16: false} {
		f := f
		all, _ := f.Of(number)
		require.Equal(t, want, all, "%d", number)
	}
	for _, text := range []string{"\x02", "\x01", "\x01\x80", "\x01\x05\x05\x01\x09"} {
		_, err := ReadFinished([]byte(text))
		require.Error(t, err, "%q", text)
	}
}

// Of a key, nothing may be taken while an earlier event is left behind, and a pass takes what it comes to in order.
func TestAKeyThatWasLeftBehindStaysBehindUntilAPassHasTakenAllOfIt(t *testing.T) {
	w, left := NewWindow(0), NewLeft()
	for n := range int64(3) {
		for _, it := range opened(&w, n+1, 1) {
			it.Key = "k"
			left.Leave(it, time.Time{})
			w.PutBack(it)
			left.Put(it.Webhook)
		}
	}
	w.Advance(left)
	require.Zero(t, w.Cursor())
	require.True(t, w.Empty())
	require.True(t, left.Has("k"))
	require.False(t, left.Has("other"))

	take := func(number int64) {
		_, _, ok := left.Read(number)
		require.True(t, ok)
		hook := &Webhook{Number: number, Live: true}
		w.Add(hook)
		it := &Item{Webhook: hook, Key: "k", Event: &bridge.Event{}}
		if left.Passed("k") || number == 2 {
			left.LeaveAgain(it)
		} else {
			left.Take(it)
			w.Take(it)
			w.Finish(it)
		}
		w.Exhaust(hook)
		left.Put(hook)
		w.Advance(left)
	}
	left.Begin()
	take(1)
	require.EqualValues(t, 1, w.Cursor())
	take(2) // left again, and so is what follows
	take(3)
	require.EqualValues(t, 1, w.Cursor())
	require.True(t, left.Has("k"))
	require.Equal(t, 2, left.Webhooks())
	_, ahead := left.Ahead()
	require.False(t, ahead)
	left.Begin()
	number, ahead := left.Ahead()
	require.True(t, ahead)
	require.EqualValues(t, 2, number)
}

func TestWhatOverflowsIsTheNewestOfEachLaneAndWhatIsBehindIt(t *testing.T) {
	partition := func(e *bridge.Event) int { return len(e.PartitionKey) }
	all, now := New(limits(), partition, func() int { return 3 }), time.Unix(1_000_000, 0)
	item := func(key string) *Item {
		it := live(key)
		all.Add(it)
		return it
	}
	var lost []*Item
	for range 6 {
		lost = append(lost, item("a"))
	}
	item("bb")
	held := []*Item{item("ccc"), item("ddd")}
	down, mixed := all.Of(lost[0]), all.Of(held[0])
	batch, _ := down.Take(now)
	down.Settle(now, failed(batch...))
	batch, _ = mixed.Take(now)
	require.Equal(t, held, batch)
	mixed.Settle(now, Result{Done: 1, Failed: held[:1], Cause: errors.New("refused")})
	all.Finish(held[1])
	queued := item("ccc")
	require.True(t, all.GoOn())
	require.True(t, down.Still(lost[0]))
	require.True(t, mixed.Still(queued))
	require.False(t, mixed.Still(live("eee")))
	require.Equal(t, 7, all.Still().Events)

	out := all.Overflow(Share{Events: 4, Bytes: 1 << 20})
	require.Equal(t, lost[3:], out, "of the lane that has the most")
	require.Equal(t, 4, all.Still().Events)
	require.Empty(t, all.Overflow(Share{Events: 4, Bytes: 1 << 20}))

	out = all.Overflow(Share{Events: 1, Bytes: 1})
	require.Equal(t, lost[1:3], out, "one of each is kept, which asks on")
}
