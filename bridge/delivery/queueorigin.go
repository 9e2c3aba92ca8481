package delivery

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// part is what one sink has to do for a webhook in a Queue.
type part struct {
	entry  *entry
	origin *queueOrigin
	// finished tells that the sink has stored or dead-lettered every event. The Queue's mu guards it.
	finished bool
	// gone tells that nobody waits for the rest.
	gone atomic.Bool
}

// withdraw has the sink let go of the webhook. The caller holds the Queue's mu.
func (p *part) withdraw() {
	if !p.gone.Swap(true) {
		signal(p.origin.withdrawn)
	}
}

// queueOrigin is the origin of a Dispatcher on a Queue.
type queueOrigin struct {
	d        *Dispatcher
	queue    *Queue
	required bool

	pending []*part // not read; the Queue's mu guards it
	breaker breaker // as above

	came      chan struct{} // has a place: something is pending
	withdrawn chan struct{} // has a place: a part is gone

	waiting atomic.Int64       // webhooks that the sink has not let go of
	missed  prometheus.Counter // nil for a required sink
}

func (f *queueOrigin) begin(context.Context) (int64, error) { return 0, nil }

func (f *queueOrigin) read(ctx context.Context, _ int64) []parsed {
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

func (f *queueOrigin) takePending() []*part {
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
		result = append(result, parsed{
			entry:   journal.Webhook{Seq: p.entry.seq, ID: w.ID, Timestamp: w.Timestamp, ReceivedAt: w.ReceivedAt, Body: w.Body},
			payload: p.entry.payload, err: p.entry.problem, part: p,
		})
	}
	return result
}

func (f *queueOrigin) backlog() int64 { return f.waiting.Load() }

// deadLetter publishes rejected events to the sink's dead-letter address. Where there is none, the sender is told; where that
// fails, it is asked to come again: a broker that has no place for dead letters is no reason to hold up other events.
func (f *queueOrigin) deadLetter(ctx context.Context, items []*item, letters []journal.DeadLetter) []error {
	errs := make([]error, len(items))
	sink, ok := f.d.o.Sink.(bridge.DeadLetterPublisher)
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
			f.d.metrics.lettersPublished.Inc()
		case bridge.KindOf(err) == bridge.FailureReject:
			f.d.metrics.lettersRejected.Inc()
			f.reject(items[i], fmt.Sprintf("%s; and the dead-letter address %s rejected it, too: %v", letters[i].Reason, sink.DeadLetterAddress(), err))
			errs[i] = errSenderTold
		default:
			f.d.metrics.lettersRetried.Inc()
			f.miss(1)
			f.refuse(items[i].webhook.part, fmt.Errorf("an event was rejected (%s), and its dead letter could not be published to %s: %w",
				letters[i].Reason, sink.DeadLetterAddress(), err))
			errs[i] = errSenderTold
		}
	}
	return errs
}

// reject notes that an event can never be stored. The webhook's other events go on.
func (f *queueOrigin) reject(it *item, reason string) {
	if !f.required {
		f.miss(1)
		return
	}
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	e := it.webhook.part.entry
	if e.rejection == nil {
		e.rejection = &RejectedError{Sink: f.d.name, EventID: it.event.ID, Reason: reason}
	}
	e.rejection.Events++
}

// refuse answers a webhook that the sink does not store now. If the sink is optional, it misses it.
func (f *queueOrigin) refuse(p *part, cause error) {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if f.required && !p.entry.answered {
		f.queue.answer(p.entry, &DownError{Sink: f.d.name, Err: cause})
	}
	p.withdraw()
}

func (f *queueOrigin) miss(events int) {
	if f.missed != nil {
		f.missed.Add(float64(events))
	}
}

func (f *queueOrigin) done(w *webhook, lost int) {
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

func (f *queueOrigin) withdrawals() <-chan struct{} { return f.withdrawn }

// save has nothing to keep: what waits is in memory.
func (f *queueOrigin) save(context.Context, progress, progress) error { return nil }

func (f *queueOrigin) words() words {
	if f.required {
		return words{
			degraded: "sink takes only part of the events; webhooks with others are answered 503, and their senders try again",
			blocked:  "sink is blocked until its cause is mended; webhooks are answered 503, and their senders try again",
			down:     "sink is down; webhooks are answered 503, and their senders try again",
			rejected: "events rejected by the sink's broker were published to its dead-letter address",
			refused:  "events rejected by the sink's broker could not become dead letters: their webhooks are refused",
		}
	}
	return words{
		degraded: "sink takes only part of the events; it misses the others, as it is not required",
		blocked:  "sink is blocked until its cause is mended; it misses events meanwhile, as it is not required",
		down:     "sink is down; it misses events meanwhile, as it is not required",
		rejected: "events rejected by the sink's broker were published to its dead-letter address",
		refused:  "events rejected by the sink's broker could not become dead letters: the sink misses them, as it is not required",
	}
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

// settled decides whether the lane, and the sink, are known to be down.
func (f *queueOrigin) settled(l *loop, p *partition, started time.Time, done int, cause error) {
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
	f.tell(now, done > 0, ln.shedding && (l.health.now == stateDown || l.health.now == stateBlocked), cause)
	if ln.shedding {
		f.shed(l, ln)
	}
	ln.settleEmpty()
}

// tell tells the breaker what came of a batch.
func (f *queueOrigin) tell(now time.Time, passed, down bool, cause error) {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if passed {
		f.breaker.close(now)
	}
	if down {
		f.breaker.trip(now, cause)
	}
}

// shed refuses every webhook with events in a lane that is known to be down, but the one that asks on.
func (f *queueOrigin) shed(l *loop, ln *lane) {
	cause := ln.cause
	ln.probe = nil
	for _, items := range [][]*item{ln.held, ln.queue} {
		for _, it := range items {
			switch {
			case it.webhook.withdrawn():
			case ln.probe == nil:
				ln.probe = it.webhook
			case it.webhook != ln.probe:
				f.refuse(it.webhook.part, cause)
			}
		}
	}
	l.letGoOfWithdrawn()
}

// refuses takes no event for a lane that is known to be down while another webhook asks whether it still is.
func (f *queueOrigin) refuses(l *loop, e *bridge.Event, w *webhook) bool {
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
	f.refuse(w.part, l.health.cause())
	return true
}

// checked has everything tried again after a check that passes, unless publishing has failed behind the last one that did:
// then that has to wait.
func (f *queueOrigin) checked(l *loop, err error) bool {
	f.queue.mu.Lock()
	halfOpen := f.breaker.checked(time.Now(), err, l.o.DownAfter)
	waits := err == nil && f.breaker.open
	f.queue.mu.Unlock()
	if halfOpen {
		for _, p := range l.partitions {
			p.lanes[classLive].shedding = false
		}
	}
	return !waits
}

// checkInterval is shorter while the sink is down: that is how its recovery is found when no webhooks are sent here
// because of it.
func (f *queueOrigin) checkInterval() time.Duration {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if b := &f.breaker; b.open || !b.reached || !b.failing.IsZero() {
		return f.d.o.ProbeInterval
	}
	return f.d.o.CheckInterval
}
