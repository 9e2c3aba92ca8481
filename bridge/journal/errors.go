package journal

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrFull is in the chain of Append's error when storing the webhook would take the journal past
// Options.MaxBytes. It passes by itself once the sinks have taken what waits for them.
var ErrFull = errors.New("the journal is full")

// ErrFullOfDeadLetters is an ErrFull that does not pass by itself: dead letters take most of the journal. It is also in
// the chain of AddDeadLetters' error.
var ErrFullOfDeadLetters = fmt.Errorf("%w: dead letters fill it", ErrFull)

// ErrDiskFull is in the chain of Append's error when the volume has no room for the webhook. It passes by itself once
// there is room.
var ErrDiskFull = errors.New("the disk is full")

// ErrClosed is what every method of a Journal or Reader returns after Close.
var ErrClosed = errors.New("the journal is closed")

// errMoved is in the chain of a write's error when the file that is open is no longer the one at its path.
var errMoved = errors.New("the file was removed or replaced while in use; stop fnbridge, put it back and start again")

// LockedError says that another process uses the data directory.
type LockedError struct {
	// Dir is the data directory.
	Dir string
	// PID is the process that holds it, 0 when it did not leave its number.
	PID int
}

// Error names the directory, the process and what to do.
func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = fmt.Sprintf("the process with pid %d", e.PID)
	}
	return fmt.Sprintf("FNBRIDGE_DATA_DIR (%s) is in use by %s: stop it first, or give this one a directory of its own",
		e.Dir, holder)
}

// OwnershipError says that this process may no longer write the journal that it has open. It passes only with a new
// start.
type OwnershipError struct {
	reason string
	// err is not in the chain: SQLite's own must not be taken for one that passes by itself.
	err error
}

// Error says what happened and what to do.
func (e *OwnershipError) Error() string {
	text := e.reason
	if e.err != nil {
		text += " (" + e.err.Error() + ")"
	}
	return text + "; fnbridge writes nothing more and ends. " +
		"Start one process again, and leave the files in its data directory to it"
}

// DamagedError says that a journal at rest cannot be trusted. The files are left as they are.
type DamagedError struct {
	// Path is the file.
	Path string
	// Err says what is wrong with it.
	Err error
	// Log is set when the file is the database's log, and the database itself can be read.
	Log bool
}

// Error names the file, what is wrong with it and what to do.
func (e *DamagedError) Error() string {
	if e.Log {
		return fmt.Sprintf("the journal's log %s is damaged: %v; nothing has been changed. "+
			"Restore the directory from a copy of the disk or volume. To get out what can be read, "+
			"copy the directory and in the copy run: sqlite3 %s 'PRAGMA wal_checkpoint(TRUNCATE)'. "+
			"That drops what stands behind the damage; fnbridge journal export, or a start, then reads the rest",
			e.Path, e.Err, fileName)
	}
	return fmt.Sprintf("the journal %s is damaged: %v; nothing has been changed. "+
		"Restore the directory from a copy of the disk or volume, or move it away and start with an empty one, "+
		"which gives up the webhooks that were accepted and not yet delivered", e.Path, e.Err)
}

// Unwrap returns what is wrong.
func (e *DamagedError) Unwrap() error { return e.Err }

// VersionError says that the journal was written by a newer fnbridge.
type VersionError struct {
	// Path is the database file.
	Path string
	// Found is the version of its schema, Known the newest that this program can use.
	Found, Known int
}

// Error names the file, both versions and what to do.
func (e *VersionError) Error() string {
	return fmt.Sprintf("the journal %s has schema version %d and this fnbridge knows versions up to %d: "+
		"start the newer fnbridge that wrote it", e.Path, e.Found, e.Known)
}

// primaryCode returns SQLite's primary result code of err, and false for an error that is not SQLite's.
func primaryCode(err error) (int, bool) {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return 0, false
	}
	return e.Code() & 0xff, true
}

// statementOnly tells whether err undid its one statement and left the transaction as it was.
func statementOnly(err error) bool {
	code, ok := primaryCode(err)
	if !ok {
		return false
	}
	switch code {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE:
		return true
	default:
		return false
	}
}

// takenSeq tells whether err says that a number is in use which the writer gives next.
func takenSeq(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_ROWID)
}

// leavesDoubt tells whether, after err, the connection must be opened anew before its word counts. Full,
// busy and out of memory are states in which SQLite has not lost track of what is on disk.
func leavesDoubt(err error) bool {
	code, ok := primaryCode(err)
	if !ok {
		return true
	}
	switch code {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM:
		return false
	default:
		return true
	}
}

// isDamage tells whether err is SQLite's word for a file whose content is wrong.
func isDamage(err error) bool {
	code, ok := primaryCode(err)
	return ok && (code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB)
}

// damaged gives an error that tells of damage its type, and returns any other as it is.
func damaged(path string, err error) error {
	if _, already := errors.AsType[*DamagedError](err); !already && isDamage(err) {
		return &DamagedError{Path: path, Err: err}
	}
	return err
}
