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
	other, err := openStore(t.Context(), j.path, mostLogBytes)
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

// In a directory that everyone may write, a link in the place of a file of the journal's leads nowhere.
func TestALinkIsNotFollowed(t *testing.T) {
	for _, name := range []string{lockName, fileName + bootSuffix, fileName + reserveSuffix} {
		t.Run(name, func(t *testing.T) {
			dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
			require.NoError(t, os.Chmod(dir, 0o777))
			require.NoError(t, os.WriteFile(victim, []byte("untouched"), 0o600))
			plant := func() { require.NoError(t, os.Symlink(victim, filepath.Join(dir, name))) }
			plant()
			_, err := Open(t.Context(), Options{Dir: dir})
			require.ErrorContains(t, err, name+" is a link")

			// Nor is one that comes after the start.
			require.NoError(t, os.Remove(filepath.Join(dir, name)))
			j := open(t, Options{Dir: dir})
			switch name {
			case fileName + bootSuffix:
				require.NoError(t, os.Remove(filepath.Join(dir, name)))
				plant()
				require.ErrorContains(t, recordBoot(j.path), "is a link")
			case fileName + reserveSuffix:
				require.NoError(t, os.Remove(filepath.Join(dir, name)))
				plant()
				j.keepReserve(0)
			}
			text, err := os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, "untouched", string(text))
		})
	}
}
