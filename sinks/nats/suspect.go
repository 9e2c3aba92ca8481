package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
)

// A message can break the way to its stream, and with it whatever else is on it: the hub of a leaf node drops the
// link at a message above its max_payload, and the leaf node does not say so. What was in flight each time is
// suspected, and then goes alone, between two questions to the stream. Only one that breaks the way between them,
// again and again, is rejected.
const (
	// suspect is how often the way broke with a message in flight before that goes alone.
	suspect = 2
	// guilty is how often before it is rejected.
	guilty = suspect + 3
	// maxSuspects bounds the memory. It is more than the window of unfinished events has.
	maxSuspects = 16 * maxInFlight
)

// suspects counts, by the ID of a message, how often the way broke while it was in flight.
type suspects struct {
	mu    sync.Mutex
	times map[string]int
	n     atomic.Int64 // of times, so that there is nothing to lock while there is none
}

func (s *suspects) of(msg *natsgo.Msg) int {
	if s.n.Load() == 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times[msg.Header.Get(natsjs.MsgIDHeader)]
}

// accuse returns how often the way has broken with msg in flight, now included. A message without an ID is never
// suspected.
func (s *suspects) accuse(msg *natsgo.Msg) int {
	id := msg.Header.Get(natsjs.MsgIDHeader)
	if id == "" {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil || len(s.times) >= maxSuspects {
		s.times = make(map[string]int)
	}
	s.times[id]++
	s.n.Store(int64(len(s.times)))
	return s.times[id]
}

func (s *suspects) acquit(msg *natsgo.Msg) {
	if s.n.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.times, msg.Header.Get(natsjs.MsgIDHeader))
	s.n.Store(int64(len(s.times)))
}

// breaks tells whether err is the end of a message whose way has broken.
func breaks(err error) bool {
	_, lost := errors.AsType[*lostError](err)
	return errors.Is(err, natsjs.ErrAsyncPublishTimeout) || lost && bridge.KindOf(err) == bridge.FailureRetry
}

// try sends one event alone, between two questions: what comes of it is then its own doing. Nothing of the call is in
// flight.
func (c *call) try(ctx context.Context, i int) {
	s := c.sink
	msg, size, err := c.message(i, c.session, c.failures)
	if err != nil {
		c.settle(i, err)
		return
	}
	release, err := s.alone(ctx)
	if err != nil {
		c.settle(i, err)
		return
	}
	defer release()
	if err := s.question(ctx, c.session, msg.Subject, c.from); !isAnswer(err) {
		<-s.slots
		c.halted = bridge.Retry(fmt.Errorf("%s does not answer for %s: %w", c.stream(), msg.Subject, err))
		c.settle(i, fmt.Errorf("not sent: %w", c.halted))
		return
	}
	c.fly(i, msg, size)
	behind := isAnswer(s.question(ctx, c.session, msg.Subject, c.from))
	select {
	case l := <-c.landings:
		l.alone, l.answeredBehind = true, behind
		c.landed(l)
	case <-ctx.Done():
	}
}

// alone takes every slot, so that nothing else is in flight, and returns what gives them back, but for the one of
// whoever goes alone. It waits for as long as an acknowledgement may take.
func (s *Sink) alone(ctx context.Context) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.AckTimeout)
	defer cancel()
	ended := func() error { return bridge.Retry(fmt.Errorf("not sent: %w", context.Cause(ctx))) }
	select {
	case s.trial <- struct{}{}:
	case <-ctx.Done():
		return nil, ended()
	}
	giveBack := func(n int) {
		for range n {
			<-s.slots
		}
		<-s.trial
	}
	for taken := range cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			giveBack(taken)
			return nil, ended()
		}
	}
	return func() { giveBack(cap(s.slots) - 1) }, nil
}
