package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsWrongStopsTheCommandsThatUseIt(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.mustRun("send", "--id", "msg_1", "--wait", "60s")
	s.delivered()
	home := s.env
	for variable, stopped := range map[string]map[string]bool{
		"FNBRIDGE_PAGE_TOKEN_FILE=/nowhere":      {},
		"FNBRIDGE_SHUTDOWN_TIMEOUT=soon":         {},
		"FNBRIDGE_NATS_ROUTES=tensorlake.>":      {"send": true, "tail": true, "find": true, "replay": true},
		"FNBRIDGE_NATS_SUBJECT=a b":              {"send": true, "tail": true, "find": true},
		"FNBRIDGE_NATS_TOKEN_FILE=/nowhere":      {"send": true, "tail": true},
		"FNBRIDGE_NATS_SERVERS=nats://nats:4222": {"send": true, "tail": true},
		"FNBRIDGE_SINKS=nats,-":                  {"send": true, "tail": true, "find": true, "replay": true},
	} {
		s.env = append(slices.Clone(home), variable)
		for _, args := range [][]string{
			{"send", "--wait", "60s"}, {"tail", "--all", "--end"}, {"find", "msg_1"}, {"replay", "--all", "--dry-run"},
		} {
			out, errs, exit := s.run(args...)
			if !stopped[args[0]] {
				require.Equal(t, 0, exit, "%s: %v: %s", variable, args, out+errs)
				continue
			}
			require.Equal(t, 2, exit, "%s: %v: %s", variable, args, out+errs)
			require.Empty(t, out, "nothing has been done before")
			name, _, _ := strings.Cut(variable, "=")
			require.Contains(t, errs, "the configuration is wrong:\n  "+name+": ")
		}
	}
}
