package ingest

import (
	"container/list"
	"sync"
	"time"
)

// patience is how long a body may take to come while others wait for its slot. A webhook's body comes with its headers,
// or right behind them.
const patience = time.Second

// admission bounds how many webhooks are worked on at once, and how much memory their bodies have. When all is in use,
// the body that has been coming longest is displaced, unless it began less than a second ago. So bodies that come
// slowly on purpose cannot keep out those that come at once. It is safe for concurrent use.
type admission struct {
	maxWebhooks, maxBytes int64

	mu              sync.Mutex
	webhooks, bytes int64
	reading         list.List // of *slot: those whose body is still coming, oldest first
}

// slot is what one webhook has of an admission. What stands below since belongs to the admission's mu.
type slot struct {
	admission *admission
	cut       func() // ends the reading at once, without waiting for it
	since     time.Time

	bytes     int64
	reads     *list.Element // in admission.reading; nil once the body is there
	displaced bool          // another webhook may have it
}

func (a *admission) inFlight() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.webhooks
}

// admit returns a slot for a webhook whose body is going to be read, or nil if there is none.
func (a *admission) admit(now time.Time, cut func()) *slot {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.webhooks >= a.maxWebhooks && !a.displace(now) {
		return nil
	}
	a.webhooks++
	s := &slot{admission: a, cut: cut, since: now}
	s.reads = a.reading.PushBack(s)
	return s
}

// displace frees the slot whose body has been coming longest, and tells whether there was one. The caller holds mu.
func (a *admission) displace(now time.Time) bool {
	front := a.reading.Front()
	if front == nil {
		return false
	}
	oldest, _ := front.Value.(*slot)
	if now.Sub(oldest.since) < patience {
		return false
	}
	a.free(oldest)
	oldest.displaced = true
	oldest.cut()
	return true
}

// free takes s out of the count. The caller holds mu.
func (a *admission) free(s *slot) {
	if s.reads != nil {
		a.reading.Remove(s.reads)
		s.reads = nil
	}
	a.webhooks--
	a.bytes -= s.bytes
}

// grow asks for n bytes of memory more. It returns false if there are none, or s was displaced.
func (s *slot) grow(now time.Time, n int64) bool {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	for !s.displaced && a.bytes+n > a.maxBytes {
		if !a.displace(now) { // which may displace s itself
			return false
		}
	}
	if s.displaced {
		return false
	}
	s.bytes += n
	a.bytes += n
	return true
}

// arrived says that the body is there. From now on s cannot be displaced. It returns false if it was before.
func (s *slot) arrived() bool {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.displaced {
		return false
	}
	a.reading.Remove(s.reads)
	s.reads = nil
	return true
}

// release gives s back. The webhook's body must not be needed any more.
func (s *slot) release() {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if !s.displaced {
		a.free(s)
	}
}
