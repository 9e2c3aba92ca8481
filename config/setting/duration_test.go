package setting_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/config/setting"
)

func TestDurationsMayHaveDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "3d": 72 * time.Hour, "1d12h": 36 * time.Hour, "0d": 0, "0": 0, "1h30m": 90 * time.Minute,
		"1d500ms": 24*time.Hour + 500*time.Millisecond, "-1h": -time.Hour,
	} {
		got, err := setting.ParseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "1d-2h", "1d+2h", "1d2", "2h1d", "40000d", "day", "1 d"} {
		_, err := setting.ParseDuration(text)
		require.Error(t, err, text)
	}
}
