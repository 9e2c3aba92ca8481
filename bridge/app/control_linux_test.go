package app_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/app"
)

func TestADataDirectoryMayHaveALongerPathThanASocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20), strings.Repeat("long", 25))
	withLetters(t, dir, 2)
	r := start(t, dir, nil)
	require.FileExists(t, filepath.Join(dir, "fnbridge.sock"))
	change, err := app.DropDeadLetters(t.Context(), load(t), app.DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, app.Change{Letters: 2, Running: true}, change)
	require.NoError(t, r.stop())
	require.NoFileExists(t, filepath.Join(dir, "fnbridge.sock"))
}
