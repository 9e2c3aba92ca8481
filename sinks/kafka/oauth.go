package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
)

const (
	// tokenTimeout bounds one request for a token, whatever the connection that wants it allows.
	tokenTimeout = 10 * time.Second
	// tokenPause is how long a failure to get a token holds, so that connections that are tried again and again do not
	// ask each time. tokenRest is the same for a token that a broker refused: providers count tokens.
	tokenPause = 2 * time.Second
	tokenRest  = 30 * time.Second
)

// tokens are the tokens of one client of an OAuth provider. The last one is used again until it nears its end.
type tokens struct {
	config clientcredentials.Config
	tls    *tlsfiles.Files // of the brokers; nil: none
	place  string          // where they come from, for people
	asking chan struct{}   // has a place for whoever asks the provider: one at a time
	files  *reload.Part

	mu       sync.Mutex
	last     *oauth2.Token
	got      time.Time // when last came
	failure  *tokenError
	failedAt time.Time
}

// oauthLogin returns what makes a login of the client's id and secret.
func (o *Options) oauthLogin(tls *tlsfiles.Files) func(texts []string) (login, error) {
	place := o.OAuthTokenURL
	if u, err := url.Parse(place); err == nil {
		place = u.Redacted()
		if u.RawQuery != "" {
			place, _, _ = strings.Cut(place, "?")
		}
	}
	return func(texts []string) (login, error) {
		t := &tokens{tls: tls, place: place, files: o.Files, asking: make(chan struct{}, 1), config: clientcredentials.Config{
			ClientID: texts[0], ClientSecret: texts[1], TokenURL: o.OAuthTokenURL, Scopes: o.OAuthScopes,
		}}
		return func(ctx context.Context) (sasl.Mechanism, time.Time, error) {
			token, renew, err := t.get(ctx)
			if err != nil {
				return nil, time.Time{}, err
			}
			return &bearer{tokens: t, token: token, extensions: o.OAuthExtensions}, renew, nil
		}, nil
	}
}

// get returns a token, and when another has to take its place: after four fifths of its time. The zero time is never.
// Connections that are tried beside each other wait for one request, and what comes of it is for all of them.
func (t *tokens) get(ctx context.Context) (*oauth2.Token, time.Time, error) {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return nil, time.Time{}, t.explain(ctx.Err())
	}
	t.mu.Lock()
	last, got := t.last, t.got
	failure, failedAt := t.failure, t.failedAt
	t.mu.Unlock()
	if last != nil {
		if renew := renewal(last, got); renew.IsZero() || time.Now().Before(renew) {
			return last, renew, nil
		}
	}
	if failure != nil && time.Since(failedAt) < tokenPause {
		return nil, time.Time{}, failure
	}
	began := time.Now()
	token, err := t.request(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		failure = t.explain(err)
		if ctx.Err() == nil { // else it says nothing of the provider
			t.failure, t.failedAt = failure, time.Now()
		}
		return nil, time.Time{}, failure
	}
	t.last, t.got, t.failure = token, began, nil
	return token, renewal(token, began), nil
}

func renewal(token *oauth2.Token, got time.Time) time.Time {
	if token.Expiry.IsZero() {
		return time.Time{}
	}
	return got.Add(token.Expiry.Sub(got) * 4 / 5)
}

func (t *tokens) request(ctx context.Context) (*oauth2.Token, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if t.tls != nil {
		transport.TLSClientConfig = t.tls.Public()
	}
	client := &http.Client{
		Transport: transport, Timeout: tokenTimeout,
		// The secret goes nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	token, err := t.config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	switch {
	case err != nil:
		return nil, err
	case strings.ContainsFunc(token.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, errors.New("what it gives is no token: it holds characters that no header may have")
	}
	return token, nil
}

// refuse lets go of a token that a broker refused, unless it is new: the next one would hardly do better.
func (t *tokens) refuse(token *oauth2.Token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == token && time.Since(t.got) > tokenRest {
		t.last = nil
	}
}

// tokenError says why there is no token. It hides what it was made of: what a provider's connection has is no news of
// the brokers.
type tokenError struct {
	text    string
	blocked bool // until somebody mends it
}

func (e *tokenError) Error() string { return e.text }

func (t *tokens) explain(err error) *tokenError {
	e := &tokenError{text: "no token can be had from " + t.place + ": "}
	answer, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok || answer.Response == nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // it names the URL once more
		}
		e.text += err.Error()
		return e
	}
	status := answer.Response.StatusCode
	e.text += answer.Response.Status
	if answer.ErrorCode != "" {
		e.text += fmt.Sprintf(" (%.100q", answer.ErrorCode)
		if answer.ErrorDescription != "" {
			e.text += fmt.Sprintf(", %.300q", answer.ErrorDescription)
		}
		e.text += ")"
	}
	if status/100 != 5 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests {
		e.blocked = true
		e.text += ": check " + t.files.Variables("OAUTH_TOKEN_URL", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES")
	}
	return e
}

// bearer is the mechanism OAUTHBEARER (RFC 7628, KIP-255) with one token.
type bearer struct {
	tokens     *tokens
	token      *oauth2.Token
	extensions map[string]string
}

// Name implements sasl.Mechanism.
func (*bearer) Name() string { return saslOAuthBearer }

// Start implements sasl.Mechanism.
func (b *bearer) Start(context.Context) (sasl.StateMachine, []byte, error) {
	if !b.token.Expiry.IsZero() && !time.Now().Before(b.token.Expiry) {
		b.tokens.mu.Lock()
		defer b.tokens.mu.Unlock()
		if b.tokens.failure != nil {
			return nil, nil, b.tokens.failure
		}
		return nil, nil, &tokenError{text: "the token has run out, and the next one is on its way"}
	}
	var message strings.Builder
	message.WriteString("n,,\x01auth=Bearer " + b.token.AccessToken + "\x01")
	for _, name := range slices.Sorted(maps.Keys(b.extensions)) {
		message.WriteString(name + "=" + b.extensions[name] + "\x01")
	}
	message.WriteString("\x01")
	return b, []byte(message.String()), nil
}

// Next implements sasl.StateMachine. A broker that accepts says nothing; a challenge is a refusal.
func (b *bearer) Next(_ context.Context, challenge []byte) (done bool, response []byte, err error) {
	if len(challenge) == 0 {
		return true, nil, nil
	}
	b.tokens.refuse(b.token)
	var refusal struct {
		Status        string `json:"status"`
		Scope         string `json:"scope"`
		Configuration string `json:"openid-configuration"`
	}
	if json.Unmarshal(challenge, &refusal) != nil || refusal.Status == "" {
		return false, nil, &refusedTokenError{fmt.Sprintf("the broker refuses the token: %.300q", challenge)}
	}
	text := fmt.Sprintf("the broker refuses the token: %.100q", refusal.Status)
	if refusal.Scope != "" {
		text += fmt.Sprintf("; it wants the scope %.200q", refusal.Scope)
	}
	if refusal.Configuration != "" {
		text += fmt.Sprintf("; its provider is at %.200q", refusal.Configuration)
	}
	return false, nil, &refusedTokenError{text}
}

// refusedTokenError is what a broker has against a token.
type refusedTokenError struct{ text string }

func (e *refusedTokenError) Error() string { return e.text }
func (e *refusedTokenError) Unwrap() error { return kafkago.SASLAuthenticationFailed }
