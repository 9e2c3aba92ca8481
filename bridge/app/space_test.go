package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/config"
)

// What a bridge keeps by default fits its volume, with so much left that no alert on free space fires.
func TestWhatABridgeKeepsFitsItsVolume(t *testing.T) {
	for _, size := range []int64{8 << 20, 9 << 20, 40 << 20, 64 << 20, 500e6, 1 << 30, 20 << 30, 100 << 30, 1 << 40} {
		for _, embedded := range []bool{false, true} {
			cfg := &config.Config{DataDir: t.TempDir(), JournalMaxBytes: 8 << 30, Sinks: config.Sinks{{Embedded: embedded}}}
			s := sharesOf(cfg, volume.Space{Size: size, Free: size})
			require.GreaterOrEqual(t, s.journal, int64(2<<20), "%d", size)
			kept := s.journal + journal.Overhead(s.journal, cfg.DataDir)/2 // the rest of it is what stays free
			if !embedded {
				require.Zero(t, s.stream)
				require.Less(t, kept, size/20*19, "%d", size)
				continue
			}
			require.GreaterOrEqual(t, s.stream, int64(1<<20), "%d", size)
			cfg.Ack = config.AckSinks
			require.LessOrEqual(t, max(s.stream, sharesOf(cfg, volume.Space{Size: size, Free: size}).stream), size/4*3,
				"the server stores no more")
			block := int64(4 << 20)
			if s.stream >= 32<<20 {
				block = 8 << 20
			}
			require.LessOrEqual(t, kept+s.stream+block, size, "%d", size)
			if size > 40<<20 {
				require.Less(t, kept+s.stream+block, size/20*19, "%d", size)
			}
		}
	}
}

// All that a small disk lacks is said, and not only the first.
func TestWhatAVolumeLacksIsSaid(t *testing.T) {
	cfg, _, err := LoadConfig([]string{"FNBRIDGE_DATA_DIR=" + t.TempDir(), "FNBRIDGE_NATS_MAX_BYTES=1GiB"})
	require.NoError(t, err)
	step := examineSpace(cfg, volume.Space{Size: 40 << 20, Free: 0})
	require.Contains(t, step.Warning, "FNBRIDGE_JOURNAL_MAX_BYTES is 8192 MiB, and the volume has room for")
	require.Contains(t, step.Warning, "the journal may take 24 MiB, and the volume has 0 MiB for it")
	require.Contains(t, step.Warning, "FNBRIDGE_NATS_MAX_BYTES is 1024 MiB, and the volume has room for a stream of ")
	require.Empty(t, examineSpace(cfg, volume.Space{Size: 1 << 40, Free: 1 << 40}).Warning)
}
