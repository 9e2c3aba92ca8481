package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// jsonFlag adds --json to a command.
func jsonFlag(cmd *cobra.Command, value *bool) {
	cmd.Flags().BoolVar(value, "json", false, "print JSON for programs")
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// printable replaces what a terminal would take as a command: text out of a payload must not drive it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// encoder returns an encoder of JSON for w, which may be a terminal: what is not printable is escaped.
func encoder(w io.Writer) *json.Encoder { return json.NewEncoder(escapedJSON{w}) }

type escapedJSON struct{ to io.Writer }

// Write takes whole values, as an encoder writes them: their text outside ASCII is all within strings.
func (e escapedJSON) Write(value []byte) (int, error) {
	var escaped []byte
	done := 0
	for at := 0; at < len(value); {
		r, size := utf8.DecodeRune(value[at:])
		invalid := r == utf8.RuneError && size == 1 // which programs do not take for text
		if invalid || r >= utf8.RuneSelf && !unicode.IsPrint(r) || r == 0x7f {
			escaped = append(escaped, value[done:at]...)
			for _, unit := range utf16.Encode([]rune{r}) {
				escaped = fmt.Appendf(escaped, `\u%04x`, unit)
			}
			done = at + size
		}
		at += size
	}
	if _, err := e.to.Write(append(escaped, value[done:]...)); err != nil {
		return 0, err
	}
	return len(value), nil
}

// printableLines is printable for a text that may have several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// bytesText prints a size in the unit that fits it.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exponent := float64(n)/unit, 0
	for value >= unit && exponent < 4 {
		value /= unit
		exponent++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[exponent])
}

// ageText prints how long ago t was, or a dash for no time.
func ageText(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return max(0, now.Sub(*t)).Round(time.Second).String()
}

// isUnknownCommand tells cobra's errors about the command line, which have no type of their own.
func isUnknownCommand(err error) bool {
	for _, start := range []string{"unknown command", "accepts ", "requires ", "invalid argument"} {
		if strings.HasPrefix(err.Error(), start) {
			return true
		}
	}
	return false
}

// clip shortens a text that is too long for a terminal; programs get it whole.
func (c console) clip(s string, runes int) string {
	if !c.terminal {
		return s
	}
	return clip(s, runes)
}

// clip shortens a text that is too long.
func clip(s string, runes int) string {
	r := []rune(s)
	if len(r) <= runes {
		return s
	}
	return string(r[:runes-1]) + "…"
}
