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

	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// The kernel is the witness here: strace writes down what the bridge writes and syncs, and each sync takes some
// milliseconds longer, so that an answer that does not wait for it comes before its end for certain.
func TestEveryAnswerComesAfterItsSync(t *testing.T) {
	for ack, answer := range map[string]int{config.AckJournal: http.StatusAccepted, config.AckSinks: http.StatusOK} {
		t.Run(ack, func(t *testing.T) {
			t.Parallel()
			testSyncs(t, ack, answer)
		})
	}
}

func testSyncs(t *testing.T, ack string, answer int) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		machine.Lacks(t, "strace, which watches the bridge here, is not installed")
	}
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	// -D makes the bridge our child, and strace another.
	tracing := []string{
		strace, "-D", "-f", "-q", "-ttt", "-y", "-xx", "-s", "100000",
		"-e", "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync,syncfs", "-e", "signal=none",
		"-e", "inject=fsync,fdatasync,syncfs:delay_exit=3000", "-o", trace,
	}
	if out, err := exec.Command(strace,
		append(tracing[2:len(tracing)-1:len(tracing)-1], os.DevNull, "true")...).CombinedOutput(); err != nil {
		machine.Lacks(t, "strace may not trace here: %v %s", err, out)
	}
	p := startProcess(t, buildBridge(t), filepath.Join(dir, "data"), map[string]string{"ACK": ack}, tracing...)
	s := newSender(t, p.url, 64)
	body := func(id string) []byte { return []byte(workflowOf(id)) }

	// Bursts of all sizes, in which every third webhook is sent twice at the same moment, and some that are long known.
	answered := map[int]int{}
	accepted, sent := 0, 0
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
		sent += len(ids)
		statuses, err := s.postAll(ids, body)
		require.NoError(t, err)
		for _, status := range statuses {
			answered[status]++
		}
	}
	if ack == config.AckJournal {
		require.Equal(t, accepted, answered[answer])
	}
	require.Equal(t, sent, answered[http.StatusAccepted]+answered[http.StatusOK], "only 202 and 200: %v", answered)
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
	}, bound, 20*time.Millisecond)
	p.terminate(t)

	// strace is done a moment after what it traces has ended.
	var text []byte
	require.Eventually(t, func() bool {
		var err error
		text, err = os.ReadFile(trace)
		require.NoError(t, err)
		return bytes.HasSuffix(bytes.TrimSpace(text), []byte("+++ exited with 0 +++")) &&
			bytes.Contains(text[max(0, len(text)-200):], fmt.Appendf(nil, "%d ", p.cmd.Process.Pid))
	}, bound, 50*time.Millisecond)
	calls, err := parseTrace(bytes.NewReader(text))
	require.NoError(t, err)
	judgeAll := func(p promises) (told int) {
		told, broken := judge(calls, p)
		require.Empty(t, broken[:min(len(broken), 5)], "%d of %d", len(broken), told)
		return told
	}
	if ack == config.AckJournal {
		require.Equal(t, sent, judgeAll(journalPromises()), "every answer is in the trace")
		require.Positive(t, judgeAll(streamPromises(false)))
	} else {
		require.Equal(t, 2*sent, judgeAll(streamPromises(true)), "every answer is in the trace")
	}
	t.Logf("%d webhooks, %d answers, %d system calls", accepted, sent, len(calls))
}
