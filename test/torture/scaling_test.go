//go:build linux

package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
)

const (
	// scalingSenders is how many webhooks are under way at once: each sender has one, and the next when that is answered.
	scalingSenders = 64
	// scalingWarmUp is left out of what is measured.
	scalingWarmUp = 2 * time.Second
	// clockTicks is what the kernel counts processor time in, a second: USER_HZ, which is 100 on every architecture of
	// Linux that Go runs on.
	clockTicks = 100
)

// scaling is one thing to measure: so many bridges, in one mode, with one sink.
type scaling struct {
	ack     string
	sink    string
	bridges int
}

// scaled is what was measured.
type scaled struct {
	scaling
	webhooks   int
	rate       float64 // webhooks a second
	p50, p99   time.Duration
	memory     int64         // resident at most, of the largest bridge, in bytes
	bridge     time.Duration // processor time of all bridges, a webhook
	broker     time.Duration // and of the brokers' processes
	perPublish float64       // events that shared a call to the broker
	refused    int64
	waiting    float64 // webhooks that were answered and not yet at the sink, when the time was up
}

// TestScaling measures what bridges with a journal and bridges without one do on this machine, which has the brokers
// and the senders on it as well. It judges nothing but that every webhook is answered with 2xx.
func TestScaling(t *testing.T) {
	duration := option[time.Duration]("scaling")
	if duration == 0 {
		t.Skip("Skipped: it takes minutes. make scaling runs it.")
	}
	binary := buildBridge(t, false)
	var text strings.Builder
	fmt.Fprintf(&text,
		"make scaling SCALING=%s: %d processors for senders, bridges and brokers; %d senders, one event a webhook; %s\n\n",
		duration, runtime.NumCPU(), scalingSenders, runtime.Version())
	text.WriteString("| sink | `FNBRIDGE_ACK` | bridges | webhooks/s | p50 | p99 | memory of a bridge | processor time " +
		"a webhook: bridges | brokers | events a publish |\n")
	text.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	measureAll := func(t *testing.T, sink string, env []string, brokers []int) {
		t.Helper()
		for _, s := range []scaling{{"journal", sink, 1}, {"sinks", sink, 1}, {"sinks", sink, 2}, {"sinks", sink, 3}} {
			m := measure(t, s, binary, env, brokers, duration)
			if m.refused > 0 {
				t.Errorf("%v: %d webhooks were not answered with 2xx", s, m.refused)
			}
			broker := "–"
			if len(brokers) > 0 {
				broker = fmt.Sprintf("%d µs", m.broker.Microseconds())
			}
			line := fmt.Sprintf("| %s | %s | %d | %.0f | %.1f ms | %.1f ms | %d MiB | %d µs | %s | %.1f |\n", m.sink, m.ack,
				m.bridges, m.rate,
				m.p50.Seconds()*1000, m.p99.Seconds()*1000, m.memory>>20, m.bridge.Microseconds(), broker, m.perPublish)
			text.WriteString(line)
			fmt.Print(line)
			if s.ack == "journal" {
				fmt.Printf("(%.0f answered webhooks had still to be published at the end)\n", m.waiting)
			}
		}
	}
	t.Run("nats", func(t *testing.T) {
		env, brokers := startNATS(t).direct()
		measureAll(t, "nats", env, brokers)
	})
	t.Run("kafka", func(t *testing.T) {
		apachekafka.Require(t)
		// Its brokers are behind the proxies that faults need, which cost the machine a little as well.
		measureAll(t, "kafka", append([]string{"SINKS=kafka"}, startKafka(t).env()...), nil)
	})
	fmt.Print("\n", text.String())
	if directory := option[string]("torture.report"); directory != "" {
		require.NoError(t, os.MkdirAll(directory, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(directory, "scaling.md"), []byte(text.String()), 0o600))
	}
}

// direct is what a bridge needs to publish to the cluster without the proxies that faults need, and the servers'
// processes.
func (n *natsSide) direct() (env []string, pids []int) {
	var urls []string
	for _, s := range n.servers {
		urls = append(urls, "nats://"+s.address)
		pids = append(pids, s.child.PID)
	}
	return []string{
		"SINKS=nats", "NATS_URL=" + strings.Join(urls, ","), "NATS_USER=bridge", "NATS_PASSWORD=bridge",
		fmt.Sprintf("NATS_REPLICAS=%d", natsServers),
	}, pids
}

// measure runs the bridges, and senders, for so long.
func measure(t *testing.T, s scaling, binary string, env []string, brokers []int, duration time.Duration) scaled {
	t.Helper()
	m := scaled{scaling: s}
	ctx, cancel := context.WithTimeout(t.Context(), duration+2*recoveryLimit)
	defer cancel()
	env = append([]string{"WEBHOOK_SECRETS=" + secret, "ACK=" + s.ack, "LOG_FORMAT=text"}, env...)
	var bridges []*bridgeProcess
	for i := range s.bridges {
		directory := t.TempDir()
		own := append([]string{"DATA_DIR=" + filepath.Join(directory, "data")}, env...)
		bridges = append(bridges, newBridge(t, binary, filepath.Join(directory, fmt.Sprintf("bridge-%d.log", i)), own,
			t.Errorf))
	}
	for _, b := range bridges {
		b.start()
	}
	for _, b := range bridges {
		require.NoError(t, b.awaitReady(ctx))
		require.NoError(t, awaitUp(ctx, b))
	}
	var signers []*load
	for _, b := range bridges {
		signer, err := newLoad(b.url, newLedger(), t.Errorf)
		require.NoError(t, err)
		signers = append(signers, signer)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: scalingSenders}, Timeout: senderTimeout}
	defer client.CloseIdleConnections()

	var measuring atomic.Bool
	var refused atomic.Int64
	stop := make(chan struct{})
	times := make([][]time.Duration, scalingSenders)
	var senders sync.WaitGroup
	for n := range scalingSenders {
		senders.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("msg_%s_%s_%d_%d_%d", s.ack, s.sink, s.bridges, n, i)
				body := fmt.Appendf(nil,
					`{"workflow_name":"workflow_scaling","invocation_id":%q,"fn_status":{"function":"success"}}`, id)
				took, ok := post(ctx, client, signers[(n+i)%len(signers)], id, body)
				if !ok {
					refused.Add(1)
				}
				if measuring.Load() {
					times[n] = append(times[n], took)
				}
			}
		})
	}
	<-time.After(scalingWarmUp)
	before := counted(t, ctx, bridges, brokers)
	measuring.Store(true)
	begun := time.Now()
	<-time.After(duration)
	measuring.Store(false)
	took := time.Since(begun)
	after := counted(t, ctx, bridges, brokers)
	close(stop)
	senders.Wait()
	var every []time.Duration
	for _, some := range times {
		every = append(every, some...)
	}
	require.NotEmpty(t, every)
	slices.Sort(every)
	m.webhooks, m.rate = len(every), float64(len(every))/took.Seconds()
	m.p50, m.p99 = every[len(every)/2], every[len(every)*99/100]
	m.bridge = (after.bridges - before.bridges) / time.Duration(len(every))
	m.broker = (after.brokers - before.brokers) / time.Duration(len(every))
	m.perPublish = (after.events - before.events) / max(1, after.publications-before.publications)
	m.refused, m.waiting = refused.Load(), after.backlog
	for _, b := range bridges {
		b.sampleMemory()
		m.memory = max(m.memory, b.peakMemory())
		b.terminate(ctx)
	}
	return m
}

// post sends one webhook, and tells whether it was answered with 2xx.
func post(ctx context.Context, client *http.Client, signer *load, id string, body []byte) (
	took time.Duration, ok bool,
) {
	begun := time.Now()
	req, err := signer.request(ctx, id, body)
	if err != nil {
		return 0, false
	}
	resp, err := client.Do(req)
	if err != nil {
		return time.Since(begun), false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return time.Since(begun), err == nil && resp.StatusCode/100 == 2
}

// awaitUp waits until a bridge has reached its sink.
func awaitUp(ctx context.Context, b *bridgeProcess) error {
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	for {
		m, err := b.metrics(ctx)
		if err == nil && m.sum("fnbridge_sink_up") == 1 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("the sink is not reached: %w", ctx.Err()))
		}
	}
}

// counts are what bridges and brokers have counted since their start.
type counts struct {
	bridges, brokers              time.Duration // processor time
	events, publications, backlog float64
}

func counted(t *testing.T, ctx context.Context, bridges []*bridgeProcess, brokers []int) (c counts) {
	t.Helper()
	for _, b := range bridges {
		m, err := b.metrics(ctx)
		require.NoError(t, err)
		c.events += m.sum("fnbridge_events_total")
		c.publications += m.sum("fnbridge_publish_duration_seconds_count")
		c.backlog += m.sum("fnbridge_sink_backlog_webhooks")
		c.bridges += processorTime(t, b.current().PID)
	}
	for _, pid := range brokers {
		c.brokers += processorTime(t, pid)
	}
	return c
}

// processorTime is what a process has used so far, in user and kernel mode: proc_pid_stat(5), fields 14 and 15.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), ") ") // behind the name, which may hold anything
	require.True(t, ok)
	fields := strings.Fields(rest)
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks
}
