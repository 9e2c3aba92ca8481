// Package volume tells how much a file system holds, whether it is on a network, and what its sync is worth.
package volume

import (
	"os"
	"path/filepath"
)

// Space is that of a file system, in bytes.
type Space struct {
	// Size is what this process and what is there already may take together, Free what may still be written.
	Size, Free int64
}

// NetworkOf returns the name of the network file system that dir is on, or will be on once it is made; empty: none, or
// the system does not say.
func NetworkOf(dir string) string {
	if dir = existing(dir); dir == "" {
		return ""
	}
	return networkOf(dir)
}

// Of returns the space of the file system that dir is on, or will be on once it is made, and false where the system
// does not say.
func Of(dir string) (Space, bool) {
	if dir = existing(dir); dir == "" {
		return Space{}, false
	}
	return spaceOf(dir)
}

// existing returns dir, or the nearest directory above it that is there; empty: none is.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}
