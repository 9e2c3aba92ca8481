package app

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/reload"
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
	if token := cfg.EmbeddedNATSToken.Reveal(); token != "" {
		if err := checkNATSToken(token); err != nil {
			problems = append(problems, config.Problem{
				Variable: cfg.Variable("", "EMBEDDED_NATS_TOKEN"), Message: err.Error(),
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
// the embedded one, and the token that is configured for it, or that the bridge on the data directory has made.
func SinkOptions(cfg *config.Config, s config.Sink, log *slog.Logger) sinks.Options {
	return sinks.Options{Settings: s.Settings, SinkOptions: bridge.SinkOptions{
		Name: s.Name, Format: s.Format, DeadLetter: s.DeadLetter, Logger: log,
		EmbeddedURL: "nats://" + LocalAddress(cfg.EmbeddedNATSListen), EmbeddedToken: embeddedToken(cfg),
		Files: filesOf(cfg, reload.New(log), s.Name), // nobody looks at them again, unless they are put in others' place
	}}
}

// AdminSink is a configured sink as commands go to its broker. log, which may be nil, hears of a broker that is away.
func AdminSink(cfg *config.Config, s config.Sink, log *slog.Logger) admin.Sink {
	return admin.Sink{
		Name: s.Name, Kind: s.Kind, Options: SinkOptions(cfg, s, log), Format: s.Format, Routes: s.Routes,
		Embedded: s.Embedded,
	}
}

// Largest is the largest webhook, and what becomes of events that the sink's broker does not take for their size.
func Largest(cfg *config.Config, s config.Sink) bridge.Largest {
	largest := bridge.Largest{Bytes: int64(cfg.MaxBody), TooLarge: "become dead letters"}
	switch {
	case !cfg.AcksFromSinks():
	case s.DeadLetter != "":
		largest.TooLarge = "go to " + cfg.Variable(s.Name, "DEAD_LETTER") + " instead"
	case s.Required:
		largest.TooLarge = "are refused, and the webhooks answered 422"
	default:
		largest.TooLarge = "never get there (" + cfg.Variable(s.Name, "REQUIRED") + " is false)"
	}
	return largest
}

// AdminSinks are all configured sinks, for commands that do not go to their brokers.
func AdminSinks(cfg *config.Config) []admin.Sink {
	all := make([]admin.Sink, 0, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		all = append(all, AdminSink(cfg, s, nil))
	}
	return all
}

// embeddedToken is what the embedded server asks for, as far as it is known: nothing, or a token that is configured or
// was made.
func embeddedToken(cfg *config.Config) string {
	if !cfg.UsesEmbedded() || !cfg.AsksNATSToken() || !cfg.EmbeddedNATSToken.IsZero() {
		return cfg.EmbeddedNATSToken.Reveal()
	}
	token, err := admin.MadeNATSToken(cfg.DataDir)
	if err != nil {
		return "" // none has been made, or another user's command may not read it: the server says so
	}
	return token
}

func embeddedDir(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "nats") }

func sinkNames(cfg *config.Config) []string {
	names := make([]string, 0, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		names = append(names, s.Name)
	}
	return names
}
