package admin_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
)

func TestADataDirectoryMayHaveALongerPathThanASocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20), strings.Repeat("long", 25))
	withLetters(t, dir, 2)
	stop := serveControl(t, dir)
	require.FileExists(t, filepath.Join(dir, "fnbridge.sock"))
	change, err := admin.DropDeadLetters(t.Context(), dir, admin.DeadLetterFilter{})
	require.NoError(t, err)
	require.Equal(t, admin.Change{Letters: 2, Running: true}, change)
	stop()
	require.NoFileExists(t, filepath.Join(dir, "fnbridge.sock"))
}
