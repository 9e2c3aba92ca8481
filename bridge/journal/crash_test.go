package journal

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestWhatWasAcknowledgedSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	var acked []string
	for run := range 4 {
		p := start(t, "append", dir, fmt.Sprint(run))
		var lines []string
		for range 150 * (run + 1) {
			line, more := p.next(t)
			require.True(t, more, "the process ended by itself")
			lines = append(lines, line)
		}
		got, failed := acknowledged(append(lines, p.kill(t)...))
		require.Empty(t, failed)
		acked = append(acked, got...)

		// A reader finds it in what the crash left, before any serve has been there again.
		r, err := OpenReader(t.Context(), dir)
		require.NoError(t, err)
		s, err := r.Status(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, s.Webhooks, int64(len(acked)))
		require.NoError(t, r.Close())

		j := open(t, Options{Dir: dir})
		stored := readAll(t, j)
		require.Subset(t, ids(stored), acked)
		for i, w := range stored {
			require.Equal(t, int64(i+1), w.Seq, "no gaps")
		}
		cursor, err := j.Cursor(t.Context(), "nats")
		require.NoError(t, err)
		require.LessOrEqual(t, cursor, j.Head())
		require.NoError(t, sound(t.Context(), j))
		require.NoError(t, j.Close(t.Context()))
	}
}

// copyFile copies in another process: closing a file that SQLite has open here would drop SQLite's locks.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", from, to).CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestATornLogOpensWithWhatCameBefore(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	log := filepath.Join(dir, "journal.db-wal")
	size := func() int64 {
		info, err := os.Stat(log)
		require.NoError(t, err)
		return info.Size()
	}
	begin := size()
	var ends []int64
	for i := range 12 {
		mustAppend(t, j, heavy(fmt.Sprint(i), i*1000))
		ends = append(ends, size())
	}
	copied := t.TempDir()
	copyFile(t, filepath.Join(dir, "journal.db"), filepath.Join(copied, "journal.db"))
	copyFile(t, log, filepath.Join(copied, "journal.db-wal"))
	database, err := os.ReadFile(filepath.Join(copied, "journal.db"))
	require.NoError(t, err)
	whole, err := os.ReadFile(filepath.Join(copied, "journal.db-wal"))
	require.NoError(t, err)
	require.Len(t, whole, int(ends[len(ends)-1]))

	tears := map[string]func(at int64) []byte{
		"cut off": func(at int64) []byte { return whole[:at] },
		"zeros": func(at int64) []byte {
			torn := slices.Clone(whole)
			clear(torn[at:])
			return torn
		},
		"other bytes": func(at int64) []byte {
			torn := slices.Clone(whole)
			for i := at; i < min(at+512, int64(len(torn))); i++ {
				torn[i] ^= 0xa5
			}
			return torn
		},
	}
	// The place behind which nothing is left whole decides what can come back.
	places := []int64{0, 1, 31, 32, 33, begin - 1, begin}
	for i, end := range ends {
		places = append(places, end-1, end)
		if i%3 == 0 {
			places = append(places, end-2000, end-4096-24, end+12)
		}
	}
	for kind, tear := range tears {
		t.Run(kind, func(t *testing.T) {
			for i, place := range places {
				if place >= int64(len(whole)) || i%len(tears) == len(kind)%len(tears) {
					continue // each kind of tear at two of three places
				}
				bytes := tear(place)
				for place < int64(len(bytes)) && bytes[place] == whole[place] {
					place++ // a zero where there was one is no tear
				}
				torn := t.TempDir()
				require.NoError(t, os.WriteFile(filepath.Join(torn, "journal.db"), database, 0o600))
				require.NoError(t, os.WriteFile(filepath.Join(torn, "journal.db-wal"), bytes, 0o600))
				j, err := Open(t.Context(), Options{Dir: torn, Sinks: []string{"nats"}})
				if kind == "other bytes" && place < ends[len(ends)-2] {
					require.ErrorAs(t, err, new(*DamagedError), "at %d: later commits stand behind it", place)
					continue
				}
				require.NoError(t, err, "at %d", place)
				expected := []string{}
				for n, end := range ends {
					if end <= place {
						expected = append(expected, fmt.Sprint(n))
					}
				}
				require.Equal(t, expected, ids(readAll(t, j)), "at %d", place)
				require.Equal(t, int64(len(expected)), j.Head())
				mustAppend(t, j, webhook("next"))
				require.NoError(t, j.Close(t.Context()))
			}
		})
	}
}

func TestAStartThatWasCutOffLeavesNothingInTheWay(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"journal.db.new", "journal.db.new-wal", "journal.db.new-shm"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
	}
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("a"))
	require.NoFileExists(t, filepath.Join(dir, "journal.db.new"))
}

// closedJournal returns the directory of a journal with content that was closed cleanly.
func closedJournal(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	for i := range 20 {
		mustAppend(t, j, heavy(fmt.Sprint(i), 5000))
	}
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(1, 0)}))
	require.NoError(t, j.Close(t.Context()))
	return dir
}

// edit changes a closed journal as the sqlite3 tool would.
func edit(statements string) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		t.Helper()
		db, err := sql.Open(driverName, path)
		require.NoError(t, err)
		_, err = db.ExecContext(context.Background(), statements)
		require.NoError(t, err)
		require.NoError(t, db.Close())
	}
}

func TestADamagedJournalIsRefusedAndLeftAsItIs(t *testing.T) {
	truncate := func(size int64) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Truncate(path, size))
		}
	}
	overwrite := func(at int64, with []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			t.Helper()
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = file.WriteAt(with, at)
			require.NoError(t, err)
			require.NoError(t, file.Close())
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, path string)
		says   string
	}{
		"empty file":             {truncate(0), "cut off after 0 bytes"},
		"short file":             {truncate(50), "cut off after 50 bytes"},
		"last pages gone":        {truncate(8 * pageSize), "malformed"},
		"not a database":         {overwrite(0, []byte("hello")), "does not begin as a SQLite database does"},
		"first page overwritten": {overwrite(100, make([]byte, 2000)), "malformed"},
		"a page in the middle":   {overwrite(6*pageSize, make([]byte, pageSize)), ""},
		"another database":       {edit("PRAGMA application_id = 1"), "not a journal of fnbridge (application id 0x1)"},
		"version zero":           {edit("PRAGMA user_version = 0"), "schema version is 0"},
		"a table gone":           {edit("DROP TABLE sinks"), "the table sinks has no column sink"},
		"a column gone": {
			edit("ALTER TABLE webhooks DROP COLUMN received_at"), "the table webhooks has no column received_at",
		},
		"database gone, log there": {func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Rename(path, path+"-wal"))
		}, "the file is missing, and its write-ahead log journal.db-wal is there"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := closedJournal(t)
			path := filepath.Join(dir, "journal.db")
			c.damage(t, path)
			sums := func() map[string][32]byte {
				all := make(map[string][32]byte)
				for _, name := range []string{path, path + "-wal"} {
					if content, err := os.ReadFile(name); err == nil && len(content) > 0 {
						all[name] = sha256.Sum256(content)
					}
				}
				return all
			}
			before := sums()
			_, err := Open(t.Context(), Options{Dir: dir, Sinks: []string{"nats"}})
			var damage *DamagedError
			require.ErrorAs(t, err, &damage)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "nothing has been changed. Restore")
			require.Equal(t, before, sums())
		})
	}
}

func TestANewerJournalIsRefused(t *testing.T) {
	dir := closedJournal(t)
	edit("PRAGMA user_version = 7")(t, filepath.Join(dir, "journal.db"))
	_, err := Open(t.Context(), Options{Dir: dir})
	var version *VersionError
	require.ErrorAs(t, err, &version)
	require.Equal(t, VersionError{Path: filepath.Join(dir, "journal.db"), Found: 7, Known: schemaVersion}, *version)
	require.ErrorContains(t, err, "start the newer fnbridge that wrote it")
	_, err = OpenReader(t.Context(), dir)
	require.ErrorAs(t, err, &version)

	edit(fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))(t, filepath.Join(dir, "journal.db"))
	require.Len(t, readAll(t, open(t, Options{Dir: dir})), 20, "the refusal kept no lock")
}

func TestAFileThatIsTakenAwayIsNoticed(t *testing.T) {
	dir := t.TempDir()
	var log records
	j := open(t, Options{Dir: dir, Logger: log.logger()})
	mustAppend(t, j, webhook("a"))
	for _, name := range []string{"journal.db", "journal.db-wal"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.Rename(path, path+".away"))
		for range 3 {
			_, err := j.Append(t.Context(), webhook("after "+name))
			require.ErrorContains(t, err, path+": the file was removed or replaced while in use")
		}
		require.Equal(t, 1, log.count("cannot write"), "said once")
		require.NoError(t, os.Rename(path+".away", path))
		mustAppend(t, j, webhook("after "+name))
		require.Equal(t, 1, log.count("can write again"))
		log.mu.Lock()
		log.text.Reset()
		log.mu.Unlock()
	}
	require.Equal(t, []string{"a", "after journal.db", "after journal.db-wal"}, ids(readAll(t, j)))
	require.NoError(t, sound(t.Context(), j))
}

func TestVerifyFindsDamage(t *testing.T) {
	dir := closedJournal(t)
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	_, err = r.Verify(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	// An index entry that its table does not have.
	edit("PRAGMA writable_schema = ON; UPDATE sqlite_schema "+
		"SET sql = replace(sql, 'ON dead_letters (sink, id)', 'ON dead_letters (reason, id)') "+
		"WHERE name = 'dead_letters_by_sink'")(t, filepath.Join(dir, "journal.db"))
	r, err = OpenReader(t.Context(), dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	var damage *DamagedError
	_, err = r.Verify(t.Context(), nil)
	require.ErrorAs(t, err, &damage)
	require.ErrorContains(t, damage, "dead_letters_by_sink")
}

func TestARefusedStatementTakesNothingElseWithIt(t *testing.T) {
	dir := closedJournal(t)
	edit(`CREATE TRIGGER no_webhook BEFORE INSERT ON webhooks WHEN new.id LIKE 'poison%'
		BEGIN SELECT RAISE(ABORT, 'poisoned'); END;
		CREATE TRIGGER no_letter BEFORE INSERT ON dead_letters WHEN new.reason = 'poison'
		BEGIN SELECT RAISE(ABORT, 'poisoned'); END`)(
		t, filepath.Join(dir, "journal.db"))
	registry := prometheus.NewRegistry()
	j := open(t, Options{Dir: dir, Registerer: registry})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if i%4 == 0 {
				_, err := j.Append(context.Background(), webhook(fmt.Sprint("poison-", i)))
				if err == nil || !strings.Contains(err.Error(), "poisoned") {
					t.Errorf("append of the poison: %v", err)
				}
				return
			}
			if _, err := j.Append(context.Background(), webhook(fmt.Sprint("good-", i))); err != nil {
				t.Errorf("append beside the poison: %v", err)
			}
		})
		wg.Go(func() {
			good, bad := deadLetter(int64(100+i), 0), deadLetter(int64(100+i), 1)
			letters := []DeadLetter{good}
			if i%4 == 0 {
				bad.Reason = "poison"
				letters = append(letters, bad)
			}
			if err := j.AddDeadLetters(context.Background(), letters); (err != nil) != (i%4 == 0) {
				t.Errorf("dead letters %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	all := readAll(t, j)
	require.Len(t, all, 20+150)
	require.Equal(t, int64(len(all)), j.Head())
	letters, err := j.DeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.Len(t, letters, 1+150, "all or none of a call's")
	require.Equal(t, map[string]float64{"nats": 151}, gauges(t, registry, "fnbridge_dead_letters"))
}
