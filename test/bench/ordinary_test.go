//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// bareVariable makes the test's binary the bare program. It holds where that listens, the server's URL, and the stream.
const bareVariable = "FNBRIDGE_TEST_BARE"

// serveBare takes a workflow's webhook, publishes its events, and answers when they are acknowledged: the least that
// such a program does. It checks no signature and keeps nothing.
func serveBare(options string) error {
	address, rest, _ := strings.Cut(options, " ")
	url, stream, _ := strings.Cut(rest, " ")
	nc, err := natsgo.Connect(url, natsgo.Timeout(patience))
	if err != nil {
		return err
	}
	js, err := natsjs.New(nc)
	if err != nil {
		return err
	}
	e := echo.New()
	e.POST("/webhooks/tensorlake", func(c echo.Context) error {
		var w struct {
			Workflow   string            `json:"workflow_name"`
			Invocation string            `json:"invocation_id"`
			Functions  map[string]string `json:"fn_status"`
		}
		if err := json.NewDecoder(c.Request().Body).Decode(&w); err != nil {
			return err
		}
		id := c.Request().Header.Get("svix-id")
		acks := make([]natsjs.PubAckFuture, 0, len(w.Functions))
		for function, status := range w.Functions {
			data, err := json.Marshal(map[string]string{
				"workflow_name": w.Workflow, "invocation_id": w.Invocation, "function": function, "status": status,
			})
			if err != nil {
				return err
			}
			m := natsgo.NewMsg(stream + "." + w.Workflow + "." + function + "." + status)
			m.Data = data
			m.Header.Set(natsjs.MsgIDHeader, id+function)
			m.Header.Set("ce-webhookid", id)
			ack, err := js.PublishMsgAsync(m)
			if err != nil {
				return err
			}
			acks = append(acks, ack)
		}
		for _, ack := range acks {
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				return err
			}
		}
		return c.JSON(http.StatusAccepted, map[string]any{"webhook_id": id, "events": len(acks)})
	})
	server := &http.Server{Addr: address, Handler: e, ReadHeaderTimeout: time.Minute}
	return server.ListenAndServe()
}

// startBare starts the bare program before a stream.
func startBare(t *testing.T, o *natsOutlet) (p process, url string) {
	t.Helper()
	binary, err := os.Executable()
	require.NoError(t, err)
	address := reserveAddress(t)
	cmd := exec.Command(binary)
	cmd.Env = []string{bareVariable + "=" + address + " " + o.broker.url + " " + o.name}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	p = start(t, cmd)
	url = "http://" + address + "/webhooks/tensorlake"
	awaitListener(t, address)
	return p, url
}

// cpuExactly is the processor time that the process has used, to the nanosecond.
func (p process) cpuExactly(t *testing.T) time.Duration {
	t.Helper()
	// The clock of a process is its id, inverted, before the kind of the clock (CPUCLOCK_SCHED).
	clock := ^p.PID<<3 | 2
	var used unix.Timespec
	require.NoError(t, unix.ClockGettime(int32(clock), &used))
	return time.Duration(used.Nano())
}

// ordinaryRow is what a webhook costs at a rate.
type ordinaryRow struct {
	Rate    int       `json:"webhooks_per_second"`
	CPU     []float64 `json:"cpu_us_per_webhook"`
	Bare    []float64 `json:"bare_program_cpu_us_per_webhook"`
	Ratios  []float64 `json:"ratio"`
	Commits []float64 `json:"commits_per_webhook"`
}

// measureOrdinary looks at what a webhook costs at the rates that most bridges see, by turns with the bare program.
func measureOrdinary(t *testing.T, b *bench, r *results) {
	o, ok := b.nats.open(t).(*natsOutlet)
	require.True(t, ok)
	p := b.start(t, t.TempDir(), environment(o))
	bare, bareURL := startBare(t, o)
	toBridge, toBare := newSender(t, p.log.url, openWorkers, eventsEach), newSender(t, bareURL, openWorkers, eventsEach)
	b.warm(t, toBridge, b.Ordinary[len(b.Ordinary)-1])
	b.warm(t, toBare, b.Ordinary[len(b.Ordinary)-1])
	const commits = "fnbridge_journal_commit_duration_seconds_count"
	for _, rate := range b.Ordinary {
		row := &ordinaryRow{Rate: rate}
		r.Ordinary = append(r.Ordinary, row)
		for range b.Rounds {
			wait := b.profile(t, p, fmt.Sprintf("ordinary-%d", rate), b.Round)
			stored, committed, used := o.stored(t), p.metric(t, commits), p.cpuExactly(t)
			l := runOpenLoop(toBridge, rate, b.Round, nil)
			awaitStored(t, []outlet{o}, stored+eventsEach*len(l.due))
			cpu := (p.cpuExactly(t) - used).Seconds() * 1e6 / float64(len(l.due))
			row.Commits = append(row.Commits, (p.metric(t, commits)-committed)/float64(len(l.due)))
			wait()
			l.mustBeTaken(t)
			used = bare.cpuExactly(t)
			l = runOpenLoop(toBare, rate, b.Round, nil)
			l.mustBeTaken(t)
			least := (bare.cpuExactly(t) - used).Seconds() * 1e6 / float64(len(l.due))
			row.CPU, row.Bare = append(row.CPU, cpu), append(row.Bare, least)
			row.Ratios = append(row.Ratios, per(cpu, least))
		}
	}
	p.stop(t)
	o.drop(t)
}

func (r *results) writeOrdinary(w *writer) {
	if len(r.Ordinary) == 0 {
		return
	}
	w.text("## What a webhook costs at ordinary rates")
	w.text("Webhooks of two events come at a fixed rate for %s, and go to a NATS server of its own process. The bare "+
		"program only takes the request, publishes its events and answers when they are acknowledged. Both take turns, "+
		"%d times each. A commit of the journal is one fsync.", r.Scale.Round, r.Scale.Rounds)
	rows := [][]string{{"webhooks a second", "CPU µs a webhook", "bare program", "ratio", "commits a webhook"}}
	for _, o := range r.Ordinary {
		rows = append(rows, []string{
			fmt.Sprint(o.Rate), spread(o.CPU, whole), spread(o.Bare, whole), spread(o.Ratios, ratio), spread(o.Commits, ratio),
		})
	}
	w.table(rows...)
}
