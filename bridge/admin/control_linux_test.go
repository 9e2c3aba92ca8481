package admin_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

func TestADataDirectoryMayHaveALongerPathThanASocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20), strings.Repeat("long", 25))
	withLetters(t, dir, 2)
	stop := serveControl(t, dir)
	require.FileExists(t, filepath.Join(dir, "fnbridge.sock"))
	change, err := admin.DropDeadLetters(t.Context(), dir, admin.DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, admin.Change{Letters: 2, Running: true}, change)
	stop()
	require.NoFileExists(t, filepath.Join(dir, "fnbridge.sock"))
}

// Whoever may write the data directory could answer in the bridge's place.
func TestABridgeOfAnotherUserIsNotAsked(t *testing.T) {
	if os.Geteuid() != 0 {
		machine.Lacks(t, "root, to listen as another user")
	}
	dir := t.TempDir()
	withLetters(t, dir, 1)
	for at := dir; at != "/" && at != os.TempDir(); at = filepath.Dir(at) {
		require.NoError(t, os.Chmod(at, 0o777))
	}
	l := listenAs(t, 54321, filepath.Join(dir, "fnbridge.sock"))
	heard := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		heard <- err
	}()
	_, err := admin.DropDeadLetters(t.Context(), dir, admin.DeadLetterFilter{})
	require.ErrorContains(t, err, "user 54321 has taken its place")
	require.ErrorIs(t, <-heard, io.EOF, "it is told nothing")
	require.Len(t, lettersIn(t, dir, admin.DeadLetterFilter{}, 10), 1)
}

// listenAs listens as another user. The system tells the other end who that was.
func listenAs(t *testing.T, user uintptr, path string) net.Listener {
	t.Helper()
	runtime.LockOSThread() // only this thread becomes the other user
	defer runtime.UnlockOSThread()
	become := func(user uintptr) {
		const keep = ^uintptr(0)
		_, _, failed := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, user, keep)
		require.Zero(t, failed)
	}
	become(user)
	defer become(0)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}
