package config

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// printed returns value in every way in which a program could come to print it.
func printed(t *testing.T, value any) map[string]string {
	t.Helper()
	out := map[string]string{"Sprint": fmt.Sprint(value), "Sprintln": fmt.Sprintln(value), "Errorf": fmt.Errorf("%v", value).Error()}
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
	secret, u := NewSecret(hidden), c.Sinks[0].NATS.URL
	type unexported struct {
		secret Secret
		url    URL
	}
	for name, value := range map[string]any{
		"Secret": secret, "*Secret": &secret, "Secrets": c.WebhookSecrets, "URL": u[0], "URLs": u,
		"Config": c, "Config by value": *c, "Sinks": c.Sinks, "NATS": *c.Sinks[0].NATS, "NATS with password": c.Sinks[1].NATS, "Kafka": *c.Sinks[2].Kafka,
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

func TestSecretShows(t *testing.T) {
	for text, want := range map[string]string{"": "", "hidden": "[redacted]"} {
		s := NewSecret(text)
		require.Equal(t, want, s.String())
		require.Equal(t, want, s.GoString())
		require.Equal(t, want, s.LogValue().String())
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			require.Equal(t, want, fmt.Sprintf(verb, s))
		}
		marshalled, err := json.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, `"`+want+`"`, string(marshalled))
		marshalled, err = xml.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, "<Secret>"+want+"</Secret>", string(marshalled))
		require.Equal(t, text == "", s.IsZero())
		require.Equal(t, text, s.Reveal())
	}
}

func TestURLShows(t *testing.T) {
	for text, want := range map[string]string{
		"nats://one:4222":             "nats://one:4222",
		"nats://me:pass@one:4222":     "nats://[redacted]@one:4222",
		"tls://token@one":             "tls://[redacted]@one",
		"wss://me:p%40ss@one/path":    "wss://[redacted]@one/path",
		"nats://me:pass@[::1]:4222":   "nats://[redacted]@[::1]:4222",
		"nats://one:4222/with@a-path": "nats://one:4222/with@a-path",
	} {
		var urls URLs
		require.NoError(t, urls.Decode(text))
		require.Len(t, urls, 1)
		require.Equal(t, want, urls[0].String())
		require.Equal(t, want, urls[0].GoString())
		require.Equal(t, want, urls[0].LogValue().String())
		require.Equal(t, "["+want+"]", fmt.Sprintf("%+v", urls))
		require.Equal(t, text, urls[0].Reveal())
		require.Equal(t, text != want, urls[0].hasCredentials())
	}
}
