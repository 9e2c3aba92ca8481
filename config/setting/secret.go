package setting

import (
	"fmt"
	"io"
	"log/slog"
)

// Redacted stands for a secret wherever one would be shown.
const Redacted = "[redacted]"

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
	return Redacted
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
