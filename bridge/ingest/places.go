package ingest

import (
	"container/list"
	"sync"
	"time"
)

// patience is how long a body may take to come while others wait for its place. A webhook's body comes with its headers, or
// right behind them.
const patience = time.Second

// places bounds how many webhooks are worked on at once, and how much memory their bodies have. When everything is taken,
// the body that has been coming longest has to go, if it has had its second: bodies that come slowly on purpose cannot
// keep out those that come at once. It is safe for concurrent use.
type places struct {
	most, mostBytes int64

	mu           sync.Mutex
	taken, bytes int64
	reading      list.List // of *place: those whose body is still coming, oldest first
}

// place is what one webhook has of places, until leave. All of it but the first line belongs to places' mu.
type place struct {
	places *places
	cut    func() // ends the reading at once, without waiting for it
	since  time.Time

	bytes     int64
	reads     *list.Element // in places.reading; nil once the body is there
	displaced bool          // what it had counts as free, and is another's
}

func (p *places) inFlight() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// enter returns a place for a webhook whose body is going to be read, or nil if there is none.
func (p *places) enter(now time.Time, cut func()) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.most && !p.displace(now) {
		return nil
	}
	p.taken++
	one := &place{places: p, cut: cut, since: now}
	one.reads = p.reading.PushBack(one)
	return one
}

// displace takes everything from the body that has been coming longest, and tells whether there was one to take from.
// The caller holds mu.
func (p *places) displace(now time.Time) bool {
	front := p.reading.Front()
	if front == nil {
		return false
	}
	oldest, _ := front.Value.(*place)
	if now.Sub(oldest.since) < patience {
		return false
	}
	p.give(oldest)
	oldest.displaced = true
	oldest.cut()
	return true
}

// give takes back what one has. The caller holds mu.
func (p *places) give(one *place) {
	if one.reads != nil {
		p.reading.Remove(one.reads)
		one.reads = nil
	}
	p.taken--
	p.bytes -= one.bytes
}

// grow asks for n bytes of memory more. If it returns false there are none, or the place was taken away.
func (one *place) grow(now time.Time, n int64) bool {
	p := one.places
	p.mu.Lock()
	defer p.mu.Unlock()
	for !one.displaced && p.bytes+n > p.mostBytes {
		if !p.displace(now) { // it may be this very one that goes
			return false
		}
	}
	if one.displaced {
		return false
	}
	one.bytes += n
	p.bytes += n
	return true
}

// arrived says that the body is there: from now on the place is safe. It returns false if it was taken away before.
func (one *place) arrived() bool {
	p := one.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if one.displaced {
		return false
	}
	p.reading.Remove(one.reads)
	one.reads = nil
	return true
}

// leave gives the place back. The webhook's body must not be needed any more.
func (one *place) leave() {
	p := one.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if !one.displaced {
		p.give(one)
	}
}
