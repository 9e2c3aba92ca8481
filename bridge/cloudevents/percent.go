package cloudevents

import "strings"

const upperHex = "0123456789ABCDEF"

func appendPercent(dst []byte, c byte) []byte {
	return append(dst, '%', upperHex[c>>4], upperHex[c&0xf])
}

// headerValue writes an attribute's value as a NATS header holds it. Printable ASCII without a space at either end
// goes as it is, since common readers, the CloudEvents SDK for Go among them, decode nothing. Any other value is
// percent-encoded as CloudEvents' HTTP binding (section 3.1.3.2) says.
//
// So that decoding has one answer, a value that looks like the encoded form of another is encoded too, except for
// URIs, which neither side touches further.
func headerValue(a attribute, value string) string {
	if printable(value) && (a.isURI() || !looksEncoded(value)) {
		return value
	}
	return percentEncode(value)
}

// attributeValue undoes headerValue.
func attributeValue(a attribute, header string) string {
	if a.isURI() || !looksEncoded(header) {
		return header
	}
	return percentDecode(header)
}

func printable(s string) bool {
	if s == "" {
		return true
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// mustEncode reports whether percent-encoding a value changes c: a space, a double quote, a percent sign, and whatever
// is not printable ASCII.
func mustEncode(c byte) bool {
	return c <= ' ' || c > '~' || c == '"' || c == '%'
}

func percentEncode(s string) string {
	encoded := make([]byte, 0, len(s)+len(s)/2+8)
	for i := range len(s) {
		if c := s[i]; mustEncode(c) {
			encoded = appendPercent(encoded, c)
		} else {
			encoded = append(encoded, c)
		}
	}
	return string(encoded)
}

// looksEncoded reports whether percentEncode could have returned s, changing something.
func looksEncoded(s string) bool {
	if strings.IndexByte(s, '%') < 0 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '%' {
			if mustEncode(c) {
				return false
			}
			continue
		}
		if decoded, ok := unhex(s[i+1:]); !ok || !mustEncode(decoded) {
			return false
		}
		i += 2
	}
	return true
}

// percentDecode undoes percentEncode for a text that looksEncoded.
func percentDecode(s string) string {
	decoded := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			c, _ := unhex(s[i+1:])
			decoded = append(decoded, c)
			i += 2
			continue
		}
		decoded = append(decoded, s[i])
	}
	return string(decoded)
}

// unhex reads the byte that the first two digits of s stand for. Lower case digits are not what percentEncode writes.
func unhex(s string) (c byte, ok bool) {
	if len(s) < 2 {
		return 0, false
	}
	for _, digit := range []byte(s[:2]) {
		switch {
		case '0' <= digit && digit <= '9':
			c = c<<4 | (digit - '0')
		case 'A' <= digit && digit <= 'F':
			c = c<<4 | (digit - 'A' + 10)
		default:
			return 0, false
		}
	}
	return c, true
}
