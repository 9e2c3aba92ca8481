package journal

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// versionOne returns a directory with testdata/version1.db, which an fnbridge made that knew schema version 1 only: it
// was opened for the sinks audit and nats, took the webhooks 1 to 4, moved audit's cursor to 1 and that of nats to 3,
// stored the dead letters below and a state of nats, was closed, opened again for nats alone, took webhook 5 and was
// closed.
func versionOne(t *testing.T) (dir string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "version1.db"))
	require.NoError(t, err)
	dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), content, 0o600))
	return dir
}

func versionOneLetters() []DeadLetter {
	audit := deadLetter(2, 1)
	audit.Sink, audit.Event.Data = "audit", bytes.Repeat([]byte("y"), 5000)
	letters := []DeadLetter{deadLetter(1, 0), audit, deadLetter(3, 0)}
	for i := range letters {
		l := &letters[i]
		l.ID = int64(i + 1)
		e := &l.Event
		// What that version did not store.
		e.Version, e.Sandbox, e.SandboxName, e.Outcome, e.Reason, e.SourceID, e.Sequence = "", "", "", "", "", "", ""
		e.Origin.Webhook, e.Origin.Replay = bridge.WebhookDigest(e.WebhookID, fmt.Appendf(nil, "webhook %d", l.WebhookSeq)), 0
	}
	return letters
}

// requireVersionOne asks for everything that testdata/version1.db holds.
func requireVersionOne(t *testing.T, s Status, webhooks []Webhook, letters []DeadLetter) {
	t.Helper()
	require.Equal(t, versionOneLetters(), letters)
	require.Equal(t, []string{"1", "2", "3", "4", "5"}, ids(webhooks))
	require.Equal(t, webhook("2").Body, webhooks[1].Body)
	for i := range s.Sinks {
		s.Sinks[i].absences = nil // which no version before the fifth knew
	}
	require.Equal(t, `{"text":"`+string(bytes.Repeat([]byte("x"), 5000))+`"}`, string(webhooks[3].Body))
	require.True(t, webhooks[3].ReceivedAt.Equal(at().Add(time.Minute)))
	require.Equal(t, []SinkStatus{
		{
			Sink: "audit", Cursor: 1, Backlog: 4, OldestUndelivered: at().Add(time.Second), DeadLetters: 1,
			State: SinkState{Sink: "audit"},
		},
		{
			Sink: "nats", Configured: true, Cursor: 3, Backlog: 2, OldestUndelivered: at().Add(time.Minute), DeadLetters: 2,
			State: SinkState{Sink: "nats", State: "down", LastError: "connection refused", LastErrorAt: at(), Since: at()},
		},
	}, s.Sinks)
}

func requireVersion(t *testing.T, expected int, path string) {
	t.Helper()
	db, err := sql.Open(driverName, path)
	require.NoError(t, err)
	var version int
	require.NoError(t, db.QueryRowContext(t.Context(), "PRAGMA user_version").Scan(&version))
	require.NoError(t, db.Close())
	require.Equal(t, expected, version)
}

func TestAnOlderJournalIsReadAsItIs(t *testing.T) {
	dir := versionOne(t)
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	s, err := r.Status(t.Context())
	require.NoError(t, err)
	webhooks, err := r.Select(t.Context(), WebhookFilter{}, 10, 1<<20)
	require.NoError(t, err)
	letters, err := r.DeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	requireVersionOne(t, s, webhooks, letters)
	letters, err = r.DeadLetters(t.Context(), DeadLetterFilter{Retrying: true})
	require.NoError(t, err)
	require.Empty(t, letters)
	count, bytes, err := r.CountDeadLetters(t.Context(), DeadLetterFilter{Unpublished: true})
	require.NoError(t, err)
	require.Equal(t, []int64{3, 5014}, []int64{count, bytes})
	report, err := r.Verify(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.Equal(t, []int64{5, 3}, []int64{report.Webhooks, report.DeadLetters})

	// It still answers when a serve migrates the journal meanwhile.
	j := open(t, Options{Dir: dir})
	_, err = j.RetryDeadLetters(t.Context(), DeadLetterFilter{Sink: "nats"})
	require.NoError(t, err)
	fresh := deadLetter(4, 0)
	require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{fresh}))
	fresh.ID = 4
	letters, err = r.DeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.Len(t, letters, 4)
	require.Equal(t, fresh, letters[3])
	require.NoError(t, r.Close())
}

func TestAnOlderJournalIsMigrated(t *testing.T) {
	dir := versionOne(t)
	var log records
	for range 2 {
		j := open(t, Options{Dir: dir, Logger: log.logger()})
		s, err := j.Status(t.Context())
		require.NoError(t, err)
		letters, err := j.DeadLetters(t.Context(), DeadLetterFilter{})
		require.NoError(t, err)
		requireVersionOne(t, s, readAll(t, j), letters)
		require.NoError(t, sound(t.Context(), j))
		require.NoError(t, j.Close(t.Context()))
		requireVersion(t, schemaVersion, filepath.Join(dir, fileName))
		require.Equal(t, 1, log.count("brought to a new schema"), "once")
	}
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("6"))
	marked, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{Sink: "nats"})
	require.NoError(t, err)
	require.Equal(t, int64(2), marked)
	require.Equal(t, []int64{1, 3}, letterIDs(t, j, DeadLetterFilter{Retrying: true}))
}

// testdata/version2.db is what an fnbridge that knew version 2 made of version1.db: it published letter 1 and marked
// letter 3.
func TestAJournalOfVersionTwoIsMigrated(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("testdata", "version2.db"))
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), content, 0o600))
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	before, err := r.DeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.NoError(t, r.Close())

	j := open(t, Options{Dir: dir})
	letters, err := j.DeadLetters(t.Context(), DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, before, letters)
	require.Equal(t, []int64{3}, letterIDs(t, j, DeadLetterFilter{Retrying: true}))
	require.Equal(t, []int64{2, 3}, letterIDs(t, j, DeadLetterFilter{Unpublished: true}))
	for i := range letters {
		letters[i].RetryAt, letters[i].PublishedAt = time.Time{}, time.Time{}
	}
	require.Equal(t, versionOneLetters(), letters)
}

func TestAMigratedJournalIsLikeANewOne(t *testing.T) {
	schemaOf := func(dir string) (all []string) {
		t.Helper()
		db, err := sql.Open(driverName, filepath.Join(dir, fileName))
		require.NoError(t, err)
		defer func() { require.NoError(t, db.Close()) }()
		rows, err := db.QueryContext(t.Context(),
			"SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY name")
		require.NoError(t, err)
		for rows.Next() {
			var line string
			require.NoError(t, rows.Scan(&line))
			all = append(all, line)
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
		return all
	}
	migrated, made := versionOne(t), t.TempDir()
	for _, dir := range []string{migrated, made} {
		require.NoError(t, open(t, Options{Dir: dir}).Close(t.Context()))
	}
	require.Equal(t, schemaOf(made), schemaOf(migrated))
}

// A migration that is cut off leaves a log that ends anywhere in it.
func TestAMigrationThatIsCutOff(t *testing.T) {
	dir := versionOne(t)
	path := filepath.Join(dir, fileName)
	s, err := openStore(t.Context(), path, mostLogBytes)
	require.NoError(t, err)
	require.Equal(t, 1, s.migratedFrom)
	copied := t.TempDir()
	copyFile(t, path, filepath.Join(copied, fileName))
	copyFile(t, path+"-wal", filepath.Join(copied, fileName+"-wal"))
	require.NoError(t, s.close())
	log, err := os.ReadFile(filepath.Join(copied, fileName+"-wal"))
	require.NoError(t, err)
	database, err := os.ReadFile(filepath.Join(copied, fileName))
	require.NoError(t, err)
	const header, frame = 32, pageSize + 24
	require.Greater(t, len(log), header+2*frame, "the migration is in the log")

	found := make(map[int]int)
	for end := 0; end <= len(log); end += frame / 2 {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		require.NoError(t, os.WriteFile(path, database, 0o600))
		if end > 0 {
			require.NoError(t, os.WriteFile(path+"-wal", log[:min(end+header, len(log))], 0o600))
		}
		r, err := OpenReader(t.Context(), dir)
		require.NoError(t, err, "at %d", end)
		found[r.views.version]++
		require.NoError(t, r.Close())
		j := open(t, Options{Dir: dir})
		s, err := j.Status(t.Context())
		require.NoError(t, err)
		letters, err := j.DeadLetters(t.Context(), DeadLetterFilter{})
		require.NoError(t, err)
		requireVersionOne(t, s, readAll(t, j), letters)
		require.NoError(t, j.Close(t.Context()))
	}
	require.Equal(t, 1, found[schemaVersion], "only the whole log has the new version: %v", found)
	require.Greater(t, found[1], 3)
}

func TestADamagedOlderJournalIsLeftAsItIs(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(content []byte) []byte
		says   string
	}{
		"cut off": {func(content []byte) []byte { return content[:len(content)-pageSize] }, ""},
		"a page of dead letters": {
			func(content []byte) []byte { clear(content[5*pageSize : 6*pageSize]); return content }, "",
		},
		"a page in the middle": {
			func(content []byte) []byte { clear(content[7*pageSize : 8*pageSize]); return content }, "",
		},
		"half of the first page":  {func(content []byte) []byte { clear(content[100:2000]); return content }, "malformed"},
		"one that is version two": {func(content []byte) []byte { content[63] = 2; return content }, "no column"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := versionOne(t)
			path := filepath.Join(dir, fileName)
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			content = c.damage(content)
			require.NoError(t, os.WriteFile(path, content, 0o600))
			_, err = Open(t.Context(), Options{Dir: dir, Sinks: []string{"nats"}})
			var damage *DamagedError
			require.ErrorAs(t, err, &damage)
			require.ErrorContains(t, err, c.says)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, after), "nothing was changed")
			require.NoFileExists(t, path+"-wal")
		})
	}
}

func TestAnOlderJournalOpensForACommand(t *testing.T) {
	dir := versionOne(t)
	j := open(t, Options{Dir: dir, Sinks: []string{}, KeepSinks: true})
	marked, err := j.RetryDeadLetters(t.Context(), DeadLetterFilter{Sink: "nats"})
	require.NoError(t, err)
	require.Equal(t, int64(2), marked, fmt.Sprint(j.sinks))
}
