//go:build unix

package ingest

import (
	"math"
	"syscall"
)

// MaxOpenFiles is how many file descriptors this process may have. 0: there is no such limit. Go raises the limit at
// the start as far as the system lets it.
func MaxOpenFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return 0
	}
	return int(limit.Cur)
}
