package nats

import (
	"errors"
	"fmt"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/fnbridge/fnbridge/bridge/reload"
)

// login is a way to authenticate.
type login struct {
	option   natsgo.Option
	settings []string // that it was made of; nil: none
}

// openLogin returns how to authenticate, which is nil while there is no way. The error is that of a file that cannot be
// used.
func openLogin(o *Options) (*reload.Value[*login], error) {
	return reload.Open(o.Files,
		func(texts []string) (*login, error) {
			switch token, user, password := texts[2], texts[3], texts[4]; {
			case o.CredsFile != "":
				option, err := credentials(o.CredsFile, texts[0])
				return &login{option, []string{"CREDS_FILE"}}, err
			case o.NKeyFile != "":
				option, err := nkey(o.NKeyFile, texts[1])
				return &login{option, []string{"NKEY_FILE"}}, err
			case token != "":
				return &login{natsgo.Token(token), []string{"TOKEN"}}, nil
			case user != "":
				return &login{natsgo.UserInfo(user, password), []string{"USER", "PASSWORD"}}, nil
			default:
				return &login{func(*natsgo.Options) error { return nil }, nil}, nil // the URL may hold one
			}
		},
		reload.Text{Setting: "CREDS_FILE", Path: o.CredsFile},
		reload.Text{Setting: "NKEY_FILE", Path: o.NKeyFile},
		reload.Text{Setting: "TOKEN", Given: o.Token},
		reload.Text{Setting: "USER", Given: o.User},
		reload.Text{Setting: "PASSWORD", Given: o.Password})
}

// loginVariables names what was given to authenticate with, or what could be.
func (o *Options) loginVariables() string {
	if o.LoginVariable != "" {
		return o.LoginVariable
	}
	switch l := o.login.Get(); {
	case l != nil && l.settings != nil:
		return o.Files.Variables(l.settings...)
	case strings.Contains(o.URL, "@"):
		return o.Files.Variable("URL")
	default:
		return o.Files.Variables("CREDS_FILE", "NKEY_FILE", "TOKEN", "USER", "PASSWORD")
	}
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
