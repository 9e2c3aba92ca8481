package app

import (
	"log/slog"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/config"
)

// openVerifier returns the verifier for the configured secrets, or for one that is made on the first start. It is nil
// if unsigned webhooks are allowed.
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
		secret, path, err := admin.MakeSecret(cfg.DataDir)
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
	switch {
	case cfg.InsecureUnsigned:
		return "", nil
	case len(cfg.WebhookSecrets) > 0:
		return cfg.WebhookSecrets[0].Reveal(), nil
	default:
		return admin.MadeSecret(cfg.DataDir)
	}
}
