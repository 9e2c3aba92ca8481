package lane

import (
	"encoding/binary"
	"errors"
	"slices"
)

// finishedFormat is the first byte of what Window.Finished returns.
const finishedFormat = 1

// errFinished says that what is finished beyond a cursor cannot be read.
var errFinished = errors.New("what is finished beyond the cursor is in a form that this version does not know")

// Finished is what a stream had finished beyond its cursor when that was written down: of the webhooks behind after, up
// to through, all but those in unfinished. The zero value is nothing.
type Finished struct {
	after, through int64
	unfinished     []unfinished // in order
}

type unfinished struct {
	number   int64
	finished Places // of its events
}

// Of tells of a webhook whether it is finished, and else which of its events are. Numbers must be asked for in order.
func (f *Finished) Of(number int64) (all bool, places Places) {
	if number <= f.after || number > f.through {
		return false, Places{}
	}
	for len(f.unfinished) > 0 && f.unfinished[0].number < number {
		f.unfinished = f.unfinished[1:]
	}
	if len(f.unfinished) > 0 && f.unfinished[0].number == number {
		return false, f.unfinished[0].finished
	}
	return true, Places{}
}

// Beyond returns up to which webhook something was finished, and how many behind the cursor, up to that one, were not.
func (f *Finished) Beyond(cursor int64) (through, unfinished int64) {
	for _, u := range f.unfinished {
		if u.number > cursor {
			unfinished++
		}
	}
	return f.through, unfinished
}

// ReadFinished reads what Window.Finished returned.
func ReadFinished(text []byte) (Finished, error) {
	if len(text) == 0 {
		return Finished{}, nil
	}
	r := uvarints{rest: text[1:], bad: text[0] != finishedFormat}
	f := Finished{after: r.next()}
	f.through = f.after + r.next()
	for number := f.after; !r.bad && len(r.rest) > 0; {
		number += r.next()
		u := unfinished{number: number}
		to := int64(0)
		for count := r.next(); count > 0 && !r.bad; count-- {
			from := to + r.next()
			if to = from + r.next(); from == 0 {
				u.finished.upTo = int(to)
			} else {
				u.finished.more = append(u.finished.more, placeRange{int(from), int(to)})
			}
		}
		f.unfinished = append(f.unfinished, u)
	}
	if r.bad {
		return Finished{}, errFinished
	}
	return f, nil
}

// uvarints reads numbers.
type uvarints struct {
	rest []byte
	bad  bool
}

func (r *uvarints) next() int64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > 1<<62 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return int64(n)
}

// Finished writes down what is finished beyond the cursor, with left, what was left behind, and before, what was
// finished when the stream was opened. It is empty if nothing is.
func (w *Window) Finished(left *Left, before *Finished) []byte {
	open := make([]unfinished, 0, w.unfinished+left.Webhooks())
	for _, hook := range w.webhooks {
		if !hook.through() {
			open = append(open, unfinished{hook.Number, hook.finished})
		}
	}
	for _, list := range [][]leftWebhook{left.ahead, left.next} {
		for _, l := range list {
			switch hook := left.parts[l.number]; {
			case hook == nil:
				open = append(open, unfinished{number: l.number})
			case hook.through(): // else it is among the others
				open = append(open, unfinished{l.number, hook.finished})
			}
		}
	}
	slices.SortFunc(open, func(a, b unfinished) int { return int(a.number - b.number) })
	through := w.read
	if before.through > through { // what has not been read again yet
		for _, u := range before.unfinished {
			if u.number > w.read {
				open = append(open, u)
			}
		}
		through = before.through
	}
	some := int64(len(open)) < through-w.cursor
	text := []byte{finishedFormat}
	add := func(n int64) { text = binary.AppendUvarint(text, uint64(n)) } //nolint:gosec // none is negative
	add(w.cursor)
	add(through - w.cursor)
	last := w.cursor
	for _, u := range open {
		add(u.number - last)
		last = u.number
		ranges := u.finished.ranges()
		add(int64(len(ranges)))
		to := 0
		for _, r := range ranges {
			add(int64(r.from - to))
			add(int64(r.to - r.from))
			to, some = r.to, true
		}
	}
	if !some {
		return []byte{}
	}
	return text
}
