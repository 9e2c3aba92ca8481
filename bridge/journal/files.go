package journal

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
)

const (
	fileName = "journal.db"
	lockName = "fnbridge.lock"
	// newSuffix names a database that is still being made. It never holds anything acknowledged.
	newSuffix = ".new"
	// quickCheckBytes is up to which size Open checks the whole structure of the database, which then takes
	// well under a second.
	quickCheckBytes = 32 << 20
)

// makeDirectory creates dir with what is missing above it, and makes the new entries durable.
func makeDirectory(dir string) error {
	existing := dir
	for {
		info, err := os.Stat(existing)
		if err == nil {
			if !info.IsDir() {
				return fmt.Errorf("FNBRIDGE_DATA_DIR (%s): %s is not a directory: name another", dir, existing)
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return unusable(dir, "look at it", err)
		}
		parent := filepath.Dir(existing)
		if parent == existing {
			break
		}
		existing = parent
	}
	if existing == dir {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unusable(dir, "create it", err)
	}
	for at := dir; at != existing; {
		at = filepath.Dir(at)
		if err := syncDirectory(at); err != nil {
			return unusable(dir, "make it durable", err)
		}
	}
	return nil
}

// unusable says of a data directory that cannot be used what was tried there.
func unusable(dir, tried string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("FNBRIDGE_DATA_DIR (%s): this user may not use it: run fnbridge as the user of its files, "+
			"or give them to this one (chown): %w", dir, err)
	}
	return fmt.Errorf("FNBRIDGE_DATA_DIR (%s): %s: %w", dir, tried, err)
}

// findDatabase looks whether there is a journal in dir, and makes nothing.
func findDatabase(dir string) error {
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return fmt.Errorf("FNBRIDGE_DATA_DIR (%s) is not a directory: name the one that serve uses", dir)
	}
	path := filepath.Join(dir, fileName)
	if err := checkOwners(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no journal in %s (no file %s): "+
			"set FNBRIDGE_DATA_DIR to the directory that serve uses: %w", dir, fileName, err)
	case err != nil:
		return unusable(dir, "look at the journal", err)
	case info.Size() == 0:
		return &DamagedError{Path: path, Err: errors.New("the file is empty")}
	}
	return nil
}

// ensureDatabase makes the database file if there is none, complete and under its own name only when it is durable, so
// that a file that is too short is always damage and never a start that was cut off. A file that is there is checked.
func ensureDatabase(ctx context.Context, path string) error {
	if err := checkOwners(path); err != nil {
		return err
	}
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return checkHeader(path)
	case !errors.Is(err, fs.ErrNotExist):
		return unusable(filepath.Dir(path), "look at the journal", err)
	}
	// SQLite would discard a write-ahead log that has no database, and what was acknowledged with it.
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
		return &DamagedError{Path: path, Err: fmt.Errorf("the file is missing, and its write-ahead log %s-wal is there",
			filepath.Base(path))}
	}
	return createDatabase(ctx, path)
}

// checkOwners refuses a journal that another user may have put into a directory that everyone may write.
func checkOwners(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", bootSuffix, reserveSuffix} {
		err := ownfile.Check(path + suffix)
		if _, unseen := errors.AsType[*fs.PathError](err); unseen {
			return unusable(filepath.Dir(path), "look at the journal", err)
		}
		if err != nil {
			return fmt.Errorf("the journal cannot be trusted: %w", err)
		}
	}
	return nil
}

func createDatabase(ctx context.Context, path string) error {
	building := path + newSuffix
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(building + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an interrupted start left: %w", err)
		}
	}
	file, err := os.OpenFile(building, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return unusable(filepath.Dir(path), "create the journal", err)
	}
	// SQLite gives the log and its index the mode of the database, so the mode is settled here.
	if err := errors.Join(file.Chmod(0o600), file.Close()); err != nil {
		return fmt.Errorf("create the journal: %w", err)
	}
	if err := fillDatabase(ctx, building); err != nil {
		return fmt.Errorf("create the journal %s: %w", path, err)
	}
	if err := syncFile(building); err != nil {
		return fmt.Errorf("make the new journal durable: %w", err)
	}
	if err := os.Rename(building, path); err != nil {
		return fmt.Errorf("create the journal: %w", err)
	}
	if err := syncDirectory(filepath.Dir(path)); err != nil {
		return fmt.Errorf("make the new journal durable: %w", err)
	}
	return nil
}

func fillDatabase(ctx context.Context, path string) (err error) {
	db, err := sql.Open(driverName, dataSource(path, fmt.Sprintf("_pragma=page_size(%d)", pageSize),
		"_pragma=journal_mode(wal)", "_pragma=synchronous(full)"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := createSchema(ctx, db); err != nil {
		return err
	}
	_, err = checkpoint(ctx, db)
	return err
}

// checkAtRest refuses a damaged journal while nobody writes to it. It only reads: a writer's connection would move the
// log into the database, when it is opened or when it is closed.
func checkAtRest(ctx context.Context, path string) (err error) {
	if err := checkLog(path); err != nil {
		return err
	}
	if _, missing := os.Stat(path + "-wal"); errors.Is(missing, fs.ErrNotExist) {
		defer func() {
			if err != nil { // SQLite makes an empty log and its index for whoever reads
				err = errors.Join(err, removeEmptyLog(path))
			}
		}()
	}
	v, err := openViews(ctx, path)
	if err != nil {
		return fmt.Errorf("look at the journal %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, v.close()) }()
	var pages int64
	if err := v.db.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return damaged(path, err)
	}
	if pages*pageSize > quickCheckBytes {
		return nil // it would hold up the start too long
	}
	return checkStructure(ctx, v.db, path, "quick_check(10)")
}

// removeEmptyLog removes a log that holds nothing, with its index.
func removeEmptyLog(path string) error {
	info, err := os.Stat(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() > 0) {
		return nil
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if failed := os.Remove(path + suffix); !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// checkHeader reads the first bytes of a database that SQLite does not have open yet. (Opening the file beside
// SQLite, in one process, would drop SQLite's locks on it.)
func checkHeader(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return unusable(filepath.Dir(path), "open the journal", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	header := make([]byte, 100)
	if n, err := io.ReadFull(file, header); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return &DamagedError{Path: path, Err: fmt.Errorf("the file is cut off after %d bytes", n)}
		}
		return fmt.Errorf("read the journal: %w", err)
	}
	// The places are those of SQLite's file format, section 1.3.
	if string(header[:16]) != "SQLite format 3\x00" {
		return &DamagedError{Path: path, Err: errors.New("the file does not begin as a SQLite database does")}
	}
	return checkIdentity(path, int(binary.BigEndian.Uint32(header[68:])), int(binary.BigEndian.Uint32(header[60:])))
}

func syncFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// dataSource returns the name under which the driver opens path, with the given parameters.
func dataSource(path string, parameters ...string) string {
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // a Windows drive
	}
	return (&url.URL{Scheme: "file", Path: slashed, RawQuery: strings.Join(parameters, "&")}).String()
}
