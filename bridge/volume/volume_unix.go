//go:build linux || darwin

package volume

import "golang.org/x/sys/unix"

func spaceOf(dir string) (Space, bool) {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil || s.Blocks == 0 {
		return Space{}, false
	}
	unit := int64(s.Bsize) //nolint:unconvert // its type is another on each system
	// What only root may write counts for nobody.
	size, free := s.Blocks-(s.Bfree-s.Bavail), s.Bavail
	return Space{Size: int64(size) * unit, Free: int64(free) * unit}, true //nolint:gosec // disks are smaller
}
