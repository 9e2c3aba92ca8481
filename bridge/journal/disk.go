package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
	"github.com/fnbridge/fnbridge/bridge/volume"
)

// What a journal does on a full disk rests on three things.
//
//   - It takes a webhook only where its volume has room for it twice, in the log and in the table, with the floor left
//     over. So the journal itself never fills the disk, and cursors, dead letters and deletions go on.
//   - When something else fills the disk all the same, the reserve is given up: it lets the log be moved into the
//     database, and from then on cursors and deletions write where something has been before.
//   - A start and a stop find in the reserve what SQLite needs to open the database, and so do commands.

const (
	reserveSuffix = "-reserve"
	// logShare is which part of what the journal may hold gathers in its log until that is moved.
	logShare = 64
	// A log of less is not worth moving; from the most on, a longer one saves nothing.
	leastLogBytes, mostLogBytes = 16 << 10, 16 << 20
	// openingBytes is enough to open the database: the first part of the log's index, and a small commit.
	openingBytes = 64 << 10
)

// limits follow from how large the journal may become: in bytes.
type limits struct {
	// checkpoint is how much log the writer lets gather before it has it moved into the database, keep how much of the
	// log's file stays for use again: overwriting is cheaper than growing.
	checkpoint, keep int64
	// reserve is the size of the reserve, floor what stays free beside it.
	reserve, floor int64
}

// limitsOf returns the limits of a journal of at most maxBytes, 0 for any size, that is on the volume of dir.
func limitsOf(maxBytes int64, dir string) limits {
	bound := maxBytes
	if space, known := volume.Of(dir); known && (bound == 0 || space.Size < bound) {
		bound = space.Size
	}
	log := int64(mostLogBytes)
	if bound > 0 {
		log = min(max(bound/logShare, leastLogBytes), mostLogBytes)
	}
	return limits{checkpoint: log, keep: 4 * log, reserve: 2 * log, floor: 2 * log}
}

// Overhead is what a journal of at most maxBytes needs on the volume of dir beside these, in bytes: its reserve, and
// what it wants to be free.
func Overhead(maxBytes int64, dir string) int64 {
	l := limitsOf(maxBytes, dir)
	return l.reserve + l.floor
}

// FilesBytes is what the journal in dir takes on its volume, 0 if there is none.
func FilesBytes(dir string) (bytes int64) {
	path := filepath.Join(dir, fileName)
	for _, suffix := range []string{"", "-wal", "-shm", reserveSuffix} {
		bytes += fileSize(path + suffix)
	}
	return bytes
}

// isFull tells whether err says that the disk is full.
func isFull(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE
	}
	return errors.Is(err, syscall.ENOSPC)
}

// fullError says of an operation on the journal at path that the disk had no room for it. SQLite calls that an I/O
// error where it is the log's index that lacks room. Any other error it returns as it is.
func fullError(path string, err error) error {
	if !isFull(err) || errors.Is(err, ErrDiskFull) {
		return err
	}
	return fmt.Errorf("%w: make room on the volume of %s: %w", ErrDiskFull, filepath.Dir(path), err)
}

// fileSize is 0 for a file that is not there.
func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// prepareSpace gives up what a start may need of the reserve. The rest stays for its first writes: whatever is let go
// of on a full disk is somebody else's at once.
func (j *Journal) prepareSpace() error {
	space, known := volume.Of(filepath.Dir(j.path))
	needed := openingBytes + fileSize(j.path+"-wal")
	if !known || space.Free >= needed {
		return nil
	}
	_, err := shrinkReserve(j.path, needed-space.Free)
	return err
}

// shrinkReserve gives up so many bytes of the reserve, or as many as it has.
func shrinkReserve(path string, by int64) (some bool, err error) {
	path += reserveSuffix
	has := fileSize(path)
	if has == 0 {
		return false, nil
	}
	file, err := ownfile.Open(path, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	err = errors.Join(file.Truncate(max(has-by, 0)), file.Close())
	return err == nil, err
}

func (j *Journal) giveUpReserve() error {
	if err := os.Remove(j.path + reserveSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lendReserve gives up as much of the reserve as a reader needs. A process that has the journal open is left its own.
func lendReserve(path string) (lent bool) {
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(path), lockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer lock.Close()
	if held, err := tryLock(lock); err != nil || held {
		return false
	}
	lent, _ = shrinkReserve(path, openingBytes) // of another user's, say, nothing: the disk is full then
	return lent
}

// keepReserve makes the reserve as large as it should be, or as it can be with so much left free.
func (j *Journal) keepReserve(left int64) {
	path := j.path + reserveSuffix
	has := fileSize(path)
	space, known := volume.Of(filepath.Dir(path))
	if !known || has >= j.limits.reserve {
		return
	}
	size := min(j.limits.reserve, has+space.Free-left)
	if size <= has {
		return
	}
	file, err := ownfile.Open(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // as on a disk without inodes; the next look tries again
	}
	err = errors.Join(allocate(file, size), file.Close())
	if err != nil && has == 0 {
		_ = os.Remove(path) // what is there of it counts for nothing
	}
}

// measure finds out how large the journal can become on its volume. It returns what the volume has free and how much
// the reserve lacks, and false where the volume is not known.
func (j *Journal) measure() (free, missing int64, known bool) {
	space, known := volume.Of(filepath.Dir(j.path))
	if !known {
		return 0, 0, false
	}
	missing = max(j.limits.reserve-fileSize(j.path+reserveSuffix), 0)
	// What the log has beyond what it keeps goes with the next checkpoint.
	files := fileSize(j.path) + fileSize(j.path+"-wal")
	j.space.room.Store(files + space.Free - missing - j.limits.floor)
	j.space.files.Store(files)
	j.space.free.Store(space.Free)
	return space.Free, missing, true
}

// refreshRoom finds out how large the journal can become, and makes the reserve again where there is room for it.
func (w *writer) refreshRoom(ctx context.Context) {
	if w.journal.space.exhausted.Load() {
		w.moveLog(ctx)
	}
	free, missing, known := w.journal.measure()
	if missing > 0 && free >= missing+w.journal.limits.checkpoint+w.growth(ctx) {
		w.journal.keepReserve(w.journal.limits.checkpoint)
		_, missing, _ = w.journal.measure()
	}
	if known && missing == 0 && w.journal.space.exhausted.CompareAndSwap(true, false) {
		w.frames = w.checkpointFrames() // what could not be moved can be now
		w.sayRecovered(ctx)
	}
}

// growth is by how much the database's file grows when the log is moved into it.
func (w *writer) growth(ctx context.Context) int64 {
	var pages int64
	if w.store == nil || w.inDoubt != nil || w.store.pageCount.QueryRowContext(ctx).Scan(&pages) != nil {
		return 0
	}
	return max(pages*pageSize-fileSize(w.journal.path), 0)
}

// canMove tells whether the disk has room to move the log into the database. A checkpoint that fails for want of it has
// used up what there was.
func (w *writer) canMove(ctx context.Context) bool {
	space, known := volume.Of(filepath.Dir(w.journal.path))
	return !known || space.Free >= w.growth(ctx)
}

// outOfSpace makes what room it can on a disk that has none left: it gives up the reserve and moves the log.
func (w *writer) outOfSpace(ctx context.Context) {
	if _, known := volume.Of(filepath.Dir(w.journal.path)); known { // else nobody says when there is room again
		w.journal.space.exhausted.Store(true)
	}
	if err := w.journal.giveUpReserve(); err != nil {
		w.reportUpkeep(ctx, "give up the reserve of disk space", err)
	}
	w.moveLog(ctx)
}

// moveLog has the log moved into the database, so that the next commit writes over it. The log's file is not made
// shorter: on a full disk, whatever is let go of is somebody else's at once.
func (w *writer) moveLog(ctx context.Context) {
	w.awaitCheckpoint()
	if w.store == nil || w.inDoubt != nil || !w.canMove(ctx) {
		return
	}
	if _, err := scanCheckpoint(w.store.passive.QueryRowContext(ctx)); err != nil && !isFull(err) && leavesDoubt(err) {
		w.inDoubt = err
	}
}

// writeZeros is for file systems that set no place aside.
func writeZeros(file *os.File, size int64) error {
	at := fileSize(file.Name())
	for zeros := make([]byte, 64<<10); at < size; {
		n, err := file.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
		at += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}
