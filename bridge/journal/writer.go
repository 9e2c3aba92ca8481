package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// Behind a commit of so many requests the writer waits for twice as many, but no longer than that commit took, nor
	// than longestGathering. What a commit costs beside its requests is worth ten of them, and under such a load the
	// processors are needed elsewhere.
	crowdedCommit    = 8
	longestGathering = 2 * time.Millisecond
)

// writer is the journal's one goroutine that changes the database. Its fields are its own.
type writer struct {
	journal *Journal
	store   *store
	// inDoubt is the failure after which the connection must be opened anew before anything else is answered.
	inDoubt error
	// upkeepFailing is set from a failure to the next success, so that it is logged once.
	upkeepFailing bool
	outage        outage
	// database is the file that was opened first, index that of the log's index, which only grows.
	database, index os.FileInfo
	// disowned is why nothing is written any more; nil while the journal is this process's.
	disowned error

	letters, missing map[string]int64
	// replays has what each replay that has not ended is yet to publish.
	replays map[int64]span
	// removed has the cursor of each sink that is not configured, absences what each sink is not to get, holes what has
	// been deleted between webhooks that are stored.
	removed  map[string]int64
	absences map[string][]span
	holes    []span
	// frames is how many pages went to the log since the last checkpoint began, logExcess by how much the log was larger
	// after the last one than it may stay, since somebody reads it.
	frames    int64
	logExcess int64
	// checkpointing tells what became of the checkpoint under way beside the writer; nil: there is none.
	checkpointing <-chan error
	// uncounted is how many bytes of pages were written since the journal's bytes were counted.
	uncounted int64

	cleaning cleaning
	// forgetting is set by the ticker, until no past webhook is remembered for too long.
	forgetting bool
}

// effects is what a transaction changes in the writer's memory once it is durable.
type effects struct {
	appended []Webhook
	advances map[string]int64 // of live streams
	replays  map[int64]span   // what replays are yet to publish; ended, which is empty: nothing
	letters  map[string]int64
	missing  map[string]int64 // webhooks, by sink
	// lettersAdded and streamsChanged say what is to be told of.
	lettersAdded, streamsChanged, dropped bool
	// sinksChanged says that a sink was forgotten or renamed.
	sinksChanged bool
}

func (e *effects) replay(id int64, left span) {
	if e.replays == nil {
		e.replays = make(map[int64]span)
	}
	e.replays[id] = left
}

func (e *effects) countLetters(sink string, n int64) {
	if e.letters == nil {
		e.letters = make(map[string]int64)
	}
	e.letters[sink] += n
}

// start opens the database and decides where each sink begins.
func (w *writer) start(ctx context.Context) (err error) {
	if w.store, err = openStore(ctx, w.journal.path, w.journal.limits.keep); err != nil {
		return err
	}
	w.store.tolerance = w.journal.tolerance
	w.database = w.store.database
	if w.journal.keepSinks {
		if err := w.adoptLimit(ctx); err != nil {
			return fmt.Errorf("read the settings of the journal %s: %w", w.journal.path, damaged(w.journal.path, err))
		}
	}
	if from := w.store.migratedFrom; from > 0 {
		w.journal.log.InfoContext(ctx, "the journal was brought to a new schema; an older fnbridge can no longer open it",
			"from", from, "to", schemaVersion)
	}
	// This reads back the log of a crash and proves that the disk takes writes, before the first promise is made.
	var result checkpointResult
	err = syscall.ENOSPC
	if w.canMove(ctx) {
		result, err = checkpoint(ctx, w.store.conn)
	}
	switch {
	case err == nil:
		w.journal.keepReserve(openingBytes) // of the room that the log had
		if err := w.store.checkLength(ctx, result); err != nil {
			return err
		}
		if !result.busy {
			// The log is empty.
			if err := recordBoot(w.journal.path); err != nil {
				w.journal.log.WarnContext(ctx, "it was not noted under which boot the journal is written; "+
					"less damage to its log can be told", "error", err)
			}
		}
	case isFull(err):
		// What is in the log may be lacking in the database, which is then shorter than it says.
		w.journal.log.WarnContext(ctx, "the disk is full: the journal's log stays until there is room", "error", err)
		w.outage.begin(ErrDiskFull.Error())
		w.outOfSpace(ctx)
	default:
		return fmt.Errorf("move the journal's log into the database: %w", damaged(w.journal.path, err))
	}
	prepare := w.registerSinks
	if w.journal.keepSinks {
		prepare = w.adoptSinks
	}
	err = prepare(ctx)
	if err != nil && isFull(err) { // what was given up of the reserve is somebody else's already
		w.outOfSpace(ctx)
		err = prepare(ctx)
	}
	if err != nil {
		return fmt.Errorf("prepare the journal %s for its sinks: %w", w.journal.path, damaged(w.journal.path, err))
	}
	if err := w.syncLogName(); err != nil {
		return err
	}
	w.refreshRoom(ctx)
	if w.index, err = os.Stat(w.journal.path + "-shm"); err != nil {
		return fmt.Errorf("look at the index of the journal's log: %w", err)
	}
	return w.load(ctx)
}

// checkOwned refuses to go on where another process may write the journal, or SQLite no longer shares what it knows of
// the log with one that does.
func (w *writer) checkOwned() error {
	if w.disowned != nil {
		return w.disowned
	}
	if inPlace(w.journal.path, w.database) != nil {
		return nil //nolint:nilerr // stillInPlace refuses to write meanwhile: a directory that was moved can be put back
	}
	if err := w.journal.lock.stillHeld(); err != nil {
		return err
	}
	path := w.journal.path + "-shm"
	now, err := os.Stat(path)
	if err == nil && os.SameFile(now, w.index) && now.Size() >= w.index.Size() {
		w.index = now
		return nil
	}
	return &OwnershipError{fmt.Sprintf("the index of the journal's log, %s, was cut, removed or replaced while in use",
		path), err}
}

// disown tells of a journal that is no longer this process's.
func (w *writer) disown(ctx context.Context, err error) {
	if _, lost := errors.AsType[*OwnershipError](err); !lost || w.disowned != nil {
		return
	}
	w.disowned, w.inDoubt = err, err
	w.journal.log.ErrorContext(ctx, "the journal is no longer this process's", "error", err)
	w.journal.lost <- err
}

// syncLogName makes the name of the log durable: a database without its log is not what was acknowledged.
func (w *writer) syncLogName() error {
	if err := errors.Join(w.store.noteLog(), syncDirectory(filepath.Dir(w.journal.path))); err != nil {
		return fmt.Errorf("make the journal's log durable: %w", err)
	}
	return nil
}

// adoptSinks takes the sinks from the database.
func (w *writer) adoptSinks(ctx context.Context) error {
	_, sinks, err := w.readSinks(ctx)
	if err != nil {
		return err
	}
	for _, s := range sinks {
		if s.Configured {
			w.journal.sinks = append(w.journal.sinks, s.Sink)
			w.journal.cursors[s.Sink] = new(atomic.Int64)
		}
	}
	return nil
}

// adoptLimit takes the size limit from the database.
func (w *writer) adoptLimit(ctx context.Context) error {
	var limit int64
	err := w.store.conn.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'max_bytes'`).Scan(&limit)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		w.journal.space.limit = limit
		w.journal.limits = limitsOf(limit, filepath.Dir(w.journal.path))
	}
	return err
}

// load reads from the database what the journal keeps in memory.
func (w *writer) load(ctx context.Context) error {
	p, sinks, err := w.readSinks(ctx)
	if err != nil {
		return damaged(w.journal.path, err)
	}
	streams, err := readStreams(ctx, w.store.conn, false)
	if err != nil {
		return damaged(w.journal.path, err)
	}
	used, err := w.store.usedBytes(ctx)
	if err != nil {
		return damaged(w.journal.path, err)
	}
	w.replays = make(map[int64]span)
	for i := range streams {
		if t := &streams[i]; t.Kind == Replay {
			w.replays[t.ID] = span{t.Cursor, t.Through}
		}
	}
	w.letters, w.missing = make(map[string]int64, len(sinks)), make(map[string]int64, len(sinks))
	w.removed = make(map[string]int64)
	for _, s := range sinks {
		w.letters[s.Sink] = s.DeadLetters
		w.missing[s.Sink] = s.Missing.webhooks()
		if cursor, ok := w.journal.cursors[s.Sink]; ok {
			cursor.Store(s.Cursor)
		} else {
			w.removed[s.Sink] = s.Cursor
		}
	}
	w.absences = p.absences
	accepted, err := lastAccepted(ctx, w.store.conn)
	if err != nil {
		return damaged(w.journal.path, err)
	}
	w.journal.accepted.Store(accepted)
	w.journal.tail.forget()
	w.moveOldest(p)
	w.journal.space.used.Store(used + w.journal.limits.keep + w.logExcess)
	w.countParts(ctx)
	if w.journal.head.Swap(p.head) != p.head {
		w.journal.changed.notify()
	}
	// After a doubtful commit there may be letters and streams that nobody was told of.
	w.journal.lettersAdded.notify()
	w.journal.streamsChanged.notify()
	return nil
}

func (w *writer) showDeadLetters() {
	for sink, n := range w.letters {
		w.journal.metrics.deadLetters.WithLabelValues(sink).Set(float64(n))
	}
	for sink, n := range w.missing {
		w.journal.metrics.missing.WithLabelValues(sink).Set(float64(n))
	}
}

// run is the writer's life: it ends when the queue is closed and empty.
func (w *writer) run(ctx context.Context) {
	defer close(w.journal.done)
	ticker := time.NewTicker(sweepInterval(w.journal.retention))
	defer ticker.Stop()
	tick := func() {
		w.cleaning.sweep, w.forgetting = true, true
		w.disown(ctx, w.checkOwned())
		if w.inDoubt == nil {
			w.refreshUsed(ctx) // for whoever looks at the size of a journal that little is written to
		}
		w.refreshRoom(ctx)
		if w.logExcess > 0 {
			w.frames = w.checkpointFrames()
		}
	}
	var batch []*request
	var took time.Duration
	for {
		if len(batch) > 0 {
			// Those just answered are about to come again: letting them go first, without waiting for
			// anyone, gives the next fsync more to carry.
			runtime.Gosched()
			if n := len(batch); n >= crowdedCommit {
				w.journal.queue.gather(min(2*n, maxBatchRequests), min(took, longestGathering))
			}
		}
		clear(batch)
		var finished bool
		batch, finished = w.journal.queue.take(batch[:0])
		if finished {
			w.journal.closeErr = w.shutDown(ctx)
			return
		}
		if len(batch) > 0 {
			began := time.Now()
			w.commit(ctx, batch)
			took = time.Since(began)
			w.refreshRoom(ctx)
		} else if w.journal.space.exhausted.Load() {
			w.refreshRoom(ctx) // somebody asks whether there is room again
		}
		more := w.clean(ctx)
		more = w.forgetPast(ctx) || more
		w.checkpointWhenDue(ctx)
		if w.checkpointing != nil && w.frames >= w.checkpointFrames() {
			// The log must not fill faster than it is moved.
			w.tookCheckpoint(ctx, <-w.checkpointing)
		}
		if more || len(batch) > 0 {
			select {
			case <-ticker.C:
				tick()
			case err := <-w.checkpointing:
				w.tookCheckpoint(ctx, err)
			default:
			}
			continue
		}
		select {
		case <-w.journal.queue.wake:
		case <-ticker.C:
			tick()
		case err := <-w.checkpointing:
			w.tookCheckpoint(ctx, err)
		}
	}
}

// commit makes one transaction of batch and answers every request of it.
func (w *writer) commit(ctx context.Context, batch []*request) {
	started := w.journal.now()
	e, err := w.apply(ctx, batch)
	if err != nil && isFull(err) {
		w.outOfSpace(ctx)
		// What is not a webhook needs less, and makes room.
		if batch = w.refuseWebhooks(ctx, batch, err); len(batch) == 0 {
			return
		}
		e, err = w.apply(ctx, batch)
	}
	if err != nil {
		w.fail(ctx, batch, err)
		return
	}
	w.sayRecovered(ctx)
	w.journal.metrics.commitSeconds.Observe(w.journal.now().Sub(started).Seconds())
	w.journal.metrics.commitRequests.Observe(float64(len(batch)))
	w.take(ctx, e)
	for _, r := range batch {
		w.journal.space.release(r.cost)
		r.answer()
	}
}

// refuseWebhooks answers the requests of a batch that would store webhooks, for which the disk had no room, and returns
// the others.
func (w *writer) refuseWebhooks(ctx context.Context, batch []*request, full error) (others []*request) {
	for _, r := range batch {
		if r.kind != kindAppend {
			r.changed, r.err = 0, nil
			others = append(others, r)
			continue
		}
		r.accepted, r.err = 0, fmt.Errorf("%w: write to the journal %s: %w", ErrDiskFull, w.journal.path, full)
		w.journal.space.release(r.cost)
		r.answer()
	}
	if w.outage.begin(ErrDiskFull.Error()) {
		w.journal.log.ErrorContext(ctx, "the disk is full; webhooks are refused until it has room, and deliveries go on",
			"error", full)
	}
	return others
}

// sayRecovered says that an outage is over, if one is.
func (w *writer) sayRecovered(ctx context.Context) {
	if !w.journal.space.exhausted.Load() && w.outage.end() {
		w.journal.log.InfoContext(ctx, "the journal can write again")
	}
}

// fail answers every request of a batch that is not durable.
func (w *writer) fail(ctx context.Context, batch []*request, err error) {
	err = fmt.Errorf("write to the journal %s: %w", w.journal.path, err)
	if isDamage(err) {
		err = &DamagedError{Path: w.journal.path, Err: err}
	}
	err = fullError(w.journal.path, err)
	if w.outage.begin(err.Error()) {
		w.journal.log.ErrorContext(ctx, "the journal cannot write; webhooks are refused until it can",
			"error", err, "requests", len(batch))
	}
	for _, r := range batch {
		w.journal.space.release(r.cost)
		r.accepted, r.changed, r.err = 0, 0, err
		r.answer()
	}
}

// apply returns once batch is durable. A request whose own statement was refused has its error set, and is
// no part of what was committed.
func (w *writer) apply(ctx context.Context, batch []*request) (_ effects, err error) {
	defer func() {
		if err == nil {
			return
		}
		// Whatever failed may have done so for that reason.
		if lost := w.checkOwned(); lost != nil {
			err = lost
		}
		w.disown(ctx, err)
	}()
	if w.disowned != nil {
		return effects{}, w.disowned
	}
	if err := w.settleDoubt(ctx); err != nil {
		return effects{}, err
	}
	var e effects
	err = w.store.inTransaction(ctx, func() error {
		for some := range slices.Chunk(batch, wideRows) {
			if stored, err := w.appendWide(ctx, some, &e); err != nil {
				return err
			} else if stored {
				continue
			}
			for _, r := range some {
				if err := w.applyRequest(ctx, r, &e); err != nil {
					if !statementOnly(err) {
						return err
					}
					r.err = fmt.Errorf("the journal cannot store this: %w", err)
				}
			}
		}
		return w.checkOwned()
	})
	w.countFrames()
	if err != nil && leavesDoubt(err) {
		w.inDoubt = err
	}
	return e, err
}

// appendWide stores webhooks with one statement, and tells whether it did: not if they are fewer than it takes, or one
// may be there already. Each then shows by itself what it is.
func (w *writer) appendWide(ctx context.Context, some []*request, e *effects) (stored bool, err error) {
	if len(some) < wideRows || slices.ContainsFunc(some, func(r *request) bool { return r.kind != kindAppend }) {
		return false, nil
	}
	if past, err := w.store.anyOfPast(ctx, some); err != nil || past {
		return false, err
	}
	first := w.journal.head.Load() + int64(len(e.appended)) + 1
	values := make([]any, 0, wideRows*webhookColumns)
	for i, r := range some {
		values = append(values, webhookValues(first+int64(i), r.webhook.ID, &r.webhook)...)
	}
	if _, err := w.store.insertWide.ExecContext(ctx, values...); err != nil {
		if statementOnly(err) {
			return false, nil // nothing of it was stored
		}
		return false, err
	}
	for i, r := range some {
		r.accepted = bridge.Stored
		e.appended = append(e.appended, asRead(first+int64(i), r.webhook))
	}
	return true, nil
}

func (w *writer) applyRequest(ctx context.Context, r *request, e *effects) error {
	switch r.kind {
	case kindAppend:
		seq := w.journal.head.Load() + int64(len(e.appended)) + 1
		accepted, err := w.store.append(ctx, seq, &r.webhook)
		if err != nil {
			return err
		}
		r.accepted = accepted
		if accepted != bridge.Duplicate {
			e.appended = append(e.appended, asRead(seq, r.webhook))
		}
	case kindMove:
		return w.applyMove(ctx, r, e)
	case kindDeadLetters:
		if len(r.letters) == 0 {
			return nil
		}
		added, err := w.store.storeLetters(ctx, r.letters, w.journal.space.refusesLetters())
		if errors.Is(err, ErrFullOfDeadLetters) {
			r.err = err
			return nil
		}
		if err != nil {
			return err
		}
		for sink, n := range added {
			e.countLetters(sink, n)
		}
		e.lettersAdded = true
	case kindLettersPublished:
		return w.store.notePublished(ctx, r.letters, w.journal.now())
	case kindDropLetters:
		deleted, err := w.store.deleteLetters(ctx, r.filter, w.journal.now())
		if err != nil {
			return err
		}
		for sink, n := range deleted {
			e.countLetters(sink, -n)
			r.changed += n
		}
		e.dropped = e.dropped || r.changed > 0
	case kindAddStreams:
		for i := range r.streams {
			t := &r.streams[i]
			if t.Kind == Replay {
				t.Cursor, t.Through = w.journal.oldest.Load()-1, max(w.journal.cursors[t.Sink].Load(), e.advances[t.Sink])
				missing, err := w.store.missing(ctx, t.Sink)
				if err != nil {
					return err
				}
				if missing != nil {
					t.Through = max(t.Through, missing.Through)
				}
			}
			if err := w.store.addStream(ctx, t, w.journal.now()); err != nil {
				return err
			}
			if t.Kind == Replay {
				e.replay(t.ID, span{t.Cursor, t.Through})
			}
		}
		e.streamsChanged = true
	case kindCancelReplay:
		cancelled, err := w.store.endReplay(ctx, r.seq, StreamCancelled, w.journal.now())
		if err != nil {
			return err
		}
		if cancelled {
			r.changed = 1
			e.replay(r.seq, span{})
			e.streamsChanged = true
			return w.resolveMissing(ctx, r.seq, e)
		}
	case kindForgetSink, kindRenameSink:
		e.sinksChanged, e.streamsChanged = true, true
		return w.store.allOrNone(ctx, func() error {
			if r.kind == kindForgetSink {
				return w.forgetSink(ctx, r)
			}
			return w.renameSink(ctx, r)
		})
	case kindRenameLetters:
		return w.store.renameLetters(ctx, r.sink, r.to, r.filter.IDs)
	case kindNoteMissing:
		return w.noteMissing(ctx, r.missing, e)
	}
	return nil
}

// applyMove moves streams, and notes how their sink is.
func (w *writer) applyMove(ctx context.Context, r *request, e *effects) error {
	for i := range r.moves {
		t := &r.moves[i].Stream
		// The writer alone knows: what it has just committed, readers see before it is counted.
		if head := w.journal.head.Load(); t.Kind != Retry && t.Cursor > head {
			r.err = fmt.Errorf("sink %q cannot have passed webhook %d: the newest is %d", t.Sink, t.Cursor, head)
			return nil
		}
	}
	for i := range r.moves {
		t := &r.moves[i].Stream
		removed, err := w.store.move(ctx, &r.moves[i], w.letters[t.Sink]+e.letters[t.Sink] > 0, w.journal.now())
		if err != nil {
			return err
		}
		if removed > 0 {
			e.countLetters(t.Sink, -removed)
		}
		left, open := e.replays[t.ID]
		if !open {
			left, open = w.replays[t.ID]
		}
		switch {
		case t.Kind == Live:
			if e.advances == nil {
				e.advances = make(map[string]int64, len(w.journal.sinks))
			}
			e.advances[t.Sink] = max(e.advances[t.Sink], t.Cursor)
		case t.End != "":
			e.replay(t.ID, span{})
			e.streamsChanged = true
			if err := w.resolveMissing(ctx, t.ID, e); err != nil {
				return err
			}
		case open && left != (span{}): // it may have ended just before, in this transaction
			e.replay(t.ID, span{t.Cursor, t.Through})
		}
	}
	if r.state == nil {
		return nil
	}
	_, err := w.store.setState.ExecContext(ctx,
		r.state.State, r.state.LastError, toNanos(r.state.LastErrorAt), toNanos(r.state.Since), r.state.StandsStill,
		r.state.Sink)
	return err
}

// take makes a durable transaction's effects visible.
func (w *writer) take(ctx context.Context, e effects) {
	for sink, seq := range e.advances {
		if cursor := w.journal.cursors[sink]; seq > cursor.Load() {
			cursor.Store(seq)
		}
	}
	for id, left := range e.replays {
		if w.replays[id] = left; left == (span{}) {
			delete(w.replays, id)
		}
	}
	for sink, n := range e.letters {
		w.letters[sink] += n
		w.journal.metrics.deadLetters.WithLabelValues(sink).Set(float64(w.letters[sink]))
	}
	for sink, n := range e.missing {
		w.journal.metrics.missing.WithLabelValues(sink).Set(float64(n))
	}
	if w.journal.space.uncertain(w.uncounted) {
		w.refreshUsed(ctx)
	}
	if len(e.appended) > 0 {
		w.journal.tail.add(e.appended)
		w.journal.accepted.Store(toNanos(e.appended[len(e.appended)-1].ReceivedAt))
		w.journal.head.Add(int64(len(e.appended)))
		w.journal.changed.notify()
	}
	if e.lettersAdded {
		w.journal.lettersAdded.notify()
	}
	if e.dropped {
		w.journal.drops.Add(1)
	}
	if e.streamsChanged || e.dropped {
		w.journal.streamsChanged.notify()
	}
	if e.sinksChanged {
		w.rereadSinks(ctx)
	}
}

// countFrames notes how many pages went to the log since the last call.
func (w *writer) countFrames() {
	frames := w.store.framesWritten()
	w.frames += frames
	w.uncounted += frames * pageSize
}

// refreshUsed counts the journal's bytes anew. A count that fails leaves the last one: the next write will show why.
func (w *writer) refreshUsed(ctx context.Context) {
	if used, err := w.store.usedBytes(ctx); err == nil {
		w.journal.space.used.Store(used + w.journal.limits.keep + w.logExcess)
		w.uncounted = 0
	}
	w.countParts(ctx)
}

// countParts counts what of the journal's bytes does not go as sinks take webhooks.
func (w *writer) countParts(ctx context.Context) {
	if letters, err := w.store.letterBytes(ctx); err == nil {
		w.journal.space.letters.Store(letters)
	}
	if past, err := w.store.pastBytes(ctx); err == nil {
		w.journal.space.past.Store(past)
	}
}

// settleDoubt opens the connection anew after a failure that leaves open what is on disk, and believes only
// what it then finds there. A failed fsync may have thrown away what it was to write: a write of its own and
// a checkpoint, which syncs the log and the database, must therefore succeed before anything is acknowledged on top.
func (w *writer) settleDoubt(ctx context.Context) error {
	if w.inDoubt == nil {
		return nil
	}
	// The old connection's word no longer counts, nor does its error.
	_ = w.closeStore()
	if err := inPlace(w.journal.path, w.database); err != nil {
		return err
	}
	store, err := openStore(ctx, w.journal.path, w.journal.limits.keep)
	if err != nil {
		return err
	}
	w.store, store.tolerance = store, w.journal.tolerance
	if err := w.proveDisk(ctx); err != nil {
		return fmt.Errorf("after %w: %w", w.inDoubt, err)
	}
	if err := w.load(ctx); err != nil {
		return err
	}
	w.showDeadLetters()
	w.inDoubt = nil
	return nil
}

// proveDisk writes through the whole way that an acknowledged webhook takes.
func (w *writer) proveDisk(ctx context.Context) error {
	err := w.store.inTransaction(ctx, func() error {
		_, err := w.store.conn.ExecContext(ctx, `UPDATE settings SET value = value`)
		return err
	})
	if err != nil {
		return err
	}
	// The log begins anew: nothing that comes may lie behind frames that the disk may not have.
	result, err := checkpoint(ctx, w.store.conn)
	if err != nil {
		return err
	}
	if result.busy || !result.complete() {
		return errors.New("the log cannot be moved into the database while another program reads it; " +
			"end that program's transaction")
	}
	return w.syncLogName()
}

func (w *writer) closeStore() error {
	if w.store == nil {
		return nil
	}
	w.awaitCheckpoint()
	err := w.store.close()
	w.store = nil
	return err
}

// reportUpkeep logs a failure that no caller waits for, once until the next success.
func (w *writer) reportUpkeep(ctx context.Context, what string, err error) {
	if w.upkeepFailing {
		return
	}
	w.upkeepFailing = true
	w.journal.log.WarnContext(ctx, "upkeep of the journal failed and will be tried again", "what", what, "error", err)
}

// shutDown leaves one complete database file behind, as far as the disk allows: what it does not, the next start does.
func (w *writer) shutDown(ctx context.Context) error {
	err := w.journal.views.close()
	w.awaitCheckpoint()
	if w.store != nil && w.inDoubt == nil && w.canMove(ctx) {
		if _, failed := checkpoint(ctx, w.store.conn); failed != nil && !isFull(failed) {
			err = errors.Join(err, failed)
		}
	}
	err = errors.Join(err, w.closeStore())
	if w.disowned == nil {
		w.journal.keepReserve(0) // of the room that the log had, so that the next start finds what it needs
	}
	err = errors.Join(err, w.journal.lock.release())
	w.journal.metrics.unregister()
	if err != nil {
		return fmt.Errorf("close the journal %s: %w", w.journal.path, err)
	}
	return nil
}
