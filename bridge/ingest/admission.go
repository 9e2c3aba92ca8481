package ingest

import (
	"container/list"
	"sync"
	"time"
)

// patience is how long a webhook waits for a place, or for memory. The sender's own retry costs it minutes.
const patience = time.Second

// admission bounds how much memory the bodies of webhooks have, and how many webhooks are stored at once. It is safe
// for concurrent use.
//
// While bodies are coming, memory is all that they take. When it is in use, the body that has not grown for longest is
// displaced: so bodies that come slowly, or not at all, cannot keep out one that comes. A webhook that is there waits
// for a place among others that are there, and for nobody else. How many may wait is bounded by the memory, and by the
// connections.
type admission struct {
	maxPlaces, maxBytes int64

	mu      sync.Mutex
	waits   time.Duration // at most, for a place or for memory
	open    int64         // slots
	bytes   int64
	coming  int64         // of bytes: what those in reading have
	reading list.List     // of *slot: those whose body is still coming, the one that has not grown for longest first
	freed   chan struct{} // closed when there is memory again; nil while nobody waits for it
	taken   int64         // places
	queue   list.List     // of chan struct{}, closed when the place of another has become theirs
}

// slot is what one webhook has of an admission. All but the first two fields belong to the admission's mu.
type slot struct {
	admission *admission
	cut       func() // ends the reading at once, without waiting for it

	bytes     int64
	reads     *list.Element // in admission.reading; nil once the body is there
	placed    bool
	displaced bool // its memory is another's
}

func (a *admission) inFlight() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

// admit returns a slot for a webhook whose body is going to be read.
func (a *admission) admit(cut func()) *slot {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open++
	s := &slot{admission: a, cut: cut}
	s.reads = a.reading.PushBack(s)
	return s
}

// grow asks for n bytes of memory more. It waits for them only if webhooks that are there have all of it. It returns
// false if there are none, or s was displaced.
func (s *slot) grow(n int64) bool {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	var timeout <-chan time.Time
	for !s.displaced && a.bytes+n > a.maxBytes {
		if there := a.bytes - (a.coming - s.bytes); there+n <= a.maxBytes {
			a.displaceFor(s)
			continue
		}
		if timeout == nil {
			timer := time.NewTimer(a.waits)
			defer timer.Stop()
			timeout = timer.C
		}
		if !a.waitForMemory(timeout) {
			return false
		}
	}
	if s.displaced {
		return false
	}
	s.bytes += n
	a.bytes += n
	a.coming += n
	a.reading.MoveToBack(s.reads)
	return true
}

// waitForMemory returns once some was freed, and false if it took too long. The caller holds mu, which is let go of
// meanwhile.
func (a *admission) waitForMemory(timeout <-chan time.Time) bool {
	if a.freed == nil {
		a.freed = make(chan struct{})
	}
	freed := a.freed
	a.mu.Unlock()
	defer a.mu.Lock()
	select {
	case <-freed:
		return true
	case <-timeout:
		return false
	}
}

// displaceFor takes the memory of another body that is coming. The caller holds mu, and knows that there is one.
func (a *admission) displaceFor(s *slot) {
	e := a.reading.Front()
	if e == s.reads {
		e = e.Next()
	}
	other, _ := e.Value.(*slot)
	other.displaced = true
	a.free(other)
	other.cut()
}

// free gives back the memory of s, whose body is not coming any more. The caller holds mu.
func (a *admission) free(s *slot) {
	a.read(s)
	a.bytes -= s.bytes
	s.bytes = 0
	if a.freed != nil {
		close(a.freed)
		a.freed = nil
	}
}

// read takes s out of those whose body is coming, if it is among them. The caller holds mu.
func (a *admission) read(s *slot) {
	if s.reads != nil {
		a.reading.Remove(s.reads)
		s.reads = nil
		a.coming -= s.bytes
	}
}

// arrived says that the body is there. From now on s cannot be displaced. It returns false if it was before.
func (s *slot) arrived() bool {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.read(s)
	return !s.displaced
}

// place waits for a place, behind those that came before. It returns false if there was none in time.
func (s *slot) place() bool {
	a := s.admission
	a.mu.Lock()
	if a.taken < a.maxPlaces {
		a.taken++
		s.placed = true
		a.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	waits := a.queue.PushBack(turn)
	timer := time.NewTimer(a.waits)
	a.mu.Unlock()
	defer timer.Stop()
	select {
	case <-turn:
	case <-timer.C:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-turn: // even if the time is up
		s.placed = true
	default:
		a.queue.Remove(waits)
	}
	return s.placed
}

// release gives s back. The webhook's body must not be needed any more.
func (s *slot) release() {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	a.free(s)
	if !s.placed {
		return
	}
	s.placed = false
	if next := a.queue.Front(); next != nil {
		turn, _ := a.queue.Remove(next).(chan struct{})
		close(turn)
		return
	}
	a.taken--
}
