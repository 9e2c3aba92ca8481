package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
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
	if err := findDatabase(abs); err != nil {
		return nil, err
	}
	path := filepath.Join(abs, fileName)
	if err := checkLogUnused(abs, path); err != nil {
		return nil, err
	}
	v, err := openViews(ctx, path)
	if isFull(err) && lendReserve(path) {
		v, err = openViews(ctx, path)
	}
	if code, _ := primaryCode(err); code == sqlite3.SQLITE_CANTOPEN {
		file, denied := os.Open(path) // SQLite does not say why
		if denied != nil {
			return nil, unusable(abs, "open the journal", denied)
		}
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return nil, fullError(path, fmt.Errorf("open the journal %s to read it: %w", path, err))
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

// CountDeadLetters counts the dead letters that f selects, and the bytes of their data.
func (r *Reader) CountDeadLetters(ctx context.Context, f DeadLetterFilter) (count, bytes int64, err error) {
	count, bytes, err = r.views.countDeadLetters(ctx, f)
	return count, bytes, r.failure("count the dead letters", err)
}

// AllStreams returns the streams beside the live ones, in the order in which they were asked for: those that have not
// ended, and the last of those that have.
func (r *Reader) AllStreams(ctx context.Context) ([]Stream, error) {
	all, err := r.views.streams(ctx, true)
	return all, r.failure("read the streams", err)
}

// Select returns webhooks that f selects, in order: at most maxCount, and no more than maxBytes of bodies, but at least
// one if there is one. The last one's Seq is the next page's After; none means the end.
func (r *Reader) Select(ctx context.Context, f WebhookFilter, maxCount int, maxBytes int64) ([]Webhook, error) {
	found, err := r.views.selectWebhooks(ctx, f, maxCount, maxBytes)
	return found, r.failure("read webhooks", err)
}

// Count counts the webhooks that f selects, and the bytes of their bodies, without reading these.
func (r *Reader) Count(ctx context.Context, f WebhookFilter) (count, bytes int64, err error) {
	count, bytes, err = r.views.countWebhooks(ctx, f)
	return count, bytes, r.failure("count webhooks", err)
}

// Verify reads the whole journal, calling progress (which may be nil) with how many of its webhooks and dead letters
// are done. Damage to the file's structure is a *DamagedError; the report says what else is not as it must be.
//
// It begins with a check of the file by SQLite, some 150 MiB a second, which is one read: while it lasts the log of a
// serve beside it cannot begin anew, and grows by all that is written.
func (r *Reader) Verify(ctx context.Context, progress func(done, total int64)) (Verification, error) {
	report, err := r.views.verify(ctx, time.Now(), progress)
	return report, r.failure("verify the journal", err)
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
