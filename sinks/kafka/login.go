package kafka

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
)

const (
	saslPlain       = "PLAIN"
	saslScramSHA256 = "SCRAM-SHA-256"
	saslScramSHA512 = "SCRAM-SHA-512"
	saslOAuthBearer = "OAUTHBEARER"
)

// login returns how the connections of one generation log in, which is nil for not at all, and when others have to take
// their place; the zero time is never.
type login func(ctx context.Context) (mechanism sasl.Mechanism, renew time.Time, err error)

func loginBy(m sasl.Mechanism) login {
	return func(context.Context) (sasl.Mechanism, time.Time, error) { return m, time.Time{}, nil }
}

// openLogin returns how to log in, with tls for what else than brokers there is to connect to; nil is none. It keeps
// the password out of its errors, and with it the library's, which quote characters that they refuse.
func (o *Options) openLogin(tls *tlsfiles.Files) (*reload.Value[login], error) {
	texts := []reload.Text{
		{Setting: "SASL_USERNAME", Given: o.SASLUsername},
		{Setting: "SASL_PASSWORD", Given: o.SASLPassword},
	}
	var parse func(texts []string) (login, error)
	switch o.SASLMechanism {
	case "":
		texts = nil
		parse = func([]string) (login, error) { return loginBy(nil), nil }
	case saslPlain:
		parse = o.plainLogin
	case saslScramSHA256:
		parse = o.scramLogin(scram.SHA256)
	case saslScramSHA512:
		parse = o.scramLogin(scram.SHA512)
	case saslOAuthBearer:
		texts = []reload.Text{
			{Setting: "OAUTH_CLIENT_ID", Given: o.OAuthClientID},
			{Setting: "OAUTH_CLIENT_SECRET", Given: o.OAuthClientSecret},
		}
		parse = o.oauthLogin(tls)
	default:
		return nil, fmt.Errorf("%s is %q: use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
			o.Files.Variable("SASL_MECHANISM"), o.SASLMechanism)
	}
	return reload.Open(o.Files, parse, texts...)
}

func (o *Options) plainLogin(texts []string) (login, error) {
	if strings.ContainsRune(texts[0]+texts[1], 0) {
		return nil, fmt.Errorf("%s or %s holds a NUL, which PLAIN cannot send",
			o.Files.Variable("SASL_USERNAME"), o.Files.Variable("SASL_PASSWORD"))
	}
	return loginBy(plain.Mechanism{Username: texts[0], Password: texts[1]}), nil
}

func (o *Options) scramLogin(algorithm scram.Algorithm) func(texts []string) (login, error) {
	return func(texts []string) (login, error) {
		mechanism, err := scram.Mechanism(algorithm, texts[0], texts[1])
		if err != nil {
			return nil, fmt.Errorf("%s or %s holds a character that SCRAM does not allow (RFC 4013)",
				o.Files.Variable("SASL_USERNAME"), o.Files.Variable("SASL_PASSWORD"))
		}
		return loginBy(boundedSCRAM{mechanism}), nil
	}
}
