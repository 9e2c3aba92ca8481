package excerpt_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

func TestLongTextsAreCutAfterAWholeRune(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 100)
	require.Equal(t, "short", excerpt.Shorten("short"))
	require.Equal(t, long[:128], excerpt.Shorten(long[:128]))
	require.Equal(t, long[:128]+"… (200 bytes)", excerpt.Shorten(long))
	require.Equal(t, "x"+long[:126]+"… (201 bytes)", excerpt.Shorten("x"+long))
	require.Equal(t, `"x`+long[:126]+`"… (201 bytes)`, excerpt.Quote("x"+long))
	require.Equal(t, "xé", excerpt.Cut("xéé", 4))
	require.Empty(t, excerpt.Cut("é", 1))
	require.Equal(t, strings.Repeat("\x80", 5), excerpt.Cut(strings.Repeat("\x80", 9), 5), "no runes at all")
}

func TestNothingBreaksOutOfAQuote(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"a\nb\"\u202e\u009b\x80é"`, excerpt.Quote("a\nb\"\u202e\u009b\x80é"))
}
