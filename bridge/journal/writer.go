package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
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

	letters map[string]int64
	// replays has the cursor of each replay of a configured sink that has not ended.
	replays map[int64]int64
	// frames is how many pages went to the log since the last checkpoint began, logExcess the log's size beyond walKeep.
	frames    int64
	logExcess int64
	// checkpointing tells what became of the checkpoint under way beside the writer; nil: there is none.
	checkpointing <-chan error
	// uncounted is how many bytes of pages were written since the journal's bytes were counted.
	uncounted int64

	cleaning cleaning
}

// effects is what a transaction changes in the writer's memory once it is durable.
type effects struct {
	appended []Webhook
	advances map[string]int64 // of live streams
	replays  map[int64]int64  // cursors of replays; those that have ended stand at ended
	letters  map[string]int64
	// lettersAdded and streamsChanged say what is to be told of.
	lettersAdded, streamsChanged, dropped bool
}

// ended is where a replay stands that keeps no webhook any more.
const ended = math.MaxInt64

func (e *effects) replay(id, cursor int64) {
	if e.replays == nil {
		e.replays = make(map[int64]int64)
	}
	e.replays[id] = cursor
}

func (e *effects) countLetters(sink string, n int64) {
	if e.letters == nil {
		e.letters = make(map[string]int64)
	}
	e.letters[sink] += n
}

// start opens the database and decides where each sink begins.
func (w *writer) start(ctx context.Context) (err error) {
	if w.store, err = openStore(ctx, w.journal.path); err != nil {
		return err
	}
	w.database = w.store.database
	if from := w.store.migratedFrom; from > 0 {
		w.journal.log.InfoContext(ctx, "the journal was brought to a new schema; an older fnbridge can no longer open it",
			"from", from, "to", schemaVersion)
	}
	// This reads back the log of a crash and proves that the disk takes writes, before the first promise is made.
	result, err := checkpoint(ctx, w.store.conn)
	if err != nil {
		return fmt.Errorf("move the journal's log into the database: %w", damaged(w.journal.path, err))
	}
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
	prepare := w.registerSinks
	if w.journal.keepSinks {
		prepare = w.adoptSinks
	}
	if err := prepare(ctx); err != nil {
		return fmt.Errorf("prepare the journal %s for its sinks: %w", w.journal.path, damaged(w.journal.path, err))
	}
	if err := w.syncLogName(); err != nil {
		return err
	}
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

// adoptSinks takes the sinks and the size limit from the database.
func (w *writer) adoptSinks(ctx context.Context) error {
	p, err := readPosition(ctx, w.store.conn)
	if err != nil {
		return err
	}
	sinks, err := readSinks(ctx, w.store.conn, p)
	if err != nil {
		return err
	}
	for _, s := range sinks {
		if s.Configured {
			w.journal.sinks = append(w.journal.sinks, s.Sink)
			w.journal.cursors[s.Sink] = new(atomic.Int64)
		}
	}
	err = w.store.conn.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'max_bytes'`).
		Scan(&w.journal.space.limit)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// registerSinks gives each configured sink its row, and marks the others.
func (w *writer) registerSinks(ctx context.Context) error {
	var left []SinkStatus
	err := w.store.inTransaction(ctx, func() error {
		conn := w.store.conn
		if _, err := conn.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ('max_bytes', ?1)
			ON CONFLICT (name) DO UPDATE SET value = ?1`,
			w.journal.space.limit); err != nil {
			return err
		}
		p, err := readPosition(ctx, conn)
		if err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, `UPDATE sinks SET configured = 0`); err != nil {
			return err
		}
		for _, sink := range w.journal.sinks {
			if err := w.registerSink(ctx, sink, p); err != nil {
				return err
			}
		}
		sinks, err := readSinks(ctx, conn, p)
		for _, s := range sinks {
			if !s.Configured {
				left = append(left, s)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range left {
		w.journal.log.WarnContext(ctx, "the journal remembers a sink that is not configured; "+
			"what it has not been sent is not kept for it",
			"sink", s.Sink, "webhooks_behind", s.Backlog, "dead_letters", s.DeadLetters)
	}
	return nil
}

func (w *writer) registerSink(ctx context.Context, sink string, p position) error {
	var cursor int64
	err := w.store.conn.QueryRowContext(ctx, `SELECT cursor FROM sinks WHERE sink = ?`, sink).Scan(&cursor)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err := w.store.conn.ExecContext(ctx, `INSERT INTO sinks (sink, cursor, configured) VALUES (?, ?, 1)`, sink, p.head)
		return err
	case err != nil:
		return err
	}
	if missed := p.oldest - 1 - cursor; missed > 0 {
		w.journal.log.WarnContext(ctx, "a sink is configured again; "+
			"webhooks that came meanwhile are no longer kept and will not reach it",
			"sink", sink, "webhooks_missed", missed)
		cursor = p.oldest - 1
	}
	_, err = w.store.conn.ExecContext(ctx, `UPDATE sinks SET configured = 1, cursor = ? WHERE sink = ?`, cursor, sink)
	return err
}

// load reads from the database what the journal keeps in memory.
func (w *writer) load(ctx context.Context) error {
	p, err := readPosition(ctx, w.store.conn)
	if err != nil {
		return damaged(w.journal.path, err)
	}
	sinks, err := readSinks(ctx, w.store.conn, p)
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
	w.replays = make(map[int64]int64)
	for i := range streams {
		if t := &streams[i]; t.Kind == Replay && w.journal.cursors[t.Sink] != nil {
			w.replays[t.ID] = t.Cursor
		}
	}
	w.letters = make(map[string]int64, len(sinks))
	for _, s := range sinks {
		w.letters[s.Sink] = s.DeadLetters
		if cursor, ok := w.journal.cursors[s.Sink]; ok {
			cursor.Store(s.Cursor)
		}
	}
	w.journal.tail.forget()
	w.journal.oldest.Store(p.oldest)
	w.journal.space.used.Store(used)
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
}

// run is the writer's life: it ends when the queue is closed and empty.
func (w *writer) run(ctx context.Context) {
	defer close(w.journal.done)
	ticker := time.NewTicker(sweepInterval(w.journal.retention))
	defer ticker.Stop()
	tick := func() {
		w.cleaning.sweep = true
		w.disown(ctx, w.checkOwned())
		if w.inDoubt == nil {
			w.refreshUsed(ctx) // for whoever looks at the size of a journal that little is written to
		}
		if w.logExcess > 0 {
			w.frames = checkpointFrames
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
		}
		more := w.clean(ctx)
		w.checkpointWhenDue(ctx)
		if more {
			continue
		}
		if len(batch) > 0 {
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
	if err != nil {
		w.fail(ctx, batch, err)
		return
	}
	if w.outage.end() {
		w.journal.log.InfoContext(ctx, "the journal can write again")
	}
	w.journal.metrics.commitSeconds.Observe(w.journal.now().Sub(started).Seconds())
	w.journal.metrics.commitRequests.Observe(float64(len(batch)))
	w.take(ctx, e)
	for _, r := range batch {
		w.journal.space.release(r.cost)
		r.answer()
	}
}

// fail answers every request of a batch that is not durable.
func (w *writer) fail(ctx context.Context, batch []*request, err error) {
	err = fmt.Errorf("write to the journal %s: %w", w.journal.path, err)
	if isDamage(err) {
		err = &DamagedError{Path: w.journal.path, Err: err}
	}
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
		for _, r := range batch {
			if err := w.applyRequest(ctx, r, &e); err != nil {
				if !statementOnly(err) {
					return err
				}
				r.err = fmt.Errorf("the journal cannot store this: %w", err)
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
		added, err := w.store.storeLetters(ctx, r.letters)
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
		deleted, err := w.store.deleteLetters(ctx, r.filter)
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
				t.Cursor, t.Through = w.journal.oldest.Load()-1, w.journal.cursors[t.Sink].Load()
			}
			if err := w.store.addStream(ctx, t, w.journal.now()); err != nil {
				return err
			}
			if t.Kind == Replay {
				e.replay(t.ID, t.Cursor)
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
			e.replay(r.seq, ended)
			e.streamsChanged = true
		}
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
		_, open := w.replays[t.ID]
		switch {
		case t.Kind == Live:
			if e.advances == nil {
				e.advances = make(map[string]int64, len(w.journal.sinks))
			}
			e.advances[t.Sink] = max(e.advances[t.Sink], t.Cursor)
		case t.End != "":
			e.replay(t.ID, ended)
			e.streamsChanged = true
		case open:
			e.replay(t.ID, t.Cursor)
		}
	}
	if r.state == nil {
		return nil
	}
	_, err := w.store.setState.ExecContext(ctx,
		r.state.State, r.state.LastError, toNanos(r.state.LastErrorAt), toNanos(r.state.Since), r.state.Sink)
	return err
}

// take makes a durable transaction's effects visible.
func (w *writer) take(ctx context.Context, e effects) {
	for sink, seq := range e.advances {
		if cursor := w.journal.cursors[sink]; seq > cursor.Load() {
			cursor.Store(seq)
		}
	}
	for id, cursor := range e.replays {
		if w.replays[id] = cursor; cursor == ended {
			delete(w.replays, id)
		}
	}
	for sink, n := range e.letters {
		w.letters[sink] += n
		w.journal.metrics.deadLetters.WithLabelValues(sink).Set(float64(w.letters[sink]))
	}
	if w.journal.space.uncertain(w.uncounted) {
		w.refreshUsed(ctx)
	}
	if len(e.appended) > 0 {
		w.journal.tail.add(e.appended)
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
		w.journal.space.used.Store(used + w.logExcess)
		w.uncounted = 0
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
	store, err := openStore(ctx, w.journal.path)
	if err != nil {
		return err
	}
	w.store = store
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
	if w.store != nil && w.inDoubt == nil {
		_, failed := checkpoint(ctx, w.store.conn)
		err = errors.Join(err, failed)
	}
	err = errors.Join(err, w.closeStore(), w.journal.lock.release())
	w.journal.metrics.unregister()
	if err != nil {
		return fmt.Errorf("close the journal %s: %w", w.journal.path, err)
	}
	return nil
}
