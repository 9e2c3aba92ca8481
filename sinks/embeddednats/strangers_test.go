package embeddednats

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// send plays a client that sends text and no login, and waits until the server has hung up.
func send(t *testing.T, server *Server, text string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, conn) // the server closes with what it has not read, which is a reset
}

// The server quotes in its log what a client sends. Whatever it says, the streams stay open: one in memory keeps what
// it has.
func TestAStrangersWordsAreNoDiskError(t *testing.T) {
	logged := &lines{}
	server := start(t, Options{
		Listen: "127.0.0.1:0", Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(logged, nil)),
	})
	js := jetStream(t, server.ClientURL())
	stream, err := js.CreateStream(t.Context(), natsjs.StreamConfig{
		Name: "M", Subjects: []string{"m"}, Storage: natsjs.MemoryStorage,
	})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "m", nil)
	require.NoError(t, err)

	for _, words := range []string{"Xjetstream out of", "Xcritical write error", "Xdisabling JetStream"} {
		send(t, server, words+"\r\n")
		require.Contains(t, logged.String(), words)
	}
	require.Never(t, func() bool {
		info, err := stream.Info(t.Context())
		return err != nil || info.State.Msgs != 1
	}, 3*checkInterval, 50*time.Millisecond)
	require.NotContains(t, logged.String(), "stores nothing more")
}

func TestAStrangersDirectoryIsRefused(t *testing.T) {
	data, elsewhere := t.TempDir(), t.TempDir()
	require.NoError(t, os.Chmod(data, 0o777))
	dir := filepath.Join(data, "nats")
	require.NoError(t, os.Symlink(elsewhere, dir))
	_, err := Start(t.Context(), Options{Listen: "127.0.0.1:0", Dir: dir})
	require.ErrorContains(t, err, dir+" is a link")
	left, err := os.ReadDir(elsewhere)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestStrangersCannotFloodTheLog(t *testing.T) {
	logged := &lines{}
	began := time.Now()
	server := start(t, Options{
		Listen: "127.0.0.1:0", Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(logged, nil)),
	})
	for range 500 {
		send(t, server, "Xno command\r\n")
	}
	seconds := int(time.Since(began)/time.Second) + 1
	require.LessOrEqual(t, strings.Count(logged.String(), "\n"), 5*seconds+5)
}
