package nats

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestURLShows(t *testing.T) {
	for text, want := range map[string]string{
		"nats://one:4222":             "nats://one:4222",
		"nats://me:pass@one:4222":     "nats://[redacted]@one:4222",
		"tls://token@one":             "tls://[redacted]@one",
		"wss://me:p%40ss@one/path":    "wss://[redacted]@one/path",
		"nats://me:pass@[::1]:4222":   "nats://[redacted]@[::1]:4222",
		"nats://one:4222/with@a-path": "nats://one:4222/with@a-path",
	} {
		var urls URLs
		require.NoError(t, urls.Decode(text))
		require.Len(t, urls, 1)
		require.Equal(t, want, urls[0].String())
		require.Equal(t, want, urls[0].GoString())
		require.Equal(t, want, urls[0].LogValue().String())
		require.Equal(t, "["+want+"]", fmt.Sprintf("%+v", urls))
		require.Equal(t, text, urls[0].Reveal())
		require.Equal(t, text != want, urls[0].hasCredentials())
	}
}
