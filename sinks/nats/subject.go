package nats

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
)

// maxSubject bounds a subject, whatever the event. A server ends the connection of a client whose control line, which
// holds the subject, is longer than 4096 bytes.
const maxSubject = 1024

// ValidateSubject tells whether t makes subjects that can be published to, whatever the event. It has to begin with a
// token of its own, such as "tensorlake.", which keeps what it publishes apart from everything else.
func ValidateSubject(t bridge.Template) error {
	text := t.String()
	if text == "" {
		return errors.New("a subject is needed, such as tensorlake.{route}")
	}
	if bad := strings.IndexFunc(text, func(r rune) bool { return !bridge.TokenRune(r) && r != '.' }); bad >= 0 {
		return fmt.Errorf("%q holds a character that a subject cannot: "+
			"no spaces, wildcards (*, >) or control characters", text)
	}
	tokens := strings.Split(outline(t), ".")
	for i, token := range tokens {
		if token == "" {
			return fmt.Errorf("%q has an empty token: there must be text or a placeholder before, between and after dots", text)
		}
		if strings.HasPrefix(token, "$") {
			return fmt.Errorf("%q has a token that begins with $, which belongs to the server", text)
		}
		if i > 0 {
			continue
		}
		if strings.Contains(token, placeholderMark) {
			return fmt.Errorf("%q must begin with fixed text and a dot, such as tensorlake.{route}: "+
				"a stream cannot take every subject there is", text)
		}
		for _, reserved := range []string{"_INBOX", "_R_", "_GR_"} {
			if strings.HasPrefix(token, reserved) {
				return fmt.Errorf("%q begins with %s, which belongs to the server", text, reserved)
			}
		}
	}
	// The longest subject that there can be has every value cut short.
	longest := t.Expand(bridge.Event{About: bridge.About{Route: make([]string, bridge.MaxRoute)}},
		func(string) string { return strings.Repeat("x", bridge.ShortToken) })
	if len(longest) > maxSubject {
		return fmt.Errorf("%q is too long: subjects made with it could have %d bytes, and %d are allowed",
			text, len(longest), maxSubject)
	}
	return nil
}

// ValidateDeadLetter tells whether dead letters can be published on subject, beside events on the subjects of events,
// which must be valid. It is one fixed subject, and none that consumers of the events would take for theirs.
func ValidateDeadLetter(subject string, events bridge.Template) error {
	if strings.ContainsAny(subject, "{}*>") {
		return fmt.Errorf("%q is not one fixed subject: "+
			"give one without placeholders and wildcards (*, >), such as dead-letters.tensorlake", subject)
	}
	fixed, err := bridge.ParseTemplate(subject)
	if err != nil {
		return err
	}
	if err := ValidateSubject(fixed); err != nil {
		return err
	}
	if filter := streamSubject(events); overlap(subject, filter) {
		return fmt.Errorf("%q is among the subjects of the events (%s), whose consumers would take dead letters for events: "+
			"give a subject apart from those, such as dead-letters.tensorlake", subject, filter)
	}
	return nil
}

// placeholderMark stands for a value in an outline. No template that is valid holds it.
const placeholderMark = "\x00"

// outline is the template with a mark in place of each value.
func outline(t bridge.Template) string {
	return t.Expand(bridge.Event{About: bridge.About{Route: []string{""}}}, func(string) string { return placeholderMark })
}

// streamSubject returns the subject, with a wildcard, that covers every subject that t makes: the tokens before the
// first placeholder, and whatever follows them.
func streamSubject(t bridge.Template) string {
	tokens := strings.Split(outline(t), ".")
	for i, token := range tokens {
		if strings.Contains(token, placeholderMark) {
			return strings.Join(tokens[:i], ".") + ".>"
		}
	}
	return strings.Join(tokens, ".")
}

// subjectOf returns the subject of e. Whatever e holds, each value makes exactly one token, and the subject can be
// published to.
func subjectOf(t bridge.Template, e bridge.Event) string {
	e.Route = bridge.FoldRoute(e.Route)
	subject := t.Expand(e, func(value string) string { return bridge.Token(value, bridge.MaxToken) })
	if len(subject) > maxSubject {
		subject = t.Expand(e, func(value string) string { return bridge.Token(value, bridge.ShortToken) })
	}
	return subject
}
