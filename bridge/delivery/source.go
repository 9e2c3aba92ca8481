package delivery

import (
	"iter"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

const (
	// openSources is how many webhooks are taken from by turns: the more, the more keys a sink has to store at once, and
	// the more webhooks are sent again after a crash.
	openSources = 32
	// readAhead is how many webhooks lie ready while the next ones are being read.
	readAhead = readWebhooks / 2
	// turnEvents is how many events a webhook gives in its turn.
	turnEvents = 16
)

// source yields a webhook's events one by one, so that a payload with very many costs no more memory than the window.
type source struct {
	webhook *lane.Webhook
	wants   func(*bridge.Event) bool // nil: every event
	taken   int
	bytes   int // what it keeps in memory until it is through
	// ready are the events of a small webhook, which are there already; of others pull makes the next one.
	ready []bridge.Event
	pull  func() (bridge.Event, bool)
	end   func()        // of pull
	ahead *bridge.Event // made, and not yet taken
}

func newSource(w *lane.Webhook, e *Entry, wants func(*bridge.Event) bool, o tensorlake.Options) *source {
	s := &source{webhook: w, wants: wants, bytes: len(e.Webhook.Body), ready: e.Events}
	for i := range e.Events { // a dead letter has no body
		s.bytes += len(e.Events[i].Data)
	}
	if e.Events == nil {
		s.pull, s.end = iter.Pull(e.events(o))
	}
	return s
}

// next returns the next event, and nil when there is none.
func (s *source) next() *bridge.Event {
	if e := s.ahead; e != nil {
		s.ahead = nil
		return e
	}
	return s.produce()
}

// produce makes the next event that is wanted.
func (s *source) produce() *bridge.Event {
	for {
		if e := s.unfiltered(); e == nil || s.wants == nil || s.wants(e) {
			return e
		}
	}
}

func (s *source) unfiltered() *bridge.Event {
	if s.pull != nil {
		if e, ok := s.pull(); ok {
			return &e
		}
		return nil
	}
	if len(s.ready) == 0 {
		return nil
	}
	e := &s.ready[0]
	s.ready = s.ready[1:]
	return e
}

// putBack has next return the event again that it returned last.
func (s *source) putBack(e *bridge.Event) { s.ahead = e }

// peek returns the event that next will return, and nil when there is none.
func (s *source) peek() *bridge.Event {
	if s.ahead == nil {
		s.ahead = s.produce()
	}
	return s.ahead
}

// drop lets go of the events that have not been taken.
func (s *source) drop() {
	for s.next() != nil {
		s.webhook.Lost++
	}
}

// stop ends a source, of which not every event need have been taken.
func (s *source) stop() {
	if s.end != nil {
		s.end()
	}
}

// openWebhooks are the webhooks that have been read and have events left to take, oldest first. Those of many events
// take turns: one with very many does not hold up the others, and a sink that stores the events of a key one after the
// other has many keys at once. Webhooks of one key do not: each begins when the one before has ended.
type openWebhooks struct {
	// key is by which the sink keeps events in order, and turns how many webhooks have theirs.
	key    func(*bridge.Event) string
	turns  int
	list   []*source
	bytes  int // of all of them
	turn   int // the index of the one whose turn it is
	taken  int // how many events it was asked for in it
	served int // turns in this round
}

func (s *openWebhooks) add(source *source) {
	s.list = append(s.list, source)
	s.bytes += source.bytes
}

func (s *openWebhooks) len() int { return len(s.list) }

// runsOut tells whether so little of what was read is left that the next is to be read. A share is the part of a
// reading that the stream has.
func (s *openWebhooks) runsOut(share int) bool {
	return len(s.list) <= readAhead/share && s.bytes < readBytes/share
}

// next returns the source to take one event from, and nil when there is none. One that has ended is to be removed.
func (s *openWebhooks) next() *source {
	if len(s.list) == 0 {
		return nil
	}
	if s.taken == turnEvents {
		s.pass(1)
	}
	for s.turn > 0 && s.waits(s.turn) {
		s.pass(1)
	}
	s.taken++
	return s.list[s.turn]
}

// remove takes out the source that next returned last.
func (s *openWebhooks) remove() {
	s.bytes -= s.list[s.turn].bytes
	copy(s.list[1:s.turn+1], s.list[:s.turn])
	s.list[0] = nil
	s.list = s.list[1:]
	s.pass(0)
}

// pass gives the turn to the source that is so many places on. A round has an end even if webhooks are removed all
// the while, so that those at the front have their turn again.
func (s *openWebhooks) pass(places int) {
	s.taken = 0
	s.turn += places
	if s.served++; s.served >= s.turns || s.turn >= min(len(s.list), s.turns) {
		s.turn, s.served = 0, 0
	}
}

// waits tells whether a source before the i-th has events of the same key, and that one has not begun.
func (s *openWebhooks) waits(i int) bool {
	if s.list[i].taken > 0 {
		return false
	}
	first := s.list[i].peek()
	for _, before := range s.list[:i] {
		if e := before.peek(); first != nil && e != nil && s.key(e) == s.key(first) {
			return true
		}
	}
	return false
}

// stop ends all sources.
func (s *openWebhooks) stop() {
	for _, source := range s.list {
		source.stop()
	}
	s.list, s.bytes, s.turn, s.taken, s.served = nil, 0, 0, 0, 0
}
