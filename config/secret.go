package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/fnbridge/fnbridge/config/setting"
)

// Secrets is a list of webhook signing secrets.
type Secrets []setting.Secret

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
		secrets = append(secrets, setting.NewSecret(text))
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
