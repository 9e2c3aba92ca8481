package kafka

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
)

const (
	tokenIssuer   = "https://idp.example.com"
	tokenAudience = "kafka"
)

// provider is an OAuth provider: it gives signed tokens to a client, and the keys that verify them to brokers.
type provider struct {
	key *rsa.PrivateKey

	mu       sync.Mutex
	secret   string        // of the client
	lifetime time.Duration // of tokens
	audience string
	issued   int
	scopes   string // that were asked for last
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return &provider{key: key, secret: "s3cret", lifetime: time.Hour, audience: tokenAudience}
}

func (p *provider) set(change func(p *provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *provider) tokens() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.issued
}

// jwks has the key of the tokens.
func (p *provider) jwks(w http.ResponseWriter, _ *http.Request) {
	number := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
		"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256",
		"n": number(p.key.N), "e": number(big.NewInt(int64(p.key.E))),
	}}})
}

// token is the endpoint for client credentials.
func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.FormValue("client_id"), r.FormValue("client_secret")
	}
	if id != "fnbridge" || secret != p.secret || r.FormValue("grant_type") != "client_credentials" {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"no such client, or another secret"}`))
		return
	}
	p.issued++
	p.scopes = r.FormValue("scope")
	text, err := p.sign(time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": text, "token_type": "Bearer", "expires_in": int(p.lifetime.Seconds()),
	})
}

func (p *provider) sign(now time.Time) (string, error) {
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	unsigned := part(map[string]string{"alg": "RS256", "kid": "one", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": tokenIssuer, "aud": p.audience, "sub": apacheUser, "scope": "events",
		// In whole seconds, and so not sooner than the provider says.
		"iat": now.Unix(), "exp": now.Add(p.lifetime + time.Second).Unix(), "jti": fmt.Sprint(p.issued),
	})
	digest := sha256.Sum256([]byte(unsigned))
	signature, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, digest[:])
	return unsigned + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// TestApacheKafkaTakesTokens holds OAUTHBEARER against a real broker, which verifies tokens by itself.
func TestApacheKafkaTakesTokens(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	keys := httptest.NewServer(http.HandlerFunc(p.jwks))
	t.Cleanup(keys.Close)
	const listener = "listener.name.sasl_ssl."
	c := apachekafka.Start(t, apachekafka.Options{
		Users: map[string]string{apacheUser: apachePassword},
		JVM:   []string{"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + keys.URL},
		Config: map[string]string{
			listener + "sasl.enabled.mechanisms": "OAUTHBEARER",
			listener + "oauthbearer.sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer." +
				"OAuthBearerLoginModule required;",
			listener + "oauthbearer.sasl.server.callback.handler.class": "org.apache.kafka.common.security.oauthbearer." +
				"OAuthBearerValidatorCallbackHandler",
			listener + "oauthbearer.connections.max.reauth.ms": "1500",
			"sasl.oauthbearer.jwks.endpoint.url":               keys.URL,
			"sasl.oauthbearer.expected.issuer":                 tokenIssuer,
			"sasl.oauthbearer.expected.audience":               tokenAudience,
		},
	})
	tokens := httptest.NewUnstartedServer(http.HandlerFunc(p.token))
	tokens.TLS = c.CA().ServerTLS(t, false)
	tokens.StartTLS()
	t.Cleanup(tokens.Close)
	const topic = "tokens"
	c.CreateTopic(t, topic, 2, 1, nil)
	withToken := func(o *Options) {
		o.TLS, o.TLSCAFile, o.SASLMechanism = true, c.CA().CAFile, saslOAuthBearer
		o.OAuthTokenURL, o.OAuthClientID, o.OAuthClientSecret = tokens.URL+"/token", "fnbridge", "s3cret"
		o.OAuthScopes, o.OAuthExtensions = []string{"events", "more"}, map[string]string{"logicalCluster": "lkc-abc12"}
	}

	t.Run("renewed under load", func(t *testing.T) {
		p.set(func(p *provider) { p.lifetime = 8 * time.Second })
		defer p.set(func(p *provider) { p.lifetime, p.secret = time.Hour, "s3cret" })
		m, files := mount(t, map[string]string{"OAUTH_CLIENT_SECRET": "s3cret"})
		s := open(t, c.SASLBrokers(), toTopic(topic), withToken, files, func(o *Options) {
			o.timing = timing{} // as in production
		})
		publishUntilStored(t, s, events(1, 1))
		load := publishAllTheTime(t, s)
		before := p.tokens()
		require.Eventually(t, func() bool {
			load.goesOn(t)
			return p.tokens() >= before+2
		}, 4*within, 10*time.Millisecond, "the token is not renewed")
		p.set(func(p *provider) { require.Equal(t, "events more", p.scopes) })

		// The provider has another secret for the client: the last token serves until the file has it too.
		p.set(func(p *provider) { p.secret = "another" })
		m.write(t, map[string]string{"OAUTH_CLIENT_SECRET": "another"})
		generation := s.keeper.generation.Load()
		m.files.Refresh()
		awaitRenewed(t, s, generation)
		load.goesOn(t)
		load.requireNoneFailed(t)
		t.Logf("%d tokens", p.tokens()-before)
	})
	t.Run("a token for somebody else", func(t *testing.T) {
		p.set(func(p *provider) { p.audience = "another" })
		defer p.set(func(p *provider) { p.audience = tokenAudience })
		s := open(t, c.SASLBrokers(), toTopic(topic), withToken)
		results := publish(t, s, events(1, 1))
		requireKind(t, bridge.FailureBlocked, results)
		require.ErrorContains(t, results[0], `the broker refuses the token: "invalid_token"`)
		require.ErrorContains(t, results[0], "audience")
	})
	t.Run("a wrong secret", func(t *testing.T) {
		s := open(t, c.SASLBrokers(), toTopic(topic), withToken, func(o *Options) { o.OAuthClientSecret = "guess" })
		results := publish(t, s, events(1, 1))
		requireKind(t, bridge.FailureBlocked, results)
		require.ErrorContains(t, results[0],
			`/token: 401 Unauthorized ("invalid_client", "no such client, or another secret")`)
		require.ErrorContains(t, results[0], "OAUTH_CLIENT_SECRET")
		require.NotContains(t, results[0].Error(), "guess")
	})
	t.Run("no provider", func(t *testing.T) {
		s := open(t, c.SASLBrokers(), toTopic(topic), withToken, func(o *Options) {
			o.OAuthTokenURL = "https://127.0.0.1:1/token"
		})
		results := publish(t, s, events(1, 1))
		requireKind(t, bridge.FailureRetry, results)
		require.ErrorContains(t, results[0], "no token can be had from https://127.0.0.1:1/token")
	})
}
