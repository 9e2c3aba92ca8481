package setting

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSecretShows(t *testing.T) {
	for text, want := range map[string]string{"": "", "hidden": "[redacted]"} {
		s := NewSecret(text)
		require.Equal(t, want, s.String())
		require.Equal(t, want, s.GoString())
		require.Equal(t, want, s.LogValue().String())
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			require.Equal(t, want, fmt.Sprintf(verb, s))
		}
		marshalled, err := json.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, `"`+want+`"`, string(marshalled))
		marshalled, err = xml.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, "<Secret>"+want+"</Secret>", string(marshalled))
		require.Equal(t, text == "", s.IsZero())
		require.Equal(t, text, s.Reveal())
	}
}
