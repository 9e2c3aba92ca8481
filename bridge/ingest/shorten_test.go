package ingest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShorten(t *testing.T) {
	t.Parallel()
	long := ""
	for range 100 {
		long += "é"
	}
	require.Equal(t, "short", shorten("short"))
	require.Equal(t, long[:128]+"... (200 bytes)", shorten(long))
	require.Equal(t, "x"+long[:126]+"... (201 bytes)", shorten("x"+long), "cut after a whole rune")
	require.Equal(t, `"a\nb\u202e\x80"`, quote("a\nb\u202e\x80"))
}
