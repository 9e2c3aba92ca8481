package embeddednats

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// larger is a size that what is beneath a thin disk has not set apart already, since it does so by 2 MiB.
const larger = 4 << 20

// After a write that failed the system goes on showing what the disk does not have, to the next process too. Its server
// knows only what is stored, so that it takes what is sent again.
func TestWhatTheDiskDoesNotHaveIsNoDuplicate(t *testing.T) {
	t.Parallel()
	disk := machine.NewThinDisk(t)
	dir := filepath.Join(disk.Dir, "nats")
	js, kill := startChild(t, dir)
	_, err := js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	send := func(id string) (duplicate bool) {
		ack, err := js.Publish(t.Context(), "s", make([]byte, larger), natsjs.WithMsgID(id))
		require.NoError(t, err)
		return ack.Duplicate
	}
	root, err := os.Open(disk.Dir)
	require.NoError(t, err)
	defer root.Close()
	require.False(t, send("stored"))
	require.NoError(t, syncFileSystem(root))
	disk.Fill(t)
	require.False(t, send("lost"))
	require.Error(t, syncFileSystem(root))
	kill()
	disk.Empty(t)

	js = jetStream(t, start(t, Options{Listen: "127.0.0.1:0", Dir: dir}).ClientURL())
	require.True(t, send("stored"))
	require.False(t, send("lost"))
}

// An overlay, such as a container's own file system, does not hear of a failure beneath it.
func TestOnAnOverlayAFailureOfTheDiskIsHeardOf(t *testing.T) {
	t.Parallel()
	disk := machine.NewThinDisk(t)
	layers := ""
	for _, name := range []string{"lowerdir", "upperdir", "workdir"} {
		path := filepath.Join(disk.Dir, name)
		require.NoError(t, os.Mkdir(path, 0o700))
		layers += "," + name + "=" + path
	}
	overlay := t.TempDir()
	if err := unix.Mount("overlay", overlay, "overlay", 0, layers[1:]); err != nil {
		machine.Lacks(t, "an overlay cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(overlay, 0)) })
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: filepath.Join(overlay, "nats")})
	js := jetStream(t, server.ClientURL())
	publish(t, js, 0, 10)
	require.NoError(t, server.Sync(t.Context(), server.SyncFailures()))
	disk.Fill(t)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := js.Publish(ctx, "s.x", make([]byte, larger))
	if err == nil {
		err = server.Sync(ctx, server.SyncFailures())
	}
	require.Error(t, err, "it is not on the disk")
}
