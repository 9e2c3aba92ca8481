package main

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// secrets are texts that nobody may get to see, by what they are.
type secrets map[string]string

// requireHidden requires that none of them is in text, in whatever form it could have got there.
func (s secrets) requireHidden(t *testing.T, where, text string) {
	t.Helper()
	for name, secret := range s {
		forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret))}
		for shift := range 3 { // in base64, with whatever is before it
			encoded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), secret...))
			forms = append(forms, encoded[4:len(encoded)-4])
		}
		if key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_")); err == nil {
			numbers := strings.Trim(fmt.Sprintf("%d", key), "[]") // as a slice of bytes prints itself
			forms = append(forms, strings.TrimPrefix(secret, "whsec_"), hex.EncodeToString(key), numbers)
		}
		for _, form := range forms {
			if at := strings.Index(strings.ToLower(text), strings.ToLower(form)); at >= 0 {
				require.Fail(t, "a secret shows", "the %s in %s: …%s…", name, where, text[max(0, at-200):min(len(text), at+100)])
			}
		}
	}
}

// outputText collects what a process writes.
type outputText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *outputText) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *outputText) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// refusedEverywhere is a configuration whose every sink is refused its login, with the secrets in it.
func refusedEverywhere(t *testing.T, ack string) (
	environment []string, hidden secrets, sinks []string, ca *testcert.CA,
) {
	t.Helper()
	// It knows a user, and an NKey, so that it asks for both ways to log in.
	other, err := nkeys.CreateUser()
	require.NoError(t, err)
	otherKey, err := other.PublicKey()
	require.NoError(t, err)
	natsAddress := strings.TrimPrefix(natsserver.Single(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "known", Password: "known"}}
		o.Nkeys = []*server.NkeyUser{{Nkey: otherKey}}
	}).URL(), "nats://")
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(sinktest.ListenPlain), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "known", "known"), kfake.Superuser("SCRAM-SHA-512", "known2", "known"))
	require.NoError(t, err)
	t.Cleanup(kafka.Close)
	broker := kafka.ListenAddrs()[0]
	// A handshake that a listener without TLS takes for the size of a request would make kfake ask for 369 MB at each try.
	authority := testcert.New(t)
	strict, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(authority.ServerTLS(t, true)))
	require.NoError(t, err)
	t.Cleanup(strict.Close)

	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	userKey, err := user.PublicKey()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	token, err := jwt.NewUserClaims(userKey).Encode(account)
	require.NoError(t, err)
	creds, err := jwt.FormatUserConfig(token, seed)
	require.NoError(t, err)
	ca = testcert.New(t)
	privateKey, err := os.ReadFile(ca.ServerKeyFile)
	require.NoError(t, err)
	clientKey, err := os.ReadFile(ca.ClientKeyFile)
	require.NoError(t, err)

	hidden = secrets{
		"first webhook secret":  tensorlake.GenerateSecret(),
		"second webhook secret": tensorlake.GenerateSecret(),
		"NATS token":            "token-3f9c1e-never",
		"NATS password":         "nats-pa55-never",
		"password in a URL":     "url-pa55-never",
		"token in a URL":        "url-t0ken-never",
		"NKey seed":             string(seed),
		"JWT":                   token,
		"PLAIN password":        "plain-pa55-never",
		"SCRAM password":        "scram-pa55-never",
		"server's private key":  strings.Split(string(privateKey), "\n")[1],
		"client's private key":  strings.Split(string(clientKey), "\n")[1],
	}
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	sinks = []string{"token", "password", "inurl", "tokenurl", "nkey", "creds", "plain", "scram", "tlskey"}
	kinds := "token=nats,password=nats,inurl=nats,tokenurl=nats,nkey=nats,creds=nats,plain=kafka,scram=kafka,tlskey=kafka"
	environment = []string{
		"FNBRIDGE_LOG_LEVEL=debug", "FNBRIDGE_LOG_FORMAT=json",
		"FNBRIDGE_TLS_CERT_FILE=" + ca.ServerCertFile, "FNBRIDGE_TLS_KEY_FILE=" + ca.ServerKeyFile,
		"FNBRIDGE_WEBHOOK_SECRETS_FILE=" + file("secrets",
			hidden["first webhook secret"]+"\n"+hidden["second webhook secret"]+"\n"),
		"FNBRIDGE_ACK=" + ack, "FNBRIDGE_SINKS=" + kinds,
		"FNBRIDGE_TOKEN_URL=nats://" + natsAddress, "FNBRIDGE_TOKEN_TOKEN=" + hidden["NATS token"],
		"FNBRIDGE_PASSWORD_URL=nats://" + natsAddress, "FNBRIDGE_PASSWORD_USER=known",
		"FNBRIDGE_PASSWORD_PASSWORD_FILE=" + file("password", hidden["NATS password"]),
		"FNBRIDGE_INURL_URL=nats://known:" + hidden["password in a URL"] + "@" + natsAddress,
		"FNBRIDGE_TOKENURL_URL=nats://" + hidden["token in a URL"] + "@" + natsAddress,
		"FNBRIDGE_NKEY_URL=nats://" + natsAddress, "FNBRIDGE_NKEY_NKEY_FILE=" + file("user.nk", string(seed)),
		"FNBRIDGE_CREDS_URL=nats://" + natsAddress, "FNBRIDGE_CREDS_CREDS_FILE=" + file("user.creds", string(creds)),
		"FNBRIDGE_PLAIN_BROKERS=" + broker, "FNBRIDGE_PLAIN_SASL_MECHANISM=PLAIN", "FNBRIDGE_PLAIN_SASL_USERNAME=known",
		"FNBRIDGE_PLAIN_SASL_PASSWORD=" + hidden["PLAIN password"],
		"FNBRIDGE_SCRAM_BROKERS=" + broker, "FNBRIDGE_SCRAM_SASL_MECHANISM=SCRAM-SHA-512",
		"FNBRIDGE_SCRAM_SASL_USERNAME=known2",
		"FNBRIDGE_SCRAM_SASL_PASSWORD=" + hidden["SCRAM password"],
		"FNBRIDGE_TLSKEY_BROKERS=" + strict.ListenAddrs()[0], "FNBRIDGE_TLSKEY_TLS=true",
		"FNBRIDGE_TLSKEY_TLS_CA_FILE=" + authority.CAFile, "FNBRIDGE_TLSKEY_TLS_CERT_FILE=" + ca.ClientCertFile,
		"FNBRIDGE_TLSKEY_TLS_KEY_FILE=" + ca.ClientKeyFile,
	}
	for _, sink := range sinks {
		own := "FNBRIDGE_" + strings.ToUpper(sink)
		if ack == "journal" {
			environment = append(environment, own+"_GIVE_UP_AFTER=1s")
		}
		if strings.Contains(kinds, sink+"=nats") {
			environment = append(environment, own+"_STREAM="+sink, own+"_SUBJECT="+sink+".{route}")
		} else {
			environment = append(environment, own+"_TOPIC="+sink)
		}
	}
	return environment, hidden, sinks, ca
}

// TestNoSecretShows: a bridge that is refused everywhere says a lot, at debug level too, to everybody who asks. Then it
// is made to print the stacks of all its goroutines.
func TestNoSecretShows(t *testing.T) {
	t.Parallel()
	for _, ack := range []string{"journal", "sinks"} {
		t.Run("acknowledged from the "+ack, func(t *testing.T) {
			t.Parallel() // both are waits for the most part
			noSecretShows(t, ack)
		})
	}
}

func noSecretShows(t *testing.T, ack string) {
	t.Helper()
	environment, hidden, sinks, ca := refusedEverywhere(t, ack)
	s := newShell(t, environment...)
	log := &outputText{}
	serve := s.command("serve")
	serve.Stdout, serve.Stderr = log, log
	serve.Env = append(slices.Clone(serve.Env), "GOTRACEBACK=all")
	require.NoError(t, serve.Start())
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	t.Cleanup(func() {
		_ = serve.Process.Kill()
		require.Error(t, <-ended, "it was killed")
		hidden.requireHidden(t, "the log", log.String())
		if t.Failed() {
			t.Logf("%.20000s", log.String())
		}
	})
	var ready struct{ Webhooks, Operations string }
	require.Eventually(t, func() bool {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "fnbridge is ready") {
				return json.Unmarshal([]byte(line), &ready) == nil
			}
		}
		return false
	}, within, 10*time.Millisecond)
	s.listen(portOf(t, ready.Webhooks), portOf(t, ready.Operations), 0)

	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	post := func(id, secret, body string) int {
		header, err := tensorlake.Sign(secret, id, time.Now(), []byte(body))
		require.NoError(t, err)
		header.Set("Content-Type", "application/json")
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ready.Webhooks, strings.NewReader(body))
		require.NoError(t, err)
		request.Header = header
		response, err := client.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		hidden.requireHidden(t, "an answer to "+id, fmt.Sprint(response.Header)+string(answer))
		return response.StatusCode
	}
	payload := fmt.Sprintf(workflowPayload, "invocation")
	valid := http.StatusAccepted
	if ack == "sinks" {
		valid = http.StatusServiceUnavailable
	}
	require.Equal(t, valid, post("msg_1", hidden["first webhook secret"], payload))
	require.Equal(t, valid, post("msg_2", hidden["second webhook secret"], `{"unrecognized":true}`))
	require.Equal(t, http.StatusUnauthorized, post("msg_3", tensorlake.GenerateSecret(), payload))
	require.Equal(t, http.StatusBadRequest, post("msg_4", hidden["first webhook secret"], "no JSON"))

	one := "1" // dead letter
	if ack == "journal" {
		refusal := regexp.MustCompile("refuses the credentials|wrong credentials|refuses our side of TLS")
		var letters []letter
		// A sink that is given up before it had an answer has a letter without one, and more letters to come.
		require.Eventually(t, func() bool {
			letters = s.letters()
			refused := map[string]bool{}
			for _, l := range letters {
				if refusal.MatchString(l.Reason) {
					refused[l.Sink] = true
				}
			}
			return len(refused) == len(sinks)
		}, 90*time.Second, 100*time.Millisecond)
		one = fmt.Sprint(letters[0].ID)
	}
	for _, args := range [][]string{
		{"env"},
		{"env", "--json"},
		{"check", "--timeout", "3s"},
		{"check", "--timeout", "3s", "--json"},
		{"status"},
		{"status", "--json"},
		{"dead-letters", "list"},
		{"dead-letters", "list", "--json"},
		{"dead-letters", "show", one},
		{"dead-letters", "show", "--json", one},
		{"dead-letters", "retry", one},
		{"replay", "--sink", "token", "--since", "1h", "--dry-run"},
		{"journal", "verify"},
		{"journal", "export"},
		{"send"},
		{"send", "--json"},
		{"version"},
		{"--help"},
		{"serve"}, // the data directory is in use
	} {
		out, errs, _ := s.run(args...)
		require.NotEmpty(t, out+errs, "%v", args)
		hidden.requireHidden(t, fmt.Sprint(args), out+errs)
	}
	for _, sink := range sinks { // tail goes on trying
		tail := s.command("tail", "--sink", sink, "--all", "--count", "1")
		said := &outputText{}
		tail.Stdout, tail.Stderr = said, said
		require.NoError(t, tail.Start())
		tailEnded := make(chan struct{})
		go func() { _ = tail.Wait(); close(tailEnded) }()
		select {
		case <-tailEnded:
		case <-time.After(time.Second):
			_ = tail.Process.Kill()
			<-tailEnded
		}
		hidden.requireHidden(t, "tail of "+sink, said.String())
	}
	for _, path := range []string{
		"/", "/livez", "/readyz", "/metrics", "/api/status", "/debug/pprof/", "/debug/vars", "/env", "/config",
	} {
		response, err := client.Get(ready.Operations + path)
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		hidden.requireHidden(t, path, fmt.Sprint(response.Header)+string(text))
	}

	require.NoError(t, serve.Process.Signal(syscall.SIGQUIT))
	err := <-ended
	ended <- err
	require.Error(t, err)
	require.Contains(t, log.String(), "goroutine ", "all stacks are printed")
	hidden.requireHidden(t, "the stacks", log.String())
}

// TestNoSecretShowsInAWrongConfiguration has each secret in a place where it is refused.
func TestNoSecretShowsInAWrongConfiguration(t *testing.T) {
	t.Parallel()
	const hidden = "s3cret-never-shown"
	dir := t.TempDir()
	path := filepath.Join(dir, "wrong")
	require.NoError(t, os.WriteFile(path, []byte("-----BEGIN PRIVATE KEY-----\n"+hidden+"\n"), 0o600))
	ca := testcert.New(t)
	for name, environment := range map[string][]string{
		"a webhook secret without its prefix": {"WEBHOOK_SECRETS=" + hidden},
		"one that is not base64":              {"WEBHOOK_SECRETS=whsec_" + hidden},
		"one from a file":                     {"WEBHOOK_SECRETS_FILE=" + path},
		"given twice":                         {"WEBHOOK_SECRETS=" + hidden, "WEBHOOK_SECRETS_FILE=" + path},
		"a URL that is none":                  {"NATS_URL=nats//me:" + hidden + "@host"},
		"a URL of another scheme":             {"NATS_URL=http://me:" + hidden + "@host"},
		"a URL with a second @":               {"NATS_URL=nats://me:a@" + hidden + "@host"},
		"a URL with a comma in its password":  {"NATS_URL=nats://me:a," + hidden + "@host"},
		"a URL with a broken escape":          {"NATS_URL=nats://me:%zz" + hidden + "@host"},
		"a password without a user":           {"NATS_URL=nats://host", "NATS_PASSWORD=" + hidden},
		"two ways to log in": {
			"NATS_URL=nats://host", "NATS_TOKEN=" + hidden, "NATS_USER=me", "NATS_PASSWORD=" + hidden,
		},
		"a token for the embedded server": {"NATS_TOKEN=" + hidden},
		"a URL and a token":               {"NATS_URL=nats://me:" + hidden + "@host", "NATS_TOKEN=" + hidden},
		"credentials that are none":       {"NATS_URL=nats://127.0.0.1:1", "NATS_CREDS_FILE=" + path},
		"a seed that is none":             {"NATS_URL=nats://127.0.0.1:1", "NATS_NKEY_FILE=" + path},
		"a NATS key that is none": {
			"NATS_URL=tls://127.0.0.1:1", "NATS_TLS_CERT_FILE=" + ca.ClientCertFile, "NATS_TLS_KEY_FILE=" + path,
		},
		"a password without a mechanism": {"SINKS=kafka", "KAFKA_BROKERS=127.0.0.1:1", "KAFKA_SASL_PASSWORD=" + hidden},
		"a password with another mechanism": {
			"SINKS=kafka", "KAFKA_BROKERS=127.0.0.1:1", "KAFKA_SASL_MECHANISM=GSSAPI", "KAFKA_SASL_PASSWORD=" + hidden,
		},
		"a password that SCRAM refuses": {
			"SINKS=kafka", "KAFKA_BROKERS=127.0.0.1:1", "KAFKA_SASL_MECHANISM=SCRAM-SHA-256", "KAFKA_SASL_USERNAME=me",
			"KAFKA_SASL_PASSWORD=" + hidden + "\u200e\u0007",
		},
		"credentials in an address of Kafka": {"SINKS=kafka", "KAFKA_BROKERS=me:" + hidden + "@host:9092"},
		"a Kafka key that is none": {
			"SINKS=kafka", "KAFKA_BROKERS=127.0.0.1:1", "KAFKA_TLS=true", "KAFKA_TLS_CERT_FILE=" + ca.ClientCertFile,
			"KAFKA_TLS_KEY_FILE=" + path,
		},
		"the listener's key that is none": {"TLS_CERT_FILE=" + ca.ServerCertFile, "TLS_KEY_FILE=" + path},
		"an unknown variable":             {"KAFKA_SASL_PASSWORD=" + hidden, "NATS_PASWORD=" + hidden, "MAX_BODY=nope"},
		"a secret where its file belongs": {"WEBHOOK_SECRETS_FILE=whsec_" + hidden},
		"a key where its file belongs": {
			"TLS_CERT_FILE=" + ca.ServerCertFile, "TLS_KEY_FILE=-----BEGIN PRIVATE KEY-----\n" + hidden,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShell(t)
			for _, variable := range environment {
				s.env = append(s.env, "FNBRIDGE_"+variable)
			}
			said := ""
			for _, args := range [][]string{{"check", "--timeout", "1s"}, {"send"}} {
				out, errs, exit := s.run(args...)
				require.NotZero(t, exit, args)
				said += out + errs
			}
			require.NotContains(t, said, hidden)
			require.Contains(t, said, "FNBRIDGE_")
		})
	}
}
