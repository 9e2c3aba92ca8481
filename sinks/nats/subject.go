package nats

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fnbridge/fnbridge/bridge"
)

// A server ends the connection of a client whose control line, which holds the subject, is longer than 4096 bytes.
// These keep a subject well below, whatever the event.
const (
	maxSubject = 1024
	// maxToken is how long a value may be, and maxShortToken how long when the subject would be too long otherwise.
	maxToken      = 200
	maxShortToken = 40
	// maxRoute is how many tokens {route} makes at most.
	maxRoute = 16
	// digestLength is how many hex digits tell apart what was cut.
	digestLength = 12
)

// ValidateSubject tells whether t makes subjects that can be published to, whatever the event. It has to begin with a
// token of its own, such as "tensorlake.", which keeps what it publishes apart from everything else.
func ValidateSubject(t bridge.Template) error {
	text := t.String()
	if text == "" {
		return errors.New("a subject is needed, such as tensorlake.{route}")
	}
	if bad := strings.IndexFunc(text, func(r rune) bool { return !tokenRune(r) && r != '.' }); bad >= 0 {
		return fmt.Errorf("%q holds a character that a subject cannot: no spaces, wildcards (*, >) or control characters", text)
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
			return fmt.Errorf("%q must begin with fixed text and a dot, such as tensorlake.{route}: a stream cannot take every subject there is", text)
		}
		for _, reserved := range []string{"_INBOX", "_R_", "_GR_"} {
			if strings.HasPrefix(token, reserved) {
				return fmt.Errorf("%q begins with %s, which belongs to the server", text, reserved)
			}
		}
	}
	// The longest subject that there can be has every value cut short.
	longest := t.Expand(bridge.Event{Route: make([]string, maxRoute)}, func(string) string { return strings.Repeat("x", maxShortToken) })
	if len(longest) > maxSubject {
		return fmt.Errorf("%q is too long: subjects made with it could have %d bytes, and %d are allowed", text, len(longest), maxSubject)
	}
	return nil
}

// ValidateDeadLetter tells whether dead letters can be published on subject, beside events on the subjects of events,
// which must be valid. It is one fixed subject, and none that consumers of the events would take for theirs.
func ValidateDeadLetter(subject string, events bridge.Template) error {
	if strings.ContainsAny(subject, "{}*>") {
		return fmt.Errorf("%q is not one fixed subject: give one without placeholders and wildcards (*, >), such as dead-letters.tensorlake", subject)
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
	return t.Expand(bridge.Event{Route: []string{""}}, func(string) string { return placeholderMark })
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
	switch {
	case len(e.Route) == 0:
		e.Route = []string{""}
	case len(e.Route) > maxRoute:
		rest := strings.Join(e.Route[maxRoute-1:], ".")
		e.Route = append(append(make([]string, 0, maxRoute), e.Route[:maxRoute-1]...), rest)
	}
	subject := t.Expand(e, func(value string) string { return token(value, maxToken) })
	if len(subject) > maxSubject {
		subject = t.Expand(e, func(value string) string { return token(value, maxShortToken) })
	}
	return subject
}

// token makes a subject token of at most limit bytes out of any value.
func token(value string, limit int) string {
	if plain(value) && len(value) <= limit {
		return value
	}
	var b strings.Builder
	for i, r := range value {
		if b.Len() > limit {
			break
		}
		if (i == 0 && r == '$') || !tokenRune(r) {
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
	cut := limit - digestLength - 1
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	sum := sha256.Sum256([]byte(value))
	return text[:cut] + "_" + hex.EncodeToString(sum[:])[:digestLength]
}

// plain tells that a value is a token as it is. It is the fast way for nearly all of them.
func plain(value string) bool {
	for i := range len(value) {
		c := value[i]
		if c <= ' ' || c > '~' || c == '.' || c == '*' || c == '>' {
			return false
		}
	}
	return value != "" && value[0] != '$'
}

// tokenRune tells whether a token may hold r. Of the characters that it may not, some break the protocol, some mean
// something in a subject, and some cannot be seen. The replacement character stands for bytes that are not UTF-8; and
// nats-server takes a stream's index with one in a subject for damaged, and reads the whole stream at each start instead.
func tokenRune(r rune) bool {
	return r != '.' && r != '*' && r != '>' && r != ' ' && r != utf8.RuneError && unicode.IsPrint(r)
}

// maxMessageID is how long an ID may be before a digest takes its place: servers keep them in memory.
const maxMessageID = 256

// digestPrefix begins the message IDs that are digests, and letterPrefix those of dead letters. An ID of an event that
// begins with one of them is digested too, so that no two messages share an ID.
const (
	digestPrefix = "sha256:"
	letterPrefix = "dead-letter:"
)

// messageID returns the Nats-Msg-Id for an event's ID: the ID itself if a header can hold it, else its digest.
func messageID(id string) string {
	fits := len(id) <= maxMessageID && !strings.HasPrefix(id, digestPrefix) && !strings.HasPrefix(id, letterPrefix)
	for i := range len(id) {
		if id[i] < ' ' || id[i] > '~' {
			fits = false
		}
	}
	if fits && strings.TrimSpace(id) == id {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return digestPrefix + hex.EncodeToString(sum[:])
}
