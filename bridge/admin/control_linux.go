package admin

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
)

// maxSocketPath is the longest path that the kernel takes for a socket.
const maxSocketPath = 107

// socketAddress returns a name for the control socket in dir that fits into a socket's address, and what lets go of
// it once the socket is bound or connected.
func socketAddress(dir string) (address string, release func(), err error) {
	path, err := filepath.Abs(filepath.Join(dir, controlName))
	if err != nil {
		return "", nil, err
	}
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, controlName), func() { _ = unix.Close(fd) }, nil
}

// ownersSocket makes a socket its owner's alone before it gets its name, so that there is no moment at which others can
// connect.
func ownersSocket(_, _ string, conn syscall.RawConn) error {
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) }); err != nil {
		return err
	}
	return failed
}

// checkPeer refuses a bridge that another user runs at the socket in a directory that everyone may write.
func checkPeer(conn net.Conn, dir string) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%s is no unix socket", conn.RemoteAddr())
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("who answers cannot be told: %w", err)
	}
	return ownfile.Stranger(dir, peer.Uid)
}
