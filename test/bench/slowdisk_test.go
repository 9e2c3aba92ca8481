//go:build linux

package bench

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	needs "github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

const (
	// syncDelay is how much longer each fsync takes on the slow disk, slowSenders how many connections there are, and
	// slowLag how many webhooks may be accepted and not delivered.
	syncDelay   = 10 * time.Millisecond
	slowSenders = 64
	slowLag     = 1000
	// slowRate is how many webhooks a second come while the answers are timed.
	slowRate = 1000
)

// slowDisk returns what makes every sync of a program that is started behind it take longer. Only these calls are
// stopped, so that the rest of the program is as fast as it is.
func slowDisk(t *testing.T) []string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		needs.Lacks(t, "strace, which makes the disk slow, is not installed")
	}
	const calls = "fsync,fdatasync,syncfs"
	behind := []string{
		strace, "-D", "-f", "-q", "--seccomp-bpf", "-e", "trace=" + calls, "-e", "signal=none",
		"-e", fmt.Sprintf("inject=%s:delay_enter=%d", calls, syncDelay.Microseconds()), "-o", "/dev/null",
	}
	if out, err := exec.Command(behind[0], append(behind[1:], "true")...).CombinedOutput(); err != nil {
		needs.Lacks(t, "strace may not trace here: %v %s", err, out)
	}
	return behind
}

// slowDiskRow is what goes on for ever into the embedded server on a slow disk.
type slowDiskRow struct {
	Ack       string   `json:"ack"`
	Accepted  float64  `json:"accepted_webhooks_per_second"`
	Delivered float64  `json:"delivered_events_per_second"`
	Latency   *latency `json:"latency"`
}

// measureSlowDisk has each way to acknowledge go on for ever with the embedded server.
func measureSlowDisk(t *testing.T, b *bench, r *results) {
	behind := slowDisk(t)
	for _, ack := range []string{"journal", "sinks"} {
		p := b.start(t, t.TempDir(), map[string]string{"ACK": ack}, behind...)
		nc, err := natsgo.Connect(p.log.nats, natsgo.Timeout(patience))
		require.NoError(t, err)
		js, err := natsjs.New(nc, natsjs.WithDefaultTimeout(patience))
		require.NoError(t, err)
		var stream natsjs.Stream
		require.Eventually(t, func() bool {
			stream, err = js.Stream(t.Context(), "TENSORLAKE")
			return err == nil
		}, patience, pollInterval, "the bridge does not make its stream")
		o := &natsOutlet{stream: stream}
		g := newGate(slowLag)
		l := startClosedLoop(newSender(t, p.log.url, slowSenders, eventsEach), slowSenders, g)
		during := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); last(t, pollInterval) {
				g.deliver(o.stored(t) / eventsEach)
			}
		}
		during(b.Warm)
		accepted, stored, began := l.accepted.Load(), o.stored(t), time.Now()
		during(b.Round)
		seconds := time.Since(began).Seconds()
		row := &slowDiskRow{
			Ack: ack, Accepted: float64(l.accepted.Load()-accepted) / seconds,
			Delivered: float64(o.stored(t)-stored) / seconds,
		}
		r.SlowDisk = append(r.SlowDisk, row)
		total := l.end(t)
		awaitStored(t, []outlet{o}, eventsEach*total)
		steady := runOpenLoop(newSender(t, p.log.url, slowSenders, eventsEach), slowRate, b.Latency, nil)
		steady.mustBeTaken(t)
		row.Latency = newLatency(steady.answered)
		awaitStored(t, []outlet{o}, eventsEach*(total+len(steady.due)))
		nc.Close()
		p.stop(t)
	}
}

func (r *results) writeSlowDisk(w *writer) {
	if len(r.SlowDisk) == 0 {
		return
	}
	w.text("## On a slow disk")
	w.text("Each fsync of the bridge takes %s longer (strace delays it, and no other call). %d senders, each of which "+
		"sends when it has its answer, post webhooks of two events; the embedded NATS server stores them. Senders "+
		"wait while more than %d webhooks are accepted and not delivered, so that it could go on for ever. Then "+
		"%d webhooks a second come over as many connections, and their answers are timed.",
		syncDelay, slowSenders, slowLag, slowRate)
	rows := [][]string{{
		"`FNBRIDGE_ACK`", "webhooks accepted a second", "events delivered a second", "p50 ms of an answer", "p99 ms",
	}}
	for _, s := range r.SlowDisk {
		rows = append(rows, []string{s.Ack, whole(s.Accepted), whole(s.Delivered), ms(s.Latency.P50), ms(s.Latency.P99)})
	}
	w.table(rows...)
}
