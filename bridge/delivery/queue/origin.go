package queue

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/delivery/forward"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// part is what one sink has to do for a webhook in a Queue.
type part struct {
	entry  *entry
	origin *sinkOrigin
	// finished tells that the sink has stored or dead-lettered every event. The Queue's mu guards it.
	finished bool
	held     bool // the sink has not let go of it; mu guards it as well
	// gone tells that nobody waits for the rest.
	gone atomic.Bool
}

// withdraw has the sink let go of the webhook. The caller holds the Queue's mu.
func (p *part) withdraw() {
	if !p.gone.Swap(true) {
		signal(p.origin.withdrawn)
	}
}

// readWebhooks is how many webhooks a sink is given at once.
const readWebhooks = 1024

// sinkOrigin is the origin of the Dispatcher of one sink.
type sinkOrigin struct {
	name     string
	address  bridge.DeadLetterPublisher // nil: it has none for dead letters
	letters  forward.Metrics
	queue    *Queue
	required bool
	routes   bridge.Routes

	// The Queue's mu guards these.
	pending []*part // not read
	breaker breaker
	// left are the webhooks of an optional sink that are answered and that no required one works on.
	left      int
	leftBytes int64
	trouble   error // why the sink does not take events; nil while it is up

	// parts are those that have been read, by number. The reader adds to them, the loop takes from them.
	partsMu sync.Mutex
	parts   map[int64]*part

	outages map[*lane.Lane]*outage // of the loop

	came      chan struct{} // has a place: something is pending
	withdrawn chan struct{} // has a place: a part is gone

	waiting atomic.Int64 // webhooks that the sink has not let go of
	missed  atomic.Int64 // events of accepted webhooks that the sink has not got, as it is not required
}

// outage is what is known of a lane of which nothing gets through.
type outage struct {
	since time.Time // when the first batch of those began since when nothing gets through; zero: something does
	// down tells that it is known: webhooks are refused while one, the probe, asks whether it still is.
	down  bool
	probe *lane.Webhook
	cause error
}

func (f *sinkOrigin) Begin(context.Context) (delivery.Beginning, error) {
	return delivery.Beginning{}, nil
}

// Keeps is false: a webhook is read once.
func (f *sinkOrigin) Keeps() bool { return false }

// Streams has none: what was published is not kept.
func (f *sinkOrigin) Streams(context.Context) ([]journal.Stream, <-chan struct{}) { return nil, nil }

func (f *sinkOrigin) Read(ctx context.Context, _ *journal.Stream, _ int64) []delivery.Entry {
	for {
		if parts := f.takePending(); len(parts) > 0 {
			return f.entries(parts)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.came:
		}
	}
}

func (f *sinkOrigin) takePending() []*part {
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

func (f *sinkOrigin) entries(parts []*part) []delivery.Entry {
	f.partsMu.Lock()
	defer f.partsMu.Unlock()
	entries := make([]delivery.Entry, len(parts))
	for i, p := range parts {
		e := p.entry
		entries[i] = delivery.Entry{Number: e.seq, Seq: e.seq, Webhook: e.webhook, Payload: e.payload, Problem: e.problem}
		f.parts[e.seq] = p
	}
	return entries
}

func (f *sinkOrigin) part(w *lane.Webhook) *part {
	f.partsMu.Lock()
	defer f.partsMu.Unlock()
	return f.parts[w.Number]
}

func (f *sinkOrigin) Backlog(int64) int64 { return f.waiting.Load() }

// DeadLetter publishes rejected events to the sink's dead-letter address. Where there is none, the sender is told;
// where that fails, it is asked to come again: a broker that has no place for dead letters is no reason to hold up
// other events.
func (f *sinkOrigin) DeadLetter(ctx context.Context, items []*lane.Item, letters []journal.DeadLetter) []error {
	errs := make([]error, len(items))
	if f.address == nil {
		for i, it := range items {
			f.reject(it, letters[i].Reason)
			errs[i] = delivery.ErrSenderTold
		}
		return errs
	}
	batch := make([]bridge.DeadLetter, len(letters))
	for i := range letters {
		batch[i] = letters[i].DeadLetter
	}
	for i, err := range bridge.Answers(f.address.PublishDeadLetters(ctx, batch), len(batch)) {
		switch {
		case err == nil:
			f.letters.Published.Inc()
		case bridge.KindOf(err) == bridge.FailureReject:
			f.letters.Rejected.Inc()
			f.reject(items[i], fmt.Sprintf("%s; and the dead-letter address %s rejected it, too: %v",
				letters[i].Reason, f.address.DeadLetterAddress(), err))
			errs[i] = delivery.ErrSenderTold
		default:
			f.letters.Retried.Inc()
			f.queue.mu.Lock()
			f.miss(f.part(items[i].Webhook).entry, 1)
			f.queue.mu.Unlock()
			f.refuse(f.part(items[i].Webhook), fmt.Errorf(
				"an event was rejected (%s), and its dead letter could not be published to %s: %w",
				letters[i].Reason, f.address.DeadLetterAddress(), err))
			errs[i] = delivery.ErrSenderTold
		}
	}
	return errs
}

// reject notes that an event can never be stored. The webhook's other events go on.
func (f *sinkOrigin) reject(it *lane.Item, reason string) {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	e := f.part(it.Webhook).entry
	if !f.required {
		f.miss(e, 1)
		return
	}
	if e.rejection == nil {
		e.rejection = &RejectedError{Sink: f.name, EventID: it.Event.ID, Reason: reason, Addressed: f.address != nil}
	}
	e.rejection.Events++
}

// refuse answers a webhook that the sink does not store now. If the sink is optional, it misses it.
func (f *sinkOrigin) refuse(p *part, cause error) {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if f.required && !p.entry.answered {
		f.queue.answer(p.entry, &DownError{Sink: f.name, Err: cause})
	}
	p.withdraw()
}

// miss notes events that the sink will not get of a webhook. They count once it is accepted: of another one, its sender
// brings them again. The caller holds mu.
func (f *sinkOrigin) miss(e *entry, events int) {
	switch {
	case f.required || (e.answered && e.err != nil):
	case e.answered:
		f.missed.Add(int64(events))
	default:
		if e.missed == nil {
			e.missed = make(map[*sinkOrigin]int)
		}
		e.missed[f] += events
	}
}

func (f *sinkOrigin) Done(w *lane.Webhook) {
	f.waiting.Add(-1)
	f.partsMu.Lock()
	p, q := f.parts[w.Number], f.queue
	delete(f.parts, w.Number)
	f.partsMu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	e := p.entry
	if w.Lost > 0 {
		f.miss(e, w.Lost)
	}
	// What lost nothing is finished, even if nobody waits for it any more.
	p.finished = w.Lost == 0
	if f.required && p.finished {
		e.required--
	}
	if !f.required {
		e.optional-- // it is not waited for, whatever came of it
	}
	size := int64(len(e.webhook.Body))
	p.held = false
	e.held--
	if e.left {
		f.left--
		f.leftBytes -= size
	}
	q.settle(e)
	q.leave(e)
	if e.held == 0 {
		q.held--
		q.bytes -= size
		if e.left {
			q.left--
		}
	}
}

// admits tells whether the sink may be given another webhook. An optional one that does not let go of what is answered
// misses what comes, so that no other sink waits for its room. The caller holds the Queue's mu.
func (f *sinkOrigin) admits() bool {
	q := f.queue
	return f.breaker.admits() && f.left < q.o.MaxWebhooks && f.leftBytes <= q.o.MaxBytes/2/int64(len(q.sinks))
}

func (f *sinkOrigin) Withdrawals() <-chan struct{} { return f.withdrawn }

func (f *sinkOrigin) Withdrawn(w *lane.Webhook) bool {
	p := f.part(w)
	return p != nil && p.gone.Load()
}

// Save has nothing to keep: what waits is in memory.
func (f *sinkOrigin) Save(context.Context, []journal.Move, *journal.SinkState, <-chan struct{}) error {
	return nil
}

func (f *sinkOrigin) Words() delivery.Words {
	if f.required {
		return delivery.Words{
			Degraded: "sink takes only part of the events; webhooks with others are answered 503, and their senders try again",
			Blocked:  "sink is blocked until its cause is mended; webhooks are answered 503, and their senders try again",
			Down:     "sink is down; webhooks are answered 503, and their senders try again",
			Rejected: "events rejected by the sink's broker were published to its dead-letter address",
			Refused:  "events rejected by the sink's broker could not become dead letters: their webhooks are refused",
		}
	}
	return delivery.Words{
		Degraded: "sink takes only part of the events; it misses the others, as it is not required",
		Blocked:  "sink is blocked until its cause is mended; it misses events meanwhile, as it is not required",
		Down:     "sink is down; it misses events meanwhile, as it is not required",
		Rejected: "events rejected by the sink's broker were published to its dead-letter address",
		Refused: "events rejected by the sink's broker could not become dead letters: " +
			"the sink misses them, as it is not required",
	}
}

// Settled decides whether the lane, and the sink, are known to be down.
func (f *sinkOrigin) Settled(l *lane.Lane, b delivery.Settlement) {
	now := time.Now()
	o := f.outages[l]
	if o == nil {
		o = &outage{}
		f.outages[l] = o
	}
	switch {
	case !l.Down():
		*o = outage{probe: o.probe}
	case o.since.IsZero():
		o.since = b.Started
	}
	if l.Down() {
		o.down = l.Kind() == bridge.FailureBlocked || now.Sub(o.since) >= downAfter
		o.cause = l.Cause()
	}
	f.tell(now, b, o.down && (b.Health == delivery.Down || b.Health == delivery.Blocked))
	if o.down {
		f.shed(l, o)
	}
}

// tell tells the breaker what came of a batch.
func (f *sinkOrigin) tell(now time.Time, b delivery.Settlement, down bool) {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if f.trouble = b.Cause; b.Health == delivery.Up {
		f.trouble = nil
	}
	if b.Passed {
		f.breaker.close(now)
	}
	if down {
		f.breaker.trip(now, b.Cause)
	}
}

// shed refuses every webhook with events in a lane that is known to be down, but the one that asks on.
func (f *sinkOrigin) shed(l *lane.Lane, o *outage) {
	o.probe = nil
	l.Waiting(func(it *lane.Item) bool {
		switch {
		case f.Withdrawn(it.Webhook):
		case o.probe == nil:
			o.probe = it.Webhook
		case it.Webhook != o.probe:
			f.refuse(f.part(it.Webhook), o.cause)
		}
		return true
	})
}

// Refuses takes no event for a lane that is known to be down while another webhook asks whether it still is.
func (f *sinkOrigin) Refuses(w *lane.Webhook, l *lane.Lane) bool {
	o := f.outages[l]
	if o == nil || !o.down {
		return false
	}
	if o.probe == nil || o.probe.Done() || (f.Withdrawn(o.probe) && !l.Busy()) {
		o.probe = w
	}
	if o.probe == w {
		return false
	}
	f.refuse(f.part(w), o.cause)
	return true
}

// Checked has everything tried again after a check that passes, unless publishing has failed behind the last one that
// did: then that has to wait.
func (f *sinkOrigin) Checked(err error) bool {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if f.breaker.checked(time.Now(), err) {
		for _, o := range f.outages {
			o.down = false
		}
	}
	if waits := err == nil && f.breaker.open; waits {
		return false
	}
	f.trouble = err
	return true
}

// CheckInterval is shorter while the sink is down: that is how its recovery is found when no webhooks are sent here
// because of it.
func (f *sinkOrigin) CheckInterval() time.Duration {
	f.queue.mu.Lock()
	defer f.queue.mu.Unlock()
	if b := &f.breaker; b.open || !b.reached || !b.failing.IsZero() {
		return probeInterval
	}
	return checkInterval
}
