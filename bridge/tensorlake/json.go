package tensorlake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

var (
	// ErrNotJSON is why Parse refuses a body that is not one JSON value: bad syntax, invalid UTF-8, anything
	// after the value, or more nesting than encoding/json takes (10,000 levels).
	ErrNotJSON = errors.New("the body is not JSON")
	// ErrNotObject is why Parse refuses a body that is JSON, but an array, a string, a number, a boolean or null.
	ErrNotObject = errors.New("the body is not a JSON object")
)

// checkJSON returns nil if body is one JSON object, else ErrNotJSON or ErrNotObject with what is wrong and where.
func checkJSON(body []byte) error {
	if len(bytes.Trim(body, " \t\r\n")) == 0 {
		return fmt.Errorf("%w: it is empty", ErrNotJSON)
	}
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		return fmt.Errorf("%w: it begins with a byte order mark, which JSON does not allow", ErrNotJSON)
	}
	if !utf8.Valid(body) {
		return fmt.Errorf("%w: the byte at offset %d is not valid UTF-8", ErrNotJSON, firstInvalidUTF8(body))
	}
	if !json.Valid(body) {
		return notJSON(body)
	}
	if value := body[skipSpace(body, 0):]; value[0] != '{' {
		return fmt.Errorf("%w but %s", ErrNotObject, kindOf(value))
	}
	return nil
}

// notJSON finds out why body is not JSON, which json.Valid does not tell.
func notJSON(body []byte) error {
	var discard json.RawMessage
	err := json.Unmarshal(body, &discard)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%w: %w at offset %d", ErrNotJSON, syntax, syntax.Offset)
	}
	return fmt.Errorf("%w: %w", ErrNotJSON, err)
}

func firstInvalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(b)
}

// The functions below read JSON that checkJSON has let through, and only that: they find where values begin and end,
// and leave what stands between untouched.

// members yields the names, in quotes, and the values of an object, in its order.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := skipSpace(object, 1)
		for object[i] != '}' {
			nameEnd := stringEnd(object, i)
			name := object[i:nameEnd]
			colon := skipSpace(object, nameEnd)
			start := skipSpace(object, colon+1)
			end := valueEnd(object, start)
			if !yield(name, object[start:end]) {
				return
			}
			if i = skipSpace(object, end); object[i] == ',' {
				i = skipSpace(object, i+1)
			}
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// stringEnd returns where the string that begins with the quote at start ends, its closing quote included.
func stringEnd(b []byte, start int) int {
	i := start + 1
	for {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i += 2
		default:
			i++
		}
	}
}

func valueEnd(b []byte, start int) int {
	switch b[start] {
	case '"':
		return stringEnd(b, start)
	case '{', '[':
		depth := 0
		for i := start; ; {
			switch b[i] {
			case '"':
				i = stringEnd(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	default:
		end := bytes.IndexAny(b[start:], ",]} \t\r\n")
		if end < 0 {
			return len(b)
		}
		return start + end
	}
}

// kindOf names the kind of a value, for messages.
func kindOf(value []byte) string {
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// unquote returns the text of a JSON string. Half of a surrogate pair on its own becomes U+FFFD, as encoding/json
// does it.
func unquote(literal []byte) string { return decodeString(literal, false) }

// identity returns a text that differs whenever two JSON strings differ. It is what digests are made of. It is the
// string's text except where that holds U+FFFD, which halves of surrogate pairs become whichever they are: there
// each such half is kept as the three bytes that UTF-8 would have for it.
func identity(literal []byte, text string) string {
	if !strings.ContainsRune(text, utf8.RuneError) {
		return text
	}
	return decodeString(literal, true)
}

func decodeString(literal []byte, keepSurrogates bool) string {
	inner := literal[1 : len(literal)-1]
	escape := bytes.IndexByte(inner, '\\')
	if escape < 0 {
		return string(inner)
	}
	text := make([]byte, 0, len(inner))
	for escape >= 0 {
		text = append(text, inner[:escape]...)
		inner = inner[escape:]
		if inner[1] == 'u' {
			var size int
			text, size = appendEscapedRune(text, inner, keepSurrogates)
			inner = inner[size:]
		} else {
			text = append(text, unescape(inner[1]))
			inner = inner[2:]
		}
		escape = bytes.IndexByte(inner, '\\')
	}
	return string(append(text, inner...))
}

// appendEscapedRune appends the character that the \u escape at the beginning of s stands for, alone or with the one
// after it, and returns how many bytes of s that took.
func appendEscapedRune(text, s []byte, keepSurrogates bool) ([]byte, int) {
	const size = len(`\u0000`)
	r := hexRune(s)
	if !utf16.IsSurrogate(r) {
		return utf8.AppendRune(text, r), size
	}
	if len(s) >= 2*size && s[size] == '\\' && s[size+1] == 'u' {
		if pair := utf16.DecodeRune(r, hexRune(s[size:])); pair != utf8.RuneError {
			return utf8.AppendRune(text, pair), 2 * size
		}
	}
	if keepSurrogates {
		return append(text, 0xe0|byte(r>>12&0xf), 0x80|byte(r>>6&0x3f), 0x80|byte(r&0x3f)), size
	}
	return utf8.AppendRune(text, utf8.RuneError), size
}

func hexRune(escape []byte) rune {
	r, _ := strconv.ParseUint(string(escape[2:6]), 16, 16) // four hexadecimal digits, or it were no JSON
	return rune(r)
}

func unescape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default: // quote, backslash and slash stand for themselves
		return c
	}
}
