//go:build linux || darwin

package embeddednats

import "golang.org/x/sys/unix"

// freeBytes is how much may still be written to the disk under dir, 0 if that is not known.
func freeBytes(dir string) int64 {
	var disk unix.Statfs_t
	if unix.Statfs(dir, &disk) != nil {
		return 0
	}
	return int64(disk.Bavail) * int64(disk.Bsize) //nolint:gosec,unconvert // its type is another on each system; disks are smaller
}
