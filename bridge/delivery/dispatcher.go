package delivery

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

const (
	// How much one read takes from the journal: at the rates of a backlog, what the sink publishes in some tens of milliseconds.
	readWebhooks = 1024
	readBytes    = 8 << 20
	// readAhead is how many webhooks lie ready while the next ones are being read.
	readAhead = readWebhooks / 2
	// Webhooks as small as these are normalised where they are read, beside the loop. Others yield one event after the
	// other to it, so that a payload with very many is never expanded in memory.
	eagerEvents = 8
	eagerBytes  = 1 << 10
	// journalRetry is the wait after the journal failed to read or to write.
	journalRetry = time.Second
	// deadLetterLines is the least time between two log lines about dead letters.
	deadLetterLines = 10 * time.Second
)

// Dispatcher delivers the webhooks of a journal, or of a Queue, to one sink.
type Dispatcher struct {
	o       Options
	name    string
	metrics *metrics
	origin  origin

	// For the gauges, which are read at any time; written by the loop alone.
	cursor atomic.Int64
	state  atomic.Pointer[journal.SinkState]
	oldest atomic.Int64 // Unix nanoseconds at which the oldest unfinished webhook was received; 0: none
	up     atomic.Bool

	replaying atomic.Bool
	replays   chan *replay  // from Replay to the loop
	ended     chan struct{} // closed when Run has ended
}

// New makes a Dispatcher and registers its metrics. It does nothing until Run.
func New(o Options) (*Dispatcher, error) {
	o.setDefaults()
	d := &Dispatcher{o: o, name: o.Sink.Name(), replays: make(chan *replay), ended: make(chan struct{})}
	if o.Queue == nil {
		d.origin = fromJournal{d}
	} else {
		if o.GiveUpAfter > 0 {
			return nil, fmt.Errorf("sink %s: a Queue gives up with its webhooks, and GiveUpAfter is for a journal", d.name)
		}
		var err error
		if d.origin, err = o.Queue.addSink(d); err != nil {
			return nil, fmt.Errorf("metrics of sink %s: %w", d.name, err)
		}
	}
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

	window       window
	partitions   map[int]*partition
	keys         map[string]*keyLane
	openWebhooks openWebhooks
	health       health
	letters      letters
	replay       *replay // under way, or nil
	guests       Options // for batches that are not live

	published   chan outcome
	read        chan []parsed
	wrote       chan writeResult
	checked     chan checkResult
	lettersRead chan letterRead
	removed     chan removal
	replayRead  chan replayRead

	running   int // goroutines whose result has not been taken
	reading   bool
	writing   bool
	checking  bool
	nextCheck time.Time
	nextWrite time.Time

	saved       progress
	writeFailed bool

	rejections, refusals, givings notice
}

// parsed is a webhook as read, with its payload told apart.
type parsed struct {
	entry   journal.Webhook
	payload tensorlake.Payload
	err     error
	part    *part          // that a sink has in it, if it is from a Queue
	events  []bridge.Event // of a small one; else nil
}

// outcome is what became of a batch.
type outcome struct {
	partition    *partition
	class        class
	batch        []*item
	started      time.Time
	errs         []error              // nil: the sink is done with it
	deadLettered []bool               // which are in the dead letters; nil: none
	letters      []journal.DeadLetter // of those
	told         []journal.DeadLetter // of what there are no dead letters, because senders are told instead
	givenUp      bool                 // it was not tried; what has no error is in the dead letters
}

type writeResult struct {
	progress
	err error
}

// checkResult is what a check of the idle sink found.
type checkResult struct {
	err error
	cut bool // by a stop, which is no trouble of the sink's and no sign that it is well
}

// Run delivers until ctx ends. Then it starts nothing new, waits for what is under way for as long as the context
// publish lasts, writes the cursor, and returns. What is left waits in the journal. It returns an error only if the
// cursor could not be read at the start, or what was delivered not be written at the end; neither loses events. It runs
// once.
func (d *Dispatcher) Run(ctx, publish context.Context) error {
	defer close(d.ended)
	cursor, err := d.origin.begin(ctx)
	if err != nil {
		return err
	}
	l := &loop{
		Dispatcher:  d,
		publish:     publish,
		window:      window{cursor: cursor, read: cursor},
		partitions:  make(map[int]*partition),
		keys:        make(map[string]*keyLane),
		health:      newHealth(d),
		published:   make(chan outcome),
		read:        make(chan []parsed),
		wrote:       make(chan writeResult),
		checked:     make(chan checkResult),
		lettersRead: make(chan letterRead),
		removed:     make(chan removal),
		replayRead:  make(chan replayRead),
		letters:     newLetters(),
		guests:      guestOptions(d.o),
		rejections:  notice{message: d.origin.words().rejected},
		refusals:    notice{message: d.origin.words().refused},
		givings:     notice{message: "events that were given up are in the dead letters"},
		saved:       progress{cursor: cursor},
	}
	d.cursor.Store(cursor)
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		d.forward(ctx, publish)
	}()
	defer func() { <-forwarded }()
	return l.run(ctx)
}

func (l *loop) run(ctx context.Context) error {
	wake := time.NewTimer(0)
	defer wake.Stop()
	for ctx.Err() == nil {
		l.fill()
		l.fillLetters()
		more := l.fillReplay()
		l.startRead(ctx)
		l.startLetterRead(ctx)
		l.startReplayRead(ctx)
		next := l.startGivingUp()
		next = earlier(next, l.startBatches())
		next = earlier(next, l.startWrite())
		next = earlier(next, l.startRemoval())
		next = earlier(next, l.startCheck(ctx))
		switch {
		case more:
			wake.Reset(0)
		case next.IsZero():
			wake.Stop()
		default:
			wake.Reset(max(0, time.Until(next)))
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
		case r := <-l.lettersRead:
			l.tookLetters(ctx, r)
		case r := <-l.removed:
			l.lettersRemoved(r)
		case r := <-l.replayRead:
			l.tookReplay(r)
		case <-l.origin.withdrawals():
			l.letGoOfWithdrawn()
		case r := <-l.replays:
			l.beginReplay(r)
		case <-l.calledOff():
			l.callOffReplay(l.replay.ctx.Err())
		}
	}
	return l.stop() //nolint:contextcheck // ctx has ended; what is under way has the context publish
}

// stop waits for everything under way and writes what came of it.
func (l *loop) stop() error {
	l.callOffReplay(ErrReplayStopped)
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
		case <-l.lettersRead:
			l.running--
		case r := <-l.removed:
			l.lettersRemoved(r)
		case r := <-l.replayRead:
			l.tookReplay(r)
		}
	}
	for _, s := range l.openWebhooks.list {
		s.stop()
	}
	l.rejections.sayRest(l)
	l.refusals.sayRest(l)
	l.givings.sayRest(l)
	// The budget for publishing may be spent; what was done is worth a moment more: it spares duplicates.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.publish), 5*time.Second)
	defer cancel()
	return errors.Join(l.removeLast(ctx), l.advanceLast(ctx))
}

// advanceLast writes the cursor at a stop.
func (l *loop) advanceLast(ctx context.Context) error {
	now := l.saved
	now.cursor = l.window.cursor
	if err := l.origin.save(ctx, now, l.saved); err != nil {
		return fmt.Errorf("sink %s: cursor %d could not be written, so events after %d will be sent again: %w",
			l.name, now.cursor, l.saved.cursor, err)
	}
	return nil
}

// fill takes events from the webhooks that have been read into the lanes, as far as the window has room.
func (l *loop) fill() {
	for l.openWebhooks.len() > 0 && l.window.room(&l.o) {
		s := l.openWebhooks.next()
		var e *bridge.Event
		if s.webhook.withdrawn() {
			s.letGo()
		} else {
			e = s.next()
		}
		if e == nil {
			s.webhook.exhausted = true
			s.stop()
			l.tellDone(s.webhook)
			l.openWebhooks.remove()
			continue
		}
		if l.origin.refuses(l, e, s.webhook) {
			s.webhook.lost++
			continue
		}
		it := &item{event: e, webhook: s.webhook}
		s.taken++
		l.window.take(it)
		l.enqueue(it)
	}
	l.moveCursor() // a webhook without events is finished once it has been looked at
}

// startRead reads on when little is left of what has been read. The goroutine waits for webhooks to come if there are none.
func (l *loop) startRead(ctx context.Context) {
	if l.reading || l.openWebhooks.len() > readAhead || !l.window.room(&l.o) || l.window.span() >= int64(l.o.WindowWebhooks) {
		return
	}
	l.reading = true
	l.running++
	after := l.window.read
	go func() { l.read <- l.origin.read(ctx, after) }()
}

// insist calls read until it succeeds, and tells whether it did before ctx ended.
func (d *Dispatcher) insist(ctx context.Context, read func() error) bool {
	for failed := false; ; failed = true {
		err := read()
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			if failed {
				d.o.Logger.Info("the journal can be read again", "sink", d.name)
			}
			return true
		}
		if !failed {
			d.o.Logger.Error("the journal cannot be read; trying again every second", "sink", d.name, "error", err)
		}
		pause(ctx, journalRetry)
	}
}

// eventsOf returns the events of a stored webhook. Ingest took each as a JSON object: that one is none is another version's
// judgement, and it is handed on as it is, as unrecognized.
func eventsOf(p *parsed, o tensorlake.Options) iter.Seq[bridge.Event] {
	w := bridge.Webhook{ID: p.entry.ID, Timestamp: p.entry.Timestamp, ReceivedAt: p.entry.ReceivedAt, Body: p.entry.Body}
	if p.err != nil {
		return tensorlake.Unrecognized(w)
	}
	return p.payload.Events(w, o)
}

// sourceOf returns those events of a webhook that the sink wants, as they are taken.
func (d *Dispatcher) sourceOf(p *parsed) *source {
	hook := &webhook{seq: p.entry.Seq, id: p.entry.ID, receivedAt: p.entry.ReceivedAt, part: p.part}
	if p.events != nil {
		return readySource(hook, p.events, d.o.Routes)
	}
	return newSource(hook, eventsOf(p, d.o.Events), d.o.Routes)
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
	for i := range entries {
		p := &entries[i]
		if p.err != nil {
			l.o.Logger.Error("a stored webhook is not a JSON object; it is published as unrecognized",
				"sink", l.name, "webhook_id", p.entry.ID, "error", p.err)
		}
		s := l.sourceOf(p)
		l.window.add(s.webhook)
		l.openWebhooks.add(s)
	}
	l.noteOldest()
}

// startBatches sends what the partitions have, and returns when the next of them is due.
func (l *loop) startBatches() time.Time {
	now := time.Now()
	var next time.Time
	for _, p := range l.partitions {
		if p.busy {
			continue
		}
		c, batch, due := p.pick(now, &l.o, &l.guests)
		if len(batch) == 0 {
			next = earlier(next, due)
			continue
		}
		p.busy = true
		l.running++
		go func() { l.published <- l.send(p, c, batch) }()
	}
	return next
}

// send publishes a batch and stores its rejected events as dead letters.
func (l *loop) send(p *partition, c class, batch []*item) outcome {
	events := make([]bridge.Event, len(batch))
	for i, it := range batch {
		events[i] = *it.event
	}
	start := time.Now()
	errs := l.o.Sink.Publish(l.publish, events)
	l.metrics.publish.Observe(time.Since(start).Seconds())
	r := outcome{partition: p, class: c, batch: batch, started: start, errs: answers(errs, len(batch))}
	l.deadLetter(&r)
	return r
}

// deadLetter has the rejected events stored as dead letters, or their senders told. Their error becomes nil if that succeeds;
// otherwise they are tried again.
func (l *loop) deadLetter(r *outcome) {
	var letters []journal.DeadLetter
	var rejected []*item
	var places []int
	now := l.o.Now()
	for i, err := range r.errs {
		if err == nil {
			l.metrics.acknowledged.Inc()
			continue
		}
		if bridge.KindOf(err) != bridge.FailureReject {
			l.metrics.retried.Inc()
			continue
		}
		places = append(places, i)
		rejected = append(rejected, r.batch[i])
		letters = append(letters, deadLetter(l.name, r.batch[i], r.batch[i].attempts+1, err.Error(), now))
	}
	if len(letters) == 0 {
		return
	}
	r.deadLettered = make([]bool, len(r.batch))
	for k, err := range l.origin.deadLetter(l.publish, rejected, letters) {
		i := places[k]
		switch {
		case err == nil:
			r.errs[i], r.deadLettered[i] = nil, true
			r.letters = append(r.letters, letters[k])
			l.metrics.deadLettered.Inc()
		case errors.Is(err, errSenderTold):
			r.errs[i] = nil
			r.told = append(r.told, letters[k])
			l.metrics.rejected.Inc()
		default:
			r.errs[i] = bridge.Retry(fmt.Errorf("rejected by the sink, and the dead letter could not be stored: %w", err))
			l.metrics.retried.Inc()
		}
	}
}

func deadLetter(sink string, it *item, attempts int, reason string, now time.Time) journal.DeadLetter {
	return journal.DeadLetter{
		Sink: sink, WebhookSeq: it.webhook.seq, Event: *it.event, Reason: reason, Attempts: attempts, FirstAt: now, LastAt: now,
	}
}

// settle takes a finished batch back into the loop's state.
func (l *loop) settle(r outcome) {
	l.running--
	r.partition.busy = false
	var failed []*item
	var cause error
	done, retried, lost := 0, 0, 0
	for i, it := range r.batch {
		err := r.errs[i]
		if err == nil {
			done++
			if it.attempts > 0 {
				retried++
			}
			l.finish(it, r.givenUp || (r.deadLettered != nil && r.deadLettered[i]))
			continue
		}
		if it.replay != nil && it.replay.over {
			l.letGo(it)
			continue
		}
		if it.webhook.withdrawn() {
			lost++
			l.lose(it)
		} else {
			if !r.givenUp {
				it.attempts++
				it.failure = err.Error()
			}
			failed = append(failed, it)
		}
		if cause == nil || (bridge.KindOf(err) == bridge.FailureBlocked && bridge.KindOf(cause) != bridge.FailureBlocked) {
			cause = err
		}
	}
	ln, now := &r.partition.lanes[r.class], time.Now()
	if r.givenUp {
		ln.gaveUp(now, failed)
		l.givings.say(l, r.letters)
	} else {
		ln.settle(now, failed, cause, result{done: done, retried: retried, lost: lost}, &l.o)
		l.rejections.say(l, r.letters)
		l.refusals.say(l, r.told)
	}
	switch r.class {
	case classRetried:
		l.letGoOfGone(r.partition)
		l.rotate(r.partition)
		l.sayLetters()
	case classReplayed:
		l.endReplay()
	default:
		l.moveCursor()
		if !r.givenUp { // which says nothing of how the sink is
			l.health.delivering(l)
			l.origin.settled(l, r.partition, r.started, done, cause)
		}
	}
}

// notice is a line of the log about new dead letters, written once every while: a payload can have very many functions.
type notice struct {
	message string
	unsaid  int // dead letters that the log was not told of
	said    time.Time
}

func (n *notice) say(l *loop, letters []journal.DeadLetter) {
	if len(letters) == 0 {
		return
	}
	n.unsaid += len(letters)
	now := time.Now()
	if !n.said.IsZero() && now.Sub(n.said) < deadLetterLines {
		return
	}
	last := &letters[len(letters)-1]
	l.o.Logger.Warn(n.message, "sink", l.name, "events", n.unsaid, //nolint:sloglint // one of the two constants with which the notices are made
		"last_event_id", last.Event.ID, "last_type", shorten(last.Event.Type), "last_webhook_id", last.Event.WebhookID, "last_error", last.Reason)
	n.unsaid, n.said = 0, now
}

// sayRest writes at a stop what the log was not told of.
func (n *notice) sayRest(l *loop) {
	if n.unsaid > 0 {
		l.o.Logger.Warn("more "+n.message, "sink", l.name, "events", n.unsaid) //nolint:sloglint // as above
	}
}

// finish takes an event out of the loop's state that is acknowledged or, if deadLettered, a dead letter.
func (l *loop) finish(it *item, deadLettered bool) {
	l.leave(it)
	switch it.class {
	case classRetried:
		l.finishLetter(it, deadLettered)
	case classReplayed:
		l.finishReplayed(it, deadLettered)
	default:
		l.window.finish(it)
		l.tellDone(it.webhook)
	}
}

// tellDone tells the origin of a webhook that is through.
func (l *loop) tellDone(w *webhook) {
	if w.done() && !w.told {
		w.told = true
		l.window.unfinished--
		l.origin.done(w, w.lost)
	}
}

func (l *loop) moveCursor() {
	l.window.advance()
	l.window.compact()
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
	now := progress{cursor: l.window.cursor, state: l.health.state(l.name)}
	l.state.Store(&now.state)
	if l.writing || now == l.saved {
		return time.Time{}
	}
	if time.Now().Before(l.nextWrite) {
		return l.nextWrite
	}
	l.writing = true
	l.running++
	before := l.saved
	go func() { l.wrote <- writeResult{progress: now, err: l.origin.save(l.publish, now, before)} }()
	return time.Time{}
}

func (l *loop) written(r writeResult) {
	l.running--
	l.writing = false
	if r.err != nil {
		l.nextWrite = time.Now().Add(journalRetry)
		if !l.writeFailed && l.publish.Err() == nil { // a write that a stop cuts short is made up for by the stop
			l.writeFailed = true
			l.o.Logger.Error("the journal cannot be written; deliveries go on, and after a restart some are repeated",
				"sink", l.name, "error", r.err)
		}
		return
	}
	l.writeFailed = false
	l.saved = r.progress
}

// startCheck asks an idle sink now and then whether it could publish, so that trouble shows before events come.
func (l *loop) startCheck(ctx context.Context) time.Time {
	if l.checking {
		return time.Time{}
	}
	now := time.Now()
	if now.Before(l.nextCheck) {
		return l.nextCheck
	}
	if l.window.events > 0 {
		// Publishing shows how the sink is.
		l.nextCheck = now.Add(l.origin.checkInterval())
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
	if l.window.events == 0 && !r.cut && l.origin.checked(l, r.err) {
		l.health.idle(r.err)
	}
	l.nextCheck = time.Now().Add(l.origin.checkInterval())
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
