package app_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The kernel is the witness here: strace writes down what the bridge writes and syncs, and each sync takes some
// milliseconds longer, so that an answer that does not wait for it comes before its end for certain.
func TestEveryAnswerComesAfterItsSync(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		skipf(t, "strace, which watches the bridge here, is not installed")
	}
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	// -D makes the bridge our child, and strace another.
	tracing := []string{
		strace, "-D", "-f", "-q", "-ttt", "-y", "-xx", "-s", "100000",
		"-e", "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync", "-e", "signal=none",
		"-e", "inject=fsync,fdatasync:delay_exit=3000", "-o", trace,
	}
	if out, err := exec.Command(strace,
		append(tracing[2:len(tracing)-1:len(tracing)-1], os.DevNull, "true")...).CombinedOutput(); err != nil {
		skipf(t, "strace may not trace here: %v %s", err, out)
	}
	p := startProcess(t, buildBridge(t), filepath.Join(dir, "data"), nil, tracing...)
	s := newSender(t, p.url, 64)
	body := func(id string) []byte { return []byte(strings.ReplaceAll(workflow, "invocation_XXXX", id)) }

	// Bursts of all sizes, in which every third webhook is sent twice at the same moment, and some that are long known.
	answered := map[int]int{}
	accepted := 0
	for burst := range 40 {
		var ids []string
		for i := range 1 + burst%12 {
			id := fmt.Sprintf("msg_durable_%06d", accepted)
			accepted++
			if ids = append(ids, id); i%3 == 0 {
				ids = append(ids, id)
			}
		}
		if burst%10 == 9 {
			ids = append(ids, "msg_durable_000000")
		}
		statuses, err := s.postAll(ids, body)
		require.NoError(t, err)
		for _, status := range statuses {
			answered[status]++
		}
	}
	require.Equal(t, accepted, answered[http.StatusAccepted])
	require.Len(t, answered, 2, "only 202 and 200: %v", answered)
	require.Eventually(t, func() bool {
		resp, err := s.client.Get(p.metrics)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var text bytes.Buffer
		_, err = text.ReadFrom(resp.Body)
		return err == nil && strings.Contains(text.String(),
			fmt.Sprintf(`fnbridge_events_total{result="acknowledged",sink="nats"} %d`, 2*accepted))
	}, time.Minute, 20*time.Millisecond)
	p.terminate(t)

	// strace is done a moment after what it traces has ended.
	var text []byte
	require.Eventually(t, func() bool {
		var err error
		text, err = os.ReadFile(trace)
		require.NoError(t, err)
		return bytes.HasSuffix(bytes.TrimSpace(text), []byte("+++ exited with 0 +++")) &&
			bytes.Contains(text[max(0, len(text)-200):], fmt.Appendf(nil, "%d ", p.cmd.Process.Pid))
	}, time.Minute, 50*time.Millisecond)
	calls, err := parseTrace(bytes.NewReader(text))
	require.NoError(t, err)
	told, broken := judge(calls, journalPromises())
	require.Empty(t, broken[:min(len(broken), 5)], "%d of %d", len(broken), told)
	require.Equal(t, answered[http.StatusAccepted]+answered[http.StatusOK], told, "every answer is in the trace")

	// The embedded server, too, acknowledges what it has synced.
	told, broken = judge(calls, streamPromises())
	require.Empty(t, broken[:min(len(broken), 5)], "%d of %d", len(broken), told)
	require.Equal(t, 2*accepted, told, "every acknowledgement is in the trace")
	t.Logf("%d webhooks, %d answers, %d acknowledgements, %d system calls",
		accepted, answered[http.StatusAccepted]+answered[http.StatusOK], told, len(calls))
}

// skipf skips a test that cannot be had here; where everything is asked for, that is a failure.
func skipf(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") == "1" {
		t.Fatalf("FNBRIDGE_TEST_REQUIRE_ALL=1 asks for every test: "+format, args...)
	}
	t.Skipf(format, args...)
}
