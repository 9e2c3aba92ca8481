package delivery

import "time"

// lag tells for how long the oldest unfinished webhook has waited, in the journal or read, by the process's own clock. The time
// at which a webhook was received is no help: it is that of the day, which may be set.
type lag struct {
	marks []mark // later ones have come further; the first is the first that was noted beyond what is finished
}

// mark is a time at which the journal had come so far.
type mark struct {
	head int64
	at   time.Time
}

const (
	// markEvery is how far apart marks are at least.
	markEvery = 10 * time.Millisecond
	// markParts is in how many parts marks divide the time that they span, at most: the longer the lag, the coarser they are, so
	// that they stay few.
	markParts = 16
)

// of returns for how long the first webhook behind cursor has waited, at least, when the journal has come to head. It is to be
// asked again and again, and knows of no time before it was asked first.
func (l *lag) of(cursor, head int64, now time.Time) time.Duration {
	for len(l.marks) > 0 && l.marks[0].head <= cursor {
		l.marks = l.marks[1:]
	}
	if head <= cursor {
		return 0
	}
	if len(l.marks) == 0 {
		l.marks = append(l.marks, mark{head, now})
		return 0
	}
	first, last := l.marks[0], l.marks[len(l.marks)-1]
	if head > last.head && now.Sub(last.at) >= max(markEvery, last.at.Sub(first.at)/markParts) {
		l.marks = append(l.marks, mark{head, now})
	}
	return now.Sub(first.at)
}
