package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

const (
	// leastHold and mostHold bound how long a sink that fell again soon after it was back is not called ready.
	leastHold = 5 * time.Second
	mostHold  = time.Minute
)

// part is what one sink has to do for a webhook in a Queue.
type part struct {
	entry *entry
	feed  *feed
	// finished tells that the sink has stored or buried every event. The Queue's mu guards it.
	finished bool
	// gone tells that nobody waits for the rest.
	gone atomic.Bool
}

// withdraw has the sink let go of the webhook. The caller holds the Queue's mu.
func (p *part) withdraw() {
	if !p.gone.Swap(true) {
		signal(p.feed.withdrawals)
	}
}

// feed is the supply of a Dispatcher on a Queue.
type feed struct {
	*Dispatcher
	queue    *Queue
	required bool

	pending []*part // not read; the Queue's mu guards it
	gate    gate    // as above

	came        chan struct{} // has a place: something is pending
	withdrawals chan struct{} // has a place: a part is gone

	waiting atomic.Int64 // webhooks that the sink has not let go of
	state   atomic.Pointer[journal.SinkState]
	missed  prometheus.Counter // nil for a required sink
}

func newFeed(d *Dispatcher) *feed {
	return &feed{
		Dispatcher: d, queue: d.o.Queue, required: !d.o.Optional,
		came: make(chan struct{}, 1), withdrawals: make(chan struct{}, 1),
	}
}

func (f *feed) begin(context.Context) (int64, error) { return 0, nil }

func (f *feed) read(ctx context.Context, _ int64) []parsed {
	for {
		if parts := f.takePending(); len(parts) > 0 {
			return parseParts(parts)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.came:
		}
	}
}

func (f *feed) takePending() []*part {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	n := min(len(f.pending), readWebhooks)
	parts := f.pending[:n:n]
	if f.pending = f.pending[n:]; len(f.pending) > 0 {
		signal(f.came)
	} else {
		f.pending = nil
	}
	return parts
}

func parseParts(parts []*part) []parsed {
	result := make([]parsed, 0, len(parts))
	for _, p := range parts {
		w := &p.entry.webhook
		payload, err := p.entry.parse()
		result = append(result, parsed{
			entry:   journal.Webhook{Seq: p.entry.seq, ID: w.ID, Timestamp: w.Timestamp, ReceivedAt: w.ReceivedAt, Body: w.Body},
			payload: payload, err: err, part: p,
		})
	}
	return result
}

func (f *feed) backlog() int64 { return f.waiting.Load() }

// bury publishes rejected events to the sink's dead-letter address. Where there is none, the sender is told; where that
// fails, it is asked to come again: a broker that has no place for dead letters is no reason to hold up other events.
func (f *feed) bury(ctx context.Context, items []*item, letters []journal.DeadLetter) []error {
	errs := make([]error, len(items))
	sink, ok := f.o.Sink.(bridge.DeadLetterPublisher)
	if !ok || sink.DeadLetterAddress() == "" {
		for i, it := range items {
			f.reject(it, letters[i].Reason)
			errs[i] = errSenderTold
		}
		return errs
	}
	batch := make([]bridge.DeadLetter, len(letters))
	for i := range letters {
		batch[i] = bridge.DeadLetter{Event: *items[i].event, Reason: letters[i].Reason, Attempts: letters[i].Attempts}
	}
	for i, err := range answers(sink.PublishDeadLetters(ctx, batch), len(batch)) {
		switch {
		case err == nil:
			f.metrics.lettersPublished.Inc()
		case bridge.KindOf(err) == bridge.FailureReject:
			f.metrics.lettersRejected.Inc()
			f.reject(items[i], fmt.Sprintf("%s; and the dead-letter address %s rejected it, too: %v", letters[i].Reason, sink.DeadLetterAddress(), err))
			errs[i] = errSenderTold
		default:
			f.metrics.lettersRetried.Inc()
			f.miss(1)
			f.refuse(items[i].webhook.part, fmt.Errorf("an event was rejected (%s), and its dead letter could not be published to %s: %w",
				letters[i].Reason, sink.DeadLetterAddress(), err))
			errs[i] = errSenderTold
		}
	}
	return errs
}

// reject notes that an event can never be stored. The webhook's other events go on.
func (f *feed) reject(it *item, reason string) {
	if !f.required {
		f.miss(1)
		return
	}
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	e := it.webhook.part.entry
	if e.rejection == nil {
		e.rejection = &RejectedError{Sink: f.name, EventID: it.event.ID, Reason: reason}
	}
	e.rejection.Events++
}

// refuse answers a webhook that the sink does not store now. If the sink is optional, it misses it.
func (f *feed) refuse(p *part, cause error) {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if f.required && !p.entry.answered {
		f.queue.answer(p.entry, &DownError{Sink: f.name, Err: cause})
	}
	p.withdraw()
}

func (f *feed) miss(events int) {
	if f.missed != nil {
		f.missed.Add(float64(events))
	}
}

func (f *feed) done(w *webhook, lost int) {
	f.waiting.Add(-1)
	if lost > 0 {
		f.miss(lost)
	}
	p, q := w.part, f.queue
	w.part = nil // and with it the body
	q.mu.Lock()
	defer q.mu.Unlock()
	e := p.entry
	// What lost nothing is finished, even if nobody waits for it any more.
	p.finished = lost == 0
	if f.required && p.finished {
		e.required--
	}
	if !f.required {
		e.optional-- // it is not waited for, whatever came of it
	}
	q.settle(e)
	if e.held--; e.held == 0 {
		q.held--
		q.bytes -= int64(len(e.webhook.Body))
	}
}

// gate decides whether webhooks are taken for a sink. The Queue's mu guards it.
type gate struct {
	reached bool  // it has been, once
	down    bool  // nothing gets through, for longer than a change of leader takes
	cause   error // of that
	trial   bool  // a check passed since it was down, and nothing has been published yet
	probing bool  // while it is down: one webhook asks whether it still is

	failing time.Time // since when checks fail; zero: the last one passed
	upAt    time.Time // when it was last found to be up
	hold    time.Duration
	readyAt time.Time
}

// admits tells whether a webhook may come in: any, or while the sink is down one at a time.
func (g *gate) admits() bool { return !g.down || !g.probing }

func (g *gate) ready(now time.Time) error {
	switch {
	case g.down:
		return fmt.Errorf("cannot be reached: %w", g.cause)
	case !g.reached:
		return errors.New("has not been reached yet")
	case now.Before(g.readyAt):
		return errors.New("has failed repeatedly, and is back only just now")
	default:
		return nil
	}
}

// fall notes that the sink is down. One that falls soon after it was back is given longer the next time.
func (g *gate) fall(now time.Time, cause error) {
	g.cause = cause
	if g.down {
		return
	}
	switch {
	case g.trial || (!g.upAt.IsZero() && now.Sub(g.upAt) < mostHold):
		g.hold = min(max(2*g.hold, leastHold), mostHold)
	default:
		g.hold = 0
	}
	g.down, g.trial, g.readyAt = true, false, now.Add(g.hold)
}

// pass notes that something was published.
func (g *gate) pass(now time.Time) {
	if g.down || g.trial {
		g.upAt = now
	}
	g.reached, g.down, g.trial, g.cause = true, false, false, nil
	g.failing = time.Time{} // a check that fails now may have begun before
}

// checked notes what a check of the sink found while nothing was on its way to it, and tells whether the sink is to be
// tried again.
func (g *gate) checked(now time.Time, err error, downAfter time.Duration) (trial bool) {
	if err == nil {
		g.failing, g.reached = time.Time{}, true
		if g.down && !now.Before(g.readyAt) {
			g.down, g.trial, g.cause = false, true, nil
			return true
		}
		return false
	}
	if g.failing.IsZero() {
		g.failing = now
	}
	if !g.reached || now.Sub(g.failing) >= downAfter || bridge.KindOf(err) == bridge.FailureBlocked {
		g.fall(now, err)
	}
	return false
}

// withdrawn fires when the loop may have to let go of something.
func (l *loop) withdrawn() <-chan struct{} {
	if l.feed == nil {
		return nil
	}
	return l.feed.withdrawals
}

// letGoOfWithdrawn takes events out of the lanes whose webhooks nobody waits for any more. What is under way gets its
// answer first.
func (l *loop) letGoOfWithdrawn() {
	for _, p := range l.partitions {
		for _, it := range p.remove(classLive, func(it *item) bool { return it.webhook.withdrawn() }) {
			l.lose(it)
		}
		p.lanes[classLive].settleEmpty()
	}
	l.moveCursor()
}

// lose takes an event out of the loop's state whose webhook nobody waits for.
func (l *loop) lose(it *item) {
	l.leave(it)
	it.webhook.lost++
	l.window.finish(it)
	l.tellDone(it.webhook)
}

// letGo drops the rest of a source whose webhook nobody waits for.
func (s *source) letGo() {
	for s.next() != nil {
		s.webhook.lost++
	}
}

// settleEmpty forgets the failures of a lane in which nothing is left that failed: whether they go on shows with the next
// event. A lane that was down still asks with few.
func (l *lane) settleEmpty() {
	if len(l.held) == 0 && l.failing() {
		l.attempt, l.retryAt, l.failingSince, l.cause = 0, time.Time{}, time.Time{}, nil
	}
}

// judge decides after a batch of a Queue's events whether its lane, and its sink, are known to be down.
func (l *loop) judge(p *partition, started time.Time, done int, cause error) {
	if l.feed == nil {
		return
	}
	ln, now := &p.lanes[classLive], time.Now()
	switch {
	case !ln.down:
		ln.troubledAt, ln.shedding = time.Time{}, false
	case ln.troubledAt.IsZero():
		ln.troubledAt = started
	}
	if ln.down {
		ln.shedding = ln.kind == bridge.FailureBlocked || now.Sub(ln.troubledAt) >= l.o.DownAfter
	}
	l.feed.judge(now, done > 0, ln.shedding && (l.health.now == stateDown || l.health.now == stateBlocked), cause)
	if ln.shedding {
		l.shed(ln)
	}
	ln.settleEmpty()
}

// judge tells the gate what came of a batch.
func (f *feed) judge(now time.Time, passed, down bool, cause error) {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if passed {
		f.gate.pass(now)
	}
	if down {
		f.gate.fall(now, cause)
	}
}

// shed refuses every webhook with events in a lane that is known to be down, but the one that asks on.
func (l *loop) shed(ln *lane) {
	cause := ln.cause
	ln.probe = nil
	for _, items := range [][]*item{ln.held, ln.queue} {
		for _, it := range items {
			switch {
			case it.webhook.withdrawn():
			case ln.probe == nil:
				ln.probe = it.webhook
			case it.webhook != ln.probe:
				l.feed.refuse(it.webhook.part, cause)
			}
		}
	}
	l.letGoOfWithdrawn()
}

// refusesBehindProbe tells whether an event was not taken because its lane is known to be down, and another webhook asks
// whether it still is.
func (l *loop) refusesBehindProbe(e *bridge.Event, w *webhook) bool {
	if l.feed == nil {
		return false
	}
	p := l.partitions[l.placeOf(e)]
	if p == nil || !p.lanes[classLive].shedding {
		return false
	}
	ln := &p.lanes[classLive]
	if ln.probe == nil || ln.probe.done() || (ln.probe.withdrawn() && !p.busy) {
		ln.probe = w
	}
	if ln.probe == w {
		return false
	}
	l.feed.refuse(w.part, l.health.cause())
	return true
}

// judgeIdle tells the gate what a check of the idle sink found, and tells whether it says anything of how the sink is. One that
// passes has everything tried again, unless publishing has failed behind the last one that did: then that has to wait.
func (l *loop) judgeIdle(err error) bool {
	if l.feed == nil {
		return true
	}
	l.feed.queue.mu.Lock()
	trial := l.feed.gate.checked(time.Now(), err, l.o.DownAfter)
	waits := err == nil && l.feed.gate.down
	l.feed.queue.mu.Unlock()
	if trial {
		for _, p := range l.partitions {
			p.lanes[classLive].shedding = false
		}
	}
	return !waits
}

// checkInterval is how long after a check the next one comes: while a Queue's sink is down that is how its recovery is found
// when no webhooks are sent here because of it.
func (l *loop) checkInterval() time.Duration {
	if l.feed == nil {
		return l.o.CheckInterval
	}
	l.feed.queue.mu.Lock()
	defer l.feed.queue.mu.Unlock()
	if g := &l.feed.gate; g.down || !g.reached || !g.failing.IsZero() {
		return l.o.ProbeInterval
	}
	return l.o.CheckInterval
}
