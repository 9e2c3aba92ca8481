package bridge

import (
	"math"
	"time"
)

// Warning says of something that works how it may cost events, and what to set.
type Warning struct {
	// Key is a word for programs. It stays the same from version to version.
	Key  string `json:"key"`
	Text string `json:"text"`
}

// Warner is a Sink that knows where its broker's set-up endangers events.
type Warner interface {
	Sink
	// Warnings returns what holds now, as far as it has been found out; after a Check that succeeded that is all of it.
	// Cheap, never waits, safe for concurrent use.
	Warnings() []Warning
}

// Storage is how much a broker keeps of what a sink publishes, and how much it may keep.
type Storage struct {
	UsedBytes  int64 `json:"used_bytes"`
	LimitBytes int64 `json:"limit_bytes"`
	// Of is what has that limit.
	Of string `json:"of"`
	// DropsOldest tells whether the oldest events make room when it is full. Else new ones are refused, and wait.
	DropsOldest bool `json:"drops_oldest"`
	// FullAt is when it is full if it goes on as it did lately; in the past if it is; nil if it does not fill up.
	FullAt *time.Time `json:"full_at,omitempty"`
}

// FullIn returns the time from now until it is full, not negative, and false if it does not fill up.
func (s Storage) FullIn(now time.Time) (time.Duration, bool) {
	if s.FullAt == nil {
		return 0, false
	}
	return max(0, s.FullAt.Sub(now)), true
}

// Storing is a Sink whose broker tells how much it keeps.
type Storing interface {
	Sink
	// Storage returns what was found out last, and false while there is no limit that is known. Cheap, never waits, safe
	// for concurrent use.
	Storage() (Storage, bool)
}

// Growth is how fast something grows. The zero Growth has seen nothing.
type Growth struct {
	at, since time.Time
	size, was int64
}

// growthWindow is for how long a Growth looks back: at least so long once it has seen as much, and at most twice.
const growthWindow = 10 * time.Minute

// See notes a size.
func (g *Growth) See(now time.Time, size int64) {
	switch {
	case g.since.IsZero():
		g.at, g.size, g.since, g.was = now, size, now, size
	case now.Sub(g.at) >= growthWindow:
		g.since, g.was, g.at, g.size = g.at, g.size, now, size
	}
}

// Rate returns how much it has grown a second lately, when it has this size now, and false while too little has been
// seen. It is negative if it shrinks.
func (g *Growth) Rate(now time.Time, size int64) (float64, bool) {
	seen := now.Sub(g.since)
	if g.since.IsZero() || seen < growthWindow {
		return 0, false
	}
	return float64(size-g.was) / seen.Seconds(), true
}

// FullAfter returns how long it takes until used has become limit at a rate a second, and false if that is never, or
// not within a century.
func FullAfter(used, limit int64, rate float64) (time.Duration, bool) {
	if used >= limit {
		return 0, true
	}
	seconds := float64(limit-used) / rate
	if rate <= 0 || seconds > math.MaxInt64/float64(4*time.Second) {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
