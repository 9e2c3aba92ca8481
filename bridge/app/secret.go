package app

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/config"
)

// secretFile holds the webhook secret that was made because none was configured.
const secretFile = "webhook-secret"

// openVerifier returns the verifier for the configured secrets, or for one that is made on the first start. It is nil if
// unsigned webhooks are allowed.
func openVerifier(cfg *config.Config, log *slog.Logger) (*tensorlake.Verifier, error) {
	if cfg.InsecureUnsigned {
		log.Warn("FNBRIDGE_INSECURE_UNSIGNED is set: anybody who can reach the listener can publish events")
		return nil, nil //nolint:nilnil // nil is what ingest takes for "unsigned"
	}
	secrets := make([]string, 0, len(cfg.WebhookSecrets))
	for _, s := range cfg.WebhookSecrets {
		secrets = append(secrets, s.Reveal())
	}
	if len(secrets) == 0 {
		path := filepath.Join(cfg.DataDir, secretFile)
		secret, err := readOrMakeSecret(path)
		if err != nil {
			return nil, err
		}
		log.Warn("no webhook secret is configured, so only webhooks signed with this bridge's own are taken; "+
			"set FNBRIDGE_WEBHOOK_SECRETS to the signing secret that Tensorlake shows for the endpoint", "own_secret_file", path)
		secrets = append(secrets, secret)
	}
	return tensorlake.NewVerifier(secrets, cfg.WebhookTolerance)
}

// SendingSecret returns the secret to sign a webhook with so that a bridge with this configuration takes it: the first
// configured one, or the one that it made. It is empty if the bridge takes unsigned webhooks.
func SendingSecret(cfg *config.Config) (string, error) {
	if cfg.InsecureUnsigned {
		return "", nil
	}
	if len(cfg.WebhookSecrets) > 0 {
		return cfg.WebhookSecrets[0].Reveal(), nil
	}
	path := filepath.Join(cfg.DataDir, secretFile)
	secret, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no webhook secret: FNBRIDGE_WEBHOOK_SECRETS is not set, and \"fnbridge serve\" has not made one in %s yet", path)
	}
	return secret, err
}

func readOrMakeSecret(path string) (string, error) {
	secret, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	secret = tensorlake.GenerateSecret()
	// Written beside and renamed, so that a crash leaves the whole of it or nothing.
	temporary := path + ".new"
	err = writeDurably(temporary, secret+"\n")
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return "", fmt.Errorf("the webhook secret cannot be stored: %w", err)
	}
	return secret, nil
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
