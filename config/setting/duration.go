package setting

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

var errNotDuration = errors.New("not a duration")

// ParseDuration reads a duration as Go writes it, which may begin with whole days of 24 hours: 90s, 3d, 1d12h.
func ParseDuration(text string) (time.Duration, error) {
	before, rest, found := strings.Cut(text, "d")
	if !found {
		return time.ParseDuration(text)
	}
	days, err := strconv.ParseUint(before, 10, 15) // some 90 years
	if err != nil {
		return 0, errNotDuration
	}
	total := time.Duration(days) * 24 * time.Hour
	if rest == "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || rest[0] == '-' || rest[0] == '+' {
		return 0, errNotDuration
	}
	return total + d, nil
}
