package filewatch_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge/filewatch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound is far below the time between two looks, so that what is seen within it was told.
const bound = 15 * time.Second

// files tell what a file holds whenever they are read.
type files struct {
	path string
	read chan string
}

func (f *files) Paths() []string { return []string{f.path} }

func (f *files) Refresh() {
	text, err := os.ReadFile(f.path)
	if err != nil {
		text = []byte("none")
	}
	f.read <- string(text)
}

// watchFile returns once the file has been read, without anything having been heard: it may have changed before it was
// watched.
func watchFile(t *testing.T, path string) *files {
	t.Helper()
	now := "none"
	if text, err := os.ReadFile(path); err == nil {
		now = string(text)
	}
	f := &files{path: path, read: make(chan string, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { filewatch.Run(ctx, f, slog.New(slog.DiscardHandler)) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	f.await(t, now)
	return f
}

// until changes the file, and returns when it was read so.
func (f *files) until(t *testing.T, want string, change func()) {
	t.Helper()
	change()
	f.await(t, want)
}

func (f *files) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(bound)
	for {
		select {
		case got := <-f.read:
			if got == want {
				return
			}
		case <-deadline:
			require.FailNow(t, "the change was not noticed", want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestAFileThatIsWrittenReplacedRemovedAndBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "one")
	f := watchFile(t, path)
	f.until(t, "two", func() { write(t, path, "two") })
	f.until(t, "three", func() {
		write(t, path+".new", "three")
		require.NoError(t, os.Rename(path+".new", path))
	})
	f.until(t, "none", func() { _ = os.Remove(path) })
	f.until(t, "four", func() { write(t, path, "four") })
}

// kubelet is how Kubernetes mounts Secrets: the files are links into a folder behind a link, which it exchanges.
type kubelet struct {
	mount   string
	updates int
}

func (k *kubelet) update(t *testing.T, text string) {
	t.Helper()
	k.updates++
	dir := filepath.Join(k.mount, fmt.Sprintf("..%d", k.updates))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "kafka"), 0o700))
	write(t, filepath.Join(dir, "kafka", "SASL_PASSWORD"), text)
	old, _ := os.Readlink(filepath.Join(k.mount, "..data"))
	require.NoError(t, os.Symlink(filepath.Base(dir), filepath.Join(k.mount, "..data_tmp")))
	require.NoError(t, os.Rename(filepath.Join(k.mount, "..data_tmp"), filepath.Join(k.mount, "..data")))
	if old != "" {
		require.NoError(t, os.RemoveAll(filepath.Join(k.mount, old)))
	}
}

func TestLinksThatKubernetesExchanges(t *testing.T) {
	t.Parallel()
	k := &kubelet{mount: t.TempDir()}
	k.update(t, "one")
	require.NoError(t, os.Symlink(filepath.Join("..data", "kafka"), filepath.Join(k.mount, "kafka")))
	f := watchFile(t, filepath.Join(k.mount, "kafka", "SASL_PASSWORD"))
	for _, text := range []string{"two", "three", "four"} {
		f.until(t, text, func() { k.update(t, text) })
	}
}

func TestAFolderThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	f := watchFile(t, filepath.Join(dir, "secret"))
	f.until(t, "one", func() {
		require.NoError(t, os.MkdirAll(dir, 0o700))
		write(t, filepath.Join(dir, "secret"), "one")
	})
}
