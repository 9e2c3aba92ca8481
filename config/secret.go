package config

import (
	"errors"
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

// ParseSecrets reads secrets as Decode does.
func ParseSecrets(value string) (Secrets, error) {
	var s Secrets
	err := s.Decode(value)
	return s, err
}

// Decode reads secrets separated by commas or white space. What a secret has to be is not known here.
func (s *Secrets) Decode(value string) error {
	texts := listOf(value, ", \t\r\n")
	if len(texts) == 0 {
		return errors.New("there is no secret in it: give whsec_ or whpk_ and base64, several separated by commas")
	}
	*s = make(Secrets, len(texts))
	for i, text := range texts {
		(*s)[i] = setting.NewSecret(text)
	}
	return nil
}

// listOf returns the parts of text between any of the separators, without empty ones.
func listOf(text, separators string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(separators, r) })
}
