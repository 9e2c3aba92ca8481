package tensorlake

import (
	"net/url"
	"strings"
)

// escapePart makes a name one part of a URI path: everything but RFC 3986's unreserved characters is percent-encoded,
// so that nothing in a name can be taken for a separator.
func escapePart(name string) string { return strings.ReplaceAll(url.QueryEscape(name), "+", "%20") }

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
