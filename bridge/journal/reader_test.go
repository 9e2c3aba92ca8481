package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReaderBesideARunningServe(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "append", dir, "run")
	line, _ := p.next(t)
	require.Contains(t, line, "ok ")
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	lines := []string{line}
	var last int64
	for range 200 {
		line, more := p.next(t)
		require.True(t, more)
		lines = append(lines, line)
		s, err := r.Status(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, s.Head, int64(len(lines)-1), "what was acknowledged is seen")
		require.GreaterOrEqual(t, s.Head, last)
		require.Equal(t, s.Head-s.Sinks[0].Cursor, s.Sinks[0].Backlog)
		last = s.Head
	}
	_, err = r.views.db.ExecContext(t.Context(), "DELETE FROM webhooks")
	require.ErrorContains(t, err, "readonly", "it cannot change anything")
	acked, failed := acknowledged(append(lines, p.end(t)...))
	require.Empty(t, failed)
	s, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(len(acked)), s.Webhooks, "after the serve has ended, too")
	require.Equal(t, int64(DefaultMaxBytes), s.MaxBytes)
	require.NoError(t, r.Close())
	require.Len(t, readAll(t, open(t, Options{Dir: dir})), len(acked))
}

func TestReaderOfAClosedJournal(t *testing.T) {
	dir := closedJournal(t)
	for range 2 {
		r, err := OpenReader(t.Context(), dir)
		require.NoError(t, err)
		s, err := r.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(20), s.Webhooks)
		letters, err := r.DeadLetters(t.Context(), DeadLetterFilter{Sink: "nats"})
		require.NoError(t, err)
		require.Len(t, letters, 1)
		require.NoError(t, r.Close())
		require.NoError(t, r.Close(), "again")
		_, err = r.Status(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		_, err = r.DeadLetters(t.Context(), DeadLetterFilter{})
		require.ErrorIs(t, err, ErrClosed)
	}
	require.Len(t, readAll(t, open(t, Options{Dir: dir})), 20)
}

func TestReaderNeedsAJournal(t *testing.T) {
	empty := t.TempDir()
	missing := filepath.Join(empty, "missing")
	for _, dir := range []string{empty, missing} {
		_, err := OpenReader(t.Context(), dir)
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, "there is no journal in "+dir)
	}
	require.NoDirExists(t, missing)
	entries, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Empty(t, entries, "it makes nothing")

	require.NoError(t, os.WriteFile(filepath.Join(empty, "journal.db"), nil, 0o600))
	_, err = OpenReader(t.Context(), empty)
	var damage *DamagedError
	require.ErrorAs(t, err, &damage)
	require.NoError(t, os.WriteFile(filepath.Join(empty, "journal.db"), make([]byte, 10_000), 0o600))
	_, err = OpenReader(t.Context(), empty)
	require.ErrorAs(t, err, &damage)
}

func TestAReaderThatStaysDoesNotStopTheWriter(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, MaxBytes: 1 << 30})
	mustAppend(t, j, webhook("a"))
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	conn, err := r.views.db.Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN")
	require.NoError(t, err)
	var n int
	require.NoError(t, conn.QueryRowContext(t.Context(), "SELECT count(*) FROM webhooks").Scan(&n))

	log := filepath.Join(dir, "journal.db-wal")
	for i := range 80 {
		mustAppend(t, j, heavy(fmt.Sprint(i), 1<<20))
	}
	info, err := os.Stat(log)
	require.NoError(t, err)
	require.Greater(t, info.Size(), j.limits.keep, "the reader keeps the log from beginning anew")
	require.Greater(t, j.space.used.Load(), 80<<20+j.limits.keep, "the log's excess counts")
	_, err = conn.ExecContext(t.Context(), "COMMIT")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, r.Close())

	// With the reader gone the log is emptied at the next occasion.
	deadline := time.Now().Add(time.Minute)
	for i := 0; info.Size() > j.limits.keep; i++ {
		require.True(t, time.Now().Before(deadline), "the log stays at %d bytes", info.Size())
		mustAppend(t, j, heavy(fmt.Sprint("more-", i), 1<<20))
		info, err = os.Stat(log)
		require.NoError(t, err)
	}
	require.NoError(t, j.Close(context.Background()))
}
