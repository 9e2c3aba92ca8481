package journal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// disowned appends until the journal is no longer this process's, and returns why.
func disowned(t *testing.T, j *Journal) error {
	t.Helper()
	_, err := j.Append(t.Context(), webhook("refused"))
	require.ErrorAs(t, err, new(*OwnershipError))
	lost := <-j.Lost()
	require.ErrorAs(t, lost, new(*OwnershipError))
	_, again := j.Append(t.Context(), webhook("refused"))
	require.ErrorIs(t, again, lost)
	return err
}

func TestOfTwoProcessesOnOneDirectoryTheFirstEnds(t *testing.T) {
	dir := t.TempDir()
	first := open(t, Options{Dir: dir})
	mustAppend(t, first, webhook("a"))
	require.NoError(t, os.Remove(filepath.Join(dir, lockName)))
	second := start(t, "hold", dir, "")
	line, _ := second.next(t)
	require.Equal(t, "ready", line)

	require.ErrorContains(t, disowned(t, first), "fnbridge.lock was removed or replaced")
	_ = first.Close(t.Context())
	second.end(t)
	third := open(t, Options{Dir: dir})
	require.Equal(t, []string{"a"}, ids(readAll(t, third)))
}

func TestANumberThatAnotherProcessHasGivenEndsThisOne(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("a"))
	other, err := openStore(t.Context(), j.path)
	require.NoError(t, err)
	foreign := webhook("foreign")
	require.NoError(t, other.inTransaction(t.Context(), func() error {
		_, err := other.append(t.Context(), 2, &foreign)
		return err
	}))
	require.NoError(t, other.close())
	require.ErrorContains(t, disowned(t, j), "another process writes the journal")
	_ = j.Close(t.Context())
	require.Equal(t, []string{"a", "foreign"}, ids(readAll(t, open(t, Options{Dir: dir}))))
}

func TestAnIndexOfTheLogThatIsCutEndsTheProcess(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut":     func(path string) error { return os.Truncate(path, 0) },
		"removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, Options{Dir: dir})
			mustAppend(t, j, webhook("a"))
			require.NoError(t, spoil(filepath.Join(dir, fileName+"-shm")))
			require.ErrorContains(t, disowned(t, j), "journal.db-shm, was cut, removed or replaced")
			_ = j.Close(t.Context())
			j = open(t, Options{Dir: dir})
			require.Equal(t, []string{"a"}, ids(readAll(t, j)))
			mustAppend(t, j, webhook("b"))
		})
	}
}
