package page

import (
	"sync"
	"time"
)

// shownSeconds is how far the series go back.
const shownSeconds = 15 * 60

// series are figures of the last minutes, one a second. What a second has not is 0.
type series struct {
	mu      sync.Mutex
	at      time.Time // of the newest second
	filled  int
	columns map[string]*[shownSeconds]float32
	next    int // where the next second goes
	last    map[string]float64
}

func newSeries() *series { return &series{columns: make(map[string]*[shownSeconds]float32)} }

// add takes a second: gauges as they are, and counters since the one before.
func (s *series) add(at time.Time, counters, gauges map[string]float64) second {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := second{At: at, Columns: make(map[string]float32)}
	for name, value := range counters {
		if s.last != nil {
			if since := value - s.last[name]; since > 0 {
				now.Columns[name] = float32(since)
			}
		}
	}
	s.last = counters
	for name, value := range gauges {
		now.Columns[name] = float32(value)
	}
	for name := range now.Columns {
		if s.columns[name] == nil {
			s.columns[name] = new([shownSeconds]float32)
		}
	}
	for name, column := range s.columns {
		column[s.next] = now.Columns[name]
	}
	s.next, s.at, s.filled = (s.next+1)%shownSeconds, at, min(s.filled+1, shownSeconds)
	return now
}

// second is one second of all series.
type second struct {
	At time.Time `json:"at"`
	// Columns are the figures by name. One that is not there is 0.
	Columns map[string]float32 `json:"columns"`
}

// shownSeries is what /api/series answers.
type shownSeries struct {
	// At is when the last second ended. Each column has as many figures as there are Seconds, the oldest first.
	At      time.Time            `json:"at"`
	Seconds int                  `json:"seconds"`
	Columns map[string][]float32 `json:"columns"`
}

func (s *series) shown() shownSeries {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := shownSeries{At: s.at, Seconds: s.filled, Columns: make(map[string][]float32, len(s.columns))}
	for name, column := range s.columns {
		figures := make([]float32, 0, s.filled)
		for i := range s.filled {
			figures = append(figures, column[(s.next-s.filled+i+shownSeconds)%shownSeconds])
		}
		out.Columns[name] = figures
	}
	return out
}
