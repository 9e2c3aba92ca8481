package app

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/config/setting"
	"github.com/fnbridge/fnbridge/sinks"
)

// Kinds returns every kind of sink that a bridge can have.
func Kinds() []setting.Kind { return sinks.Kinds() }

// LoadConfig reads an environment, as config.Load does, and checks what is in the bridge's own language: routes, and
// the signing secrets. An error names a secret by its place, never by its value.
func LoadConfig(environ []string) (*config.Config, []config.Warning, error) {
	cfg, warnings, err := config.Load(Kinds(), environ)
	var problems config.Errors
	if err != nil && !errors.As(err, &problems) {
		return cfg, warnings, err
	}
	for i, secret := range cfg.WebhookSecrets {
		if _, err := tensorlake.ParseSecret(secret.Reveal()); err != nil {
			problems = append(problems, config.Problem{
				Variable: cfg.Variable("", "WEBHOOK_SECRETS"),
				Message:  fmt.Sprintf("secret %d of %d %v", i+1, len(cfg.WebhookSecrets), err),
			})
		}
	}
	for _, s := range cfg.Sinks {
		if _, err := ParseRoutes(s.Routes); err != nil {
			problems = append(problems, config.Problem{Variable: cfg.Variable(s.Name, "ROUTES"), Message: err.Error()})
		}
	}
	return cfg, warnings, problems.Err()
}

// SinkOptions are those of a configured sink. One without a server of its own gets the address that is configured for
// the embedded one.
func SinkOptions(cfg *config.Config, s config.Sink, log *slog.Logger) sinks.Options {
	return sinks.Options{Settings: s.Settings, SinkOptions: bridge.SinkOptions{
		Name: s.Name, Format: s.Format, DeadLetter: s.DeadLetter, Logger: log,
		EmbeddedURL: "nats://" + LocalAddress(cfg.EmbeddedNATSListen),
	}}
}

func embeddedDir(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "nats") }

func sinkNames(cfg *config.Config) []string {
	names := make([]string, 0, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		names = append(names, s.Name)
	}
	return names
}
