package setting

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBytesDecode(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1": 1, "512B": 512, "512 b": 512, "1KB": 1000, "512KB": 512_000,
		"3MB": 3_000_000, "2GB": 2_000_000_000, "1TB": 1_000_000_000_000,
		"1KiB": 1 << 10, "1MiB": 1 << 20, "8GiB": 8 << 30, "1TiB": 1 << 40,
		"8gib": 8 << 30, "16Mi": 16 << 20, "2ki": 2048, "1 MiB": 1 << 20,
		"9223372036854775807": math.MaxInt64, "8388607TiB": 8388607 << 40,
	} {
		var b Bytes
		require.NoError(t, b.Decode(text), text)
		require.Equal(t, want, b, text)
	}
	for _, text := range []string{
		"", " ", "B", "MiB", "-1", "+1", "1.5GiB", "1,5GiB", "1e6", "0x10", "1M", "1G", "1k", "1XiB", "1MiBs", "1 Mi B",
		"9223372036854775808", "8388608TiB", "99999999999999999999",
	} {
		b := Bytes(7)
		require.Error(t, b.Decode(text), text)
		require.Equal(t, Bytes(7), b, text)
	}
}

func TestBytesString(t *testing.T) {
	for b, want := range map[Bytes]string{
		0: "0", 1: "1", 1000: "1000", 1024: "1KiB", 1025: "1025", 1536: "1536", 1 << 20: "1MiB", 3 << 19: "1536KiB",
		8 << 30: "8GiB", 1 << 40: "1TiB",
		math.MaxInt64: "9223372036854775807",
	} {
		require.Equal(t, want, b.String())
		var again Bytes
		require.NoError(t, again.Decode(want))
		require.Equal(t, b, again)
	}
}
