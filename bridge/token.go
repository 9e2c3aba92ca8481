package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxToken is how many bytes a token has at most.
	MaxToken = 200
	// ShortToken is how many it has where an address would be too long otherwise.
	ShortToken = 40
	// MaxRoute is how many tokens a route has at most.
	MaxRoute = 16
	// tokenDigest is how many hexadecimal digits tell apart what was cut.
	tokenDigest = 12
)

// Token makes one token of an address, such as a NATS subject, out of any value. It has at most limit bytes, which must
// be ShortToken or more. A value that is a token stays as it is. Otherwise each character that a token cannot hold
// becomes _, and a token that was cut ends in a digest of the value. An empty value becomes _.
func Token(value string, limit int) string {
	if plainToken(value) && len(value) <= limit {
		return value
	}
	var b strings.Builder
	for i, r := range value {
		if b.Len() > limit {
			break
		}
		if (i == 0 && r == '$') || !TokenRune(r) {
			r = '_'
		}
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return "_"
	}
	text := b.String()
	if len(text) <= limit {
		return text
	}
	cut := limit - tokenDigest - 1
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	sum := sha256.Sum256([]byte(value))
	return text[:cut] + "_" + hex.EncodeToString(sum[:])[:tokenDigest]
}

// plainToken tells that a value is a token as it is. It is the fast way for nearly all of them.
func plainToken(value string) bool {
	for i := range len(value) {
		c := value[i]
		if c <= ' ' || c > '~' || c == '.' || c == '*' || c == '>' {
			return false
		}
	}
	return value != "" && value[0] != '$'
}

// TokenRune tells whether a token may hold r. Of the characters that it may not, some break the NATS protocol, some
// mean something in a subject, and some cannot be seen. The replacement character stands for bytes that are not UTF-8;
// and nats-server takes a stream's index with one in a subject for damaged, and reads the whole stream at each start
// instead.
func TokenRune(r rune) bool {
	return r != '.' && r != '*' && r != '>' && r != ' ' && r != utf8.RuneError && unicode.IsPrint(r)
}

// FoldRoute returns a route with MaxRoute parts at most, the last of which holds what would be too many, and one part
// at least.
func FoldRoute(route []string) []string {
	switch {
	case len(route) == 0:
		return []string{""}
	case len(route) > MaxRoute:
		rest := strings.Join(route[MaxRoute-1:], ".")
		return append(append(make([]string, 0, MaxRoute), route[:MaxRoute-1]...), rest)
	default:
		return route
	}
}
