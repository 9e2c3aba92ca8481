package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
)

// directoryLock keeps other processes out of a data directory. The kernel lets go of it when the process ends, however
// it ends.
type directoryLock struct {
	file *os.File
	path string
}

// lockInterval is how often a process that has no journal open looks whether the directory is still its own.
const lockInterval = time.Second

// DirectoryLock keeps every other fnbridge out of a data directory until Close.
type DirectoryLock struct {
	lock  *directoryLock
	lost  chan error
	end   chan struct{}
	ended chan struct{}
}

// LockDirectory makes a data directory if it is missing, and keeps every other fnbridge out of it: for a process that
// has files there and no journal open. The error is a *LockedError if another one has it. The goroutine of what it
// returns ends with Close.
func LockDirectory(dir string) (*DirectoryLock, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	if err := makeDirectory(abs); err != nil {
		return nil, err
	}
	l, err := lockDirectory(abs)
	if err != nil {
		return nil, err
	}
	d := &DirectoryLock{lock: l, lost: make(chan error, 1), end: make(chan struct{}), ended: make(chan struct{})}
	go d.watch()
	return d, nil
}

// Lost returns a channel that gets an *OwnershipError, once, when another process may have the directory as well.
// Write nothing more there, and end the process.
func (d *DirectoryLock) Lost() <-chan error { return d.lost }

// Close lets go of the directory. It is called once.
func (d *DirectoryLock) Close() error {
	close(d.end)
	<-d.ended
	return d.lock.release()
}

// watch looks now and then whether the lock still keeps others out, until it does not, or Close.
func (d *DirectoryLock) watch() {
	defer close(d.ended)
	tick := time.NewTicker(lockInterval)
	defer tick.Stop()
	for {
		select {
		case <-d.end:
			return
		case <-tick.C:
			if err := d.lock.stillHeld(); err != nil {
				d.lost <- err
				return
			}
		}
	}
}

// lockDirectory takes the lock or says who has it.
func lockDirectory(dir string) (*directoryLock, error) {
	path := filepath.Join(dir, lockName)
	file, err := ownfile.Open(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unusable(dir, "open its lock", err)
	}
	held, err := tryLock(file)
	if err != nil {
		return nil, errors.Join(unusable(dir, "lock it", err), file.Close())
	}
	if held {
		return nil, errors.Join(&LockedError{Dir: dir, PID: readPID(file)}, file.Close())
	}
	l := &directoryLock{file: file, path: path}
	if err := l.writePID(); err != nil && !isFull(err) {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), l.release())
	}
	return l, nil
}

// writePID leaves a number for the next process to name. The file stays when the lock is released: removing it
// would let two processes hold locks on two files of one name.
func (l *directoryLock) writePID() error {
	pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
	// Over what is there, which needs no space on the disk.
	n, err := l.file.WriteAt(pid, 0)
	return errors.Join(err, l.file.Truncate(int64(n)))
}

// stillHeld refuses to go on where the lock keeps nobody out any more.
func (l *directoryLock) stillHeld() error {
	mine, err := l.file.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = os.Stat(l.path); err == nil && os.SameFile(mine, now) {
			return nil
		}
	}
	return &OwnershipError{fmt.Sprintf("the lock %s was removed or replaced while in use, "+
		"so another process may have the data directory", l.path), err}
}

func (l *directoryLock) release() error {
	return l.file.Close()
}

func readPID(file *os.File) int {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}
