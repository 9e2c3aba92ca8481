package natsserver

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
)

// Operator is who signs the accounts of servers that are run as NATS' own service is: by JWT, each with its users.
type Operator struct {
	key      nkeys.KeyPair
	claims   *jwt.OperatorClaims
	accounts *server.MemAccResolver
}

// Account is an account with JetStream.
type Account struct{ key nkeys.KeyPair }

// NewOperator makes an operator with a system account.
func NewOperator(tb testing.TB) *Operator {
	tb.Helper()
	key, err := nkeys.CreateOperator()
	require.NoError(tb, err)
	o := &Operator{key: key, claims: jwt.NewOperatorClaims(public(tb, key)), accounts: &server.MemAccResolver{}}
	system, err := nkeys.CreateAccount()
	require.NoError(tb, err)
	o.claims.SystemAccount = public(tb, system)
	o.sign(tb, jwt.NewAccountClaims(o.claims.SystemAccount))
	return o
}

// Configure has a server trust the operator.
func (o *Operator) Configure(options *server.Options) {
	options.TrustedOperators = []*jwt.OperatorClaims{o.claims}
	options.AccountResolver = o.accounts
	options.SystemAccount = o.claims.SystemAccount
}

// Account makes an account.
func (o *Operator) Account(tb testing.TB) *Account {
	tb.Helper()
	key, err := nkeys.CreateAccount()
	require.NoError(tb, err)
	claims := jwt.NewAccountClaims(public(tb, key))
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	o.sign(tb, claims)
	return &Account{key: key}
}

func (o *Operator) sign(tb testing.TB, claims *jwt.AccountClaims) {
	tb.Helper()
	text, err := claims.Encode(o.key)
	require.NoError(tb, err)
	require.NoError(tb, o.accounts.Store(claims.Subject, text))
}

// Creds makes a credentials file of a new user that is valid for so long.
func (a *Account) Creds(tb testing.TB, valid time.Duration) string {
	tb.Helper()
	user, err := nkeys.CreateUser()
	require.NoError(tb, err)
	claims := jwt.NewUserClaims(public(tb, user))
	claims.Expires = time.Now().Add(valid).Unix()
	text, err := claims.Encode(a.key)
	require.NoError(tb, err)
	seed, err := user.Seed()
	require.NoError(tb, err)
	creds, err := jwt.FormatUserConfig(text, seed)
	require.NoError(tb, err)
	file := filepath.Join(tb.TempDir(), "bridge.creds")
	require.NoError(tb, os.WriteFile(file, creds, 0o600))
	return file
}

func public(tb testing.TB, pair nkeys.KeyPair) string {
	tb.Helper()
	key, err := pair.PublicKey()
	require.NoError(tb, err)
	return key
}
