package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// A file with a secret that others can read is warned of, whichever variable names it, and no other file is.
func TestSecretsThatOthersReadAreWarnedOf(t *testing.T) {
	if os.Geteuid() != 0 {
		machine.Lacks(t, "root, who is never alone on a machine")
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // the test's own, which is closed
	for name, c := range map[string]struct {
		text   string
		secret bool
	}{
		"WEBHOOK_SECRETS_FILE": {"whsec_a", true}, "PAGE_TOKEN_FILE": {"a token of enough length", true},
		"EMBEDDED_NATS_TOKEN_FILE": {"a token", true}, "TLS_KEY_FILE": {"a key", true},
		"NATS_CREDS_FILE": {"a login", true}, "NATS_NKEY_FILE": {"a seed", true}, "NATS_TOKEN_FILE": {"a token", true},
		"NATS_PASSWORD_FILE": {"a word", true}, "NATS_TLS_KEY_FILE": {"a key", true},
		"NATS_URL_FILE":            {"nats://me:word@127.0.0.1", true},
		"KAFKA_SASL_PASSWORD_FILE": {"a word", true}, "KAFKA_TLS_KEY_FILE": {"a key", true},
		"KAFKA_OAUTH_CLIENT_SECRET_FILE": {"a word", true},

		"TLS_CERT_FILE": {"a certificate", false}, "NATS_TLS_CA_FILE": {"a certificate", false},
		"KAFKA_BROKERS_FILE": {"a:9092", false}, "NATS_USER_FILE": {"me", false}, "LISTEN_FILE": {":8080", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			warned := func(mode os.FileMode) (found []Warning) {
				require.NoError(t, os.Chmod(path, mode))
				_, warnings, _ := load(t, "SINKS=nats,kafka", name+"="+path) // what else is to be given does not matter here
				for _, w := range warnings {
					if strings.Contains(w.Message, "everyone on this machine can read") {
						found = append(found, w)
					}
				}
				return found
			}
			require.Empty(t, warned(0o640))
			if !c.secret {
				require.Empty(t, warned(0o644))
				return
			}
			found := warned(0o644)
			require.Len(t, found, 1)
			require.Equal(t, "FNBRIDGE_"+name, found[0].Variable)
			require.Contains(t, found[0].Message, path)
			require.Contains(t, found[0].Message, "chmod o-r")
		})
	}
}
