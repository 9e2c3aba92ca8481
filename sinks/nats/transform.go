package nats

import (
	"regexp"
	"strconv"
	"strings"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// storedUnder returns the subjects, with wildcards, under which a stream stores what is published under filter. They
// do not overlap.
func storedUnder(filter string, transform *natsjs.SubjectTransformConfig) []string {
	if transform == nil || transform.Destination == "" {
		return []string{filter}
	}
	source := transform.Source
	if source == "" {
		source = ">"
	}
	stored, ok := transformed(filter, source, transform.Destination)
	switch {
	case !ok, covers(filter, stored) && !covers(source, filter):
		return []string{filter}
	case covers(source, filter), covers(stored, filter):
		return []string{stored}
	case overlap(stored, filter):
		return []string{">"}
	default:
		return []string{filter, stored}
	}
}

// wildcardFunction is how a destination names the n-th wildcard of the source.
var wildcardFunction = regexp.MustCompile(`^(?:\$(\d+)|\{\{\s*[wW]ildcard\s*\(\s*(\d+)\s*\)\s*\}\})$`)

// oneToken is a function of a destination that makes one token of others.
var oneToken = regexp.MustCompile(`^\{\{\s*(?i:partition|left|right|random)\s*\(.*\)\s*\}\}$`)

// transformed returns what destination makes of those subjects of filter that source stands for, and false if there
// are none.
func transformed(filter, source, destination string) (string, bool) {
	var rest []string // what the > of source stands for
	var wildcards []string
	left := strings.Split(filter, ".")
	for token := range strings.SplitSeq(source, ".") {
		if token == ">" {
			rest, left = left, nil
			break
		}
		if len(left) == 0 {
			return "", false
		}
		have := left[0]
		if have == ">" {
			have = "*" // there is one more token, and it can be any
		} else {
			left = left[1:]
		}
		switch {
		case token == "*":
			wildcards = append(wildcards, have)
		case have != "*" && have != token:
			return "", false
		}
	}
	if len(left) > 0 && left[0] != ">" {
		return "", false
	}
	var made []string
	for token := range strings.SplitSeq(destination, ".") {
		function := wildcardFunction.FindStringSubmatch(token)
		switch {
		case token == ">":
			made = append(made, rest...)
		case function != nil:
			n, err := strconv.Atoi(function[1] + function[2])
			if err != nil || n < 1 || n > len(wildcards) {
				return ">", true
			}
			made = append(made, wildcards[n-1])
		case oneToken.MatchString(token):
			made = append(made, "*")
		case strings.Contains(token, "{{"):
			return strings.Join(append(made, ">"), "."), true // any number of tokens
		default:
			made = append(made, token)
		}
	}
	return strings.Join(made, "."), true
}
