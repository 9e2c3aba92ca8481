package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// How much one read takes from the journal. Reads overlap with publishing, so they need not be large.
const (
	readWebhooks = 512
	readBytes    = 8 << 20
	// journalRetry is the wait after the journal failed to read or to write.
	journalRetry = time.Second
	// deadLetterLines is the least time between two log lines about dead letters.
	deadLetterLines = 10 * time.Second
)

// Dispatcher delivers the journal's webhooks to one sink.
type Dispatcher struct {
	o       Options
	name    string
	metrics *metrics

	// For the gauges, which are read at any time; written by the loop alone.
	cursor atomic.Int64
	oldest atomic.Int64 // Unix nanoseconds at which the oldest unfinished webhook was received; 0: none
	up     atomic.Bool
}

// New makes a Dispatcher and registers its metrics. It does nothing until Run.
func New(o Options) (*Dispatcher, error) {
	o.setDefaults()
	d := &Dispatcher{o: o, name: o.Sink.Name()}
	var err error
	if d.metrics, err = newMetrics(d); err != nil {
		return nil, fmt.Errorf("metrics of sink %s: %w", d.name, err)
	}
	return d, nil
}

// loop is the state of a running Dispatcher. One goroutine owns it. The goroutines that it starts do one thing each,
// share nothing with it, and hand their result back through a channel that it always empties before it ends.
type loop struct {
	*Dispatcher
	publish context.Context //nolint:containedctx // lives as long as the loop: what Publish and journal writes may use up after Run's own context has ended

	window  window
	lanes   map[int]*lane
	keys    map[string]keyLane
	sources []*source // read, with events left to take; oldest first
	health  health

	published chan outcome
	read      chan []parsed
	wrote     chan writeResult
	checked   chan checkResult

	running   int // goroutines whose result has not been taken
	reading   bool
	writing   bool
	checking  bool
	nextCheck time.Time
	nextWrite time.Time

	savedCursor int64
	savedState  journal.SinkState
	writeFailed bool

	deadUnsaid int // dead letters that the log was not told of
	deadSaid   time.Time
}

// keyLane remembers the lane of a key with unfinished events. A key never changes lanes in between: its events
// would overtake each other.
type keyLane struct {
	lane int
	open int
}

// parsed is a webhook as read, with its payload told apart.
type parsed struct {
	entry   journal.Webhook
	payload tensorlake.Payload
	err     error
}

// outcome is what became of a batch.
type outcome struct {
	lane  *lane
	batch []*item
	errs  []error // nil: acknowledged, or safely in the dead letters
	dead  []journal.DeadLetter
}

type writeResult struct {
	cursor int64
	state  journal.SinkState
	err    error
}

// checkResult is what a check of the idle sink found.
type checkResult struct {
	err error
	cut bool // by a stop, which is no trouble of the sink's and no sign that it is well
}

// Run delivers until ctx ends. Then it starts nothing new, waits for what is under way for as long as the context
// publish lasts, writes the cursor, and returns. What is left waits in the journal. It returns an error only if the
// cursor could not be read at the start or written at the end; neither loses events.
func (d *Dispatcher) Run(ctx, publish context.Context) error {
	cursor, err := d.o.Journal.Cursor(ctx, d.name)
	if err != nil {
		return fmt.Errorf("cursor of sink %s: %w", d.name, err)
	}
	l := &loop{
		Dispatcher:  d,
		publish:     publish,
		window:      window{cursor: cursor, read: cursor},
		lanes:       make(map[int]*lane),
		keys:        make(map[string]keyLane),
		health:      newHealth(d),
		published:   make(chan outcome),
		read:        make(chan []parsed),
		wrote:       make(chan writeResult),
		checked:     make(chan checkResult),
		savedCursor: cursor,
	}
	d.cursor.Store(cursor)
	return l.run(ctx)
}

func (l *loop) run(ctx context.Context) error {
	wake := time.NewTimer(0)
	defer wake.Stop()
	for ctx.Err() == nil {
		l.fill()
		l.startRead(ctx)
		next := l.startBatches()
		next = earlier(next, l.startWrite())
		next = earlier(next, l.startCheck(ctx))
		if next.IsZero() {
			wake.Stop()
		} else {
			wake.Reset(max(0, next.Sub(l.o.Now())))
		}
		select {
		case <-ctx.Done():
		case <-wake.C:
		case r := <-l.published:
			l.settle(r)
		case r := <-l.read:
			l.took(r)
		case r := <-l.wrote:
			l.written(r)
		case r := <-l.checked:
			l.checkedIdle(r)
		}
	}
	return l.stop() //nolint:contextcheck // ctx has ended; what is under way has the context publish
}

// stop waits for everything under way and writes what came of it.
func (l *loop) stop() error {
	for l.running > 0 {
		select {
		case r := <-l.published:
			l.settle(r)
		case <-l.read:
			l.running--
		case r := <-l.wrote:
			l.written(r)
		case <-l.checked:
			l.running--
		}
	}
	for _, s := range l.sources {
		s.stop()
	}
	if l.deadUnsaid > 0 {
		l.o.Logger.Warn("more events rejected by the sink's broker are in the dead letters", "sink", l.name, "events", l.deadUnsaid)
	}
	if l.window.cursor == l.savedCursor {
		return nil
	}
	// The budget for publishing may be spent; the cursor is worth a moment more: it spares duplicates.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.publish), 5*time.Second)
	defer cancel()
	if err := l.o.Journal.Advance(ctx, l.name, l.window.cursor); err != nil {
		return fmt.Errorf("sink %s: cursor %d could not be written, so events after %d will be sent again: %w",
			l.name, l.window.cursor, l.savedCursor, err)
	}
	return nil
}

// fill takes events from the webhooks that have been read into the lanes, as far as the window has room.
func (l *loop) fill() {
	for len(l.sources) > 0 && l.window.room(&l.o) {
		s := l.sources[0]
		e, ok := s.next()
		if !ok {
			s.webhook.exhausted = true
			s.stop()
			l.sources[0] = nil
			l.sources = l.sources[1:]
			continue
		}
		it := &item{event: e, webhook: s.webhook, index: s.index}
		s.index++
		l.window.take(it)
		ln := l.lane(e)
		ln.queue = append(ln.queue, it)
	}
	l.moveCursor() // a webhook without events is finished once it has been looked at
}

// lane returns where e belongs, and counts it there.
func (l *loop) lane(e bridge.Event) *lane {
	k, known := l.keys[e.PartitionKey]
	if !known {
		if p, ok := l.o.Sink.(bridge.Partitioned); ok {
			k.lane = p.Partition(e)
		}
	}
	k.open++
	l.keys[e.PartitionKey] = k
	ln := l.lanes[k.lane]
	if ln == nil {
		ln = &lane{}
		l.lanes[k.lane] = ln
	}
	return ln
}

// startRead reads on when everything read has been taken. The goroutine waits for webhooks to come if there are none.
func (l *loop) startRead(ctx context.Context) {
	if l.reading || len(l.sources) > 0 || !l.window.room(&l.o) || l.window.span() >= int64(l.o.WindowWebhooks) {
		return
	}
	l.reading = true
	l.running++
	after := l.window.read
	go func() { l.read <- l.readAfter(ctx, after) }()
}

func (l *loop) readAfter(ctx context.Context, after int64) []parsed {
	for failed := false; ; {
		changed := l.o.Journal.Changed()
		entries, err := l.o.Journal.Read(ctx, after, readWebhooks, readBytes)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if !failed {
				failed = true
				l.o.Logger.Error("the journal cannot be read; trying again every second", "sink", l.name, "error", err)
			}
			pause(ctx, journalRetry)
			continue
		}
		if failed {
			failed = false
			l.o.Logger.Info("the journal can be read again", "sink", l.name)
		}
		if len(entries) > 0 {
			result := make([]parsed, 0, len(entries))
			for _, e := range entries {
				payload, err := tensorlake.Parse(e.Body)
				result = append(result, parsed{entry: e, payload: payload, err: err})
			}
			return result
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// took queues what has been read.
func (l *loop) took(entries []parsed) {
	l.reading = false
	l.running--
	for _, p := range entries {
		hook := &webhook{seq: p.entry.Seq, id: p.entry.ID, receivedAt: p.entry.ReceivedAt}
		l.window.add(hook)
		w := bridge.Webhook{ID: p.entry.ID, Timestamp: p.entry.Timestamp, ReceivedAt: p.entry.ReceivedAt, Body: p.entry.Body}
		events := p.payload.Events(w, l.o.Events)
		if p.err != nil {
			// Ingest took it as JSON, so this is another version's judgement: hand it on as it is.
			l.o.Logger.Error("a stored webhook is not a JSON object; it is published as unrecognized",
				"sink", l.name, "webhook_id", w.ID, "error", p.err)
			events = tensorlake.Unrecognized(w)
		}
		l.sources = append(l.sources, newSource(hook, events))
	}
	l.noteOldest()
}

// startBatches sends what the lanes have, and returns when the next of them is due.
func (l *loop) startBatches() time.Time {
	now := l.o.Now()
	var next time.Time
	for _, ln := range l.lanes {
		if batch := ln.take(now, &l.o); len(batch) > 0 {
			ln.busy = true
			l.running++
			go func() { l.published <- l.send(ln, batch) }()
		}
		if !ln.busy && len(ln.held) > 0 {
			next = earlier(next, ln.retryAt)
		}
	}
	return next
}

// send publishes a batch and stores its rejected events as dead letters.
func (l *loop) send(ln *lane, batch []*item) outcome {
	events := make([]bridge.Event, len(batch))
	for i, it := range batch {
		events[i] = it.event
	}
	start := l.o.Now()
	errs := l.o.Sink.Publish(l.publish, events)
	l.metrics.publish.Observe(l.o.Now().Sub(start).Seconds())
	if len(errs) != len(batch) {
		// Never trust a count that does not add up: nothing of the batch counts as acknowledged.
		err := fmt.Errorf("sink answered %d results for %d events", len(errs), len(batch))
		errs = make([]error, len(batch))
		for i := range errs {
			errs[i] = err
		}
	}
	return outcome{lane: ln, batch: batch, errs: errs, dead: l.bury(batch, errs)}
}

// bury stores the rejected events as dead letters, and returns these. Their error becomes nil if that succeeds; otherwise
// they are tried again.
func (l *loop) bury(batch []*item, errs []error) []journal.DeadLetter {
	var letters []journal.DeadLetter
	var rejected []int
	now := l.o.Now()
	for i, err := range errs {
		if err == nil {
			l.metrics.acknowledged.Inc()
			continue
		}
		if bridge.KindOf(err) != bridge.FailureReject {
			l.metrics.retried.Inc()
			continue
		}
		rejected = append(rejected, i)
		letters = append(letters, deadLetter(l.name, batch[i], err, now))
	}
	if len(letters) == 0 {
		return nil
	}
	if err := l.o.Journal.AddDeadLetters(l.publish, letters); err != nil {
		for _, i := range rejected {
			errs[i] = bridge.Retry(fmt.Errorf("rejected by the sink, and the dead letter could not be stored: %w", err))
		}
		l.metrics.retried.Add(float64(len(rejected)))
		return nil
	}
	for _, i := range rejected {
		errs[i] = nil
	}
	l.metrics.deadLettered.Add(float64(len(rejected)))
	return letters
}

func deadLetter(sink string, it *item, cause error, now time.Time) journal.DeadLetter {
	e := it.event
	return journal.DeadLetter{
		Sink: sink, WebhookSeq: it.webhook.seq, WebhookID: e.WebhookID, EventIndex: it.index,
		EventID: e.ID, EventType: e.Type, EventSource: e.Source, EventSubject: e.Subject,
		PartitionKey: e.PartitionKey, EventTime: e.Time, Data: e.Data,
		Workflow: e.Workflow, Function: e.Function, Status: e.Status, Invocation: e.Invocation,
		Project: e.Project, Route: e.Route,
		Reason: cause.Error(), Attempts: it.attempts + 1, FirstAt: now, LastAt: now,
	}
}

// settle takes a finished batch back into the loop's state.
func (l *loop) settle(r outcome) {
	l.running--
	var failed []*item
	var cause error
	done, retried := 0, 0
	for i, it := range r.batch {
		err := r.errs[i]
		if err != nil {
			it.attempts++
			failed = append(failed, it)
			if cause == nil || (bridge.KindOf(err) == bridge.FailureBlocked && bridge.KindOf(cause) != bridge.FailureBlocked) {
				cause = err
			}
			continue
		}
		done++
		if it.attempts > 0 {
			retried++
		}
		l.finish(it)
	}
	r.lane.settle(l.o.Now(), failed, cause, done, retried, &l.o)
	l.moveCursor()
	l.health.delivering(l)
	l.sayDead(r.dead)
}

// sayDead logs new dead letters, in one line every while: a payload can have very many functions.
func (l *loop) sayDead(letters []journal.DeadLetter) {
	if len(letters) == 0 {
		return
	}
	l.deadUnsaid += len(letters)
	now := l.o.Now()
	if now.Sub(l.deadSaid) < deadLetterLines {
		return
	}
	last := letters[len(letters)-1]
	l.o.Logger.Warn("events rejected by the sink's broker are in the dead letters", "sink", l.name, "events", l.deadUnsaid,
		"last_event_id", last.EventID, "last_type", shorten(last.EventType), "last_webhook_id", last.WebhookID, "last_error", last.Reason)
	l.deadUnsaid, l.deadSaid = 0, now
}

func (l *loop) finish(it *item) {
	l.window.finish(it)
	key := it.event.PartitionKey
	k := l.keys[key]
	if k.open--; k.open > 0 {
		l.keys[key] = k
	} else {
		delete(l.keys, key)
	}
}

func (l *loop) moveCursor() {
	l.window.advance()
	l.cursor.Store(l.window.cursor)
	l.noteOldest()
}

func (l *loop) noteOldest() {
	var nanos int64
	if t, ok := l.window.oldest(); ok {
		nanos = t.UnixNano()
	}
	l.oldest.Store(nanos)
}

// startWrite writes the cursor and the sink's state behind the deliveries, whatever has gathered in one go, and
// returns when to try again after a failure.
func (l *loop) startWrite() time.Time {
	state := l.health.state(l.name)
	if l.writing || (l.window.cursor == l.savedCursor && state == l.savedState) {
		return time.Time{}
	}
	if now := l.o.Now(); now.Before(l.nextWrite) {
		return l.nextWrite
	}
	l.writing = true
	l.running++
	cursor, saved, savedState := l.window.cursor, l.savedCursor, l.savedState
	go func() {
		var err error
		if cursor != saved {
			err = l.o.Journal.Advance(l.publish, l.name, cursor)
		}
		if state != savedState {
			err = errors.Join(err, l.o.Journal.SetSinkState(l.publish, state))
		}
		l.wrote <- writeResult{cursor: cursor, state: state, err: err}
	}()
	return time.Time{}
}

func (l *loop) written(r writeResult) {
	l.running--
	l.writing = false
	if r.err != nil {
		l.nextWrite = l.o.Now().Add(journalRetry)
		if !l.writeFailed && l.publish.Err() == nil { // a write that a stop cuts short is made up for by the stop
			l.writeFailed = true
			l.o.Logger.Error("the journal cannot be written; deliveries go on, and after a restart some are repeated",
				"sink", l.name, "error", r.err)
		}
		return
	}
	l.writeFailed = false
	l.savedCursor, l.savedState = r.cursor, r.state
}

// startCheck asks an idle sink now and then whether it could publish, so that trouble shows before events come.
func (l *loop) startCheck(ctx context.Context) time.Time {
	if l.checking {
		return time.Time{}
	}
	now := l.o.Now()
	if now.Before(l.nextCheck) {
		return l.nextCheck
	}
	if l.window.events > 0 {
		// Publishing shows how the sink is.
		l.nextCheck = now.Add(l.o.CheckInterval)
		return l.nextCheck
	}
	l.checking = true
	l.running++
	go func() {
		limited, cancel := context.WithTimeout(ctx, l.o.CheckTimeout)
		defer cancel()
		err := l.o.Sink.Check(limited)
		l.checked <- checkResult{err: err, cut: ctx.Err() != nil}
	}()
	return time.Time{}
}

func (l *loop) checkedIdle(r checkResult) {
	l.running--
	l.checking = false
	l.nextCheck = l.o.Now().Add(l.o.CheckInterval)
	if l.window.events == 0 && !r.cut {
		l.health.idle(r.err)
	}
}

// earlier returns the earlier of two times, of which a zero one means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// shorten keeps names out of a payload from filling the log.
func shorten(s string) string {
	if len(s) <= 128 {
		return s
	}
	return s[:128] + "…"
}
