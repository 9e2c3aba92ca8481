package embeddednats

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// fillDisk writes to a file until nothing more fits.
func fillDisk(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	require.NoError(t, err)
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	require.NoError(t, file.Close())
}

// openStream returns a stream of the server's, and what publishes the message with that number to it. A stream that has
// met a full disk may not answer.
func openStream(t *testing.T, server *Server) (stream natsjs.Stream, publish func(n int) error) {
	t.Helper()
	js := jetStream(t, server.ClientURL())
	stream, err := js.CreateOrUpdateStream(t.Context(), natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	return stream, func(n int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "s.x", make([]byte, 10_000), natsjs.WithMsgID(fmt.Sprint(n)))
		return err
	}
}

func requireAllStored(t *testing.T, stream natsjs.Stream, n int) {
	t.Helper()
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, n, info.State.Msgs, "each message once, and none of those acknowledged is lost")
	for seq := range n {
		m, err := stream.GetMsg(t.Context(), uint64(seq+1))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(seq), m.Header.Get(natsjs.MsgIDHeader))
	}
}

// A stream that has met a full disk takes nothing more for as long as nats-server has it open, even with room again.
func TestAFullDiskIsGotOver(t *testing.T) {
	t.Parallel()
	dir := machine.SmallDisk(t, 32)
	stream, publish := openStream(t, start(t, Options{Listen: "127.0.0.1:0", Dir: filepath.Join(dir, "nats")}))
	acked := 0
	for ; acked < 20; acked++ {
		require.NoError(t, publish(acked))
	}
	ballast := filepath.Join(dir, "ballast")
	fillDisk(t, ballast)
	for publish(acked) == nil {
		acked++
		require.Less(t, acked, 10_000, "the disk does not fill")
	}
	require.Error(t, publish(acked))

	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool { return publish(acked) == nil },
		2*bound, 100*time.Millisecond, "there is room again")
	requireAllStored(t, stream, acked+1)
}

// nats-server by itself takes its limit from what is free when it opens its streams, and keeps it however much room
// there is later.
func TestRoomThatComesLittleByLittleIsUsed(t *testing.T) {
	t.Parallel()
	dir := machine.SmallDisk(t, 64)
	little, ballast := filepath.Join(dir, "little"), filepath.Join(dir, "ballast")
	options := Options{Listen: "127.0.0.1:0", Dir: filepath.Join(dir, "nats")}
	server := start(t, options)
	stream, publish := openStream(t, server)
	acked := 0
	for ; acked < 1000; acked++ {
		require.NoError(t, publish(acked))
	}
	require.NoError(t, os.WriteFile(little, make([]byte, 3<<20), 0o600))
	fillDisk(t, ballast)
	for publish(acked) == nil {
		acked++
		require.Less(t, acked, 10_000, "the disk does not fill")
	}

	require.NoError(t, os.Remove(little))
	require.Eventually(t, func() bool { return publish(acked) == nil },
		2*bound, 100*time.Millisecond, "a little is enough to go on")
	acked++
	requireAllStored(t, stream, acked)

	// A server that is started with so little goes on as well.
	require.NoError(t, server.Shutdown(context.WithoutCancel(t.Context())))
	stream, publish = openStream(t, start(t, options))
	for publish(acked) == nil {
		acked++
		require.Less(t, acked, 10_000, "the disk does not fill")
	}
	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool { return publish(acked) == nil },
		2*bound, 100*time.Millisecond, "there is room now")
	for acked++; acked < 2000; acked++ {
		require.NoError(t, publish(acked))
	}
	requireAllStored(t, stream, acked)
}
