package setting

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"abc", "abc", 0},
		{"abc", "acb", 1},
		{"abc", "ab", 1},
		{"abc", "abcd", 1},
		{"abc", "xbc", 1},
		{"ULR", "URL", 1},
		{"kitten", "sitting", 3},
		{"ab", "ba", 1},
		{"abcd", "badc", 2},
	} {
		require.Equal(t, c.want, edits(c.a, c.b), "%q to %q", c.a, c.b)
		require.Equal(t, c.want, edits(c.b, c.a), "%q to %q", c.b, c.a)
	}
}
