package kafka

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/fnbridge/fnbridge/bridge"
)

// tokenLogin is the login by a provider at url.
func tokenLogin(t *testing.T, url string) login {
	t.Helper()
	o := Options{
		OAuthTokenURL: url, OAuthExtensions: map[string]string{"logicalCluster": "lkc-abc12", "identityPoolId": "pool-a1b2"},
	}
	l, err := o.oauthLogin(nil)([]string{"fnbridge", "s3cret"})
	require.NoError(t, err)
	return l
}

func TestWhatABrokerIsToldWithAToken(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	server := httptest.NewServer(http.HandlerFunc(p.token))
	t.Cleanup(server.Close)
	mechanism, renew, err := tokenLogin(t, server.URL)(t.Context())
	require.NoError(t, err)
	require.Equal(t, "OAUTHBEARER", mechanism.Name())
	require.WithinRange(t, renew, time.Now().Add(40*time.Minute), time.Now().Add(48*time.Minute))
	session, first, err := mechanism.Start(t.Context())
	require.NoError(t, err)
	require.Regexp(t, "^n,,\x01auth=Bearer [\\w-]+\\.[\\w-]+\\.[\\w-]+\x01"+
		"identityPoolId=pool-a1b2\x01logicalCluster=lkc-abc12\x01\x01$", string(first))

	done, _, err := session.Next(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, done)
	for challenge, want := range map[string]string{
		`{"status":"invalid_token","scope":"events"}`: `the broker refuses the token: "invalid_token"; it wants the scope "events"`,
		"no JSON\n": `the broker refuses the token: "no JSON\n"`,
	} {
		_, _, err = session.Next(t.Context(), []byte(challenge))
		require.EqualError(t, err, want)
		require.ErrorIs(t, err, kafkago.SASLAuthenticationFailed)
		kind, _ := classify(nil, err)
		require.Equal(t, bridge.FailureBlocked, kind)
	}
}

func TestATokenIsUsedAgain(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	server := httptest.NewServer(http.HandlerFunc(p.token))
	t.Cleanup(server.Close)
	login := tokenLogin(t, server.URL)
	for range 3 {
		_, _, err := login(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, 1, p.tokens())
}

// Connections are tried beside each other while one hangs, and providers count tokens.
func TestASlowProviderIsAskedOnce(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	asked, answer := make(chan struct{}, 2), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		p.token(w, r)
	}))
	t.Cleanup(server.Close)
	login := tokenLogin(t, server.URL)
	first := make(chan error, 1)
	go func() {
		_, _, err := login(t.Context())
		first <- err
	}()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, _, err := login(ctx)
	require.ErrorContains(t, err, "no token can be had from "+server.URL)
	close(answer)
	require.NoError(t, <-first)
	_, _, err = login(t.Context())
	require.NoError(t, err, "that another gave up waiting is no failure of the provider")
	require.Empty(t, asked)
	require.Equal(t, 1, p.tokens())
}

// A secret is sent to nobody else.
func TestAProviderThatRedirectsIsNotFollowed(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(p.token))
	t.Cleanup(elsewhere.Close)
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	_, _, err := tokenLogin(t, server.URL+"/token?tenant=hidden")(t.Context())
	require.ErrorContains(t, err, "no token can be had from "+server.URL+"/token: 307")
	require.NotContains(t, err.Error(), "hidden")
	require.Zero(t, p.tokens())
	kind, _ := classify(nil, err)
	require.Equal(t, bridge.FailureBlocked, kind)
}

func TestATokenThatHasRunOutSaysWhyThereIsNoOther(t *testing.T) {
	t.Parallel()
	failure := &tokenError{text: "no token can be had"}
	b := &bearer{tokens: &tokens{failure: failure}, token: &oauth2.Token{Expiry: time.Now().Add(-time.Second)}}
	_, _, err := b.Start(t.Context())
	require.ErrorIs(t, err, failure)
	kind, _ := classify(nil, err)
	require.Equal(t, bridge.FailureRetry, kind)
}
