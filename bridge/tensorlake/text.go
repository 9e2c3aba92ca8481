package tensorlake

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxQuoted is how many bytes of a name a message shows.
const maxQuoted = 64

// quote makes a name from outside safe to show in a log line or an error: quoted, escaped and short.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return strconv.Quote(s)
	}
	end := maxQuoted
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes)", strconv.Quote(s[:end]), len(s))
}

const upperHex = "0123456789ABCDEF"

func appendPercent(dst []byte, text string) []byte {
	for i := range len(text) {
		dst = append(dst, '%', upperHex[text[i]>>4], upperHex[text[i]&0xf])
	}
	return dst
}

// escapePart makes a name one part of a URI path: everything but RFC 3986's unreserved characters is percent-encoded,
// so that nothing in a name can be taken for a separator.
func escapePart(name string) string {
	first := 0
	for first < len(name) && unreserved(name[first]) {
		first++
	}
	if first == len(name) {
		return name
	}
	return string(appendPart(make([]byte, 0, len(name)+2*(len(name)-first)), name))
}

// appendPart appends what escapePart returns.
func appendPart(dst []byte, name string) []byte {
	for i := range len(name) {
		if c := name[i]; unreserved(c) {
			dst = append(dst, c)
		} else {
			dst = appendPercent(dst, name[i:i+1])
		}
	}
	return dst
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// attributeText makes a text a legal CloudEvents string: bytes that are no UTF-8, control characters and
// noncharacters are percent-encoded, the rest stays as it is (CloudEvents 1.0, section "Type System").
func attributeText(s string) string {
	if legalAttribute(s) {
		return s
	}
	legal := make([]byte, 0, len(s)+16)
	for rest := s; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		if r == utf8.RuneError && size == 1 || !legalRune(r) {
			legal = appendPercent(legal, rest[:size])
		} else {
			legal = append(legal, rest[:size]...)
		}
		rest = rest[size:]
	}
	return string(legal)
}

// legalAttribute reports whether CloudEvents allows s as the value of an attribute.
func legalAttribute(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !legalRune(r) })
}

func legalRune(r rune) bool {
	switch {
	case r < 0x20, 0x7f <= r && r <= 0x9f: // control characters
		return false
	case 0xfdd0 <= r && r <= 0xfdef, r&0xfffe == 0xfffe: // noncharacters
		return false
	default:
		return true
	}
}

// statusWord is a status as it stands in a type: lower case, and nothing but letters, digits, _ and -.
func statusWord(status string) string {
	if status == "" {
		return "_"
	}
	clean := strings.IndexFunc(status, func(r rune) bool { return !statusRune(r) }) < 0
	if clean {
		return status
	}
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		if !statusRune(r) {
			return '_'
		}
		return r
	}, status)
}

func statusRune(r rune) bool {
	return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '_' || r == '-'
}

const (
	outcomeSuccess = "success"
	outcomeFailure = "failure"
)

// outcomeOf returns what the word of a status says of something that has finished, and nothing where it says neither.
func outcomeOf(word string) string {
	switch word {
	case "success", "successful", "succeeded", "completed":
		return outcomeSuccess
	case "failure", "failed":
		return outcomeFailure
	default:
		return ""
	}
}
