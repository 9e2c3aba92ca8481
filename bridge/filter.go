package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	anyToken  = "*" // stands for one token
	allTokens = ">" // at the end, stands for one token and what follows it
)

// Routes selects events by their route: by a list of patterns in the syntax of NATS subjects, where * stands for one
// token and > at the end for one or more. A token is what the part of a route looks like in a NATS subject (see Token).
// The zero Routes selects every event. It is safe for concurrent use.
type Routes struct {
	text     string
	patterns [][]string
}

// ParseRoutes reads a list of patterns, separated by commas. An empty text and > select every event. The error quotes
// the pattern that is none, and says which of its tokens is wrong.
func ParseRoutes(text string) (Routes, error) {
	r := Routes{text: strings.TrimSpace(text)}
	if r.text == "" || r.text == allTokens {
		return Routes{}, nil
	}
	var errs []error
	for pattern := range strings.SplitSeq(r.text, ",") {
		pattern = strings.TrimSpace(pattern)
		tokens := strings.Split(pattern, ".")
		if err := checkPattern(tokens); err != nil {
			errs = append(errs, fmt.Errorf("the pattern %q %w", pattern, err))
		}
		r.patterns = append(r.patterns, tokens)
	}
	if err := errors.Join(errs...); err != nil {
		return Routes{}, err
	}
	return r, nil
}

// checkPattern says what keeps tokens from being a pattern of a route.
func checkPattern(tokens []string) error {
	if tokens[0] == "tensorlake" {
		return fmt.Errorf("begins with tensorlake, which is no part of a route but the beginning of a NATS subject: " +
			"leave it out")
	}
	if len(tokens) > MaxRoute {
		return fmt.Errorf("has %d tokens, and no route has more than %d", len(tokens), MaxRoute)
	}
	for i, token := range tokens {
		bad := func(what string) error { return fmt.Errorf("%s (token %d, %q)", what, i+1, token) }
		switch {
		case token == "":
			return bad("has an empty token: there must be something before, between and after dots")
		case token == anyToken:
		case token == allTokens:
			if i < len(tokens)-1 {
				return bad("has a > before its end: > stands for all that follows; * stands for one token")
			}
		case strings.ContainsAny(token, "*>"):
			return bad("has a wildcard within a token: * and > are tokens of their own")
		case Token(token, MaxToken) != token:
			return bad("has a token that no route has: a name stands in it as in a NATS subject, " +
				"where _ replaces what cannot be there")
		}
	}
	return nil
}

// String returns the patterns as ParseRoutes reads them.
func (r Routes) String() string { return r.text }

// MarshalText returns the patterns as UnmarshalText reads them.
func (r Routes) MarshalText() ([]byte, error) { return []byte(r.text), nil }

// UnmarshalText is ParseRoutes.
func (r *Routes) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRoutes(string(text))
	return err
}

// IsZero tells whether r selects every event.
func (r Routes) IsZero() bool { return len(r.patterns) == 0 }

// Patterns returns the patterns, each as its tokens.
func (r Routes) Patterns() [][]string { return slices.Clone(r.patterns) }

// Match tells whether one of the patterns is that of e.
func (r Routes) Match(e *Event) bool {
	if len(r.patterns) == 0 {
		return true
	}
	route := FoldRoute(e.Route)
	for _, pattern := range r.patterns {
		if matchRoute(pattern, route) {
			return true
		}
	}
	return false
}

func matchRoute(pattern, route []string) bool {
	for i, token := range pattern {
		switch {
		case i >= len(route):
			return false
		case token == allTokens:
			return true
		case token != anyToken && !isToken(token, route[i]):
			return false
		}
	}
	return len(pattern) == len(route)
}

// isToken tells whether a value shows as the given token. A long one does so in two ways, since long subjects have
// shorter tokens.
func isToken(token, value string) bool {
	if len(value) <= ShortToken && plainToken(value) {
		return token == value
	}
	return token == Token(value, MaxToken) || token == Token(value, ShortToken)
}

// Overlap tells whether a route, or a subject, can match both of two patterns.
func Overlap(a, b []string) bool {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == allTokens, b[i] == allTokens:
			return true
		case a[i] != anyToken && b[i] != anyToken && a[i] != b[i]:
			return false
		}
	}
	return len(a) == len(b)
}

// Filter selects events: those to which every field that is set applies. The zero Filter selects all.
type Filter struct {
	// Routes is the list of patterns of which one must match.
	Routes Routes `json:"route,omitzero"`
	// Application is the name of the application, or of the workflow.
	Application string `json:"application,omitempty"`
	// Type is the event's type. One that ends in * stands for every type that begins so.
	Type string `json:"type,omitempty"`
}

// IsZero tells whether f selects every event.
func (f Filter) IsZero() bool { return f.Routes.IsZero() && f.Application == "" && f.Type == "" }

// Match tells whether f selects e. It looks at e's Route, Application and Type alone.
func (f Filter) Match(e *Event) bool {
	if f.Application != "" && f.Application != e.Application {
		return false
	}
	if prefix, open := strings.CutSuffix(f.Type, "*"); open {
		if !strings.HasPrefix(e.Type, prefix) {
			return false
		}
	} else if f.Type != "" && f.Type != e.Type {
		return false
	}
	return f.Routes.Match(e)
}
