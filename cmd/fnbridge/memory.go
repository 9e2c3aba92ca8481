package main

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory gives the Go runtime nine tenths of the memory that the process's control groups let it have, so that the
// collector works harder before the kernel kills. A lower GOMEMLIMIT stays.
func limitMemory() {
	group := cgroupMemory(os.DirFS("/"))
	if limit := group - group/10; limit > 0 && limit < debug.SetMemoryLimit(-1) { // a negative limit only reads
		debug.SetMemoryLimit(limit)
	}
}

// cgroupMemory returns the lowest memory limit of the process's control groups, in bytes, and 0 if there is none. It
// reads version 1 and 2 of them from root.
func cgroupMemory(root fs.FS) int64 {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	lowest := int64(math.MaxInt64)
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		if len(parts) != 3 {
			continue
		}
		var mount, file string
		switch {
		case parts[0] == "0" && parts[1] == "": // version 2
			mount, file = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+parts[1]+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// Each group's parents bound it as well. In a container the path may be the host's, of which only the root is seen.
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			lowest = min(lowest, readLimit(root, path.Join(mount, group, file)))
			if group == "/" {
				break
			}
		}
	}
	if lowest >= unlimited {
		return 0
	}
	return lowest
}

// unlimited is more than any machine has: version 1 writes its lack of a limit as a number of about 2⁶³.
const unlimited = 1 << 60

func readLimit(root fs.FS, name string) int64 {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return unlimited
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil { // "max"
		return unlimited
	}
	return limit
}
