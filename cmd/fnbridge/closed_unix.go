//go:build unix

package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// awaitClosed waits until nobody reads any more what is written to f, and tells whether it is so. Of what is no pipe or
// the like it never is.
func awaitClosed(f *os.File) bool {
	ends := []unix.PollFd{{Fd: int32(f.Fd())}} //nolint:gosec // a descriptor is a small number
	for {
		_, err := unix.Poll(ends, -1)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && ends[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
		}
	}
}
