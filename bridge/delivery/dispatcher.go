package delivery

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/insist"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// Dispatcher delivers the webhooks of an Origin to one sink.
type Dispatcher struct {
	o       Options
	name    string
	metrics *metrics
	origin  Origin

	// For the metrics, which are read at any time; written by the loop and its batches alone.
	cursor       atomic.Int64
	beyond       atomic.Int64 // webhooks beyond the cursor that are finished
	flying       atomic.Int64 // events that the sink has and has not answered
	acknowledged atomic.Int64 // events since the start
	state        atomic.Pointer[journal.SinkState]
	oldest       atomic.Int64 // Unix nanoseconds at which the oldest unfinished webhook was received; 0: none
}

// New makes a Dispatcher and registers its metrics. It does nothing until Run.
func New(o Options) (*Dispatcher, error) {
	o.setDefaults()
	d := &Dispatcher{o: o, name: o.Sink.Name(), origin: o.Origin}
	if d.origin == nil {
		d.origin = &fromJournal{
			journal: o.Journal, sink: d.name, events: o.Events, checkInterval: o.CheckInterval,
			replayMissing: o.ReplayMissing, log: o.Logger,
		}
	}
	var err error
	if d.metrics, err = newMetrics(d); err != nil {
		return nil, fmt.Errorf("metrics of sink %s: %w", d.name, err)
	}
	return d, nil
}

// loop is the state of a running Dispatcher. One goroutine owns it. Everything that waits runs beside it, and hands
// back what the loop is to do with the result.
type loop struct {
	d *Dispatcher
	// publish is what Publish and journal writes may use up after Run's own context has ended.
	publish context.Context //nolint:containedctx // lives as long as the loop

	live    *stream
	beside  map[journal.StreamKind]*stream // at most one of a kind
	changed <-chan struct{}                // there may be other streams
	looks   int                            // for what there is
	lanes   *lane.Lanes
	health  health
	stands  standing

	results chan func()
	running int // of which no result has been taken

	writing   bool
	nextWrite time.Time
	saved     journal.SinkState
	savedAt   int64         // the live cursor with it
	hurry     chan struct{} // closed when the write under way is to wait for no other; nil: it does not
	unwritten bool          // the log has it

	checking  bool
	nextCheck time.Time
	wellAt    time.Time // when the check began that passed last
	away      bool      // no check has passed since one failed

	notices notices
	batches int // under way
	broker  broker
}

// Run delivers until ctx ends. Then it starts nothing new, waits for what is under way for as long as the context
// publish lasts, writes the cursors, and returns. What is left waits in the journal. It returns an error only if the
// cursor could not be read at the start, or what was delivered not be written at the end; neither loses events. It runs
// once.
func (d *Dispatcher) Run(ctx, publish context.Context) error {
	begin, err := d.origin.Begin(ctx)
	if err != nil {
		return err
	}
	before, err := lane.ReadFinished(begin.Finished)
	if err != nil { // a repeat of it is no loss
		d.o.Logger.Warn("what the sink has beyond its cursor is sent again", "sink", d.name, "error", err)
	}
	d.cursor.Store(begin.Cursor)
	l := &loop{
		d: d, publish: publish, results: make(chan func()), notices: newNotices(d),
		health: newHealth(&d.o, d.name, d.origin.Words(), d.Backlog),
		stands: standing{o: &d.o, sink: d.name},
		live:   newLive(d, begin.Cursor, begin.Head),
		beside: make(map[journal.StreamKind]*stream),
		lanes:  lane.New(d.o.limits(), d.o.partition, d.o.partitions),
	}
	l.broker = newBroker(ctx, &d.o, d.name, d.origin)
	l.savedAt = begin.Cursor
	l.live.before, l.live.savedBeyond = before, len(begin.Finished) > 0
	return l.run(ctx)
}

// run is the way of every event: read → take → publish → settle → cursor.
func (l *loop) run(ctx context.Context) error {
	wake := time.NewTimer(0)
	defer wake.Stop()
	l.loadStreams(ctx)
	for ctx.Err() == nil {
		now := time.Now()
		var next time.Time
		for s := range l.streams {
			if len(l.broker.found) > 0 {
				break // nothing new begins until that is noted
			}
			next = lane.Earlier(next, s.take(l, now))
			l.startRead(ctx, s)
		}
		l.startReadAgain(ctx, l.live)
		l.live.leaveOverflow(l.lanes, l.d.o.stillShare(), now)
		l.moveCursors(ctx)
		next = lane.Earlier(next, l.startBatches(now))
		next = lane.Earlier(next, l.startWrite())
		next = lane.Earlier(next, l.noteMissing(now))
		next = lane.Earlier(next, l.startCheck(ctx))
		if next.IsZero() {
			wake.Stop()
		} else {
			wake.Reset(max(0, time.Until(next)))
		}
		select {
		case <-ctx.Done():
		case <-wake.C:
		case settle := <-l.results:
			l.takeResults(settle)
		case <-l.changed:
			l.loadStreams(ctx)
		case <-l.d.origin.Withdrawals():
			l.letGoOfWithdrawn()
		case <-l.broker.back:
			l.broker.look()
		}
	}
	return l.stop() //nolint:contextcheck // ctx has ended; what is under way has the context publish
}

// start runs work beside the loop, and what it returns in the loop.
func (l *loop) start(work func() (settle func())) {
	l.running++
	go func() { l.results <- work() }()
}

// takeResults takes a result, and all others that have come meanwhile: what they make room for begins together.
func (l *loop) takeResults(settle func()) {
	for {
		l.running--
		settle()
		select {
		case settle = <-l.results:
		default:
			return
		}
	}
}

// stop waits for everything under way and writes what came of it.
func (l *loop) stop() error {
	l.hurryWrite()
	for ; l.running > 0; l.running-- {
		(<-l.results)()
	}
	for s := range l.streams {
		s.stop()
		s.move()
	}
	moves, _, _ := l.unsaved(time.Now(), true)
	l.notices.sayRest()
	if len(moves) == 0 {
		return nil
	}
	// The budget for publishing may be spent; what was done is worth a moment more: it spares duplicates.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.publish), 5*time.Second)
	defer cancel()
	if err := l.d.origin.Save(ctx, moves, nil, nil); err != nil {
		return fmt.Errorf("sink %s: cursor %d could not be written, so events before it will be sent again: %w",
			l.d.name, l.live.row.Cursor, err)
	}
	return nil
}

// streams yields the open streams, the live one first.
func (l *loop) streams(yield func(*stream) bool) {
	if !yield(l.live) {
		return
	}
	for _, kind := range []journal.StreamKind{journal.Retry, journal.Replay} {
		if s := l.beside[kind]; s != nil && !yield(s) {
			return
		}
	}
}

// loadStreams looks which streams there are beside the live one. What another look found before does not count any
// more.
func (l *loop) loadStreams(ctx context.Context) {
	l.looks++
	look := l.looks
	l.changed = nil
	l.start(func() func() {
		rows, changed := l.d.origin.Streams(ctx)
		return func() {
			if look == l.looks && ctx.Err() == nil {
				l.changed = changed
				l.openStreams(rows)
			}
		}
	})
}

// openStreams releases the streams that are not wanted any more, and a retry if dead letters have been dropped since it
// was opened: what is left of it is read anew. It opens the oldest stream of each kind where none is open.
func (l *loop) openStreams(rows []journal.Stream) {
	for _, s := range l.beside {
		wanted := slices.ContainsFunc(rows, func(r journal.Stream) bool { return r.ID == s.row.ID && r.Drops == s.row.Drops })
		if s.row.End == "" && !wanted {
			s.release(l)
		}
	}
	for _, r := range rows {
		if l.beside[r.Kind] == nil {
			l.beside[r.Kind] = newStream(r, &l.d.o)
		}
	}
}

// startRead reads on when little is left of what has been read.
func (l *loop) startRead(ctx context.Context, s *stream) {
	if !s.needsRead(&l.d.o) {
		return
	}
	s.reading = true
	row, after := s.row, s.window.Read()
	l.start(func() func() {
		page := l.d.origin.Read(ctx, &row, after)
		return func() {
			s.reading = false
			s.ended = len(page) == 0 && ctx.Err() == nil
			s.took(page, &l.d.o)
		}
	})
}

// startReadAgain reads on in the pass under way when little is left of what has been read.
func (l *loop) startReadAgain(ctx context.Context, s *stream) {
	r := &s.again
	number, ahead := s.left.Ahead()
	if !ahead || r.reading || !r.open.runsOut(s.share) {
		return
	}
	r.reading = true
	row := s.row
	l.start(func() func() {
		page := l.d.origin.Read(ctx, &row, number-1)
		return func() {
			r.reading = false
			s.tookAgain(page, &l.d.o)
		}
	})
}

// moveCursors moves the cursor of each stream past what is finished, and forgets streams that are through.
func (l *loop) moveCursors(ctx context.Context) {
	for s := range l.streams {
		if s.move() {
			l.d.o.Logger.Info("a "+string(s.row.Kind)+" is through", "sink", l.d.name, //nolint:sloglint // one of the two kinds
				string(s.row.Kind), s.row.ID, "events", s.row.Taken,
				"acknowledged", s.row.Acknowledged, "dead_lettered", s.row.DeadLettered)
		}
		if (s.released || s.row.End != "") && s.idle() {
			delete(l.beside, s.row.Kind)
			l.loadStreams(ctx) // the next one of its kind, if there is one
		}
	}
	l.d.cursor.Store(l.live.row.Cursor)
	if l.live.leaves {
		window, beyond := &l.live.window, int64(0)
		if waiting := int64(window.Waiting(l.live.left)); window.Span() > waiting {
			read := l.d.origin.Backlog(l.live.row.Cursor) - l.d.origin.Backlog(window.Read())
			beyond = max(0, read-waiting)
		}
		l.d.beyond.Store(beyond)
	}
	var nanos int64
	if t, ok := l.live.window.Oldest(l.live.left); ok {
		nanos = t.UnixNano()
	}
	l.d.oldest.Store(nanos)
}

// startBatches sends what the lanes have, makes dead letters of what has been held for too long, and returns when the
// next of either is due.
func (l *loop) startBatches(now time.Time) (next time.Time) {
	if len(l.broker.found) > 0 {
		return time.Time{} // what is under way comes to its end first
	}
	goOn := l.lanes.GoOn()
	var ready []*batch
	for ln := range l.lanes.All() {
		items, due := ln.Overdue(now, goOn)
		if len(items) > 0 {
			b := &batch{lane: ln, items: items, started: now, givenUp: true}
			l.startBatch(func() { l.d.giveUp(b) }, b)
			continue
		}
		next = lane.Earlier(next, due)
		if items, due = ln.Take(now); len(items) > 0 {
			ready = append(ready, &batch{lane: ln, items: items, started: now, wellAt: later(l.wellAt, ln.PassedAt())})
			continue
		}
		next = lane.Earlier(next, due)
	}
	for _, together := range l.d.o.together(ready) {
		l.startBatch(func() { l.d.send(l.publish, together) }, together...)
	}
	return next
}

// together puts batches of well lanes together whose partitions one broker stores, as far as a call of Publish takes
// them: a request costs a broker much more than a partition of it. A lane in trouble goes alone, so that no other waits
// for what it meets.
func (o *Options) together(ready []*batch) (calls [][]*batch) {
	type call struct {
		place int
		takes lane.Share
	}
	open := make(map[int]call)
	for _, b := range ready {
		leader := o.leader(b.lane.Partition)
		if leader < 0 || !b.lane.Well() {
			calls = append(calls, []*batch{b})
			continue
		}
		var own lane.Share
		for _, it := range b.items {
			own.Add(it)
		}
		c, ok := open[leader]
		if !ok || c.takes.Events+own.Events > o.BatchEvents || c.takes.Bytes+own.Bytes > batchBytes {
			c = call{place: len(calls)}
			calls = append(calls, nil)
		}
		calls[c.place] = append(calls[c.place], b)
		c.takes.Events, c.takes.Bytes = c.takes.Events+own.Events, c.takes.Bytes+own.Bytes
		open[leader] = c
	}
	return calls
}

// startBatch has batches done with beside the loop, together. Those with something that is not to be tried again then
// have that stored, each by itself: no lane waits for the dead letters of another.
func (l *loop) startBatch(do func(), batches ...*batch) {
	l.batches += len(batches)
	l.start(func() func() {
		do()
		return func() {
			for _, b := range batches {
				if len(b.final) == 0 {
					l.settle(b)
					continue
				}
				l.start(func() func() {
					l.d.deadLetter(l.publish, b)
					return func() { l.settle(b) }
				})
			}
		}
	})
}

// settle takes a finished batch back into the loop's state.
func (l *loop) settle(b *batch) {
	l.batches--
	now := time.Now()
	r := lane.Result{Cause: b.cause}
	live := false
	for i, it := range b.items {
		err := b.errs[i]
		s := streamOf(it)
		live = live || s.live()
		switch {
		case err == nil && b.fate(i) == failedAgain: // the sink took nothing
			r.Lost++
			l.finish(it, failedAgain)
			continue
		case err == nil:
			r.Done++
			if it.Attempts > 0 {
				r.Retried++
			}
			l.finish(it, b.fate(i))
			continue
		case s.released, l.d.origin.Withdrawn(it.Webhook):
			r.Lost++
			r.LostLive = r.LostLive || s.live()
			l.finish(it, lost)
		default:
			if !b.givenUp {
				it.Attempts++
				it.Failure = err.Error()
			}
			r.Failed = append(r.Failed, it)
		}
		if r.Cause == nil ||
			(bridge.KindOf(err) == bridge.FailureBlocked && bridge.KindOf(r.Cause) != bridge.FailureBlocked) {
			r.Cause = err
		}
	}
	l.notices.say(b)
	if b.givenUp { // which says nothing of how the sink is
		b.lane.GaveUp(now, r.Failed, insist.Pause)
		return
	}
	b.lane.Settle(now, r)
	if len(r.Failed) > 0 { // whether it is the sink, and when that is back, a check tells
		l.nextCheck = lane.Earlier(l.nextCheck, now.Add(l.d.o.ReturnInterval))
	}
	if live {
		l.health.delivering(l.lanes)
		l.d.origin.Settled(b.lane, Settlement{
			Started: b.started, Passed: r.Done > 0, Health: l.health.now, Lanes: l.lanes, Cause: r.Cause,
		})
	}
	b.lane.SettleEmpty()
}

// finish takes an item out of the loop's state.
func (l *loop) finish(it *lane.Item, f fate) {
	l.lanes.Finish(it)
	if streamOf(it).finish(it, f, l.d.metrics) {
		l.d.origin.Done(it.Webhook)
	}
}

// letGoOfWithdrawn takes events out of the lanes whose webhooks nobody waits for any more. What is under way gets its
// answer first.
func (l *loop) letGoOfWithdrawn() {
	for _, it := range l.lanes.Remove(func(it *lane.Item) bool { return l.d.origin.Withdrawn(it.Webhook) }) {
		l.finish(it, lost)
	}
}

// mostRepeated is how many webhooks the cursor may be ahead of what the journal has before that is written at once: a
// crash repeats them.
const mostRepeated = 64

// presses tells whether what is to be written is worth a commit of the journal of its own. That the cursor has moved a
// little is not: it is written with the next webhook.
func (l *loop) presses(state *journal.SinkState) bool {
	if *state != l.saved || len(l.broker.found) > 0 || l.live.row.Cursor-l.savedAt > mostRepeated {
		return true
	}
	for s := range l.streams {
		if !s.live() && s.dirty {
			return true
		}
	}
	return false
}

// hurryWrite has the write under way wait for no other.
func (l *loop) hurryWrite() {
	if l.hurry != nil {
		close(l.hurry)
		l.hurry = nil
	}
}

// startWrite writes the cursors and the sink's state behind the deliveries, whatever has gathered in one go, and
// returns when to try again after a failure.
func (l *loop) startWrite() time.Time {
	live := l.live
	next := l.stands.judge(l.lanes, live.window.Waiting(live.left), l.health.now == Degraded,
		live.leaves && live.full(&l.d.o))
	state := l.health.state()
	if state.State != "" {
		state.StandsStill = l.stands.text
	}
	l.d.state.Store(&state)
	presses := l.presses(&state)
	if l.writing && presses {
		l.hurryWrite()
	}
	if l.writing || l.broker.noting {
		return next
	}
	if time.Now().Before(l.nextWrite) {
		return l.nextWrite
	}
	moves, moved, later := l.unsaved(time.Now(), false)
	next = lane.Earlier(next, later)
	news := &state
	if state == l.saved {
		news = nil
	}
	if len(moves) == 0 && news == nil {
		return next
	}
	l.writing = true
	if !presses {
		l.hurry = make(chan struct{})
	}
	hurry, cursor := l.hurry, live.row.Cursor
	l.start(func() func() {
		err := l.d.origin.Save(l.publish, moves, news, hurry)
		return func() {
			l.writing, l.hurry = false, nil
			for _, s := range moved {
				s.saving = false
			}
			if err == nil {
				l.unwritten, l.saved, l.savedAt = false, state, cursor
				return
			}
			for i, s := range moved {
				s.notSaved(moves[i])
			}
			l.nextWrite = time.Now().Add(insist.Pause)
			if !l.unwritten && l.publish.Err() == nil { // a write that a stop cuts short is made up for by the stop
				l.unwritten = true
				l.d.o.Logger.Error("the journal cannot be written; deliveries go on, and after a restart some are repeated",
					"sink", l.d.name, "error", err)
			}
		}
	})
	return time.Time{}
}

// unsaved returns how far the streams have come since that was saved, which streams those are, and when to ask again
// for the rest, if that is known. At a stop all is said.
func (l *loop) unsaved(now time.Time, stop bool) (moves []journal.Move, moved []*stream, next time.Time) {
	for s := range l.streams {
		if s.dirty {
			l.live.dirty = true // what another one published has moved the broker's position, too
		}
	}
	for s := range l.streams {
		m, ok, later := s.unsaved(now, stop)
		if ok {
			if s.live() {
				l.broker.mark(&m)
			}
			moves, moved = append(moves, m), append(moved, s)
		}
		next = lane.Earlier(next, later)
	}
	return moves, moved, next
}

// noteMissing notes that the broker went back, once nothing is under way and everything is saved, and returns when to
// try again after a failure. What the live stream has published ahead of its cursor is published again.
func (l *loop) noteMissing(now time.Time) time.Time {
	if len(l.broker.found) == 0 || l.batches > 0 || l.writing {
		return time.Time{}
	}
	for s := range l.streams {
		if s.dirty {
			return time.Time{} // a failed write is tried again
		}
	}
	cursor := l.live.row.Cursor // of which the journal tells what may be missing; it can move past what is skipped
	return l.broker.note(l.publish, now, l.start, func() {
		l.live.release(l)
		l.live = newLive(l.d, cursor, max(l.live.repeats, l.live.window.Read()))
		l.d.metrics.wentBack.Inc()
	})
}

// startCheck asks an idle sink now and then whether it could publish, so that trouble shows before events come. One
// that is away is asked often: its return is what all that is held waits for.
func (l *loop) startCheck(ctx context.Context) time.Time {
	if l.checking {
		return time.Time{}
	}
	now := time.Now()
	if now.Before(l.nextCheck) {
		return l.nextCheck
	}
	if l.live.window.Events() > 0 && !l.lanes.Held() {
		// Publishing shows how the sink is.
		l.nextCheck = now.Add(l.d.origin.CheckInterval())
		return l.nextCheck
	}
	l.checking, l.nextCheck = true, time.Time{}
	l.start(func() func() {
		limited, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		err := l.d.o.Sink.Check(limited)
		return func() {
			l.checking = false
			if ctx.Err() != nil { // a stop is no trouble of the sink's, and no sign that it is well
				return
			}
			began, now := now, time.Now()
			if err == nil {
				l.wellAt = began
				l.lanes.SinkWell(began)
				if l.away {
					l.lanes.TryNow(now)
				}
			}
			l.away = err != nil
			if l.live.window.Events() == 0 && l.d.origin.Checked(err) {
				l.health.idle(err)
			}
			next := l.d.origin.CheckInterval()
			if l.away && l.lanes.Held() {
				next = l.d.o.ReturnInterval
			}
			l.nextCheck = lane.Earlier(l.nextCheck, now.Add(next)) // a batch that failed meanwhile has set its own
		}
	})
	return time.Time{}
}

// State is how the sink is, and zero until that is known.
func (d *Dispatcher) State() journal.SinkState {
	if s := d.state.Load(); s != nil {
		return *s
	}
	return journal.SinkState{}
}

// Acknowledged counts the events that the sink has acknowledged since the start, those of replays and retries too.
func (d *Dispatcher) Acknowledged() int64 { return d.acknowledged.Load() }

// Backlog counts the webhooks that have not wholly reached the sink.
func (d *Dispatcher) Backlog() int64 {
	return max(0, d.origin.Backlog(d.cursor.Load())-d.beyond.Load())
}

// Backlog counts the webhooks that have not wholly reached a sink, as the journal has it: without those that it has
// although one before them waits.
func Backlog(s *journal.SinkStatus) int64 {
	finished, err := lane.ReadFinished(s.Finished)
	if err != nil {
		return s.Backlog // what another version wrote is published again
	}
	through, unfinished := finished.Beyond(s.Cursor)
	return s.Backlog - max(0, s.Within(s.Cursor, through)-unfinished)
}

func (d *Dispatcher) oldestAge() time.Duration {
	nanos := d.oldest.Load()
	if nanos == 0 {
		return 0
	}
	return max(0, d.o.Now().Sub(time.Unix(0, nanos)))
}

func streamOf(it *lane.Item) *stream {
	s, _ := it.Webhook.Owner.(*stream)
	return s
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
