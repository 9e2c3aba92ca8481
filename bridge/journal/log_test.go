package journal

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// trialsVariable says how many damages and power failures are tried: by default few enough for every run.
const trialsVariable = "JOURNAL_TEST_TRIALS"

func trials(t *testing.T) int {
	t.Helper()
	text := os.Getenv(trialsVariable)
	if text == "" {
		return 60
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// crashed is what a process that ends between two commits leaves: the database and its log.
type crashed struct {
	database, log []byte
	acked         []bridge.Webhook
}

// copyFiles copies the files of a journal in use, as a kill at this moment would leave them.
func copyFiles(t *testing.T, dir string, acked []bridge.Webhook) crashed {
	t.Helper()
	to := t.TempDir()
	a := crashed{acked: slices.Clone(acked)}
	for suffix, content := range map[string]*[]byte{"": &a.database, "-wal": &a.log} {
		copyFile(t, filepath.Join(dir, fileName+suffix), filepath.Join(to, fileName+suffix))
		var err error
		*content, err = os.ReadFile(filepath.Join(to, fileName+suffix))
		require.NoError(t, err)
	}
	return a
}

// put writes the files into a directory of their own, under this boot or another one.
func (a *crashed) put(t *testing.T, sameBoot bool) string {
	t.Helper()
	dir := t.TempDir()
	boot := "another"
	if sameBoot {
		boot = bootID()
	}
	for suffix, content := range map[string][]byte{"": a.database, "-wal": a.log, bootSuffix: []byte(boot)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName+suffix), content, 0o600))
	}
	return dir
}

// start opens the journal and returns the webhooks that it has.
func (a *crashed) start(t *testing.T, dir string) ([]Webhook, error) {
	t.Helper()
	j, err := Open(t.Context(), Options{Dir: dir, Sinks: []string{"nats"}})
	if err != nil {
		return nil, err
	}
	found, err := j.Read(t.Context(), 0, len(a.acked)+10, 1<<30)
	if err == nil {
		err = j.Close(t.Context())
	} else {
		_ = j.Close(t.Context())
	}
	return found, err
}

// history returns what a journal leaves after each of some commits, in a log that is used for the second time: behind
// its end stand frames of the first.
func history(t *testing.T, random *rand.Rand, commits int) []crashed {
	t.Helper()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	var acked []bridge.Webhook
	add := func(size int) {
		w := heavy(fmt.Sprint("w", len(acked)), size)
		mustAppend(t, j, w)
		acked = append(acked, w)
	}
	for range 15 {
		add(random.IntN(60_000))
	}
	db, err := openStore(t.Context(), j.path, mostLogBytes)
	require.NoError(t, err)
	result, err := scanCheckpoint(db.passive.QueryRowContext(t.Context()))
	require.NoError(t, err)
	require.True(t, result.complete())
	require.NoError(t, db.close())
	states := []crashed{copyFiles(t, dir, acked)}
	for range commits {
		add(random.IntN(60_000))
		states = append(states, copyFiles(t, dir, acked))
	}
	return states
}

// holdsCurrent tells whether a frame of the log's present use begins at or behind an offset.
func (a *crashed) holdsCurrent(offset int) bool {
	const size = frameHeader + pageSize
	for at := logHeaderSize; at+size <= len(a.log); at += size {
		if at >= offset && bytes.Equal(a.log[at+8:at+16], a.log[16:24]) {
			return true
		}
	}
	return false
}

func TestDamageThatCanBeToldIsRefused(t *testing.T) {
	if bootID() == "" {
		t.Skip("the system does not say under which boot it runs")
	}
	random := rand.New(rand.NewPCG(1, 2))
	states := history(t, random, 10)
	whole := &states[len(states)-1]
	counts := map[string]int{}
	for trial := range trials(t) {
		damaged := crashed{database: bytes.Clone(whole.database), log: bytes.Clone(whole.log), acked: whole.acked}
		file, name := damaged.database, "database"
		sectors := len(file) / sectorSize
		sector := random.IntN(sectors + len(damaged.log)/sectorSize)
		if sector >= sectors {
			file, name, sector = damaged.log, "log", sector-sectors
		}
		hit := file[sector*sectorSize : (sector+1)*sectorSize]
		before := bytes.Clone(hit)
		if random.IntN(2) == 0 {
			clear(hit)
		} else {
			for i := range hit {
				hit[i] = byte(random.Uint32())
			}
		}
		if bytes.Equal(before, hit) {
			counts["no change"]++
			continue
		}
		dir := damaged.put(t, true)
		found, err := damaged.start(t, dir)
		what := fmt.Sprintf("trial %d: sector %d of the %s", trial, sector, name)
		if err != nil {
			require.ErrorAs(t, err, new(*DamagedError), what)
			for suffix, content := range map[string][]byte{"": damaged.database, "-wal": damaged.log} {
				now, err := os.ReadFile(filepath.Join(dir, fileName+suffix))
				require.NoError(t, err, what)
				require.True(t, bytes.Equal(content, now), "%s: the refused start has changed %s", what, fileName+suffix)
			}
			counts[name+": refused"]++
			continue
		}
		if len(found) == len(whole.acked) {
			// What is written over a row's bytes, and leaves its structure, nothing shows at a start.
			if reflect.DeepEqual(numbered(whole.acked), found) {
				counts[name+": started with all"]++
			} else {
				counts[name+": started with all, the bytes of one changed"]++
			}
			continue
		}
		counts[name+": started with less"]++
		require.Equal(t, "log", name, "%s: started with %d of %d", what, len(found), len(whole.acked))
		frame := ((sector+1)*sectorSize - 1 - logHeaderSize) / (frameHeader + pageSize) // the last one that is hit
		require.False(t, whole.holdsCurrent(logHeaderSize+(frame+1)*(frameHeader+pageSize)),
			"%s: started with %d of %d, though frames stand behind it", what, len(found), len(whole.acked))
	}
	t.Log(counts)
}

func TestARefusedLogIsLeftAsItIsAndReadersRefuseItToo(t *testing.T) {
	states := history(t, rand.New(rand.NewPCG(3, 4)), 6)
	damaged := states[len(states)-1]
	clear(damaged.log[logHeaderSize+3000 : logHeaderSize+3512])
	for _, sameBoot := range []bool{true, false} {
		dir := damaged.put(t, sameBoot)
		_, err := OpenReader(t.Context(), dir)
		require.ErrorAs(t, err, new(*DamagedError))
		require.NoFileExists(t, filepath.Join(dir, lockName), "a reader writes nothing")
		for range 2 {
			_, err := damaged.start(t, dir)
			var refused *DamagedError
			require.ErrorAs(t, err, &refused)
			require.ErrorContains(t, err, "journal.db-wal is damaged: frame 1 cannot be read")
			require.ErrorContains(t, err, "wal_checkpoint(TRUNCATE)")
			_, err = OpenReader(t.Context(), dir)
			require.ErrorAs(t, err, &refused)
		}
		for suffix, content := range map[string][]byte{"": damaged.database, "-wal": damaged.log} {
			now, err := os.ReadFile(filepath.Join(dir, fileName+suffix))
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, now), suffix)
		}

		// What the error says gets out what stands before the damage.
		db, err := sql.Open(driverName, dataSource(filepath.Join(dir, fileName)))
		require.NoError(t, err)
		result, err := checkpoint(t.Context(), db)
		require.NoError(t, errors.Join(err, db.Close()))
		require.False(t, result.busy)
		r, err := OpenReader(t.Context(), dir)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		found, err := damaged.start(t, dir)
		require.NoError(t, err)
		require.Equal(t, numbered(states[0].acked), found)
	}
}

func TestALogWithoutItsHeaderIsRefused(t *testing.T) {
	states := history(t, rand.New(rand.NewPCG(5, 6)), 2)
	damaged := states[len(states)-1]
	clear(damaged.log[:logHeaderSize])
	_, err := damaged.start(t, damaged.put(t, false))
	require.ErrorAs(t, err, new(*DamagedError))
	require.ErrorContains(t, err, "its header cannot be read")
}

// When power fails, any of the sectors of the last commit may have reached the disk.
func TestAPowerFailureIsNoDamage(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	states := history(t, random, 12)
	counts := map[string]int{}
	for trial := range trials(t) {
		n := 1 + random.IntN(len(states)-1)
		before, after := &states[n-1], &states[n]
		log := bytes.Clone(before.log)
		copy(log, after.log[:logHeaderSize]) // a log that begins anew has its header synced first
		log = append(log, make([]byte, max(len(after.log)-len(log), 0))...)
		landed := random.Float64()
		for at := 0; at < len(log); at += sectorSize {
			if end := min(at+sectorSize, len(log)); random.Float64() < landed {
				copy(log[at:end], after.log[at:end])
			}
		}
		if len(after.log) > len(before.log) && random.IntN(2) == 0 { // the file's length lands apart from its content
			log = log[:len(before.log)+random.IntN(len(after.log)-len(before.log))]
		}
		failed := crashed{database: after.database, log: log, acked: before.acked}
		found, err := failed.start(t, failed.put(t, false))
		require.NoError(t, err, "trial %d", trial)
		require.Equal(t, numbered(before.acked), found[:min(len(before.acked), len(found))], "trial %d", trial)
		counts[fmt.Sprintf("started with %d of the last commit", len(found)-len(before.acked))]++
	}
	t.Log(counts)
}

// A process that is killed has written the first part of its commit.
func TestAKillInTheMiddleOfACommitIsNoDamage(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	states := history(t, random, 12)
	for trial := range trials(t) {
		n := 1 + random.IntN(len(states)-1)
		before, after := &states[n-1], &states[n]
		first, last := 0, min(len(before.log), len(after.log))
		for first < last && before.log[first] == after.log[first] {
			first++
		}
		end := first + random.IntN(len(after.log)-first)
		log := bytes.Clone(after.log[:end])
		if end < len(before.log) {
			log = append(log, before.log[end:]...)
		}
		killed := crashed{database: after.database, log: log, acked: before.acked}
		found, err := killed.start(t, killed.put(t, true))
		require.NoError(t, err, "trial %d", trial)
		require.Equal(t, numbered(before.acked), found[:min(len(before.acked), len(found))], "trial %d", trial)
	}
}

// A serve that runs writes to the log that a reader looks at.
func TestAReaderBesideAServeLeavesTheLogToIt(t *testing.T) {
	states := history(t, rand.New(rand.NewPCG(11, 12)), 3)
	damaged := states[len(states)-1]
	damaged.log[logHeaderSize+1000] ^= 1
	dir := damaged.put(t, true)
	l, err := lockDirectory(dir)
	require.NoError(t, err)
	require.NoError(t, checkLogUnused(dir, filepath.Join(dir, fileName)))
	require.NoError(t, l.release())
	require.Error(t, checkLogUnused(dir, filepath.Join(dir, fileName)))
}
