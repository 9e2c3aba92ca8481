package wire

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// control bounds how long what was sent may be unacknowledged by the machine there. By default that is a quarter of an
// hour.
func control(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(Silence.Milliseconds()))
	}); failed != nil {
		return failed
	}
	return err
}
