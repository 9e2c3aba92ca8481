package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
)

// A damaged log is told from a torn one by what stands behind the first frame that is not whole. Recovery stops at that
// frame. It is right to do so after a tear, whose webhooks were never acknowledged, and loses what was acknowledged
// after damage.
//
// A process writes the frames of a commit one after the other, the one with the commit's mark last, and nothing before
// its commit (the page cache is not spilled). What a failed commit leaves is cut off before the next. So a process that
// is killed leaves nothing of the current salts behind a tear. When power fails, the frames of the last commit may have
// reached the disk in any order. But a later commit was written only after the sync of the one before it, and the first
// frame of all after that of the header.
//
// The layout is that of SQLite's file format, section 4.1.

const (
	bootSuffix    = "-boot"
	bootIDPath    = "/proc/sys/kernel/random/boot_id"
	logHeaderSize = 32
	frameHeader   = 24
	// sectorSize is the least that a disk writes whole.
	sectorSize = 512
)

// checkLog refuses a log that lacks some of what was acknowledged. No other process may write it meanwhile. It changes
// nothing.
func checkLog(path string) (err error) {
	log, err := os.Open(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the journal's log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	boot := bootID()
	recorded, err := os.ReadFile(path + bootSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read under which boot the journal's log was written: %w", err)
	}
	wrong, err := logDamage(log, boot != "" && string(recorded) == boot)
	if err != nil {
		return fmt.Errorf("read the journal's log: %w", err)
	}
	if wrong != "" {
		return &DamagedError{Path: path + "-wal", Err: errors.New(wrong), Log: true}
	}
	return nil
}

// bootID names the kernel's present run, empty where the system does not say.
func bootID() string {
	id, err := os.ReadFile(bootIDPath)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// recordBoot notes that all of the log was written under the present boot, which its caller knows. Where that cannot be
// noted, less damage is told from a tear, so that a full disk does not keep the journal from opening.
func recordBoot(path string) error {
	boot := bootID()
	if recorded, err := os.ReadFile(path + bootSuffix); err == nil && string(recorded) == boot {
		return nil
	}
	file, err := ownfile.Open(path+bootSuffix, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(boot)
	return errors.Join(err, file.Close())
}

// logDamage says what shows that a log is damaged, empty if nothing does. sameBoot tells that no power has failed since
// it was begun.
func logDamage(log io.Reader, sameBoot bool) (wrong string, err error) {
	header := make([]byte, logHeaderSize)
	if whole, err := readWhole(log, header); !whole {
		return "", err
	}
	order, sum, sound := logHeader(header)
	frame := make([]byte, frameHeader+pageSize)
	bad, ended := int64(-1), false
	for n := int64(0); ; n++ {
		whole, err := readWhole(log, frame)
		if err != nil {
			return "", err
		}
		if !whole {
			return "", nil
		}
		current := string(frame[8:16]) == string(header[16:24])
		switch {
		case !sound:
			if binary.BigEndian.Uint64(frame[8:]) != 0 {
				return "its header cannot be read, and frames stand behind it", nil
			}
		case bad < 0:
			sum = checksum(order, checksum(order, sum, frame[:8]), frame[frameHeader:])
			if !current || binary.BigEndian.Uint32(frame) == 0 || sum != storedSum(frame[16:]) {
				bad = n
			}
		case current && (sameBoot || ended):
			return fmt.Sprintf("frame %d cannot be read, and frame %d, which was written later, stands behind it",
				bad+1, n+1), nil
		}
		// Where a sector ends within a frame's header, its mark may be of an older frame.
		inOneSector := (logHeaderSize+n*int64(len(frame)))%sectorSize <= sectorSize-frameHeader
		if bad >= 0 && current && inOneSector && binary.BigEndian.Uint32(frame[4:]) != 0 {
			ended = true
		}
	}
}

// readWhole fills b, and returns false at the end.
func readWhole(r io.Reader, b []byte) (bool, error) {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	}
	return err == nil, err
}

// logHeader returns in which order of bytes the log sums, the header's sum, and whether the header is sound.
func logHeader(header []byte) (order binary.ByteOrder, sum [2]uint32, sound bool) {
	order = binary.LittleEndian
	magic := binary.BigEndian.Uint32(header)
	if magic&1 != 0 {
		order = binary.BigEndian
	}
	sum = checksum(order, sum, header[:24])
	sound = magic&^1 == 0x377f0682 && binary.BigEndian.Uint32(header[8:]) == pageSize && sum == storedSum(header[24:])
	return order, sum, sound
}

func storedSum(b []byte) [2]uint32 {
	return [2]uint32{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}
}

// checksum goes on with SQLite's sum over b.
func checksum(order binary.ByteOrder, sum [2]uint32, b []byte) [2]uint32 {
	for ; len(b) >= 8; b = b[8:] {
		sum[0] += order.Uint32(b) + sum[1]
		sum[1] += order.Uint32(b[4:]) + sum[0]
	}
	return sum
}

// checkLogUnused does as checkLog where no process has the journal open. One that has it checked the log at its start.
func checkLogUnused(dir, path string) error {
	found := checkLog(path)
	if found == nil {
		return nil
	}
	// The log may have been written while it was read, so it counts only under the lock. A reader leaves no trace there.
	file, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return found
	}
	held, err := tryLock(file)
	switch {
	case err != nil:
	case held:
		found = nil
	default:
		found = checkLog(path)
	}
	return errors.Join(found, file.Close())
}
