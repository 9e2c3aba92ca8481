package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// fillDisk takes all that the disk under dir has, beside what it has taken before.
func fillDisk(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	file, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // the journal may give some back meanwhile
		for size := 1 << 20; size > 0; {
			if _, err := file.Write(make([]byte, size)); err != nil {
				size /= 2
			}
		}
		space, known := volume.Of(dir)
		return known && space.Free == 0
	}, time.Minute, time.Millisecond)
	require.NoError(t, file.Close())
	return ballast
}

// fillJournal appends until the journal refuses, and returns what it took.
func fillJournal(t *testing.T, j *Journal, prefix string, size int) (acked []string) {
	t.Helper()
	for len(acked) < 10_000 {
		id := fmt.Sprintf("%s-%d", prefix, len(acked))
		if _, err := j.Append(t.Context(), heavy(id, size)); err != nil {
			require.ErrorIs(t, err, ErrDiskFull)
			require.NotErrorIs(t, err, ErrFull)
			return acked
		}
		acked = append(acked, id)
	}
	require.Fail(t, "the disk never gets full")
	return nil
}

func requireAccepts(t *testing.T, j *Journal, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := j.Append(t.Context(), heavy(id, 20_000))
		return err == nil && j.Accepting() == nil
	}, time.Minute, time.Millisecond)
}

func TestAFullDiskStopsAcceptingAndNotDelivering(t *testing.T) {
	t.Parallel()
	disk := machine.SmallDisk(t, 8)
	var log records
	o := Options{Dir: filepath.Join(disk, "data"), Sinks: []string{"nats"}, Logger: log.logger()}
	j, err := Open(t.Context(), o)
	require.NoError(t, err)
	acked := fillJournal(t, j, "first", 20_000)
	require.ErrorIs(t, j.Accepting(), ErrDiskFull)
	require.Zero(t, log.count("cannot write"), "it stops before that")

	// Something else takes the rest. What is not a webhook still goes, again and again.
	ballast := fillDisk(t, disk)
	_, err = j.Append(t.Context(), heavy("refused", 20_000))
	require.ErrorIs(t, err, ErrDiskFull)
	for seq := int64(1); seq <= int64(len(acked))/2; seq++ {
		require.NoError(t, advance(t.Context(), j, "nats", seq))
	}
	require.LessOrEqual(t, log.count("the disk is full"), 1)
	require.Zero(t, log.count("can write again"), "it cannot accept")
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(j.Head(), 0)}))
	require.NoError(t, j.Close(t.Context()), "a stop needs no space")

	fillDisk(t, disk)
	j, err = Open(t.Context(), o)
	require.NoError(t, err, "nor does a start")
	found := ids(readAll(t, j))
	require.Equal(t, acked[len(acked)-len(found):], found)
	require.GreaterOrEqual(t, len(found), len(acked)/2, "only what is delivered makes room")
	require.NoError(t, advance(t.Context(), j, "nats", j.Head()))

	require.NoError(t, os.Remove(ballast))
	requireAccepts(t, j, "after")
	require.NoError(t, checkLog(j.path), "what was refused leaves nothing in the log that looks like damage")
	require.NoError(t, sound(t.Context(), j))
	require.NoError(t, j.Close(t.Context()))
}

// Nothing is written any more when somebody makes room: whoever asks is told at once.
func TestRoomIsSeenWhileNothingIsWritten(t *testing.T) {
	t.Parallel()
	disk := machine.SmallDisk(t, 8)
	j, err := Open(t.Context(), Options{Dir: filepath.Join(disk, "data"), Sinks: []string{"nats"}})
	require.NoError(t, err)
	mustAppend(t, j, webhook("a"))
	ballast := fillDisk(t, disk)
	for seq := int64(1); !j.space.exhausted.Load(); seq++ {
		require.Less(t, seq, int64(10_000), "the disk is not full")
		_ = j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(1, int(seq))})
	}
	require.ErrorIs(t, j.Accepting(), ErrDiskFull)
	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool { return j.Accepting() == nil }, 30*time.Second, 10*time.Millisecond,
		"it looks once a minute by itself")
	require.NoError(t, j.Close(t.Context()))
}

// A journal that has taken the disk itself gets no room but what it makes.
func TestWhatIsDeliveredMakesRoomOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := machine.SmallDisk(t, 12)
	var log records
	j, err := Open(t.Context(), Options{Dir: filepath.Join(disk, "data"), Sinks: []string{"nats"}, Logger: log.logger()})
	require.NoError(t, err)
	for round := range 5 {
		fillJournal(t, j, fmt.Sprint(round), 1000+round*15_000)
		require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
		requireAccepts(t, j, fmt.Sprint("after", round))
	}
	require.Zero(t, log.count("cannot write"))
	require.NoError(t, j.Close(t.Context()))
}

func TestAStartAfterAKillOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := machine.SmallDisk(t, 12)
	dir := filepath.Join(disk, "data")
	p := start(t, "append", dir, "run")
	var lines []string
	for refused := false; !refused; {
		line, more := p.next(t)
		require.True(t, more)
		lines = append(lines, line)
		_, failed := acknowledged([]string{line})
		refused = len(failed) > 0
	}
	acked, _ := acknowledged(append(lines, p.kill(t)...))
	ballast := fillDisk(t, disk)
	for range 3 {
		j, err := Open(t.Context(), Options{Dir: dir, Sinks: []string{"nats"}})
		require.NoError(t, err)
		require.Subset(t, ids(readAll(t, j)), acked[len(acked)-10:])
		cursor, err := j.Cursor(t.Context(), "nats")
		require.NoError(t, err)
		require.NoError(t, advance(t.Context(), j, "nats", cursor+1))
		require.NoError(t, j.Close(t.Context()))
		fillDisk(t, disk)
	}
	require.NoError(t, os.Remove(ballast))
	j, err := Open(t.Context(), Options{Dir: dir, Sinks: []string{"nats"}})
	require.NoError(t, err)
	require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
	requireAccepts(t, j, "after")
	require.NoError(t, sound(t.Context(), j))
	require.NoError(t, j.Close(t.Context()))
}

// The log must not outgrow a small disk, also while what is past its retention is deleted.
func TestTheLogStaysSmallWhileRetentionCleans(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := &clock{now: at()}
	o := Options{Dir: dir, MaxBytes: 64 << 20, Sinks: []string{"nats"}, Now: now.Now, Retention: time.Hour}
	j, err := Open(t.Context(), o)
	require.NoError(t, err)
	fillWith(t, j, 8_000)
	require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
	require.NoError(t, j.Close(t.Context()))
	now.set(at().Add(2 * time.Hour))
	o.Retention = time.Minute
	j, err = Open(t.Context(), o)
	require.NoError(t, err)
	most := int64(0)
	require.Eventually(t, func() bool {
		most = max(most, fileSize(j.path+"-wal"))
		return j.stored() == 0
	}, 2*time.Minute, time.Millisecond)
	require.LessOrEqual(t, most, j.limits.keep)
	require.NoError(t, j.Close(t.Context()))
}

func fillWith(t *testing.T, j *Journal, n int) {
	t.Helper()
	const callers = 64
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := caller; i < n; i += callers {
				_, err := j.Append(t.Context(), heavy(fmt.Sprint(i), 700))
				errs[caller] = errors.Join(errs[caller], err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}

// A command gives up the reserve as a start does, and leaves what the next start needs. Readers need some of it.
func TestCommandsOnAFullDiskLeaveWhatAStartNeeds(t *testing.T) {
	for _, killed := range []bool{true, false} {
		t.Run(map[bool]string{true: "killed", false: "stopped"}[killed], func(t *testing.T) {
			disk := machine.SmallDisk(t, 40)
			dir := filepath.Join(disk, "data")
			p := start(t, "append", dir, "run")
			for range 100 {
				_, more := p.next(t)
				require.True(t, more)
			}
			if killed {
				p.kill(t)
			} else {
				p.end(t)
			}
			ballast := fillDisk(t, disk)
			for _, read := range []bool{false, true} {
				requireReadable(t, dir)
				fillDisk(t, disk)
				j, err := Open(t.Context(), Options{Dir: dir, KeepSinks: true})
				require.NoError(t, err)
				_, err = j.AddReplay(t.Context(), Stream{Sink: "nats"})
				require.NoError(t, err)
				require.NoError(t, j.Close(t.Context()))
				fillDisk(t, disk)
				if read {
					requireReadable(t, dir)
					fillDisk(t, disk)
				}

				j, err = Open(t.Context(), Options{Dir: dir, Sinks: []string{"nats"}})
				require.NoError(t, err, "a start needs no space")
				cursor, err := j.Cursor(t.Context(), "nats")
				require.NoError(t, err)
				require.NoError(t, advance(t.Context(), j, "nats", cursor+1), "nor does a cursor")
				require.NoError(t, j.Close(t.Context()))
				fillDisk(t, disk)
			}
			require.NoError(t, os.Remove(ballast))
			j, err := Open(t.Context(), Options{Dir: dir, Sinks: []string{"nats"}})
			require.NoError(t, err)
			require.NoError(t, advance(t.Context(), j, "nats", j.Head()))
			requireAccepts(t, j, "after")
			require.NoError(t, sound(t.Context(), j))
			require.NoError(t, j.Close(t.Context()))
		})
	}
}

func requireReadable(t *testing.T, dir string) {
	t.Helper()
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	s, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Positive(t, s.Webhooks)
	require.NoError(t, r.Close())
}

// Where nothing is left for it, SQLite calls it an I/O error that the index of the log has no room.
func TestAFullDiskWithoutAReserveIsCalledFull(t *testing.T) {
	disk := machine.SmallDisk(t, 8)
	dir := filepath.Join(disk, "data")
	o := Options{Dir: dir, Sinks: []string{"nats"}}
	j, err := Open(t.Context(), o)
	require.NoError(t, err)
	mustAppend(t, j, webhook("a"))
	require.NoError(t, j.Close(t.Context()))
	require.NoError(t, os.Remove(filepath.Join(dir, fileName+reserveSuffix)))
	ballast := fillDisk(t, disk)
	for range 2 {
		_, err = OpenReader(t.Context(), dir)
		require.ErrorIs(t, err, ErrDiskFull)
		require.ErrorContains(t, err, "make room on the volume of "+dir)
		for _, o := range []Options{o, {Dir: dir, KeepSinks: true}} {
			_, err = Open(t.Context(), o)
			require.ErrorIs(t, err, ErrDiskFull)
			require.ErrorContains(t, err, "make room on the volume of "+dir)
		}
	}
	require.NoError(t, os.Remove(ballast))
	j, err = Open(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, ids(readAll(t, j)))
	require.NoError(t, j.Close(t.Context()))
}

// What something else takes between a start and its first write must not be all of the reserve.
func TestAStartOnAFullDiskLeavesItsFirstWriteRoom(t *testing.T) {
	disk := machine.SmallDisk(t, 32)
	o := Options{Dir: filepath.Join(disk, "data"), Sinks: []string{"nats"}}
	j, err := Open(t.Context(), o)
	require.NoError(t, err)
	for i := range 4 {
		mustAppend(t, j, webhook(fmt.Sprint(i)))
	}
	require.NoError(t, j.Close(t.Context()))
	for seq := range int64(3) {
		fillDisk(t, disk)
		j, err := Open(t.Context(), o)
		require.NoError(t, err)
		fillDisk(t, disk)
		require.NoError(t, advance(t.Context(), j, "nats", seq+1))
		require.NoError(t, j.Close(t.Context()))
	}
}
