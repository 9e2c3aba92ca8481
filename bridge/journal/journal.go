// Package journal stores accepted webhooks on disk until every sink has them.
//
// It rests on SQLite with a write-ahead log and synchronous=FULL. One writer commits whatever waits as one
// transaction, and each caller gets its answer only after that commit has returned: an Append that returned
// nil survives the end of the process and of the machine. DESIGN.md beside this file states the guarantee
// and the recovery from each kind of crash.
package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
)

// Defaults of Options.
const (
	DefaultMaxBytes  = 8 << 30
	DefaultRetention = 72 * time.Hour
)

// Webhook is a webhook as the journal keeps it: its times to the nanosecond, in UTC.
type Webhook struct {
	// Seq is the webhook's place in the order of acceptance, from 1 on, without gaps.
	Seq int64
	bridge.Webhook
}

// bodyColumn returns the body for a statement, in which nil would be NULL.
func bodyColumn(w *bridge.Webhook) []byte {
	if w.Body == nil {
		return []byte{}
	}
	return w.Body
}

// Options says where the journal is and how it behaves.
type Options struct {
	// Dir is the data directory. It is created, for its owner alone, when it is missing.
	Dir string
	// MaxBytes is how large the journal may grow before Append refuses, its log included. 0 means DefaultMaxBytes.
	MaxBytes int64
	// Retention is how long a webhook that every sink has stays, for deduping. 0 means DefaultRetention.
	Retention time.Duration
	// Tolerance is how far from now the time of a valid signature may be, either way. A webhook's ID and a digest of its
	// body are kept until no signature of it that was seen is valid, also if the webhook itself goes earlier. 0: they go
	// with the webhook.
	Tolerance time.Duration
	// Sinks are the names of those that get the webhooks. With none, nothing counts as delivered.
	Sinks []string
	// KeepSinks opens a journal that is there for a command, while no serve runs: for the sinks of the serve that had it
	// open last. Neither these nor its settings are changed, and no webhook is deleted. Sinks, MaxBytes and Retention
	// must be empty. A directory without a journal is an error.
	KeepSinks bool
	// Logger may be nil: nothing is logged.
	Logger *slog.Logger
	// Registerer may be nil: no metrics.
	Registerer prometheus.Registerer
	// Now may be nil: time.Now. It gives ages for the retention; how often the journal looks is real time.
	Now func() time.Time
}

// Journal is the open journal of one process. Its methods may be called concurrently.
type Journal struct {
	path      string
	log       *slog.Logger
	now       func() time.Time
	retention time.Duration
	tolerance time.Duration
	sinks     []string
	// keepSinks is set when nothing but dead letters may change.
	keepSinks bool

	limits         limits
	lock           *directoryLock
	views          *views
	queue          *queue
	metrics        *metrics
	space          space
	changed        broadcast
	tail           tail
	lettersAdded   broadcast
	streamsChanged broadcast
	drops          atomic.Int64 // of dead letters

	// head is the newest durable number, oldest the oldest that is stored, head+1 when none is; missing counts those
	// between them that are not.
	head, oldest, missing atomic.Int64
	// accepted is when the newest was received, in Unix nanoseconds.
	accepted atomic.Int64
	// cursors has the durable cursor of each configured sink; the keys never change.
	cursors map[string]*atomic.Int64
	// absences has, by sink, what a configured sink is not to get. It never changes.
	absences map[string][]span

	// lost gets why the journal is no longer this process's.
	lost chan error
	// done is closed when the writer has ended, with closeErr set.
	done     chan struct{}
	closeErr error
}

// Open opens the journal in o.Dir, and makes one where there is none. It decides durably where each sink
// begins: a sink that the journal does not know yet starts behind the newest webhook.
//
// A directory in use is a *LockedError, a damaged journal a *DamagedError, one from a newer program a
// *VersionError. ctx bounds the opening only. The journal's goroutine ends with Close.
func Open(ctx context.Context, o Options) (_ *Journal, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := prepareDirectory(&o); err != nil {
		return nil, err
	}
	j := &Journal{
		path: filepath.Join(o.Dir, fileName), log: o.Logger, now: o.Now,
		retention: o.Retention, tolerance: o.Tolerance, sinks: o.Sinks, keepSinks: o.KeepSinks,
		queue: newQueue(), cursors: make(map[string]*atomic.Int64, len(o.Sinks)), done: make(chan struct{}),
		lost: make(chan error, 1),
	}
	j.limits = limitsOf(o.MaxBytes, o.Dir)
	j.space.limit = cmp.Or(o.MaxBytes, math.MaxInt64)
	j.space.room.Store(math.MaxInt64)
	for _, sink := range o.Sinks {
		j.cursors[sink] = new(atomic.Int64)
	}
	var closers []func() error
	defer func() {
		if err != nil {
			for _, c := range slices.Backward(closers) {
				err = errors.Join(err, c())
			}
			err = fullError(j.path, err)
		}
	}()
	if j.lock, err = lockDirectory(o.Dir); err != nil {
		return nil, err
	}
	closers = append(closers, j.lock.release)
	if err := j.prepareSpace(); err != nil {
		return nil, fmt.Errorf("give up the reserve of disk space: %w", err)
	}
	if err := ensureDatabase(ctx, j.path); err != nil {
		return nil, err
	}
	if err := checkAtRest(ctx, j.path); err != nil {
		return nil, err
	}
	w := &writer{journal: j}
	closers = append(closers, w.closeStore)
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	j.absences = w.absences
	if j.views, err = openViews(ctx, j.path); err != nil {
		return nil, fmt.Errorf("open the journal %s to read it: %w", j.path, err)
	}
	closers = append(closers, j.views.close)
	if j.metrics, err = newMetrics(j, o.Registerer); err != nil {
		return nil, err
	}
	w.showDeadLetters()
	go w.run(context.WithoutCancel(ctx))
	return j, nil
}

// prepareDirectory makes the data directory, or looks whether there is a journal in it that a command can use.
func prepareDirectory(o *Options) error {
	if !o.KeepSinks {
		return makeDirectory(o.Dir)
	}
	return findDatabase(o.Dir)
}

// complete checks o and fills in what is left open.
func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("the journal needs a data directory")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("find the data directory: %w", err)
	}
	o.Dir = dir
	if o.KeepSinks && (len(o.Sinks) > 0 || o.MaxBytes != 0 || o.Retention != 0) {
		return errors.New("a journal that keeps its sinks takes them, the size limit and the retention from the serve before")
	}
	if o.MaxBytes < 0 || o.Retention < 0 || o.Tolerance < 0 {
		return fmt.Errorf("the journal's size limit (%d), retention (%s) and tolerance (%s) must not be negative",
			o.MaxBytes, o.Retention, o.Tolerance)
	}
	if o.MaxBytes == 0 && !o.KeepSinks {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Retention == 0 {
		o.Retention = DefaultRetention
	}
	o.Sinks = slices.Clone(o.Sinks)
	slices.Sort(o.Sinks)
	if len(slices.Compact(slices.Clone(o.Sinks))) != len(o.Sinks) {
		return fmt.Errorf("the journal was given a sink twice: %q", o.Sinks)
	}
	if slices.Contains(o.Sinks, "") {
		return errors.New("the journal was given a sink without a name")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Append stores w. When it returns no error, w is durable, or was already: one with the same ID and body is a
// Duplicate. One with the same ID and another body is stored as well. A duplicate's answer, too, waits for the commit
// that makes the first one durable. The journal keeps w.Body: it must not change any more.
//
// An error means that w may or may not be stored, and that appending it again is right: a duplicate is then
// found. It is ErrFull, ErrDiskFull, ErrClosed, ctx's error, or says what failed.
func (j *Journal) Append(ctx context.Context, w bridge.Webhook) (bridge.Acceptance, error) {
	switch {
	case w.ID == "":
		return 0, errors.New("a webhook without an ID cannot be stored")
	case originalID(w.ID) != w.ID:
		return 0, fmt.Errorf("a webhook whose ID ends in%s and a digest cannot be stored: "+
			"the journal itself makes such IDs", reusedMark)
	}
	cost := webhookCost(&w)
	if full := j.space.reserve(cost); full != nil {
		return j.appendToFull(ctx, &w, full)
	}
	r := newRequest(kindAppend)
	r.webhook, r.cost = w, cost
	err := j.submit(ctx, r)
	switch {
	case errors.Is(err, ErrDiskFull):
		return j.appendToFull(ctx, &w, err)
	case err != nil:
		return 0, err
	}
	return r.accepted, nil
}

// Accepting says why webhooks are refused: ErrFull, ErrDiskFull or ErrClosed, or nil while they are not.
func (j *Journal) Accepting() error {
	if j.queue.isClosed() {
		return ErrClosed
	}
	j.measure()
	err := j.space.accepting()
	if err != nil {
		j.queue.nudge() // it looks whether there is room now
	}
	return err
}

// appendToFull answers for a webhook that has no room: one that is there already needs none.
func (j *Journal) appendToFull(ctx context.Context, w *bridge.Webhook, full error) (bridge.Acceptance, error) {
	if j.queue.isClosed() {
		return 0, ErrClosed
	}
	// The writer may have delivered webhooks to delete.
	j.queue.nudge()
	if found, err := j.views.has(ctx, w); err != nil || !found {
		return 0, full
	}
	// The writer notes how long the repeat's signature is valid.
	r := newRequest(kindAppend)
	r.webhook = *w
	switch err := j.submit(ctx, r); {
	case err == nil:
		return r.accepted, nil
	case ctx.Err() != nil || errors.Is(err, ErrClosed):
		return 0, err
	default: // a disk that is full, too; what is there is there
		return bridge.Duplicate, nil
	}
}

// submit gives r to the writer and waits for its answer.
func (j *Journal) submit(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		j.space.release(r.cost)
		return err
	}
	var impatient <-chan time.Time
	if r.patient {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		impatient = timer.C
	}
	if !j.queue.put(r) {
		j.space.release(r.cost)
		return ErrClosed
	}
	if impatient != nil {
		select {
		case <-r.done:
			return r.err
		case <-r.hurry:
		case <-impatient:
		case <-ctx.Done():
		}
		j.queue.hurry(r)
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		if r.stage.CompareAndSwap(queued, abandoned) {
			j.queue.remove(r)
			j.space.release(r.cost)
			return ctx.Err()
		}
		return fmt.Errorf("gave up waiting for the journal, which may still store it: %w", ctx.Err())
	}
}

// Read returns durable webhooks after the given number, in order: at most maxCount, and no more than
// maxBytes of bodies, but at least one if there is one. None means that after is the newest.
// What a sink has not been sent is never missing; what every sink has may be deleted. Several callers may get the same
// bodies, which must not be changed.
func (j *Journal) Read(ctx context.Context, after int64, maxCount int, maxBytes int64) ([]Webhook, error) {
	if !j.queue.isClosed() {
		if after >= j.head.Load() {
			return nil, nil
		}
		if found, ok := j.tail.read(after, maxCount, maxBytes); ok {
			return found, nil
		}
	}
	found, err := j.views.webhooks(ctx, after, maxCount, maxBytes)
	if err != nil {
		return nil, j.readFailure("read webhooks", err)
	}
	return found, nil
}

// Waiting returns what waits for a configured sink behind the given number: durable webhooks, as Read does, without
// those that were accepted while the sink was not configured.
func (j *Journal) Waiting(
	ctx context.Context, sink string, after int64, maxCount int, maxBytes int64,
) ([]Webhook, error) {
	absences := j.absences[sink]
	for {
		after = skip(absences, after)
		found, err := j.Read(ctx, after, maxCount, maxBytes)
		wanted := found
		for _, a := range absences {
			if after < a.through {
				at := slices.IndexFunc(found, func(w Webhook) bool { return w.Seq > a.after })
				if at >= 0 {
					wanted, after = found[:at], a.through
				}
				break
			}
		}
		if err != nil || len(wanted) > 0 || len(found) == 0 {
			return wanted, err
		}
	}
}

// Backlog counts the webhooks that wait for a configured sink behind the given number.
func (j *Journal) Backlog(sink string, after int64) int64 {
	return overlap(waits(after, j.absences[sink]), 0, j.head.Load())
}

// Sinks returns the names of those that get the webhooks.
func (j *Journal) Sinks() []string { return slices.Clone(j.sinks) }

// Head returns the number of the newest durable webhook, 0 when there never was one.
func (j *Journal) Head() int64 { return j.head.Load() }

// Changed returns a channel that is closed once a webhook is appended after the call. To miss nothing, take
// the channel, then Read, and wait only when that found nothing.
func (j *Journal) Changed() <-chan struct{} { return j.changed.wait() }

// Cursor returns the durable cursor of a configured sink: everything up to it is done with.
func (j *Journal) Cursor(_ context.Context, sink string) (int64, error) {
	cursor, err := j.cursor(sink)
	if err != nil {
		return 0, err
	}
	if j.queue.isClosed() {
		return 0, ErrClosed
	}
	return cursor.Load(), nil
}

// Finished returns what a configured sink has finished beyond its cursor, as the last Move that said so gave it.
func (j *Journal) Finished(ctx context.Context, sink string) ([]byte, error) {
	if _, err := j.cursor(sink); err != nil {
		return nil, err
	}
	text, err := j.views.finished(ctx, sink)
	if err != nil {
		return nil, j.readFailure("read what a sink has finished", err)
	}
	return text, nil
}

func (j *Journal) cursor(sink string) (*atomic.Int64, error) {
	cursor, ok := j.cursors[sink]
	if !ok {
		return nil, fmt.Errorf("the journal was not opened for a sink %q; it was for %q", sink, j.sinks)
	}
	return cursor, nil
}

// AddDeadLetters stores letters of configured sinks, all or none, durably when it returns nil. For one that is there
// already, by Sink, WebhookSeq and EventIndex, the new Attempts are added to those it has, Reason and LastAt are
// replaced, and it counts as not published. They are stored even into a journal that is full of webhooks, since
// delivery could not go on without; but with ErrFullOfDeadLetters none that is new is, once the journal is full and
// half of that are dead letters. From three quarters on Append is refused. The letters' bytes must not change until
// AddDeadLetters returns; when ctx ends first, not at all. After an error, adding them again is right; their Attempts
// may then count twice.
func (j *Journal) AddDeadLetters(ctx context.Context, letters []DeadLetter) error {
	for i := range letters {
		if _, err := j.cursor(letters[i].Sink); err != nil {
			return err
		}
	}
	r := newRequest(kindDeadLetters)
	r.letters, r.cost = letters, letterCost(letters)
	j.space.claim(r.cost) // webhooks that come meanwhile leave them their room
	return j.submit(ctx, r)
}

// DropDeadLetters deletes what f selects for good, and returns how many that were. They may be of any sink. Many are
// deleted in steps, each durable before the next: after an error, or a crash, some may be gone.
func (j *Journal) DropDeadLetters(ctx context.Context, f DeadLetterFilter) (int64, error) {
	return j.dropLetters(ctx, f)
}

// DeadLettersPublished notes that letters of configured sinks were published to their sink's dead-letter address. Each
// is told by ID, Sink, Attempts and LastAt, as it was read: one that is gone, or has become a dead letter anew since
// then, is left as it is, and that is no error. Many are noted in steps. It is durable when it returns nil.
func (j *Journal) DeadLettersPublished(ctx context.Context, letters []DeadLetter) error {
	for i := range letters {
		if _, err := j.cursor(letters[i].Sink); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(letters, maxChangedLetters) {
		r := newRequest(kindLettersPublished)
		for i := range chunk {
			l := &chunk[i]
			r.letters = append(r.letters, DeadLetter{
				ID: l.ID, Sink: l.Sink, DeadLetter: bridge.DeadLetter{Attempts: l.Attempts}, LastAt: l.LastAt,
			})
		}
		if err := j.submit(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// DeadLettersAdded returns a channel that is closed once dead letters are added after the call. To miss nothing, take
// the channel, then DeadLetters, and wait only when that found nothing.
func (j *Journal) DeadLettersAdded() <-chan struct{} { return j.lettersAdded.wait() }

// Bytes is the space that the journal uses.
func (j *Journal) Bytes() int64 { return j.space.used.Load() }

// Status returns the state of the journal as it is on disk.
func (j *Journal) Status(ctx context.Context) (Status, error) {
	s, err := j.views.status(ctx)
	if err != nil {
		return Status{}, j.readFailure("read the journal's status", err)
	}
	return s, nil
}

// LetterReasons counts the dead letters by their sink and reason, those with the most first.
func (j *Journal) LetterReasons(ctx context.Context) ([]LetterReason, error) {
	reasons, err := j.views.letterReasons(ctx)
	if err != nil {
		return nil, j.readFailure("read the dead letters", err)
	}
	return reasons, nil
}

// DeadLetters returns the dead letters that f selects, in the order of their IDs.
func (j *Journal) DeadLetters(ctx context.Context, f DeadLetterFilter) ([]DeadLetter, error) {
	letters, err := j.views.deadLetters(ctx, f)
	if err != nil {
		return nil, j.readFailure("read the dead letters", err)
	}
	return letters, nil
}

// CountDeadLetters counts the dead letters that f selects, and the bytes of their data.
func (j *Journal) CountDeadLetters(ctx context.Context, f DeadLetterFilter) (count, bytes int64, err error) {
	if count, bytes, err = j.views.countDeadLetters(ctx, f); err != nil {
		return 0, 0, j.readFailure("count the dead letters", err)
	}
	return count, bytes, nil
}

// Select returns durable webhooks that f selects, in order: at most maxCount, and no more than maxBytes of bodies, but
// at least one if there is one. The last one's Seq is the next page's After; none means the end. What every sink has
// may be deleted between two pages.
func (j *Journal) Select(ctx context.Context, f WebhookFilter, maxCount int, maxBytes int64) ([]Webhook, error) {
	found, err := j.views.selectWebhooks(ctx, f, maxCount, maxBytes)
	if err != nil {
		return nil, j.readFailure("read webhooks", err)
	}
	return found, nil
}

// Count counts the webhooks that f selects, and the bytes of their bodies, without reading these.
func (j *Journal) Count(ctx context.Context, f WebhookFilter) (count, bytes int64, err error) {
	if count, bytes, err = j.views.countWebhooks(ctx, f); err != nil {
		return 0, 0, j.readFailure("count webhooks", err)
	}
	return count, bytes, nil
}

// Lost returns a channel that gets an *OwnershipError, once, when another process may write the journal as well.
// Nothing is stored after that: close it, and end the process.
func (j *Journal) Lost() <-chan error { return j.lost }

func (j *Journal) readFailure(what string, err error) error {
	if j.queue.isClosed() {
		return ErrClosed
	}
	return fmt.Errorf("%s: %w", what, damaged(j.path, err))
}

// Close refuses new requests, finishes those that wait, moves the log into the database and lets go of the
// directory. Every call waits for that, or for ctx: the end then still comes, by itself. Further calls
// return what the first did.
func (j *Journal) Close(ctx context.Context) error {
	j.queue.close()
	select {
	case <-j.done:
		return j.closeErr
	case <-ctx.Done():
		return fmt.Errorf("gave up waiting for the journal to close, which goes on: %w", ctx.Err())
	}
}

// stored counts the webhooks in the journal.
func (j *Journal) stored() int64 { return max(j.head.Load()-j.oldest.Load()+1-j.missing.Load(), 0) }
