package bridge_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestLongValueIsCut(t *testing.T) {
	for _, letter := range []string{"x", "é", "漢", "🚀"} {
		value := strings.Repeat(letter, 300)
		got := bridge.Token(value, bridge.MaxToken)
		require.LessOrEqual(t, len(got), bridge.MaxToken)
		require.Greater(t, len(got), bridge.MaxToken-utf8.UTFMax)
		require.True(t, utf8.ValidString(got))
		text, digest := got[:len(got)-12-1], got[len(got)-12:]
		require.True(t, strings.HasPrefix(value, text))
		require.Regexp(t, "^[0-9a-f]{12}$", digest)
		require.NotEqual(t, got, bridge.Token(value+"y", bridge.MaxToken))
	}
}
