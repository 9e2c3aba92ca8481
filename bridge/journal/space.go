package journal

import (
	"fmt"
	"sync/atomic"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// From the high mark on, delivered webhooks make room before their time: what is over the low mark goes.
	// That ends, and is said to have ended, at the calm mark, which lies far enough below that a journal kept
	// just under the low mark in this way does not call out again and again.
	highMarkPercent = 90
	lowMarkPercent  = 85
	calmMarkPercent = 75

	// countAfter is how many bytes may be written until the journal's size is counted anew, while it is far from its
	// limit. Counting costs about as much as storing a webhook.
	countAfter = 1 << 20
)

// space keeps the account of the journal's size. Append looks here and not into the database.
type space struct {
	limit int64
	// used is what was on disk when it was last counted, reserved what the queue is about to add.
	used     atomic.Int64
	reserved atomic.Int64
	// wanted is what the largest refused webhook needed.
	wanted atomic.Int64
}

// reserve sets n bytes aside, or refuses.
func (s *space) reserve(n int64) error {
	reserved := s.reserved.Add(n)
	used := s.used.Load()
	if used+reserved <= s.limit {
		return nil
	}
	s.reserved.Add(-n)
	for {
		wanted := s.wanted.Load()
		if wanted >= n || s.wanted.CompareAndSwap(wanted, n) {
			break
		}
	}
	return fmt.Errorf("%w: it holds %d of at most %d bytes, and %d more are needed; "+
		"it takes webhooks again when the sinks have taken theirs",
		ErrFull, used, s.limit, n)
}

// release gives back what reserve set aside.
func (s *space) release(n int64) { s.reserved.Add(-n) }

// above tells whether the journal, with what it was refused for, is over percent of its limit.
func (s *space) above(percent int64) bool {
	return s.used.Load()+s.wanted.Load() >= s.limit/100*percent
}

// uncertain tells whether the size must be counted, given how many bytes were written since it was.
func (s *space) uncertain(written int64) bool {
	return written >= countAfter || s.used.Load()+written+countAfter >= s.limit/100*calmMarkPercent
}

// webhookCost is about what storing a webhook takes. Rows share pages, save those that fill half a page or more.
func webhookCost(w *bridge.Webhook) int64 {
	const overhead = 64
	n := int64(len(w.Body)) + 2*int64(len(w.ID)) + overhead
	if n < pageSize/2 {
		return n + n/4
	}
	return (n + pageSize) / pageSize * pageSize
}

// excess is how many bytes must go for the journal, with what it was refused for, to be under percent of its limit.
func (s *space) excess(percent int64) int64 {
	return max(s.used.Load()+s.wanted.Load()-s.limit/100*percent+1, 0)
}
