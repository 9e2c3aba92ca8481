package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
)

// Reader looks into a journal without changing it, beside a running serve or without one. Its methods may
// be called concurrently.
type Reader struct {
	views  *views
	closed atomic.Bool
}

// OpenReader opens the journal in the data directory dir for reading. It never makes one: a directory without
// a journal is an error. Damage is a *DamagedError, a newer journal a *VersionError.
func OpenReader(ctx context.Context, dir string) (*Reader, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	path := filepath.Join(abs, fileName)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no journal in %s (no file %s): name the data directory that serve uses: %w", abs, fileName, err)
	case err != nil:
		return nil, fmt.Errorf("look at the journal: %w", err)
	case info.Size() == 0:
		return nil, &DamagedError{Path: path, Err: errors.New("the file is empty")}
	}
	v, err := openViews(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open the journal %s to read it: %w", path, err)
	}
	return &Reader{views: v}, nil
}

// Status returns the state of the journal as it is on disk.
func (r *Reader) Status(ctx context.Context) (Status, error) {
	s, err := r.views.status(ctx)
	return s, r.failure("read the journal's status", err)
}

// DeadLetters returns the dead letters that f selects, in the order of their IDs.
func (r *Reader) DeadLetters(ctx context.Context, f DeadLetterFilter) ([]DeadLetter, error) {
	letters, err := r.views.deadLetters(ctx, f)
	return letters, r.failure("read the dead letters", err)
}

// Verify reads the whole journal and returns a *DamagedError when it is not sound. On a big journal this takes
// minutes, and while it runs the log of a serve beside it cannot be used again and grows.
func (r *Reader) Verify(ctx context.Context) error {
	return r.failure("verify the journal", r.views.verify(ctx, "integrity_check"))
}

// Close ends the reader. It waits for reads that are under way; further calls do nothing.
func (r *Reader) Close() error {
	r.closed.Store(true)
	return r.views.close()
}

func (r *Reader) failure(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case r.closed.Load():
		return ErrClosed
	default:
		return fmt.Errorf("%s: %w", what, damaged(r.views.path, err))
	}
}
