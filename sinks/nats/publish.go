package nats

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// maxHeader is what JetStream allows a message's headers to have together, in bytes.
const maxHeader = 1<<16 - 1

// errTooLarge is in the error of an event that the server does not take for its size.
var errTooLarge = errors.New("the message is too large")

// flight is one message that has been sent and not been acknowledged.
type flight struct {
	call    *call
	index   int
	session *session
}

// landing is the end of a flight: what looks like an acknowledgement, or what came instead.
type landing struct {
	index int
	ack   *natsjs.PubAck
	err   error
	// alone says that nothing else was in flight, and answeredBehind that what was sent behind it was answered.
	alone, answeredBehind bool
}

// publication is what a call publishes: events, or dead letters of events.
type publication struct {
	events []bridge.Event
	// prepare returns the session to publish in, and the stream whose acknowledgements count: those of any if it is empty.
	// Its error is classified, and so is that of message, which makes the message of the i-th event, to be sent after that
	// many failed syncs.
	prepare func(ctx context.Context) (*session, string, error)
	message func(i int, session *session, failures int64) (*natsgo.Msg, int, error)
	// letters says that they are dead letters, which another stream than the events' may take.
	letters bool
}

// call is one call of Publish. Its own goroutine sends and takes the landings.
type call struct {
	sink    *Sink
	session *session
	from    string // the stream whose acknowledgements count; empty: any
	publication
	// shares has the share of each event. What one webhook has for a key goes together, one webhook after the other.
	shares []*share
	// ready are the events that may be sent, since the shares of their key before theirs are done with.
	ready    []int
	suspects []int // ready, and to be sent alone
	flying   int
	landings chan landing
	messages []*natsgo.Msg // in flight, by index of the event; nil otherwise
	// halted is why nothing more is sent.
	halted error

	// failures are the syncs that had failed before anything was sent.
	failures int64
	// since is what the stream had acknowledged before the call, highest the highest number that it has acknowledged since
	// then, and lowest the lowest one of what it has stored anew.
	since           bridge.Since
	lowest, highest int64

	mu       sync.Mutex
	results  []error
	finished []bool
	synced   bool // what was acknowledged is on the server's disk, as far as that is to be seen to
	acks     int
}

// Publish implements bridge.Sink. It ends within eight times Options.AckTimeout, and half as long again for
// Options.Sync, however slow the server is: what has not been sent by then, or not acknowledged in time, is marked to
// be tried again.
func (s *Sink) Publish(ctx context.Context, events []bridge.Event) []error {
	return s.publish(ctx, publication{
		events: events,
		prepare: func(ctx context.Context) (*session, string, error) {
			session, err := s.prepare(ctx, events)
			return session, s.o.Stream, err
		},
		message: func(i int, session *session, failures int64) (*natsgo.Msg, int, error) {
			return s.message(events[i], session, failures)
		},
	})
}

func (s *Sink) publish(ctx context.Context, p publication) []error {
	if len(p.events) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(errClosed) }) //nolint:contextcheck // the sink's end ends the call
	defer stop()
	if ctx.Err() != nil {
		return same(len(p.events), bridge.Retry(fmt.Errorf("nothing was sent: %w", context.Cause(ctx))))
	}
	session, from, err := p.prepare(ctx)
	if err != nil {
		return same(len(p.events), err)
	}
	c := newCall(s, session, from, p)
	done := make(chan struct{})
	if !s.spawn(func() {
		defer close(done)
		c.run(ctx)
	}) {
		return same(len(p.events), bridge.Retry(errClosed))
	}
	select {
	case <-done:
	case <-ctx.Done():
		// A connection that takes nothing can hold the call's goroutine up for a while; it ends by itself.
	}
	return c.answers(context.Cause(ctx))
}

// prepare returns a session whose stream has been looked at, and whose limit for the size of a message is to be
// believed if it matters to events.
func (s *Sink) prepare(ctx context.Context, events []bridge.Event) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.AckTimeout)
	defer cancel()
	session, err := s.conn.session(ctx)
	if err != nil {
		return nil, err
	}
	if time.Since(session.began) > limitTimeouts*s.o.AckTimeout && s.anyTooLarge(events, session) {
		s.log.Debug("Reconnecting to NATS, to hear which size of message it takes now")
		if session, err = s.conn.renew(ctx, session); err != nil {
			return nil, err
		}
	}
	err = s.stream.inspect(ctx, session, false)
	if _, unusable := errors.AsType[*unusableError](err); unusable {
		return nil, err
	}
	return session, nil // whatever else was found, the acknowledgement decides
}

// anyTooLarge tells whether the session's server, when it was connected to, did not take the size of one of events.
func (s *Sink) anyTooLarge(events []bridge.Event, session *session) bool {
	limit := session.nc.MaxPayload()
	return slices.ContainsFunc(events, func(e bridge.Event) bool {
		if int64(len(e.Data)) < limit/2 {
			return false // to spare the work, since what is beside the data is small
		}
		_, _, err := s.message(e, session, s.syncFailures())
		return errors.Is(err, errTooLarge)
	})
}

func same(n int, err error) []error {
	results := make([]error, n)
	for i := range results {
		results[i] = err
	}
	return results
}

func newCall(s *Sink, session *session, from string, p publication) *call {
	events := p.events
	c := &call{
		sink: s, session: session, from: from, publication: p,
		shares: make([]*share, len(events)),
		// With room for every flight that the sink can have, nobody waits to report a landing.
		landings: make(chan landing, min(len(events), maxInFlight)),
		messages: make([]*natsgo.Msg, len(events)),
		results:  make([]error, len(events)),
		finished: make([]bool, len(events)),
		synced:   s.o.Sync == nil,
		failures: s.syncFailures(),
		since:    s.water.Since(logName(s.o.Stream)),
		lowest:   math.MaxInt64,
	}
	last := make(map[string]*share, len(events))
	for i := range events {
		before := last[events[i].PartitionKey]
		if before == nil || !bridge.SameShare(&events[before.events[len(before.events)-1]], &events[i]) {
			next := &share{}
			if before != nil {
				before.next = next
			}
			next.first = before == nil
			last[events[i].PartitionKey], before = next, next
		}
		before.events = append(before.events, i)
		before.open++
		c.shares[i] = before
		if before.first {
			c.ready = append(c.ready, i)
		}
	}
	return c
}

// share is what one webhook has for a key.
type share struct {
	events []int
	open   int    // events without a result
	first  bool   // nothing of its key is before it
	next   *share // of the key, or nil
	failed error  // of the first event of it that is to be tried again
}

// run sends until every event has a result. When ctx ends it leaves the rest to answers.
func (c *call) run(ctx context.Context) {
	defer c.forget()
	defer c.doubt(ctx)()
	limit := sendTimeouts * c.sink.o.AckTimeout
	bound := time.NewTimer(limit)
	defer bound.Stop()
	slow := bridge.Retry(fmt.Errorf("%s is slow: it has not taken all of %d events within %s",
		c.stream(), len(c.events), limit))
	for ctx.Err() == nil && (c.flying > 0 || len(c.ready) > 0 || len(c.suspects) > 0) {
		if c.flying == 0 && len(c.ready) == 0 {
			// The suspects come last, so that the others have gone through before one of them may break the way.
			c.ready, c.suspects = c.suspects[:1:1], c.suspects[1:]
			select {
			case <-bound.C:
				c.halted = slow
			default:
			}
			if c.halted == nil {
				c.try(ctx, c.pop())
				continue
			}
		}
		if c.halted != nil && len(c.ready) > 0 {
			i := c.pop()
			c.settle(i, fmt.Errorf("not sent: %w", c.halted))
			continue
		}
		var slot chan<- struct{}
		if len(c.ready) > 0 {
			slot = c.sink.slots
		}
		// A landing first, so that what may be sent is known.
		select {
		case l := <-c.landings:
			c.landed(l)
			continue
		default:
		}
		select {
		case l := <-c.landings:
			c.landed(l)
		case slot <- struct{}{}:
			c.send(c.pop())
		case <-bound.C:
			c.halted = slow
		case <-ctx.Done():
		}
	}
	if c.acks > 0 {
		c.sync(ctx)
	}
	if c.highest > 0 && c.synced {
		c.sink.water.Acknowledged(c.since, c.lowest, c.highest)
	}
	if c.acks == 0 && c.halted != nil && errors.Is(c.halted, natsjs.ErrAsyncPublishTimeout) && !c.letters {
		c.sink.conn.kick(c.session)
	}
}

// sync has what was acknowledged be on the server's disk, once for all of the call. If it is not, its events are to be
// tried again.
func (c *call) sync(ctx context.Context) {
	if c.synced {
		return
	}
	limit := sendTimeouts * c.sink.o.AckTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it takes longer than %s", limit))
	defer cancel()
	err := c.sink.o.Sync.Sync(ctx, c.failures)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced = err == nil
	for i, result := range c.results {
		if err != nil && result == nil {
			c.results[i] = bridge.Retry(err)
		}
	}
}

// syncFailures counts the failed syncs of the server's disk, as far as they are to be seen to.
func (s *Sink) syncFailures() int64 {
	if s.o.Sync == nil {
		return 0
	}
	return s.o.Sync.SyncFailures()
}

// stream names, for errors, the stream that is published to.
func (c *call) stream() string {
	if c.letters {
		return c.sink.streamOf(c.sink.o.DeadLetter)
	}
	return c.sink.streamOf("")
}

func (c *call) pop() int {
	i := c.ready[0]
	c.ready = c.ready[1:]
	return i
}

// send sends one event, for which the call holds a slot.
func (c *call) send(i int) {
	s := c.sink
	msg, size, err := c.message(i, c.session, c.failures)
	if err != nil {
		<-s.slots
		c.settle(i, err)
		return
	}
	if s.suspects.of(msg) >= suspect {
		<-s.slots
		c.suspects = append(c.suspects, i)
		return
	}
	c.fly(i, msg, size)
}

// fly sends the message of event i, for which the call holds a slot.
func (c *call) fly(i int, msg *natsgo.Msg, size int) {
	s := c.sink
	c.messages[i] = msg
	c.flying++
	s.mu.Lock()
	s.flights[msg] = &flight{call: c, index: i, session: c.session}
	s.mu.Unlock()
	_, err := c.session.js.PublishMsgAsync(msg, natsjs.WithRetryAttempts(0))
	if err != nil {
		if errors.Is(err, natsgo.ErrMaxPayload) {
			err = fmt.Errorf("%d bytes: %w", size, err)
		}
		s.land(msg, nil, err)
	}
}

// message makes the message for e. Its error is classified.
func (s *Sink) message(e bridge.Event, session *session, failures int64) (*natsgo.Msg, int, error) {
	headers, body, err := s.o.Format.Encode(e, cloudevents.NATSPrefix)
	if err != nil {
		return nil, 0, bridge.Reject(fmt.Errorf("write the message: %w", err))
	}
	subject := subjectOf(s.o.Subject, e)
	headers = withID(headers, e.Origin.DedupeID(subject), failures)
	headers = append(headers, cloudevents.Header{Name: natsjs.ExpectedStreamHeader, Value: s.o.Stream})
	return sized(&natsgo.Msg{Subject: subject, Data: body, Header: newHeader(headers)}, headers, session)
}

// withID returns headers with a Nats-Msg-Id made of id, unless that is empty, for a message that is sent after that
// many failed syncs. One that failed may have thrown away what it was to write. The server still knows of it, and would
// take what is sent again for a duplicate.
func withID(headers []cloudevents.Header, id string, failures int64) []cloudevents.Header {
	if id == "" {
		return headers
	}
	if failures > 0 {
		id += "-" + strconv.FormatInt(failures, 10)
	}
	return append(headers, cloudevents.Header{Name: natsjs.MsgIDHeader, Value: id})
}

// newHeader returns headers as the library takes them.
func newHeader(headers []cloudevents.Header) natsgo.Header {
	header := make(natsgo.Header, len(headers))
	for _, h := range headers {
		header[h.Name] = []string{h.Value}
	}
	return header
}

// sized returns msg, which has headers, with its size, and rejects one that the session's server does not take.
func sized(msg *natsgo.Msg, headers []cloudevents.Header, session *session) (*natsgo.Msg, int, error) {
	headerSize := headerFrame
	for _, h := range headers {
		headerSize += len(h.Name) + len(h.Value) + headerLine
	}
	if headerSize > maxHeader {
		return nil, 0, bridge.Reject(fmt.Errorf("the message's headers have %d bytes, and JetStream allows %d",
			headerSize, maxHeader))
	}
	size := headerSize + len(msg.Data)
	if limit := session.nc.MaxPayload(); limit > 0 && int64(size) > limit {
		return nil, 0, bridge.Reject(fmt.Errorf(
			"%w: it has %d bytes with its headers, and the server takes %d (max_payload)", errTooLarge, size, limit))
	}
	return msg, size, nil
}

// What headers take in the protocol beside their names and values: together, and each.
const (
	headerFrame = len("NATS/1.0\r\n") + len("\r\n")
	headerLine  = len(": ") + len("\r\n")
)

// headerBytes is the size of headers in the protocol.
func headerBytes(h natsgo.Header) int {
	size := headerFrame
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(value) + headerLine
		}
	}
	return size
}

// land ends the flight of msg, with what looks like an acknowledgement or with what came instead. Only the first end
// counts. It never blocks, and is called by the library with its lock held.
func (s *Sink) land(msg *natsgo.Msg, ack *natsjs.PubAck, err error) {
	s.mu.Lock()
	f := s.flights[msg]
	delete(s.flights, msg)
	s.mu.Unlock()
	if f != nil {
		f.call.landings <- landing{index: f.index, ack: ack, err: err}
	}
}

// denied ends the flights to a subject that the server refuses to take. It does not say which message it refused, and
// one to the same subject that it took is tried again for nothing.
func (s *Sink) denied(session *session, subject string, err error) {
	s.landAll(func(msg *natsgo.Msg, f *flight) bool { return f.session == session && msg.Subject == subject }, err)
}

// lost ends the flights of a session that has ended.
func (s *Sink) lost(session *session, err error) {
	s.landAll(func(_ *natsgo.Msg, f *flight) bool { return f.session == session }, &lostError{err})
}

// lostError says why a session has ended before a message was acknowledged.
type lostError struct{ err error }

func (e *lostError) Error() string { return "not acknowledged: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

func (s *Sink) landAll(which func(*natsgo.Msg, *flight) bool, err error) {
	s.mu.Lock()
	var landed []*flight
	for msg, f := range s.flights {
		if which(msg, f) {
			landed = append(landed, f)
			delete(s.flights, msg)
		}
	}
	s.mu.Unlock()
	for _, f := range landed {
		f.call.landings <- landing{index: f.index, err: err}
	}
}

// landed takes a landing, and classifies it.
func (c *call) landed(l landing) {
	s := c.sink
	<-s.slots
	c.flying--
	msg := c.messages[l.index]
	c.messages[l.index] = nil
	if l.ack != nil {
		s.suspects.acquit(msg)
		c.settle(l.index, c.acknowledged(msg.Subject, l.ack))
		return
	}
	size := headerBytes(msg.Header) + len(msg.Data)
	halt, err := s.classifyPublish(msg.Subject, size, l.err)
	if halt && c.halted == nil {
		c.halted = err
	}
	if breaks(l.err) && !l.answeredBehind {
		if times := s.suspects.accuse(msg); l.alone && times >= guilty {
			s.suspects.acquit(msg) // a later try of the dead letter begins anew
			err = bridge.Reject(fmt.Errorf("the way to %s breaks at this message of %d bytes: "+
				"each of %d times that it went alone, what was sent ahead of it was answered, "+
				"and neither it nor what came behind; "+
				"does something on the way take less, such as a leaf node's hub (max_payload)? %s",
				c.stream(), size, guilty-suspect, err.Error()))
		}
	}
	c.settle(l.index, err)
}

// acknowledged takes what looks like an acknowledgement, and returns why it is none.
func (c *call) acknowledged(subject string, ack *natsjs.PubAck) error {
	if err := c.checkAcknowledgement(subject, ack); err != nil {
		return err
	}
	c.acks++
	if c.letters {
		return nil
	}
	c.sink.stream.answered()
	number := int64(ack.Sequence) //nolint:gosec // no stream has that many
	c.highest = max(c.highest, number)
	if ack.Duplicate {
		c.sink.duplicates.Add(1) // which has the number of the first one: that it was given before shows nothing
		return nil
	}
	c.lowest = min(c.lowest, number)
	return nil
}

// settle gives event i its result. When all of its share have theirs, the next share of the key may be sent; unless one
// is to be tried again: then the rest of the key ends with it, so that nothing overtakes.
func (c *call) settle(i int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results[i], c.finished[i] = err, true
	s := c.shares[i]
	if err != nil && bridge.KindOf(err) != bridge.FailureReject && s.failed == nil {
		s.failed = err
	}
	if s.open--; s.open > 0 || s.next == nil {
		return
	}
	if s.failed == nil {
		c.ready = append(c.ready, s.next.events...)
		return
	}
	behind := fmt.Errorf("not sent, since an earlier event of its partition key failed: %w", s.failed)
	for s = s.next; s != nil; s = s.next {
		for _, i := range s.events {
			c.results[i], c.finished[i] = behind, true
		}
	}
}

// answers returns the results so far, with cause for what has none: nil is for what was acknowledged, and nothing else.
func (c *call) answers(cause error) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	results := make([]error, len(c.results))
	unknown := bridge.Retry(fmt.Errorf("not acknowledged yet: %w", cause))
	for i, err := range c.results {
		results[i] = err
		if !c.finished[i] || err == nil && !c.synced {
			results[i] = unknown
		}
	}
	return results
}

// forget drops the flights that the call does not wait for any more.
func (c *call) forget() {
	s := c.sink
	s.mu.Lock()
	for _, msg := range c.messages {
		if msg != nil {
			delete(s.flights, msg)
		}
	}
	s.mu.Unlock()
	for range c.flying {
		<-s.slots
	}
}
