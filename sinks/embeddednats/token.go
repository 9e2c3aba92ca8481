package embeddednats

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats-server/v2/server"
)

// tokens are what a client may give. This process has one of its own, which nobody else knows and which never changes,
// so that its connections outlive a change of the others'.
type tokens struct {
	own    string
	others atomic.Pointer[string]
}

// Check implements server.Authentication.
func (t *tokens) Check(client server.ClientAuthentication) bool {
	given := []byte(client.GetOpts().Token)
	return subtle.ConstantTimeCompare(given, []byte(t.own))|
		subtle.ConstantTimeCompare(given, []byte(*t.others.Load())) == 1
}

func newTokens(others string) *tokens {
	t := &tokens{own: rand.Text()}
	t.others.Store(&others)
	return t
}

// OwnToken is what clients in this process give, whatever the others' token is; empty: nothing is asked.
func (s *Server) OwnToken() string {
	if s.tokens == nil {
		return ""
	}
	return s.tokens.own
}

// SetToken has clients give another token from now on, and ends the connections of those that gave the old one. The
// server must have been started with a token. With an error the old one stays.
func (s *Server) SetToken(token string) error {
	s.opening.Lock()
	defer s.opening.Unlock()
	if !s.server.JetStreamEnabled() {
		// To take options, the server would open the streams, on a disk that may take no writes.
		return errors.New("the embedded NATS server stores nothing now, and takes another token once it does again")
	}
	old := s.tokens.others.Swap(&token)
	// Whatever the options, a server that takes them looks at all its clients again, by Check.
	if err := s.server.ReloadOptions(s.options.Clone()); err != nil {
		s.tokens.others.Store(old)
		return fmt.Errorf("the embedded NATS server does not take another token: %w", err)
	}
	return nil
}
