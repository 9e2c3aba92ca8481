// Package excerpt makes texts from outside fit to show in a log line or an error.
package excerpt

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// limit is how many bytes of a text are shown.
const limit = 128

// Quote returns s in quotes, with everything escaped that could end a line or hide text. A long s is cut after a whole
// rune; its length then follows.
func Quote(s string) string { return shown(s, strconv.Quote) }

// Shorten is Quote without the quotes, for where everything is escaped anyway.
func Shorten(s string) string { return shown(s, func(s string) string { return s }) }

func shown(s string, as func(string) string) string {
	if len(s) <= limit {
		return as(s)
	}
	return fmt.Sprintf("%s… (%d bytes)", as(Cut(s, limit)), len(s))
}

// Cut returns as much of s as fits into that many bytes and ends after a whole rune, if there are runes.
func Cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for end := most; end >= 0 && end > most-utf8.UTFMax; end-- {
		if utf8.RuneStart(s[end]) {
			return s[:end]
		}
	}
	return s[:most]
}
