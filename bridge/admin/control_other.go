//go:build !linux

package admin

import (
	"fmt"
	"net"
	"path/filepath"
	"syscall"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
)

// maxSocketPath is the longest path that every one of these systems takes for a socket.
const maxSocketPath = 103

// socketAddress returns the control socket's path, if it fits into a socket's address.
func socketAddress(dir string) (address string, release func(), err error) {
	path, err := filepath.Abs(filepath.Join(dir, controlName))
	if err != nil {
		return "", nil, err
	}
	if len(path) > maxSocketPath {
		return "", nil, fmt.Errorf("the path %s has %d bytes, and this system takes at most %d for a socket: "+
			"set FNBRIDGE_DATA_DIR to a shorter path", path, len(path), maxSocketPath)
	}
	return path, func() {}, nil
}

// ownersSocket does nothing here: the socket is made private once it has its name, in a directory that is private as a
// rule.
func ownersSocket(string, string, syscall.RawConn) error { return nil }

// checkPeer refuses a socket that another user may have put into a directory that everyone may write.
func checkPeer(_ net.Conn, dir string) error { return ownfile.Check(filepath.Join(dir, controlName)) }
