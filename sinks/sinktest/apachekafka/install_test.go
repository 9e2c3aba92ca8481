package apachekafka

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJarsAreFetchedOnce(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	var fetched atomic.Int32
	fetch := func(_ context.Context, pomFile, dir string) error {
		fetched.Add(1)
		require.FileExists(t, pomFile)
		return os.WriteFile(filepath.Join(dir, "kafka.jar"), nil, 0o600)
	}
	dirs := make([]string, 8)
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			dir, err := installJars(t.Context(), cache, fetch)
			if err != nil {
				t.Error(err)
			}
			dirs[i] = dir
		})
	}
	wg.Wait()
	require.Equal(t, int32(1), fetched.Load())
	for _, dir := range dirs {
		require.FileExists(t, filepath.Join(dir, "kafka.jar"))
		require.FileExists(t, filepath.Join(dir, "JavaPartitions.java"))
	}
	left, err := filepath.Glob(filepath.Join(cache, "*.partial-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestJarsThatCannotBeFetchedLeaveNothing(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	broken := errors.New("no network")
	_, err := installJars(t.Context(), cache, func(_ context.Context, _, dir string) error {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "half.jar"), nil, 0o600))
		return broken
	})
	require.ErrorIs(t, err, broken)
	left, err := filepath.Glob(filepath.Join(cache, "kafka-*"))
	require.NoError(t, err)
	require.Len(t, left, 1, "the lock alone: %v", left)
}

func TestLockGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), name)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = lockFile(ctx, name)
	require.ErrorIs(t, err, context.Canceled)
	unlock()
	unlock, err = lockFile(t.Context(), name)
	require.NoError(t, err)
	unlock()
}

func TestParseRecord(t *testing.T) {
	t.Parallel()
	fields := []string{
		"CreateTime:1700000000123", "Partition:3", "Offset:7", "a:b:c" + headerSeparator + "d:", "key", "value",
	}
	r, err := parseRecord(strings.Join(fields, fieldSeparator))
	require.NoError(t, err)
	require.Equal(t, JavaRecord{
		Partition: 3, Offset: 7, Timestamp: time.UnixMilli(1700000000123),
		Headers: []JavaHeader{{Key: "a", Value: "b:c"}, {Key: "d"}}, Key: "key", Value: "value",
	}, r)
	for _, line := range []string{
		"", "x", strings.Join(fields[:5], fieldSeparator),
		strings.Join(append([]string{"LogAppendTime:1"}, fields[1:]...), fieldSeparator),
	} {
		_, err := parseRecord(line)
		require.Error(t, err, "%q", line)
	}
}
