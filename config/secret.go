package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const redacted = "[redacted]"

// Secret is text that does not show: however it is printed, logged or marshalled, it is [redacted], or
// empty when there is none. Reveal returns the text itself.
type Secret struct {
	// A pointer, so that not even reflection over an unexported field that holds a Secret prints the text.
	text *string
}

// NewSecret returns text as a Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal returns the secret text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero tells whether there is no text.
func (s Secret) IsZero() bool { return s.text == nil }

// String returns [redacted], or nothing when there is no text.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// Format prints String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText is String; JSON and the like go by it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Decode takes any text.
func (s *Secret) Decode(value string) error {
	*s = NewSecret(value)
	return nil
}

// Secrets is a list of webhook signing secrets.
type Secrets []Secret

// Reveal returns the secret texts.
func (s Secrets) Reveal() []string {
	texts := make([]string, len(s))
	for i, secret := range s {
		texts[i] = secret.Reveal()
	}
	return texts
}

// Decode reads secrets separated by commas or white space. Each is whsec_ and 24 to 64 bytes in base64, as
// Standard Webhooks has it. Errors name a secret by its place, never by its value.
func (s *Secrets) Decode(value string) error {
	texts := listOf(value, ", \t\r\n")
	if len(texts) == 0 {
		return errors.New("there is no secret in it: give whsec_ and base64, several separated by commas")
	}
	var (
		secrets = make(Secrets, 0, len(texts))
		errs    []error
	)
	for i, text := range texts {
		if reason := secretFault(text); reason != "" {
			errs = append(errs, fmt.Errorf("secret %d of %d %s: copy it as Tensorlake shows it, whsec_ and base64 of 24 to 64 bytes", i+1, len(texts), reason))
			continue
		}
		secrets = append(secrets, NewSecret(text))
	}
	*s = secrets
	return errors.Join(errs...)
}

func secretFault(text string) string {
	encoded, ok := strings.CutPrefix(text, "whsec_")
	if !ok {
		return "does not start with whsec_"
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	switch {
	case err != nil:
		return "is not base64 after whsec_"
	case len(key) < 24 || len(key) > 64:
		return fmt.Sprintf("has %d bytes", len(key))
	default:
		return ""
	}
}

// listOf returns the parts of text between any of the separators, without empty ones.
func listOf(text, separators string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(separators, r) })
}
