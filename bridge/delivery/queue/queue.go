// Package queue is where webhooks wait while they are published, if they are not stored (FNBRIDGE_ACK=sinks): in
// memory, and no longer than their senders wait for an answer.
package queue

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/delivery/forward"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// Why a Queue does not take a webhook.
var (
	// ErrFull is the error of Submit when the Queue has as many webhooks, or as many bytes of them, as it may.
	ErrFull = errors.New("as many webhooks as may wait for the sinks do so already")
	// ErrClosed is the error of Submit after Close.
	ErrClosed = errors.New("the bridge is shutting down")
)

// RejectedError is the error of a webhook of which a required sink can never store an event, nor its dead letter. The
// other events of the webhook have been stored.
type RejectedError struct {
	Sink    string
	EventID string
	Reason  string
	// Events is how many events of the webhook were rejected.
	Events int
	// Addressed tells that the sink has an address for dead letters, which rejected the event, too.
	Addressed bool
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("sink %s can never store the event %s (%d of the webhook in all): %s",
		e.Sink, e.EventID, e.Events, e.Reason)
}

// DownError is the error of a webhook that a required sink is known not to store now, or that one has not stored in
// time.
type DownError struct {
	Sink string
	// InTime tells that nothing was known, and the time was up.
	InTime bool
	// Err is why the sink does not take events; nil if that is not known.
	Err error
}

func (e *DownError) Error() string {
	what := "is known to be down"
	if e.InTime {
		what = "has not acknowledged every event in time"
	}
	if e.Err == nil {
		return fmt.Sprintf("sink %s %s", e.Sink, what)
	}
	return fmt.Sprintf("sink %s %s: %v", e.Sink, what, e.Err)
}

// Unwrap returns the cause.
func (e *DownError) Unwrap() error { return e.Err }

// Options are the limits of a Queue. Every zero value means the default given.
type Options struct {
	// Events say how webhooks become events.
	Events tensorlake.Options

	// MaxWebhooks and MaxBytes bound what a Queue holds (1,024 webhooks, 64 MiB of bodies). A webhook leaves when no sink
	// works on it any more, which can be later than its answer. Those that are answered and that only optional sinks have
	// left are not among MaxWebhooks: a sink that has as many of them, or its part of half of MaxBytes, gets no others.
	MaxWebhooks int
	MaxBytes    int64
	// Remembered is how many webhooks that were published are known by their ids and bodies when they come again (65,536).
	// Older ones are as long as a signature of theirs that was seen can be valid, which Tolerance says: how far from now
	// the time of one may be, either way. All of them together take at most 64 MiB, as some 230,000 do.
	Remembered int
	Tolerance  time.Duration

	Registerer prometheus.Registerer
}

// Queue holds webhooks in memory while they are published. Submit answers for a webhook when every required sink has
// stored all of it. The Dispatchers made with NewDispatcher are its sinks. It is safe for concurrent use and has no
// goroutines.
type Queue struct {
	o Options

	mu     sync.Mutex
	sinks  []*sinkOrigin
	open   map[identity]*entry // not answered
	recent recentWebhooks
	bodies map[string]int // that are open or recent, by webhook id
	seq    int64
	held   int   // entries that a sink works on
	left   int   // of them, those that are answered and that no required sink works on
	bytes  int64 // of the bodies of all that are held
	// accepted counts those that were published, and lastAccepted is when the newest of them was received.
	accepted     int64
	lastAccepted time.Time
	closed       bool
}

// New makes a Queue and registers its metrics.
func New(o Options) (*Queue, error) {
	o.MaxWebhooks = cmp.Or(o.MaxWebhooks, 1024)
	o.MaxBytes = cmp.Or(o.MaxBytes, 64<<20)
	o.Remembered = cmp.Or(o.Remembered, 65536)
	q := &Queue{
		o: o, open: make(map[identity]*entry), bodies: make(map[string]int),
		recent: recentWebhooks{least: o.Remembered, bytes: maxRemembered, until: make(map[identity]time.Time)},
	}
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "fnbridge_queue_webhooks",
				Help: "Webhooks in memory that a sink works on (FNBRIDGE_ACK=sinks).",
			}, func() float64 { n, _ := q.Size(); return float64(n) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "fnbridge_queue_bytes",
				Help: "Bytes of the bodies of webhooks in memory that a sink works on (FNBRIDGE_ACK=sinks).",
			}, func() float64 { _, n := q.Size(); return float64(n) }),
		} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("metrics of the queue: %w", err)
			}
		}
	}
	return q, nil
}

// Size returns how many webhooks a sink works on, and how many bytes their bodies have.
func (q *Queue) Size() (webhooks int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held, q.bytes
}

// Accepted counts the webhooks that were published, and tells when the newest was received; zero when none was.
func (q *Queue) Accepted() (webhooks int64, last time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.accepted, q.lastAccepted
}

// SinkOptions of a sink of a Queue.
type SinkOptions struct {
	// Optional tells that no answer waits for the sink for longer than grace.
	Optional bool
}

const (
	// grace is how long an answer waits for optional sinks when the required ones have everything.
	grace = 500 * time.Millisecond
	// A sink of which nothing gets through for downAfter, or that is blocked, is known to be down: webhooks are refused,
	// but for one at a time.
	downAfter = 5 * time.Second
	// checkInterval is how often an idle sink is asked whether it could publish, and probeInterval how often while it is
	// down.
	checkInterval = 5 * time.Second
	probeInterval = time.Second
	// maxBackoff is the longest wait before another try: senders wait.
	maxBackoff = 2 * time.Second
)

// NewDispatcher makes the Dispatcher of a sink of the Queue. All are made before the first Submit.
func (q *Queue) NewDispatcher(o SinkOptions, d delivery.Options) (*delivery.Dispatcher, error) {
	if d.GiveUpAfter > 0 {
		return nil, fmt.Errorf("sink %s: a Queue gives up with its webhooks, and GiveUpAfter is for a journal", d.Sink.Name())
	}
	f, err := q.addSink(o, &d)
	if err != nil {
		return nil, err
	}
	d.Origin = f
	d.MaxBackoff = cmp.Or(d.MaxBackoff, maxBackoff)
	return delivery.New(d)
}

func (q *Queue) addSink(o SinkOptions, d *delivery.Options) (*sinkOrigin, error) {
	f := &sinkOrigin{
		name: d.Sink.Name(), address: forward.Address(d.Sink), queue: q, required: !o.Optional, routes: d.Routes,
		parts: make(map[int64]*part), outages: make(map[*lane.Lane]*outage),
		came: make(chan struct{}, 1), withdrawn: make(chan struct{}, 1),
	}
	var err error
	if f.letters, err = forward.NewMetrics(f.name, d.Registerer); err != nil {
		return nil, err
	}
	if o.Optional {
		missed := prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fnbridge_sink_missed_events_total", ConstLabels: prometheus.Labels{"sink": f.name},
			Help: "Events of accepted webhooks that a sink which is not required did not store in time, or not at all " +
				"(FNBRIDGE_ACK=sinks).",
		}, func() float64 { return float64(f.missed.Load()) })
		if d.Registerer != nil {
			if err := d.Registerer.Register(missed); err != nil {
				return nil, fmt.Errorf("metrics of sink %s: %w", f.name, err)
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sinks = append(q.sinks, f)
	return f, nil
}

// identity tells a webhook from another. Its sender may give an id twice.
type identity struct {
	id   string
	body [16]byte // the beginning of its SHA-256: nobody finds another body for it
}

func identify(w *bridge.Webhook) identity {
	digest := sha256.Sum256(w.Body)
	return identity{id: w.ID, body: [16]byte(digest[:])}
}

// entry is a webhook in a Queue. The Queue's mu guards what changes.
type entry struct {
	seq      int64
	webhook  bridge.Webhook
	identity identity
	until    time.Time // when no signature that came with it is valid any more
	// reusedID tells that the id was known with another body when it came.
	reusedID bool
	payload  tensorlake.Payload
	problem  error // why there is no payload
	parts    []*part

	required int  // sinks that must finish it, and have not
	optional int  // others that have not
	held     int  // sinks that have not let go of it
	left     bool // it is answered, and only optional ones have not
	waiters  int  // calls of Submit
	probes   []*sinkOrigin
	missed   map[*sinkOrigin]int // events, until it is answered
	wanted   map[*sinkOrigin]int // events, by sinks that took none when it came

	rejection *RejectedError
	grace     *time.Timer
	answered  bool
	done      chan struct{} // closed when answered
	err       error         // the answer
}

// Submit publishes w and returns when every required sink has stored or dead-lettered every event of it. It is a
// Duplicate if this Queue has published a webhook of its id and body before, or another Submit of both was under way:
// the two share what comes of it. One whose id is known with another body is published like any other.
//
// When ctx ends first the error is a *DownError, as it is at once when a sink is known to be down; a *RejectedError
// means that the webhook can never be stored wholly. With any error, some events may be stored, and some still become
// so.
func (q *Queue) Submit(ctx context.Context, w bridge.Webhook) (bridge.Acceptance, error) {
	// Callers parse, and count, at the same time. Under mu, and in the loop of a sink, one webhook would wait for another.
	payload, problem := tensorlake.Parse(w.Body)
	e, joined, err := q.enter(&entry{
		webhook: w, identity: identify(&w), until: w.Timestamp.Add(q.o.Tolerance),
		payload: payload, problem: problem, waiters: 1, done: make(chan struct{}),
	})
	switch {
	case err != nil:
		return 0, err
	case e == nil:
		return bridge.Duplicate, nil
	}
	select {
	case <-e.done:
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.waiters--; e.waiters == 0 && !e.answered {
		q.answer(e, e.overdue())
	}
	switch {
	case !e.answered: // others have more time
		return 0, e.overdue()
	case e.err != nil:
		return 0, e.err
	case joined:
		return bridge.Duplicate, nil
	case e.reusedID:
		return bridge.StoredReusedID, nil
	default:
		return bridge.Stored, nil
	}
}

// enter takes e in and returns it, or one of its identity that was there; or none if there is nothing to wait for.
func (q *Queue) enter(e *entry) (_ *entry, joined bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for f := q.uncounted(e); f != nil; f = q.uncounted(e) {
		q.count(e, f)
	}
	switch {
	case q.closed:
		return nil, false, ErrClosed
	case q.recent.knows(e.identity, e.until):
		return nil, false, nil
	}
	if there := q.open[e.identity]; there != nil {
		if e.until.After(there.until) {
			there.until = e.until
		}
		there.waiters++
		return there, true, nil
	}
	size := int64(len(e.webhook.Body))
	if q.held-q.left >= q.o.MaxWebhooks || (q.held > 0 && q.bytes+size > q.o.MaxBytes) {
		return nil, false, ErrFull
	}
	e.reusedID = q.bodies[e.webhook.ID] > 0
	for _, f := range q.sinks {
		if f.required && !f.breaker.admits() && e.wanted[f] > 0 {
			return nil, false, &DownError{Sink: f.name, Err: f.breaker.cause}
		}
	}
	q.seq++
	e.seq = q.seq
	for _, f := range q.sinks {
		if !f.admits() {
			f.miss(e, e.wanted[f])
			continue
		}
		if f.breaker.open {
			f.breaker.probing = true
			e.probes = append(e.probes, f)
		}
		p := &part{entry: e, origin: f, held: true}
		e.parts = append(e.parts, p)
		e.held++
		if f.required {
			e.required++
		} else {
			e.optional++
		}
		f.waiting.Add(1)
		f.pending = append(f.pending, p)
		signal(f.came)
	}
	q.open[e.identity] = e
	q.bodies[e.webhook.ID]++
	if e.held > 0 {
		q.held++
		q.bytes += size
	}
	q.settle(e)
	return e, false, nil
}

// uncounted returns a sink that takes nothing now, if the events that it wants of e have not been counted. The caller
// holds mu.
func (q *Queue) uncounted(e *entry) *sinkOrigin {
	for _, f := range q.sinks {
		if _, counted := e.wanted[f]; !counted && !f.admits() {
			return f
		}
	}
	return nil
}

// count counts the events that f wants of e. The caller holds mu, and lets go of it meanwhile: there may be very many.
func (q *Queue) count(e *entry, f *sinkOrigin) {
	q.mu.Unlock()
	defer q.mu.Lock()
	n, events := 1, tensorlake.Unrecognized(e.webhook)
	if e.problem == nil {
		n, events = e.payload.Len(q.o.Events), e.payload.Events(e.webhook, q.o.Events)
	}
	if !f.routes.IsZero() {
		n = 0
		for event := range events {
			if f.routes.Match(&event) {
				n++
			}
		}
	}
	if e.wanted == nil {
		e.wanted = make(map[*sinkOrigin]int)
	}
	e.wanted[f] = n
}

// overdue is the answer when nobody waits any longer. The caller holds mu.
func (e *entry) overdue() error {
	var names []string
	var cause error
	for _, p := range e.parts {
		if !p.origin.required || p.finished {
			continue
		}
		names = append(names, p.origin.name)
		if cause == nil {
			cause = p.origin.trouble
		}
	}
	return &DownError{Sink: strings.Join(names, ", "), InTime: true, Err: cause}
}

// settle answers an entry that has all it waits for. The caller holds mu.
func (q *Queue) settle(e *entry) {
	switch {
	case e.answered || e.required > 0:
	case e.optional == 0:
		q.answer(e, e.verdict())
	case e.grace == nil:
		e.grace = time.AfterFunc(grace, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			if !e.answered {
				q.answer(e, e.verdict())
			}
		})
	}
}

func (e *entry) verdict() error {
	if e.rejection != nil {
		return e.rejection
	}
	return nil
}

// answer ends the wait for an entry, and has every sink let go of what is left of it. The caller holds mu.
func (q *Queue) answer(e *entry, err error) {
	e.answered, e.err = true, err
	if e.grace != nil {
		e.grace.Stop()
	}
	delete(q.open, e.identity)
	if err != nil {
		q.forget(e.identity)
	} else {
		q.accepted++
		if at := e.webhook.ReceivedAt; at.After(q.lastAccepted) {
			q.lastAccepted = at
		}
		for f, events := range e.missed {
			f.missed.Add(int64(events))
		}
		for _, forgotten := range q.recent.add(e.identity, e.until, e.webhook.ReceivedAt) {
			q.forget(forgotten)
		}
	}
	for _, f := range e.probes {
		f.breaker.probing = false
	}
	for _, p := range e.parts {
		if !p.finished {
			p.withdraw()
		}
	}
	q.leave(e)
	close(e.done)
}

// leave notes that only optional sinks still work on an entry that is answered: they have it on their own account. The
// caller holds mu.
func (q *Queue) leave(e *entry) {
	if e.left || !e.answered || e.held == 0 ||
		slices.ContainsFunc(e.parts, func(p *part) bool { return p.held && p.origin.required }) {
		return
	}
	e.left = true
	q.left++
	for _, p := range e.parts {
		if p.held {
			p.origin.left++
			p.origin.leftBytes += int64(len(e.webhook.Body))
		}
	}
}

// forget takes one from the bodies that are known under an id. The caller holds mu.
func (q *Queue) forget(of identity) {
	if q.bodies[of.id]--; q.bodies[of.id] == 0 {
		delete(q.bodies, of.id)
	}
}

// Ready tells whether every required sink can be reached, as far as is known. The error names one that cannot.
func (q *Queue) Ready() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.sinks {
		if !f.required {
			continue
		}
		if err := f.breaker.ready(time.Now()); err != nil {
			return fmt.Errorf("sink %s %w", f.name, err)
		}
	}
	return nil
}

// Missed counts the events of accepted webhooks that a sink has not got, since it is not required.
func (q *Queue) Missed(sink string) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.sinks {
		if f.name == sink {
			return f.missed.Load()
		}
	}
	return 0
}

// Close answers every webhook that waits with ErrClosed, and takes no more.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, e := range q.open {
		q.answer(e, ErrClosed)
	}
}

// signal wakes whoever waits on a channel of one place.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
