package bridge

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// AttributeText makes a text a legal value of a CloudEvents attribute: bytes that are no UTF-8, control characters and
// noncharacters are percent-encoded, the rest stays as it is (CloudEvents 1.0, type String).
func AttributeText(s string) string {
	if IsAttributeText(s) {
		return s
	}
	var legal strings.Builder
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 || !attributeRune(r) {
			for _, c := range []byte(s[:size]) {
				fmt.Fprintf(&legal, "%%%02X", c)
			}
		} else {
			legal.WriteString(s[:size])
		}
		s = s[size:]
	}
	return legal.String()
}

// IsAttributeText tells whether CloudEvents allows s as the value of an attribute.
func IsAttributeText(s string) bool {
	if isPrintableASCII(s) { // as nearly all are
		return true
	}
	for _, r := range s {
		if !attributeRune(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

func isPrintableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func attributeRune(r rune) bool {
	if r < 0x7f {
		return r >= 0x20
	}
	control, noncharacter := r <= 0x9f, 0xfdd0 <= r && r <= 0xfdef || r&0xfffe == 0xfffe
	return !control && !noncharacter
}
