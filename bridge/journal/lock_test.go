package journal

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	holder := start(t, "hold", dir, "")
	line, _ := holder.next(t)
	require.Equal(t, "ready", line)

	_, err := Open(t.Context(), Options{Dir: dir})
	var locked *LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, LockedError{Dir: dir, PID: holder.cmd.Process.Pid}, *locked)
	require.EqualError(t, err, fmt.Sprintf("FNBRIDGE_DATA_DIR (%s) is in use by the process with pid %d: "+
		"stop it first, or give this one a directory of its own", dir, holder.cmd.Process.Pid))

	holder.kill(t)
	j := open(t, Options{Dir: dir})
	mustAppend(t, j, webhook("a"))

	_, err = Open(t.Context(), Options{Dir: dir})
	require.ErrorAs(t, err, &locked, "the same process is a second one too")
	mustAppend(t, j, webhook("b"))
	require.FileExists(t, filepath.Join(dir, "fnbridge.lock"))
}
