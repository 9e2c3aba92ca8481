package volume_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

func TestTheSpaceOfASmallDisk(t *testing.T) {
	dir := machine.SmallDisk(t, 8)
	s, known := volume.Of(filepath.Join(dir, "to", "be", "made"))
	require.True(t, known)
	require.Equal(t, volume.Space{Size: 8 << 20, Free: 8 << 20}, s)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o600))
	s, known = volume.Of(dir)
	require.True(t, known)
	require.Equal(t, volume.Space{Size: 8 << 20, Free: 7 << 20}, s)
}
