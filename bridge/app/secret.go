package app

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/config"
)

// openVerifier returns the verifier of each moment: for the configured secrets, or for one that is made on the first
// start. It is nil if unsigned webhooks are allowed.
func openVerifier(cfg *config.Config, files *reload.Files, log *slog.Logger) (func() *tensorlake.Verifier, error) {
	if cfg.InsecureUnsigned {
		log.Warn("FNBRIDGE_INSECURE_UNSIGNED is set: anybody who can reach the listener can publish events")
		return nil, nil //nolint:nilnil // nil is what ingest takes for "unsigned"
	}
	given := strings.Join(cfg.WebhookSecrets.Reveal(), ",")
	if given == "" {
		secret, path, err := admin.MakeSecret(cfg.DataDir)
		if err != nil {
			return nil, err
		}
		log.Warn("no webhook secret is configured, so only webhooks signed with this bridge's own are taken; "+
			"set FNBRIDGE_WEBHOOK_SECRETS to the signing secret that Tensorlake shows for the endpoint", "own_secret_file", path)
		given = secret
	}
	v, err := reload.Open(filesOf(cfg, files, ""),
		func(texts []string) (*tensorlake.Verifier, error) {
			secrets, err := config.ParseSecrets(texts[0])
			if err != nil {
				return nil, err
			}
			return tensorlake.NewVerifier(secrets.Reveal(), cfg.WebhookTolerance)
		},
		reload.Text{Setting: "WEBHOOK_SECRETS", Given: given})
	return v.Get, err
}

// openPageToken returns what the page asks for at each moment, nil for nothing.
func openPageToken(cfg *config.Config, file *reload.Part) (func() string, error) {
	if cfg.PageToken.IsZero() {
		return nil, nil //nolint:nilnil // nil is what ops takes for "none is asked"
	}
	token, err := reload.Open(file,
		func(texts []string) (string, error) { return texts[0], config.CheckPageToken(texts[0]) },
		reload.Text{Setting: "PAGE_TOKEN", Given: cfg.PageToken.Reveal()})
	return token.Get, err
}

// openNATSToken returns what the embedded NATS server asks for, configured or made, and has it follow its file.
func (a *App) openNATSToken() (string, error) {
	given := a.cfg.EmbeddedNATSToken.Reveal()
	if given == "" {
		token, path, err := admin.MakeNATSToken(a.cfg.DataDir)
		if err != nil {
			return "", err
		}
		given = token
		a.log.Info("clients of the embedded NATS server need the token in this file, since others than this machine "+
			"reach it; FNBRIDGE_EMBEDDED_NATS_TOKEN gives another", "token_file", path)
	}
	token, err := reload.Open(filesOf(a.cfg, a.files, ""),
		func(texts []string) (string, error) {
			err := checkNATSToken(texts[0])
			if err == nil && a.embedded != nil {
				err = a.embedded.SetToken(texts[0])
			}
			return texts[0], err
		},
		reload.Text{Setting: "EMBEDDED_NATS_TOKEN", Given: given})
	return token.Get(), err
}

// checkNATSToken says what is wrong with a value of FNBRIDGE_EMBEDDED_NATS_TOKEN. The error does not show it.
func checkNATSToken(token string) error {
	if err := admin.CheckToken(token); err != nil {
		return fmt.Errorf("is no token: %w; give 16 to 128 random letters and digits", err)
	}
	return nil
}

// SendingSecret returns the secret to sign a webhook with so that a bridge with this configuration takes it: the first
// configured one that can sign, or the one that it made. It is empty if the bridge takes unsigned webhooks.
func SendingSecret(cfg *config.Config) (string, error) {
	if cfg.InsecureUnsigned {
		return "", nil
	}
	if len(cfg.WebhookSecrets) == 0 {
		return admin.MadeSecret(cfg.DataDir)
	}
	for _, s := range cfg.WebhookSecrets {
		secret, err := tensorlake.ParseSecret(s.Reveal())
		if err != nil {
			return "", fmt.Errorf("FNBRIDGE_WEBHOOK_SECRETS: one %w", err)
		}
		if secret.CanSign() {
			return s.Reveal(), nil
		}
	}
	return "", errors.New("FNBRIDGE_WEBHOOK_SECRETS holds public keys alone, with which nothing can be signed; " +
		"to send webhooks, add a signing secret (whsec_…)")
}
