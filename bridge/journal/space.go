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
	// From this part of the limit on that dead letters take, no webhook is accepted: what waits for the sinks can become
	// dead letters as well, and these are stored whatever the limit is.
	lettersPercent = 75

	// countAfter is how many bytes may be written until the journal's size is counted anew, while it is far from its
	// limit. Counting costs about as much as storing a webhook.
	countAfter = 1 << 20
)

// space keeps the account of the journal's size. Append looks here and not into the database.
type space struct {
	limit int64
	// room is how large the journal can become on its volume, files what its files take there, and free what the
	// volume has left for it. Where the volume is not known room has no end.
	room, files, free atomic.Int64
	// exhausted is set from when the disk had no room for something until there is room for the reserve again.
	exhausted atomic.Bool
	// used is what was on disk when it was last counted, with what the log may keep and with what it has beyond that, and
	// reserved what the queue is about to add.
	used     atomic.Int64
	reserved atomic.Int64
	// letters is what dead letters take of used, past what the memory of webhooks does that are gone.
	letters, past atomic.Int64
	// wanted is what the largest refused webhook needed.
	wanted atomic.Int64
}

// bound is how large the journal may become. On a volume that others have filled, it may go on using its own files.
func (s *space) bound() int64 { return min(s.limit, max(s.room.Load(), s.files.Load())) }

// reserve sets n bytes aside, or refuses.
func (s *space) reserve(n int64) error {
	if err := s.tooManyLetters(); err != nil {
		return err
	}
	reserved := s.reserved.Add(n)
	err := s.refusal(reserved, n)
	if err == nil {
		return nil
	}
	s.reserved.Add(-n)
	for {
		wanted := s.wanted.Load()
		if wanted >= n || s.wanted.CompareAndSwap(wanted, n) {
			break
		}
	}
	return err
}

// refusal says why the journal cannot take so many bytes, of which more are the last. On the disk they go to the log
// first, and stay there until they are in the database.
func (s *space) refusal(bytes, more int64) error {
	used, letters, past := s.used.Load(), s.letters.Load(), s.past.Load()
	room := s.room.Load()
	switch {
	case s.exhausted.Load() || used+2*bytes > room && room < s.limit:
		return fmt.Errorf("%w: the volume has %d bytes left, some of which are for delivery, and %d more are needed; "+
			"it takes webhooks again by itself when there is room",
			ErrDiskFull, s.free.Load(), more)
	case used+bytes <= s.limit:
		return nil
	case letters >= s.limit/2:
		return s.fullOfLetters(letters)
	case past >= s.limit/2:
		return fmt.Errorf("%w: the ids of webhooks whose signatures are still valid take %d of at most %d bytes, "+
			"so that none of them is taken twice; raise FNBRIDGE_JOURNAL_MAX_BYTES, or shorten FNBRIDGE_WEBHOOK_TOLERANCE",
			ErrFull, past, s.limit)
	default:
		return fmt.Errorf("%w: it holds %d of at most %d bytes, and %d more are needed; "+
			"it takes webhooks again when the sinks have taken theirs",
			ErrFull, used, s.limit, more)
	}
}

// tooManyLetters says why no webhook is accepted while dead letters take most of the limit, nil while they do not.
func (s *space) tooManyLetters() error {
	if letters := s.letters.Load(); letters >= s.limit/100*lettersPercent {
		return s.fullOfLetters(letters)
	}
	return nil
}

// accepting says why webhooks are refused, nil while they are not.
func (s *space) accepting() error {
	if err := s.tooManyLetters(); err != nil {
		return err
	}
	if err := s.refusal(pageSize, pageSize); err != nil {
		return err
	}
	// What was refused would be again, although something smaller may still fit.
	if wanted := s.wanted.Load(); wanted > 0 {
		return s.refusal(wanted, wanted)
	}
	return nil
}

func (s *space) fullOfLetters(letters int64) error {
	return fmt.Errorf("%w: they take %d of the at most %d bytes that it may hold; "+
		"send them again with \"fnbridge dead-letters retry\" once their cause is mended, "+
		"or give them up with \"fnbridge dead-letters drop\"", ErrFullOfDeadLetters, letters, s.limit)
}

// claim sets n bytes aside, whatever the limit is.
func (s *space) claim(n int64) { s.reserved.Add(n) }

// refusesLetters returns why no further dead letter is stored, if none is. A journal that is full of webhooks takes
// them, or it would never have room again. One that is full, and half of that with dead letters, does not: what waits
// for the sinks could become many times as much.
func (s *space) refusesLetters() error {
	letters := s.letters.Load()
	if letters < s.limit/2 || s.used.Load()+s.reserved.Load() <= s.limit {
		return nil
	}
	return s.fullOfLetters(letters)
}

// release gives back what reserve or claim set aside.
func (s *space) release(n int64) { s.reserved.Add(-n) }

// above tells whether the journal, with what it was refused for, is over percent of its bound.
func (s *space) above(percent int64) bool {
	return s.used.Load()+s.wanted.Load() >= s.bound()/100*percent
}

// uncertain tells whether the size must be counted, given how many bytes were written since it was.
func (s *space) uncertain(written int64) bool {
	return written >= countAfter || s.used.Load()+written+countAfter >= s.bound()/100*calmMarkPercent
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

// excess is how many bytes must go for the journal, with what it was refused for, to be under percent of its bound.
func (s *space) excess(percent int64) int64 {
	return max(s.used.Load()+s.wanted.Load()-s.bound()/100*percent+1, 0)
}
