package bridge

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Positioned is a Sink whose broker numbers what it stores: a broker that ends before what it has acknowledged went
// back, and what lay behind that end is gone.
type Positioned interface {
	Sink
	// HighWater is always the same one. Delivery restores it before it publishes, and keeps it.
	HighWater() *HighWater
}

// Position is how far a broker has acknowledged, by log: a stream, or a partition of a topic, by its name for people.
type Position map[string]Mark

// Mark is how far one log is.
type Mark struct {
	// Last is the highest number.
	Last int64 `json:"last"`
	// Created is when the log was made, in Unix nanoseconds; 0 if that is not known. One made at another time is another
	// log.
	Created int64 `json:"created,omitempty"`
	// At is when Last was stored, in Unix nanoseconds, for an acknowledged one when that was heard of; 0 if that is not
	// known.
	At int64 `json:"at,omitempty"`
}

// WentBack says that a log ends before what was acknowledged.
type WentBack struct {
	Log string
	// Acknowledged is the highest number that was.
	Acknowledged int64
	// Ends is the highest number that the log had when it was found out: at most.
	Ends int64
	// Another tells that it is not the log that it was.
	Another bool
	// Whole tells that nothing has been stored behind Ends since the log went back, so that all up to Ends is there.
	Whole bool
}

// String says it for people.
func (w WentBack) String() string {
	if w.Another {
		return fmt.Sprintf("%s is another one than it was when it acknowledged number %d", w.Log, w.Acknowledged)
	}
	return fmt.Sprintf("%s has acknowledged number %d, and went back to %d or before it", w.Log, w.Acknowledged, w.Ends)
}

// Holds tells whether a broker of which that was found still has what it had acknowledged up to p.
func (p Position) Holds(found []WentBack) bool {
	for _, w := range found {
		if m, ok := p[w.Log]; ok && (w.Another || !w.Whole || m.Last > w.Ends) {
			return false
		}
	}
	return true
}

// HighWater follows how far a broker has acknowledged, and finds out that it went back. It is safe for concurrent use.
type HighWater struct {
	mu   sync.Mutex
	logs map[string]*waterLog
	back chan struct{}
}

type waterLog struct {
	mark  Mark
	known bool // mark is of something acknowledged
	// epoch grows each time that the log is found to have gone back: what was asked or sent before says nothing then.
	epoch int
	// found is how it went back, until Settle; fresh is the mark since then.
	found *WentBack
	fresh Mark
	// doubted is since when answers say that it went back which may be those of a server that is not up to date.
	doubted time.Time
}

// NewHighWater returns one of which nothing is known.
func NewHighWater() *HighWater {
	return &HighWater{logs: make(map[string]*waterLog), back: make(chan struct{}, 1)}
}

// Restore takes what was acknowledged before this process. It is to be called before anything is published.
func (h *HighWater) Restore(p Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for log, mark := range p {
		l := h.log(log)
		l.mark, l.known = mark, true
	}
}

func (h *HighWater) log(name string) *waterLog {
	l := h.logs[name]
	if l == nil {
		l = &waterLog{}
		h.logs[name] = l
	}
	return l
}

// Since is what was acknowledged before something was sent or asked.
type Since struct {
	log   string
	known bool
	mark  Mark
	epoch int
}

// Known tells whether anything had been acknowledged.
func (s Since) Known() bool { return s.known }

// Since returns what a log has acknowledged until now. It is to be called before what is sent or asked then.
func (h *HighWater) Since(log string) Since {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.log(log)
	s := Since{log: log, known: l.known, mark: l.mark, epoch: l.epoch}
	if l.found != nil {
		s.mark = l.fresh
	}
	return s
}

// Acknowledged notes that what was sent since then was acknowledged with numbers up to highest, of which lowest is the
// lowest one that was given anew; math.MaxInt64: none was, and all are repeats of what had been stored. A lowest one
// that had been acknowledged before shows that the log went back.
func (h *HighWater) Acknowledged(s Since, lowest, highest int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.log(s.log)
	now := time.Now().UnixNano()
	switch {
	case s.epoch != l.epoch: // it may be of before
	case l.found != nil:
		if highest > l.fresh.Last {
			l.fresh.Last, l.fresh.At = highest, now
		}
	case s.known && lowest <= s.mark.Last:
		h.wentBack(l, WentBack{Log: s.log, Acknowledged: l.mark.Last, Ends: lowest - 1}, Mark{Last: highest, At: now})
	case !l.known || highest > l.mark.Last:
		l.mark.Last, l.mark.At, l.known = highest, now, true
	}
}

// Evidence is what an answer about the end of a log is worth.
type Evidence struct {
	// Certain tells that it is about the log that is published to.
	Certain bool
	// Confirm is for how long answers have to say the same before they count: a server that is cut off from the others of
	// its cluster may answer with what it knew before.
	Confirm time.Duration
}

// Ends notes where a log ends, as a server answered what was asked since then. A log of which that is not certain has
// to be seen holding what it acknowledged before its end says anything.
func (h *HighWater) Ends(s Since, end Mark, e Evidence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.log(s.log)
	if s.epoch != l.epoch || l.found != nil {
		return
	}
	switch another := s.mark.Created != 0 && end.Created != 0 && s.mark.Created != end.Created; {
	case !s.known:
		if e.Certain {
			l.mark.Created = end.Created
		}
	case !e.Certain && s.mark.Created == 0 && end.Last < s.mark.Last:
	case another || end.Last < s.mark.Last:
		if l.doubted.IsZero() {
			l.doubted = time.Now()
		}
		if time.Since(l.doubted) < e.Confirm {
			return
		}
		whole := !another && end.At != 0 && end.At <= s.mark.At
		h.wentBack(l, WentBack{
			Log: s.log, Acknowledged: l.mark.Last, Ends: end.Last, Another: another, Whole: whole,
		}, end)
	default:
		l.mark.Created = end.Created
	}
	l.doubted = time.Time{}
}

func (h *HighWater) wentBack(l *waterLog, w WentBack, fresh Mark) {
	l.found, l.fresh = &w, fresh
	l.epoch++
	select {
	case h.back <- struct{}{}:
	default:
	}
}

// Back fires when a log was found to have gone back.
func (h *HighWater) Back() <-chan struct{} { return h.back }

// Found returns the logs that went back and have not been settled.
func (h *HighWater) Found() (found []WentBack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.logs)) {
		if w := h.logs[name].found; w != nil {
			found = append(found, *w)
		}
	}
	return found
}

// Position returns what is to be kept. Of a log that went back it is what it was before, until that is settled: so a
// crash does not hide it.
func (h *HighWater) Position() Position { return h.position(nil) }

// Settled returns the Position that Settle leaves.
func (h *HighWater) Settled(found []WentBack) Position { return h.position(found) }

func (h *HighWater) position(settled []WentBack) Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := make(Position, len(h.logs))
	for name, l := range h.logs {
		switch {
		case l.found != nil && slices.ContainsFunc(settled, func(w WentBack) bool { return w.Log == name }):
			p[name] = l.fresh
		case l.known:
			p[name] = l.mark
		}
	}
	return p
}

// Settle goes on from where the logs are now that were found to have gone back.
func (h *HighWater) Settle(found []WentBack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range found {
		if l := h.log(w.Log); l.found != nil {
			l.mark, l.found = l.fresh, nil
		}
	}
}
