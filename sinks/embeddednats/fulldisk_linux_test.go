package embeddednats

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A stream that has met a full disk takes nothing more for as long as nats-server has it open, even with room again.
func TestAFullDiskIsGotOver(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		if (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) && os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") != "1" {
			t.Skipf("a small file system cannot be mounted without being root: %v", err)
		}
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: filepath.Join(dir, "nats")})
	nc, err := natsgo.Connect(server.ClientURL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := natsjs.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	publish := func(id string) error {
		_, err := js.Publish(t.Context(), "s.x", make([]byte, 10_000), natsjs.WithMsgID(id))
		return err
	}
	acked := 0
	for ; acked < 20; acked++ {
		require.NoError(t, publish(fmt.Sprint(acked)))
	}

	ballast := filepath.Join(dir, "ballast")
	file, err := os.Create(ballast)
	require.NoError(t, err)
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	require.NoError(t, file.Close())
	for err = nil; err == nil; acked++ {
		require.Less(t, acked, 10_000, "the disk does not fill")
		err = publish(fmt.Sprint(acked))
	}
	acked--
	require.Error(t, publish(fmt.Sprint(acked)))

	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool { return publish(fmt.Sprint(acked)) == nil }, 60*time.Second, 100*time.Millisecond, "there is room again")
	stream, err := js.Stream(t.Context(), "S")
	require.NoError(t, err)
	require.EqualValues(t, acked+1, stream.CachedInfo().State.Msgs, "each message once, and none of those acknowledged is lost")
	for seq := range acked {
		m, err := stream.GetMsg(t.Context(), uint64(seq+1))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(seq), m.Header.Get(natsjs.MsgIDHeader))
	}
}
