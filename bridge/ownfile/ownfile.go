// Package ownfile tells files that the bridge made from those that somebody else put in their place, keeps secrets in
// files of its own, and knows who else reads those that it was given.
package ownfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxSecret bounds what is read as a secret, in bytes.
const maxSecret = 64 << 10

// Check returns an error if anybody could have put the file at path there: everyone may write its directory, and it is
// a link, or belongs neither to root nor to the user of this process or of the directory. A file that is missing, and
// any file in another directory, is fine: whoever may write that is trusted.
func Check(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return check(path, info)
}

// Open opens the file at path, which the bridge itself makes: it is no link, and Check takes it.
func Open(path string, flag int, mode fs.FileMode) (*os.File, error) {
	if err := Check(path); err != nil {
		return nil, err
	}
	// Somebody may have put another there since.
	file, err := os.OpenFile(path, flag|noFollow, mode)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a link, and the bridge makes a file of its own there: remove it", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		err = check(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Stranger returns an error if everyone may write dir, and user is nobody whose files Check takes there. user is a
// number of the system's, as a socket tells it of its other end.
func Stranger(dir string, user uint32) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode()&0o002 == 0 || trusted(user, info) {
		return nil
	}
	return fmt.Errorf("user %d has taken its place, since everyone may write %s: take that right away (chmod o-w)",
		user, dir)
}

func check(path string, info fs.FileInfo) error {
	dir := filepath.Dir(path)
	parent, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if parent.Mode()&0o002 == 0 {
		return nil
	}
	const mend = "since everyone may write %s, anybody may have put it there: " +
		"take that right away (chmod o-w), look at the file, and remove it or make it the bridge's own (chown)"
	if info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a link; "+mend, path, dir)
	}
	if user, known := ownerOf(info); known && !trusted(user, parent) {
		return fmt.Errorf("%s belongs to user %d, and this is user %d; "+mend, path, user, os.Geteuid(), dir)
	}
	return nil
}

// OthersRead tells whether other users of this machine, root and the file's group aside, can read the file at path:
// everyone may read it, and enter each directory above it. They cannot where there are none: see alone.
func OthersRead(path string) bool {
	path, err := filepath.EvalSymlinks(path) // a link's own mode says nothing
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil || alone() {
		return false
	}
	for right := fs.FileMode(0o004); ; right = 0o001 {
		info, err := os.Stat(path)
		if err != nil || info.Mode()&right == 0 {
			return false
		}
		above := filepath.Dir(path)
		if above == path {
			return true
		}
		path = above
	}
}

func trusted(user uint32, dir fs.FileInfo) bool {
	owner, known := ownerOf(dir)
	return user == 0 || int(user) == os.Geteuid() || known && user == owner
}

// ReadSecret returns what the file at path holds, without white space around it. It must be a file that Check takes,
// and closed to everyone but its owner and group. The error of a missing one is fs.ErrNotExist.
func ReadSecret(path string) (string, error) {
	// What is opened is what is checked; a pipe must not hold this up.
	file, err := os.OpenFile(path, os.O_RDONLY|noWait, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if err := errors.Join(Check(path), check(path, info)); err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	if info.Mode()&0o006 != 0 {
		return "", fmt.Errorf("everyone may read or write %s (mode %04o): take that right away (chmod 600), "+
			"and remove the file to have a new secret made if somebody else may have used that", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSecret))
	return strings.TrimSpace(string(text)), err
}

// MakeSecret makes the file at path with a line of text, durable and for its owner alone. It replaces what is there. A
// crash leaves the whole of it or nothing.
func MakeSecret(path, text string) error {
	temporary := path + ".new"
	// What a crash left, or somebody put there, is not written to.
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text + "\n")
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return os.Rename(temporary, path)
}
