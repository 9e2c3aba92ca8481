package machine

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// SmallDisk mounts a file system of that many MiB until the test has ended, and returns where it is. The test lacks it
// where it may not mount one.
func SmallDisk(tb testing.TB, size int) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", size))
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		Lacks(tb, "a small file system cannot be mounted without being root: %v", err)
	case err != nil:
		tb.Fatalf("mount a small file system: %v", err)
	}
	tb.Cleanup(func() {
		if err := unused(func() error { return unix.Unmount(dir, 0) }); err != nil {
			tb.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}
