//go:build unix

package ownfile

import (
	"io/fs"
	"os"
	"syscall"
)

const (
	noWait   = syscall.O_NONBLOCK
	noFollow = syscall.O_NOFOLLOW
)

// alone tells whether root is the only other user: process 1 is of the user of this process, who is not root, as in a
// container of its own.
func alone() bool {
	first, err := os.Stat("/proc/1")
	if err != nil {
		return false
	}
	user, known := ownerOf(first)
	return known && user != 0 && int(user) == os.Geteuid()
}

func ownerOf(info fs.FileInfo) (user uint32, known bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Uid, true
}
