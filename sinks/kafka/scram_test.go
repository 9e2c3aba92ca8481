package kafka

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatALoginMayCostIsBounded(t *testing.T) {
	o := testOptions(t, []string{"127.0.0.1:1"}, withSASL(saslScramSHA256))
	login, err := o.openLogin(nil)
	require.NoError(t, err)
	mechanism, _, err := login.Get()(t.Context())
	require.NoError(t, err)
	for rounds, want := range map[string]string{
		"4096":                 "",
		"2000000000":           `asks for "2000000000" rounds`,
		"99999999999999999999": "rounds of SCRAM",
	} {
		login, first, err := mechanism.Start(t.Context())
		require.NoError(t, err)
		_, nonce, _ := strings.Cut(string(first), "r=")
		_, _, err = login.Next(t.Context(), []byte("r="+nonce+"more,s=c2FsdA==,i="+rounds))
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
}
