package nats

import (
	"errors"
	"fmt"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/fnbridge/fnbridge/bridge/reload"
)

// openLogin returns how to authenticate, which is nil while there is no way, or the URL's. The error is that of a file
// that cannot be used.
func openLogin(o *Options) (*reload.Value[natsgo.Option], error) {
	return reload.Open(o.Files,
		func(texts []string) (natsgo.Option, error) {
			switch token, user, password := texts[2], texts[3], texts[4]; {
			case o.CredsFile != "":
				return credentials(o.CredsFile, texts[0])
			case o.NKeyFile != "":
				return nkey(o.NKeyFile, texts[1])
			case token != "":
				return natsgo.Token(token), nil
			case user != "":
				return natsgo.UserInfo(user, password), nil
			default:
				return func(*natsgo.Options) error { return nil }, nil
			}
		},
		reload.Text{Setting: "CREDS_FILE", Path: o.CredsFile},
		reload.Text{Setting: "NKEY_FILE", Path: o.NKeyFile},
		reload.Text{Setting: "TOKEN", Given: o.Token},
		reload.Text{Setting: "USER", Given: o.User},
		reload.Text{Setting: "PASSWORD", Given: o.Password})
}

// credentials returns the login with the JWT and the seed of a credentials file. No error shows what it holds.
func credentials(path, text string) (natsgo.Option, error) {
	jwt, err := nkeys.ParseDecoratedJWT([]byte(text))
	if err != nil || strings.Count(jwt, ".") != 2 {
		return nil, fmt.Errorf("%s holds no credentials: give the file that nsc or your provider made, "+
			"with a JWT and a seed", path)
	}
	pair, err := nkeys.ParseDecoratedNKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s holds credentials without a seed that can be used: %w", path, err)
	}
	return natsgo.UserJWT(func() (string, error) { return jwt, nil }, pair.Sign), nil
}

// nkey returns the login with a seed.
func nkey(path, text string) (natsgo.Option, error) {
	pair, err := nkeys.ParseDecoratedNKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("the NKey file %s cannot be used: %w", path, err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("the NKey file %s cannot be used: %w", path, err)
	}
	if !nkeys.IsValidPublicUserKey(public) {
		return nil, errors.New("the NKey file " + path + " holds no seed of a user, which begins with SU")
	}
	return natsgo.Nkey(public, pair.Sign), nil
}
