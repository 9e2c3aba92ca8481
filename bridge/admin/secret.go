package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// secretFile holds the webhook secret that was made because none was configured, so that "fnbridge send" can sign with
// it.
const secretFile = "webhook-secret"

// MadeSecret returns the webhook secret that the bridge on a data directory has made for itself.
func MadeSecret(dir string) (string, error) {
	path := filepath.Join(dir, secretFile)
	secret, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no webhook secret: FNBRIDGE_WEBHOOK_SECRETS is not set, "+
			"and \"fnbridge serve\" has not made one in %s yet", path)
	}
	return secret, err
}

// MakeSecret returns the webhook secret of a data directory, made if there is none, and the file that holds it. It is
// durable once it is returned.
func MakeSecret(dir string) (secret, path string, err error) {
	path = filepath.Join(dir, secretFile)
	secret, err = readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, path, err
	}
	secret = tensorlake.GenerateSecret()
	// Written beside and renamed, so that a crash leaves the whole of it or nothing.
	temporary := path + ".new"
	err = writeDurably(temporary, secret+"\n")
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return "", path, fmt.Errorf("the webhook secret cannot be stored: %w", err)
	}
	return secret, path, nil
}

// writeDurably makes a file that only its owner may read, and returns once it is on the disk.
func writeDurably(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("the webhook secret cannot be read: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if _, err := tensorlake.NewVerifier([]string{secret}, 1); err != nil {
		return "", fmt.Errorf("%s does not hold a webhook secret: %w; delete the file to have a new one made", path, err)
	}
	return secret, nil
}
