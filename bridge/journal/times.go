package journal

import (
	"math"
	"time"
)

// toNanos returns t as the journal stores it: Unix nanoseconds, 0 for the zero time. What does not fit
// (before 1678, after 2262) becomes the nearest that does.
func toNanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	default:
		return t.UnixNano()
	}
}

// fromNanos undoes toNanos. The result is in UTC.
func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// toText returns t as RFC 3339 in UTC, empty for the zero time.
func toText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// fromText undoes toText. Text that is no time, which only another hand can have written, gives the zero time.
func fromText(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
