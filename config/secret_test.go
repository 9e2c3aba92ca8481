package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/config/setting"
	"github.com/fnbridge/fnbridge/sinks/nats"
)

// printed returns value in every way in which a program could come to print it.
func printed(t *testing.T, value any) map[string]string {
	t.Helper()
	out := map[string]string{
		"Sprint": fmt.Sprint(value), "Sprintln": fmt.Sprintln(value), "Errorf": fmt.Errorf("%v", value).Error(),
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %[1]v", "%10v", "%p"} {
		out[verb] = fmt.Sprintf(verb, value)
	}
	text, err := json.Marshal(value)
	require.NoError(t, err)
	out["json"] = string(text)
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("test", "value", value, slog.Group("group", "value", value))
		out[name] = b.String()
	}
	return out
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const hidden = "hunter2hunter2hunter2hunter2"
	c, _, errs := load(t, "WEBHOOK_SECRETS=whsec_"+hidden+"aaaa", "SINKS=nats,b=nats,kafka",
		"NATS_URL=nats://me:"+hidden+"@one:4222", "B_URL=nats://two", "B_USER=me", "B_PASSWORD="+hidden,
		"KAFKA_BROKERS=one:1", "KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "KAFKA_SASL_USERNAME=me", "KAFKA_SASL_PASSWORD="+hidden)
	require.Empty(t, errs)
	secret, u := setting.NewSecret(hidden), natsOf(t, c.Sinks[0]).URL
	type unexported struct {
		secret setting.Secret
		url    nats.URL
	}
	for name, value := range map[string]any{
		"Secret": secret, "*Secret": &secret, "Secrets": c.WebhookSecrets, "URL": u[0], "URLs": u,
		"Config": c, "Config by value": *c, "Sinks": c.Sinks, "NATS": *natsOf(t, c.Sinks[0]),
		"NATS with password": natsOf(t, c.Sinks[1]), "Kafka": *kafkaOf(t, c.Sinks[2]),
		"unexported fields": unexported{secret, u[0]}, "map": map[string]any{"a": secret, "b": u},
	} {
		for how, text := range printed(t, value) {
			require.NotContains(t, text, hidden, "%s by %s", name, how)
			require.NotContains(t, text, fmt.Sprintf("%x", hidden), "%s by %s", name, how)
			require.NotContains(t, text, fmt.Sprintf("%X", hidden), "%s by %s", name, how)
		}
	}
	require.Equal(t, hidden, secret.Reveal())
	require.Equal(t, "nats://me:"+hidden+"@one:4222", u[0].Reveal())
}
