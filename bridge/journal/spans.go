package journal

import (
	"cmp"
	"math"
	"slices"
)

// span is the webhooks with the numbers behind after, up to through. Lists of spans are in order.
type span struct{ after, through int64 }

// endless is where a span ends that has no end yet.
const endless = math.MaxInt64

// skip returns the last of the numbers behind n that lie in spans one after the other, and n if the next one does not.
func skip(spans []span, n int64) int64 {
	for _, s := range spans {
		if s.after <= n {
			n = max(n, s.through)
		}
	}
	return n
}

// waits returns what a sink is to get behind its cursor: everything but what was accepted in its absences.
func waits(cursor int64, absences []span) (all []span) {
	for _, a := range absences {
		if cursor < a.after {
			all = append(all, span{cursor, a.after})
		}
		cursor = max(cursor, a.through)
	}
	if cursor < endless {
		all = append(all, span{cursor, endless})
	}
	return all
}

// overlap returns how many of the numbers behind after, up to through, lie in spans.
func overlap(spans []span, after, through int64) (n int64) {
	for _, s := range spans {
		n += max(min(s.through, through)-max(s.after, after), 0)
	}
	return n
}

// position says which numbers the stored webhooks have. They begin with oldest and end with head, without gaps but for
// the holes: the writer gives numbers out one by one, and deletes from the oldest on what nobody waits for. With none
// stored, oldest is head+1.
type position struct {
	oldest, head int64
	holes        []span
	// absences are, by sink, what was accepted while it was not configured. The last one is open while it is not.
	absences map[string][]span
}

// stored counts the webhooks that are stored.
func (p *position) stored() int64 {
	return p.head - p.oldest + 1 - overlap(p.holes, p.oldest-1, p.head)
}

// backlog counts the webhooks that a sink is to get behind its cursor.
func (p *position) backlog(sink string, cursor int64) int64 {
	return overlap(waits(cursor, p.absences[sink]), p.oldest-1, p.head)
}

// deletable returns the first of what is stored and in none of the spans that are kept, as far as it has no gap.
func (p *position) deletable(kept []span) (s span, found bool) {
	others := slices.SortedFunc(slices.Values(slices.Concat(kept, p.holes)), func(a, b span) int {
		return cmp.Compare(a.after, b.after)
	})
	s = span{p.oldest - 1, p.head}
	for _, o := range others {
		if o.after > s.after {
			s.through = min(s.through, o.after)
			break
		}
		s.after = max(s.after, o.through)
	}
	return s, s.after < s.through
}

// without returns the position after the webhooks of s have been deleted, which deletable has returned.
func (p *position) without(s span) position {
	after := *p
	after.holes = nil
	for _, h := range p.holes {
		switch {
		case h.through == s.after:
			s.after = h.after
		case h.after == s.through:
			s.through = h.through
		default:
			after.holes = append(after.holes, h)
		}
	}
	if s.after < p.oldest {
		after.oldest = s.through + 1
		return after
	}
	at, _ := slices.BinarySearchFunc(after.holes, s, func(a, b span) int { return cmp.Compare(a.after, b.after) })
	after.holes = slices.Insert(after.holes, at, s)
	return after
}
