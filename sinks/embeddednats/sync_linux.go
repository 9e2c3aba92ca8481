package embeddednats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/fnbridge/fnbridge/bridge/volume"
)

// canSync tells whether syncFileSystem says if the disk under dir failed, which it does from Linux 5.8 on, on most file
// systems.
func canSync(dir string) bool {
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) != nil {
		return false
	}
	n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return n == 2 && (major > 5 || major == 5 && minor >= 8) && volume.SyncTells(dir)
}

// syncFileSystem returns once all that was written to the file system of dir before the call is on the disk. Each
// failure of the disk is told once to each dir that was opened before it.
func syncFileSystem(dir *os.File) error {
	for {
		if err := unix.Syncfs(int(dir.Fd())); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("syncfs", err)
		}
	}
}

// forgetCached has the system let go of what it remembers of the files under dir, so that they are read from the disk.
// After a write that failed it remembers what the disk does not have, also beyond the end of a process: the server
// would find messages that are not stored, and take what is sent again for duplicates of them. It is advice, and what
// cannot be followed of it changes nothing.
func forgetCached(dir string) {
	const writeBack = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if file, err := root.Open(path); err == nil {
				// What waits to be written cannot be let go of. And an error that nobody has heard of would be told to the
				// server when it mends the file.
				_ = unix.SyncFileRange(int(file.Fd()), 0, 0, writeBack)
				_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
				_ = file.Close()
			}
		}
		return nil // the others all the same
	})
}
