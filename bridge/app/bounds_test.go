package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/config"
)

func TestBoundsMultiplyToLessThanTheMemory(t *testing.T) {
	for name, c := range map[string]struct {
		cfg         config.Config
		memory      int64
		files       int
		connections int
		bodies      int64
	}{
		"without a limit": {config.Config{MaxBody: 1 << 20, MaxInFlight: 1024}, 0, 0, 4096, 64 << 20},
		"few open files":  {config.Config{MaxBody: 1 << 20, MaxInFlight: 1024}, 0, 1024, 512, 64 << 20},
		"the chart's limit": {
			config.Config{MaxBody: 1 << 20, MaxInFlight: 1024}, 512 << 20 / 10 * 9, 1 << 20, 532, 64 << 20,
		},
		"little memory":          {config.Config{MaxBody: 1 << 20, MaxInFlight: 1024}, 64 << 20, 1 << 20, 51, 16 << 20},
		"large bodies":           {config.Config{MaxBody: 32 << 20, MaxInFlight: 1024}, 512 << 20, 1 << 20, 409, 128 << 20},
		"few at once":            {config.Config{MaxBody: 1 << 20, MaxInFlight: 1}, 4 << 30, 1 << 20, 256, 64 << 20},
		"as much as one can use": {config.Config{MaxBody: 1 << 20, MaxInFlight: 1024}, 64 << 30, 1 << 20, 4096, 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := boundsOf(&c.cfg, c.memory, c.files)
			require.NoError(t, err)
			require.Equal(t, bounds{c.memory, c.connections, c.bodies}, b)
			if c.memory > 0 {
				require.LessOrEqual(t, b.bodies+int64(b.connections)*ingest.ConnectionMemory, c.memory/2)
			}
		})
	}
	_, err := boundsOf(&config.Config{MaxBody: 64 << 20, MaxInFlight: 1024}, 512<<20, 0)
	require.EqualError(t, err, "FNBRIDGE_MAX_BODY: bodies of 64MiB need a memory limit of at least 1GiB, "+
		"and this process has one of 512MiB (GOMEMLIMIT, or nine tenths of its cgroup's): raise it, "+
		"or give a smaller FNBRIDGE_MAX_BODY")
}

// The journal and the sinks have the rest.
func TestListenersShareTheOpenFiles(t *testing.T) {
	for _, files := range []int{256, 1024, 4096, 1 << 20} {
		b, err := boundsOf(&config.Config{MaxBody: 1 << 20, MaxInFlight: 1 << 20}, 0, files)
		require.NoError(t, err)
		all := b.connections + opsConnections(files) + natsClients(files) + monitorConnections(files)
		require.LessOrEqual(t, all, files-files/12)
	}
	require.Equal(t, []int{128, 32}, []int{natsClients(1024), monitorConnections(1024)})
	require.Equal(t, []int{65536, 64}, []int{natsClients(0), monitorConnections(0)})
}
