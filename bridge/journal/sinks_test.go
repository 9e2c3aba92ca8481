package journal

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// configured is a journal that is opened for one set of sinks after the other.
type configured struct {
	t   *testing.T
	dir string
	now *clock
	log records
	j   *Journal
	// accepted is what is to reach each sink, taken what has.
	accepted, taken map[string][]int64
}

func newConfigured(t *testing.T, sinks ...string) *configured {
	t.Helper()
	c := &configured{
		t: t, dir: t.TempDir(), now: &clock{now: at()},
		accepted: make(map[string][]int64), taken: make(map[string][]int64),
	}
	c.open(sinks...)
	return c
}

func (c *configured) open(sinks ...string) {
	c.t.Helper()
	c.close()
	c.j = open(c.t, Options{Dir: c.dir, Sinks: sinks, Now: c.now.Now, Retention: time.Hour, Logger: c.log.logger()})
}

// command opens it as a command does that finds no bridge running.
func (c *configured) command() *Journal {
	c.t.Helper()
	c.close()
	c.j = open(c.t, Options{Dir: c.dir, Sinks: []string{}, KeepSinks: true, Now: c.now.Now})
	return c.j
}

func (c *configured) close() {
	if c.j != nil {
		require.NoError(c.t, c.j.Close(c.t.Context()))
	}
}

func (c *configured) append(n int) {
	c.t.Helper()
	for range n {
		w := webhook(fmt.Sprint(c.j.Head()))
		w.ReceivedAt = c.now.Now()
		mustAppend(c.t, c.j, w)
		for _, sink := range c.j.sinks {
			c.accepted[sink] = append(c.accepted[sink], c.j.Head())
		}
	}
}

// take delivers up to n webhooks to a sink, or all: 0.
func (c *configured) take(sink string, n int) {
	c.t.Helper()
	cursor, err := c.j.Cursor(c.t.Context(), sink)
	require.NoError(c.t, err)
	for left := n; n == 0 || left > 0; {
		page, err := c.j.Waiting(c.t.Context(), sink, cursor, max(left, 1), 1<<20)
		require.NoError(c.t, err)
		if len(page) == 0 {
			return
		}
		for _, w := range page {
			c.taken[sink] = append(c.taken[sink], w.Seq)
		}
		left -= len(page)
		cursor = page[len(page)-1].Seq
		require.NoError(c.t, advance(c.t.Context(), c.j, sink, cursor))
	}
}

// pass lets retention pass.
func (c *configured) pass() {
	c.t.Helper()
	c.now.set(c.now.Now().Add(2 * time.Hour))
	sweep(c.t)
	require.NoError(c.t, sound(c.t.Context(), c.j))
}

func (c *configured) status(sink string) (all Status, s SinkStatus) {
	c.t.Helper()
	all, err := c.j.Status(c.t.Context())
	require.NoError(c.t, err)
	if found := sinkNamed(all.Sinks, sink); found != nil {
		s = *found
	}
	return all, s
}

func (c *configured) stored() []string {
	c.t.Helper()
	all, _ := c.status("")
	found := ids(readAll(c.t, c.j))
	require.Len(c.t, found, int(all.Webhooks), "the count is right")
	return found
}

func TestARemovedSinkKeepsWhatWasAcceptedForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConfigured(t, "a", "b")
		c.append(5)
		c.take("a", 2)
		c.take("b", 0)
		c.open("b")
		left := c.now.Now()
		require.Equal(t, 1, c.log.count(`to_drop_it="fnbridge sinks forget a"`))
		require.Equal(t, 1, c.log.count(`to_rename_it="fnbridge sinks rename a NEW"`))
		c.append(5)
		c.take("b", 0)
		c.pass()
		require.Equal(t, []string{"2", "3", "4"}, c.stored(), "what waits for it, and no more")
		_, s := c.status("a")
		require.False(t, s.Configured)
		require.EqualValues(t, 3, s.Backlog)
		require.True(t, s.OldestUndelivered.Equal(at()))
		require.True(t, s.RemovedAt.Equal(left))

		c.append(1)
		c.open("a", "b")
		_, s = c.status("a")
		require.EqualValues(t, 3, s.Backlog)
		require.Zero(t, s.RemovedAt)
		require.EqualValues(t, 3, c.j.Backlog("a", s.Cursor))
		c.append(1)
		c.take("a", 0)
		require.Equal(t, []int64{1, 2, 3, 4, 5, 12}, c.taken["a"], "what waited, nothing of what came meanwhile, then all")
		c.take("b", 0)
		require.Equal(t, c.accepted["b"], c.taken["b"])
		c.pass()
		require.Empty(t, c.stored())
	})
}

// Whoever leaves, returns, is forgotten or gets another name, and whatever retention takes meanwhile: each sink gets
// what was accepted while it was configured, once.
func TestEverySinkGetsWhatWasAcceptedWhileItWasConfigured(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			sinks := []string{"a", "b", "c"}
			c := newConfigured(t, sinks...)
			some := func() string { return c.j.sinks[random.IntN(len(c.j.sinks))] }
			for step := range 60 {
				switch random.IntN(6) {
				case 0:
					c.append(random.IntN(6))
				case 1:
					c.take(some(), 1+random.IntN(8))
				case 2:
					c.pass()
					c.stored()
				case 3:
					random.Shuffle(len(sinks), func(i, k int) { sinks[i], sinks[k] = sinks[k], sinks[i] })
					c.open(sinks[:1+random.IntN(len(sinks))]...)
				case 4: // a name is changed in the configuration, and then in the journal
					from, to := some(), fmt.Sprintf("renamed%d", step)
					sinks[slices.Index(sinks, from)] = to
					configured := slices.Clone(c.j.sinks)
					configured[slices.Index(configured, from)] = to
					if random.IntN(4) > 0 {
						c.open(configured...)
						c.append(random.IntN(6))
						if random.IntN(2) > 0 {
							c.take(to, 1+random.IntN(4))
							c.pass()
						}
					}
					c.rename(from, to)
					c.open(configured...)
				case 5:
					if sink := sinks[random.IntN(3)]; !slices.Contains(c.j.sinks, sink) {
						_, err := c.j.ForgetSink(t.Context(), sink)
						require.NoError(t, err)
						delete(c.accepted, sink)
						delete(c.taken, sink)
						c.open(sinks...)
					}
				}
			}
			c.open(sinks...)
			c.append(1)
			for _, sink := range sinks {
				_, s := c.status(sink)
				require.EqualValues(t, len(c.accepted[sink])-len(c.taken[sink]), s.Backlog, "seed %d, sink %s", seed, sink)
				c.take(sink, 0)
				require.ElementsMatch(t, c.accepted[sink], c.taken[sink], "seed %d, sink %s", seed, sink)
			}
			c.pass()
			require.Empty(t, c.stored(), "seed %d", seed)
		})
	}
}

// rename renames a sink while no bridge runs.
func (c *configured) rename(from, to string) {
	c.t.Helper()
	_, err := c.command().RenameSink(c.t.Context(), from, to)
	require.NoError(c.t, err)
	for _, all := range []map[string][]int64{c.accepted, c.taken} {
		all[to] = append(all[to], all[from]...)
		delete(all, from)
	}
}

// A full journal keeps nothing for a replay that no sink waits for, even if one that has come back stands far behind.
func TestAReplayOfAnAbsenceEndsBeforeTheJournalIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConfigured(t, "a", "b")
		c.append(1)
		c.open("b")
		c.take("b", 0)
		c.append(5)
		c.take("b", 0)
		c.open("a", "b")
		s, err := c.j.AddReplay(t.Context(), Stream{Sink: "b"})
		require.NoError(t, err)
		c.pass()
		require.Len(t, c.stored(), 6)
		require.NoError(t, c.j.Close(t.Context()))
		c.j = open(t, Options{Dir: c.dir, Sinks: []string{"a", "b"}, MaxBytes: 256 << 10, Now: c.now.Now})
		fill(t, c.j, "more", 3000)
		sweep(t)
		all, err := c.j.AllStreams(t.Context())
		require.NoError(t, err)
		require.Equal(t, s.ID, all[0].ID)
		require.Equal(t, StreamNoRoom, all[0].End)
		require.Equal(t, "0", readAll(t, c.j)[0].ID, "what waits stays")
		require.NoError(t, sound(t.Context(), c.j))
	})
}

func TestForgetASink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConfigured(t, "a", "b")
		c.append(6)
		c.take("a", 2)
		c.take("b", 0)
		letter := deadLetter(1, 0)
		letter.Sink = "a"
		require.NoError(t, c.j.AddDeadLetters(t.Context(), []DeadLetter{letter}))
		_, err := c.j.AddReplay(t.Context(), Stream{Sink: "a"})
		require.NoError(t, err)
		_, err = c.j.ForgetSink(t.Context(), "a")
		require.ErrorContains(t, err, `sink "a" is configured: take it out of FNBRIDGE_SINKS`)
		_, err = c.j.ForgetSink(t.Context(), "x")
		require.ErrorContains(t, err, `knows no sink "x"`)

		c.open("b")
		c.pass()
		require.Len(t, c.stored(), 6, "its replay waits, too")
		held, err := c.j.ForgetSink(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, Held{Webhooks: 4, DeadLetters: 1, Streams: 1}, held)
		c.pass()
		require.Empty(t, c.stored(), "nothing is kept for it")
		_, s := c.status("a")
		require.Zero(t, s)

		c.append(1)
		require.EqualValues(t, 7, c.j.Head())
		c.open("a", "b")
		c.append(1)
		c.taken["a"] = nil
		c.take("a", 0)
		require.Equal(t, []int64{8}, c.taken["a"], "it is a new sink")
	})
}

func TestTheNumbersGoOnWhenTheSinkIsForgottenThatCameFurthest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConfigured(t, "a")
		c.open("b")
		c.append(1)
		c.take("b", 0)
		c.pass()
		c.open("a")
		_, err := c.j.ForgetSink(t.Context(), "b")
		require.NoError(t, err)
		c.open("a")
		c.append(1)
		require.EqualValues(t, 2, c.j.Head())
		c.take("a", 0)
		require.Equal(t, []int64{2}, c.taken["a"])
	})
}

func TestRenameASink(t *testing.T) {
	prepare := func(t *testing.T) *configured {
		t.Helper()
		c := newConfigured(t, "a")
		c.append(6)
		c.take("a", 2)
		letter := deadLetter(1, 0)
		letter.Sink = "a"
		require.NoError(t, c.j.AddDeadLetters(t.Context(), []DeadLetter{letter}))
		_, err := c.j.AddReplay(t.Context(), Stream{Sink: "a"})
		require.NoError(t, err)
		return c
	}
	moved := Held{Webhooks: 4, DeadLetters: 1, Streams: 1}
	all := func(c *configured, numbers ...int64) {
		t.Helper()
		c.take("b", 0)
		require.Equal(c.t, numbers, c.taken["b"])
		letters, err := c.j.DeadLetters(c.t.Context(), DeadLetterFilter{Sink: "b"})
		require.NoError(c.t, err)
		require.Len(c.t, letters, 1)
		streams, err := c.j.Streams(c.t.Context())
		require.NoError(c.t, err)
		require.Equal(c.t, "b", streams[0].Sink)
		_, s := c.status("a")
		require.Zero(c.t, s)
		require.NoError(c.t, sound(c.t.Context(), c.j))
	}
	t.Run("before it is configured under the new name", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := prepare(t)
			held, err := c.command().RenameSink(t.Context(), "a", "b")
			require.NoError(t, err)
			require.Equal(t, moved, held)
			c.open("b")
			require.Zero(t, c.log.count("not configured any more"))
			c.append(1)
			all(c, 3, 4, 5, 6, 7)
		})
	})
	t.Run("after the bridge has run with the new name", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := prepare(t)
			c.open("b")
			c.append(3)
			c.take("b", 2)
			letter := deadLetter(1, 0) // of an event that a replay has had refused under this name, too
			letter.Sink = "b"
			require.NoError(t, c.j.AddDeadLetters(t.Context(), []DeadLetter{letter}))
			c.pass()
			_, err := c.j.RenameSink(t.Context(), "a", "b")
			require.ErrorContains(t, err, `sink "b" is configured in the bridge that runs: stop it`)
			held, err := c.command().RenameSink(t.Context(), "a", "b")
			require.NoError(t, err)
			require.Equal(t, moved, held)
			c.open("b")
			m, err := c.j.NoteMissing(t.Context(), "b", wentBackTo(7), upTo(7), false)
			require.NoError(t, err)
			require.Equal(t, int64(8), m.Through, "it has got 7 and 8, which lie beyond its cursor now")
			c.append(1)
			all(c, 7, 8, 3, 4, 5, 6, 9, 10)
		})
	})
	t.Run("beside a bridge that has neither", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := prepare(t)
			c.open("c")
			held, err := c.j.RenameSink(t.Context(), "a", "b")
			require.NoError(t, err)
			require.Equal(t, moved, held)
			c.append(2)
			c.open("b", "c")
			all(c, 3, 4, 5, 6)
		})
	})
	t.Run("onto a sink that had webhooks of its own meanwhile", func(t *testing.T) {
		c := newConfigured(t, "a", "b")
		c.append(2)
		c.take("b", 0)
		c.open("b")
		_, err := c.command().RenameSink(t.Context(), "a", "b")
		require.ErrorContains(t, err, `there is a sink "b" already`)
		_, err = c.j.RenameSink(t.Context(), "x", "b")
		require.ErrorContains(t, err, `knows no sink "x"`)
		c.open("a", "b")
		c.take("a", 0)
		require.Equal(t, []int64{1, 2}, c.taken["a"], "nothing was changed")
	})
}
