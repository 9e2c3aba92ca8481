package admin

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// ownSecret is a secret that a bridge makes because none was configured, and keeps in its data directory.
type ownSecret struct {
	file, title string
	generate    func() string
	check       func(secret string) error
}

// webhookSecret is what "fnbridge send" signs with.
func webhookSecret() ownSecret {
	return ownSecret{
		file: "webhook-secret", title: "webhook secret", generate: tensorlake.GenerateSecret,
		check: func(secret string) error {
			_, err := tensorlake.NewVerifier([]string{secret}, 1)
			return err
		},
	}
}

// natsToken is what clients of the embedded NATS server give.
func natsToken() ownSecret {
	return ownSecret{
		file: "nats-token", title: "token of the embedded NATS server", generate: rand.Text, check: CheckToken,
	}
}

// leastToken is how many characters a token has that cannot be guessed.
const leastToken = 16

// CheckToken says what is wrong with a token for the embedded NATS server. The error does not show it.
func CheckToken(token string) error {
	switch {
	case len(token) < leastToken:
		return fmt.Errorf("it has fewer than %d characters, and could be guessed", leastToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("it holds white space, or what is not ASCII")
	case strings.HasPrefix(token, "$2a$"):
		return errors.New("it begins with $2a$, which a NATS server takes for the digest of a token")
	default:
		return nil
	}
}

// MadeSecret returns the webhook secret that the bridge on a data directory has made for itself.
func MadeSecret(dir string) (string, error) {
	path := filepath.Join(dir, webhookSecret().file)
	secret, err := webhookSecret().read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no webhook secret: FNBRIDGE_WEBHOOK_SECRETS is not set, "+
			"and \"fnbridge serve\" has not made one in %s yet", path)
	}
	return secret, err
}

// MakeSecret returns the webhook secret of a data directory, made if there is none, and the file that holds it. It is
// durable once it is returned.
func MakeSecret(dir string) (secret, path string, err error) { return webhookSecret().make(dir) }

// MadeNATSToken returns the token that the bridge on a data directory has made for its NATS server. fs.ErrNotExist is
// in the chain of the error when it has made none.
func MadeNATSToken(dir string) (string, error) {
	return natsToken().read(filepath.Join(dir, natsToken().file))
}

// MakeNATSToken returns the token of the NATS server of a data directory, as MakeSecret does the webhook secret.
func MakeNATSToken(dir string) (token, path string, err error) { return natsToken().make(dir) }

func (s ownSecret) make(dir string) (secret, path string, err error) {
	path = filepath.Join(dir, s.file)
	secret, err = s.read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, path, err
	}
	secret = s.generate()
	if err := ownfile.MakeSecret(path, secret); err != nil {
		return "", path, fmt.Errorf("the %s cannot be stored: %w", s.title, err)
	}
	return secret, path, nil
}

func (s ownSecret) read(path string) (string, error) {
	secret, err := ownfile.ReadSecret(path)
	if err != nil {
		return "", fmt.Errorf("the %s cannot be read: %w", s.title, err)
	}
	if err := s.check(secret); err != nil {
		return "", fmt.Errorf("%s does not hold a %s: %w; delete the file to have a new one made", path, s.title, err)
	}
	return secret, nil
}
