package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// runMain makes a process of the test binary the program itself.
const runMain = "FNBRIDGE_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		os.Unsetenv(runMain)
		main()
		return
	}
	os.Exit(m.Run())
}

// shell is a directory and an environment in which commands run.
type shell struct {
	t    *testing.T
	dir  string
	env  []string
	host string // that serve listens on, 127.0.0.1 or all
	// Where the last serve listens: the kernel chose the ports, so that no other process has them.
	httpd, ops, nats string
}

func newShell(t *testing.T, env ...string) *shell {
	t.Helper()
	s := &shell{t: t, dir: t.TempDir(), host: "127.0.0.1"}
	s.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "GORACE=" + os.Getenv("GORACE"), runMain + "=1", "FNBRIDGE_DRAIN=0s",
	}, env...)
	s.listen(0, 0, 0)
	return s
}

// listen sets the ports of the listeners in the environment.
func (s *shell) listen(public, ops, nats int) {
	s.env = append(s.env,
		fmt.Sprintf("FNBRIDGE_LISTEN=%s:%d", s.host, public),
		fmt.Sprintf("FNBRIDGE_OPS_LISTEN=%s:%d", s.host, ops),
		fmt.Sprintf("FNBRIDGE_EMBEDDED_NATS_LISTEN=%s:%d", s.host, nats))
}

func (s *shell) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), os.Args[0], args...)
	cmd.Dir = s.dir
	cmd.Env = s.env
	return cmd
}

// run runs a command to its end.
func (s *shell) run(args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	return s.runWith("", args...)
}

func (s *shell) runWith(stdin string, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if err != nil {
		var ended *exec.ExitError
		require.ErrorAs(s.t, err, &ended)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// process is a command that goes on running.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of its standard output
	ended chan error
}

// start starts a command whose output lines are read one by one.
func (s *shell) start(args ...string) *process {
	s.t.Helper()
	cmd := s.command(args...)
	out, err := cmd.StdoutPipe()
	require.NoError(s.t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(s.t, cmd.Start())
	p := &process{t: s.t, cmd: cmd, lines: make(chan string, 10_000), ended: make(chan error, 1)}
	go func() {
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			select {
			case p.lines <- scanner.Text():
			default: // nobody reads that far
			}
		}
		close(p.lines)
		p.ended <- cmd.Wait()
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = p.wait(s.t)
	})
	return p
}

// line waits for a line that matches.
func (p *process) line(pattern string) string {
	p.t.Helper()
	want := regexp.MustCompile(pattern)
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	var seen []string
	for {
		select {
		case line, ok := <-p.lines:
			if ok && want.MatchString(line) {
				return line
			}
			seen = append(seen, line)
			if !ok {
				require.FailNow(p.t, "the process ended", "no line matched %s:\n%s", pattern, strings.Join(seen, "\n"))
			}
		case <-timeout.C:
			require.FailNow(p.t, "no such line", "%s in:\n%s", pattern, strings.Join(seen, "\n"))
		}
	}
}

// signal sends a signal, waits for the end and returns the exit code.
func (p *process) signal(s syscall.Signal) int {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
	return p.wait(p.t)
}

// wait waits for the end and returns the exit code. It can be called again.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case err := <-p.ended:
		p.ended <- err
	case <-time.After(within):
		require.FailNow(t, "the process does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (s *shell) serve() *process {
	s.t.Helper()
	s.listen(0, 0, 0)
	p := s.start("serve")
	var ready struct {
		Webhooks, Operations string
		EmbeddedNATS         string `json:"embedded_nats"`
	}
	require.NoError(s.t, json.Unmarshal([]byte(p.line("fnbridge is ready")), &ready))
	public, ops, nats := portOf(s.t, ready.Webhooks), portOf(s.t, ready.Operations), portOf(s.t, ready.EmbeddedNATS)
	s.httpd, s.nats = fmt.Sprintf("127.0.0.1:%d", public), fmt.Sprintf("127.0.0.1:%d", nats)
	s.ops = fmt.Sprintf("127.0.0.1:%d", ops)
	s.listen(public, ops, nats)
	return p
}

// portOf returns the port of a URL, 0 if it has none.
func portOf(t *testing.T, address string) int {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	port, _ := strconv.Atoi(u.Port())
	return port
}

// delivered is the line of a sink that is up and has everything.
var delivered = regexp.MustCompile(`(?m)^nats\s+up\s+0 webhooks`)

func TestTheFirstMinute(t *testing.T) {
	s := newShell(t)
	bridge := s.serve()
	tail := s.start("tail", "--all")

	out, errs, exit := s.run("send")
	require.Equal(t, 0, exit, errs)
	require.Regexp(t, `^202 Accepted  msg_\w+  2 events\n$`, out)
	require.Contains(t, tail.line(`tensorlake\.workflow\.workflow_XXXX\.fn_A\.success`), `"function":"fn_A"`)
	require.Contains(t, tail.line(`tensorlake\.workflow\.workflow_XXXX\.fn_B\.failure`), `"status":"failure"`)
	require.Equal(t, 0, tail.signal(syscall.SIGINT))

	require.Eventually(t, func() bool {
		out, errs, exit = s.run("status")
		require.Equal(t, 0, exit, errs)
		return delivered.MatchString(out)
	}, within, 20*time.Millisecond)

	out, errs, exit = s.run("check")
	require.Equal(t, 0, exit, out+errs)
	require.Contains(t, out, "sink nats (nats)  ok")
	_, errs, exit = s.run("check", "--live")
	require.Equal(t, 0, exit, errs)

	out, _, exit = s.run("dead-letters", "list")
	require.Equal(t, 0, exit)
	require.Equal(t, "No dead letters.\n", out)

	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	_, _, exit = s.run("check", "--live")
	require.Equal(t, 1, exit)
}

func TestSendShowsWhatTheBridgeAnswers(t *testing.T) {
	s := newShell(t)
	_, errs, exit := s.run("send")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "FNBRIDGE_WEBHOOK_SECRETS", "before the first start there is no secret")
	bridge := s.serve()

	out, _, exit := s.run("send", "--repeat", "--id", "msg_again")
	require.Equal(t, 0, exit)
	require.Equal(t, "202 Accepted  msg_again  2 events\n"+
		"200 OK  msg_again  was known already: a webhook of this id and body was accepted before, "+
		"and nothing is published again\n", out)
	out, _, exit = s.run("send", "--repeat", "--count", "20")
	require.Equal(t, 0, exit)
	require.Regexp(t, `^40 webhooks in .*: 20 accepted \(40 events\), 20 known already, 0 refused`, out)

	out, _, exit = s.runWith(`{"job_id":"job_1","status":"successful"}`, "send", "-")
	require.Equal(t, 0, exit)
	require.Contains(t, out, "1 event\n")

	path := filepath.Join(s.dir, "payload.json")
	require.NoError(t, os.WriteFile(path, []byte(`["not an object"]`), 0o600))
	out, _, exit = s.run("send", path)
	require.Equal(t, 1, exit)
	require.Contains(t, out, "400 Bad Request")

	out, errs, exit = s.run("send", "--count", "25", "--rate", "500")
	require.Equal(t, 0, exit, errs)
	require.Regexp(t, `^25 webhooks in .*: 25 accepted \(50 events\), 0 known already, 0 refused`, out)

	out, _, exit = s.run("send", "--json")
	require.Equal(t, 0, exit)
	var answer struct{ Status, Events int }
	require.NoError(t, json.Unmarshal([]byte(out), &answer))
	require.Equal(t, 202, answer.Status)
	require.Equal(t, 2, answer.Events)

	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
	_, errs, exit = s.run("send")
	require.Equal(t, 1, exit)
	require.Equal(t, "fnbridge: nothing listens at http://"+s.httpd+"/webhooks/tensorlake: "+
		"start \"fnbridge serve\", or say with --url where the bridge is\n", errs)
}

func TestEverySampleIsSentWithIDsOfItsOwn(t *testing.T) {
	s := newShell(t)
	s.serve()
	out, errs, exit := s.run("send", "--list", "--json")
	require.Equal(t, 0, exit, errs)
	var samples []struct {
		Name  string
		Types []string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &samples))
	lines, _, exit := s.run("send", "--list")
	require.Equal(t, 0, exit)
	var want []string
	for _, sample := range samples {
		require.Regexp(t, `(?m)^`+sample.Name+` .* `+sample.Types[0], lines)
		out, errs, exit := s.run("send", "--sample", sample.Name, "--count", "2")
		require.Equal(t, 0, exit, errs)
		require.Contains(t, out, "2 accepted")
		want = append(want, append(sample.Types, sample.Types...)...)
	}
	require.Contains(t, want, "tensorlake.application.request.failed")

	out, errs, exit = s.run("tail", "--all", "--json", "--count", strconv.Itoa(len(want)))
	require.Equal(t, 0, exit, errs)
	var types []string
	ids := map[string]bool{}
	for line := range strings.Lines(out) {
		var received struct {
			Event struct{ ID, Type string }
		}
		require.NoError(t, json.Unmarshal([]byte(line), &received))
		types = append(types, received.Event.Type)
		ids[received.Event.ID] = true
	}
	require.ElementsMatch(t, want, types)
	require.Len(t, ids, len(want))

	_, errs, exit = s.run("send", "--sample", "request-faild")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, `no sample is called "request-faild"; "fnbridge send --list" lists them`)
}

func TestTailPrintsCloudEventsForPrograms(t *testing.T) {
	s := newShell(t)
	s.serve()
	_, errs, exit := s.run("send")
	require.Equal(t, 0, exit, errs)
	out, errs, exit := s.run("tail", "--all", "--count", "2", "--json")
	require.Equal(t, 0, exit, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2)
	var first struct {
		Address string
		Event   struct {
			SpecVersion, Type, Source, Subject string
			Data                               struct{ Function string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &first))
	require.Equal(t, "tensorlake.workflow.workflow_XXXX.fn_A.success", first.Address)
	require.Equal(t, "1.0", first.Event.SpecVersion)
	require.Equal(t, "tensorlake.workflow.function.success", first.Event.Type)
	require.Equal(t, "fn_A", first.Event.Data.Function)
}

// Others may publish to the stream, too. Whatever their data is, programs can read each line.
func TestTailPrintsForProgramsWhatOthersHavePublished(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.serve()
	s.maxMessage(-1) // once the stream is there
	nc, js := s.jetStream()
	defer nc.Close()
	data := []string{"hello", "", "{\"a\":\"\xff\"}", "\xff"}
	for _, d := range data {
		m := nats.NewMsg("tensorlake.others")
		for name, value := range map[string]string{"specversion": "1.0", "id": "1", "source": "/others", "type": "other"} {
			m.Header.Set("ce-"+name, value)
		}
		m.Data = []byte(d)
		_, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	out := s.mustRun("tail", "--all", "--count", fmt.Sprint(len(data)), "--json")
	require.True(t, utf8.ValidString(out), "%q", out)
	var read []any
	for line := range strings.Lines(out) {
		var r struct{ Event struct{ Data any } }
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		read = append(read, r.Event.Data)
	}
	require.Equal(t, []any{"hello", nil, map[string]any{"a": "\ufffd"}, "\ufffd"}, read)
}

func TestAWrongConfigurationIsToldWhole(t *testing.T) {
	s := newShell(t, "FNBRIDGE_SINKS=nats,kafka", "FNBRIDGE_NATS_SUBJECT={nope}", "FNBRIDGE_RETENTION=soon")
	for _, command := range []string{"serve", "check", "tail"} {
		_, errs, exit := s.run(command)
		require.Equal(t, 2, exit, errs)
		for _, variable := range []string{"FNBRIDGE_KAFKA_BROKERS", "FNBRIDGE_NATS_SUBJECT", "FNBRIDGE_RETENTION"} {
			require.Contains(t, errs, variable)
		}
	}
}

func TestMistakesOnTheCommandLineEndWithTwo(t *testing.T) {
	s := newShell(t)
	for _, args := range [][]string{
		{"serv"},
		{"send", "--nope"},
		{"send", "a", "b"},
		{"send", "--count", "0"},
		{"send", "--sample", "workflow", "payload.json"},
		{"send", "--wait", "30s", "a", "b"},
		{"send", "--wait=soon"},
		{"send", "--wait=0s"},
		{"send", "--wait", "0s"},
		{"check", "--timeout", "0s"},
		{"check", "--timeout", "-1s"},
		{"tail", "--all", "--since", "1h"},
		{"dead-letters", "lst"},
		{"send", "--rate", "2e9"},
		{"send", "--rate", "NaN"},
		{"send", "--rate", "-1"},
		{"tail", "--count", "-1"},
		{"tail", "--since", "-1h"},
		{"dead-letters", "list", "--limit", "0"},
		{"dead-letters", "list", "one"},
		{"dead-letters", "list", "--since", "yesterday"},
		{"dead-letters", "list", "--since", "-2h"},
		{"dead-letters", "list", "--since", "1h", "--until", "2h"},
		{"dead-letters", "show"},
		{"dead-letters", "retry"},
		{"dead-letters", "retry", "--all", "--sink", "nats"},
		{"dead-letters", "drop", "--yes"},
		{"sinks", "lst"},
		{"sinks", "forget", "--yes"},
		{"sinks", "forget", "audit"},
		{"sinks", "rename", "audit"},
		{"sinks", "rename", "audit", "no-dashes"},
		{"replay"},
		{"replay", "--until", "1h"},
		{"replay", "--all", "--since", "1h"},
		{"replay", "--all", "--rate", "-1"},
		{"replay", "--all", "--rate", "NaN"},
		{"replay", "--all", "--rate", "Inf"},
		{"replay", "--all", "--rate", "1e-12"},
		{"journal", "exprt"},
		{"journal", "export", "--after", "-1"},
		{"send", "--from-export", "-", "payload.json"},
		{"send", "--from-export", "-", "--id", "msg_1"},
		{"send", "--from-export", "-", "--sample", "workflow"},
		{"send", "--from-export", "-", "--wait", "30s"},
		{"send", "--from-line", "3"},
	} {
		_, errs, exit := s.run(args...)
		require.Equal(t, 2, exit, "%v: %s", args, errs)
		require.Contains(t, errs, "--help")
	}
	_, errs, _ := s.run("send", "--rate", "-1")
	require.Contains(t, errs, "--rate must be from 0.001 to 1000000 webhooks a second; 0: no limit")
}

func TestEnvAndVersion(t *testing.T) {
	s := newShell(t)
	out, _, exit := s.run("env")
	require.Equal(t, 0, exit)
	require.Contains(t, out, "FNBRIDGE_WEBHOOK_SECRETS")
	out, _, exit = s.run("env", "--json")
	require.Equal(t, 0, exit)
	require.True(t, json.Valid([]byte(out)))
	out, _, exit = s.run("version")
	require.Equal(t, 0, exit)
	require.Regexp(t, `^fnbridge \S+`, out)
}

func TestTheReadmeHasEveryCommand(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	out, _, exit := newShell(t).run("--help")
	require.Equal(t, 0, exit)
	_, list, ok := strings.Cut(out, "Available Commands:\n")
	require.True(t, ok, out)
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		if name := strings.Fields(line)[0]; name != "help" && name != "completion" {
			require.Contains(t, string(readme), "\n| `fnbridge "+name, "the table of commands")
		}
	}
}

func TestCheckTellsWhyASinkCannotBePublishedTo(t *testing.T) {
	s := newShell(t, "FNBRIDGE_NATS_URL=nats://someone:hunter2@127.0.0.1:1") // nobody listens on port 1
	out, errs, exit := s.run("check", "--timeout", "2s")
	require.Equal(t, 1, exit, errs)
	require.Contains(t, out, "sink nats (nats)  cannot be published to, though that may pass by itself")
	require.NotContains(t, out+errs, "hunter2")
}

func TestCheckCreatesTheTopicAndWarnsOfWhatItWouldLose(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := newShell(t, "FNBRIDGE_SINKS=kafka", "FNBRIDGE_KAFKA_BROKERS="+c.ListenAddrs()[0],
		"FNBRIDGE_KAFKA_CREATE_TOPIC=true", "FNBRIDGE_KAFKA_REPLICATION_FACTOR=1")
	out, errs, exit := s.run("check")
	require.Equal(t, 0, exit, "%s%s", out, errs)
	require.Contains(t, out, "sink kafka (kafka)  ok\n")
	require.Contains(t, out, `warning: topic "tensorlake-events": the Kafka topic has one replica`)
}

// workflowPayload has the invocation left out.
const workflowPayload = `{"workflow_name": "workflow_XXXX", "invocation_id": "%s", ` +
	`"fn_status": {"fn_A": "success", "fn_B": "failure"}}`

// ledger is what the bridge has accepted.
type ledger struct {
	mu          sync.Mutex
	invocations []string
	reached     chan struct{} // closed once it has as many entries as load was asked to wait for
}

// load sends webhooks from several senders until stop, and writes down each that was answered with 2xx.
func (s *shell) load(ctx context.Context, secret, run string, wait int) (*ledger, *sync.WaitGroup) {
	l := &ledger{reached: make(chan struct{})}
	var senders sync.WaitGroup
	for n := range 8 {
		senders.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: within}
			defer client.CloseIdleConnections()
			for i := 0; i < 10_000 && ctx.Err() == nil; i++ {
				invocation := fmt.Sprintf("%s_%d_%d", run, n, i)
				if s.post(ctx, client, secret, invocation) {
					l.mu.Lock()
					l.invocations = append(l.invocations, invocation)
					if len(l.invocations) == wait {
						close(l.reached)
					}
					l.mu.Unlock()
				}
			}
		})
	}
	return l, &senders
}

func (s *shell) post(ctx context.Context, client *http.Client, secret, invocation string) (accepted bool) {
	body := fmt.Appendf(nil, workflowPayload, invocation)
	header, err := tensorlake.Sign(secret, "msg_"+invocation, time.Now(), body)
	if err != nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.httpd+"/webhooks/tensorlake",
		bytes.NewReader(body))
	if err != nil {
		return false
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusAccepted
}

// within bounds what a test waits for on a machine that does much else.
const within = 60 * time.Second

// jetStream returns that of the embedded server, and the connection to close.
func (s *shell) jetStream() (*nats.Conn, natsjs.JetStream) {
	s.t.Helper()
	nc, err := nats.Connect("nats://"+s.nats, nats.Timeout(within))
	require.NoError(s.t, err)
	js, err := natsjs.New(nc, natsjs.WithDefaultTimeout(within))
	require.NoError(s.t, err)
	return nc, js
}

// stored returns the subjects of all events in the embedded server's stream, once there are at least n.
func (s *shell) stored(n int) map[string]bool {
	s.t.Helper()
	nc, js := s.jetStream()
	defer nc.Close()
	consumer, err := js.OrderedConsumer(s.t.Context(), "TENSORLAKE", natsjs.OrderedConsumerConfig{})
	require.NoError(s.t, err)
	found := map[string]bool{}
	deadline := time.Now().Add(within)
	for len(found) < n && time.Now().Before(deadline) {
		batch, err := consumer.Fetch(500, natsjs.FetchMaxWait(time.Second))
		require.NoError(s.t, err)
		for m := range batch.Messages() {
			found[m.Headers().Get("ce-subject")] = true
		}
	}
	return found
}

func TestWhateverEndsTheProcessLosesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		signal syscall.Signal
		exit   int
	}{
		"SIGTERM": {syscall.SIGTERM, 0},
		"SIGHUP":  {syscall.SIGHUP, 0},
		"SIGKILL": {syscall.SIGKILL, -1},
	} {
		t.Run(name, func(t *testing.T) {
			c := make(chan os.Signal, 1)
			signal.Notify(c, tc.signal) // a test under nohup would start processes that ignore SIGHUP
			defer signal.Stop(c)
			const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
			s := newShell(t, "FNBRIDGE_WEBHOOK_SECRETS="+secret)
			var accepted []string
			for round := range 3 {
				bridge := s.serve()
				ctx, stop := context.WithCancel(t.Context())
				l, senders := s.load(ctx, secret, fmt.Sprintf("run%d", round), 200)
				select {
				case <-l.reached:
				case <-time.After(within):
					require.FailNow(t, "too few webhooks were accepted")
				}
				require.Equal(t, tc.exit, bridge.signal(tc.signal))
				stop()
				senders.Wait()
				accepted = append(accepted, l.invocations...)
			}
			s.serve()
			found := s.stored(2 * len(accepted))
			for _, invocation := range accepted {
				for _, function := range []string{"fn_A", "fn_B"} {
					require.True(t, found[invocation+"/"+function],
						"%s of %s was accepted and is not in the stream", function, invocation)
				}
			}
		})
	}
}

func TestCommandsFindWhatListensOnAllInterfaces(t *testing.T) {
	s := newShell(t)
	s.host = ""
	s.serve()
	for _, args := range [][]string{{"send"}, {"check"}, {"check", "--live"}, {"tail", "--all", "--count", "1"}} {
		out, errs, exit := s.run(args...)
		require.Equal(t, 0, exit, "%v: %s%s", args, out, errs)
	}

	// Others reach the embedded NATS server, so it asks for a token, which the commands have found.
	file := filepath.Join(s.dir, "data", "nats-token")
	token, err := os.ReadFile(file)
	require.NoError(t, err)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	_, err = nats.Connect("nats://"+s.nats, nats.Timeout(within))
	require.ErrorIs(t, err, nats.ErrAuthorization)
	nc, err := nats.Connect("nats://"+s.nats, nats.Timeout(within), nats.Token(strings.TrimSpace(string(token))))
	require.NoError(t, err)
	nc.Close()
}

func TestATokenThatIsNone(t *testing.T) {
	for token, why := range map[string]string{
		"short": "fewer than 16 characters", "with white space in it": "white space", "$2a$11$aaaaaaaaaaaaaaaaaa": "digest",
	} {
		_, errs, exit := newShell(t, "FNBRIDGE_EMBEDDED_NATS_TOKEN="+token).run("check")
		require.Equal(t, 2, exit)
		require.Contains(t, errs, "FNBRIDGE_EMBEDDED_NATS_TOKEN")
		require.Contains(t, errs, why)
		require.NotContains(t, errs, token)
	}
}

func TestTailPrintsAnEventInALineThatATerminalCanTake(t *testing.T) {
	s := newShell(t)
	s.serve()
	_, errs, exit := s.runWith(
		"{\n\t\"job_id\": \"job_1\",\r\n  \"status\": \"success\", \"note\": \"\\u001b \u202e\"\n}\n", "send", "-")
	require.Equal(t, 0, exit, errs)
	out, errs, exit := s.run("tail", "--all", "--count", "1")
	require.Equal(t, 0, exit, errs)
	require.Equal(t, 1, strings.Count(out, "\n"))
	require.Contains(t, out, `{"job_id":"job_1","status":"success","note":"\u001b `+"\uFFFD"+`"}`)
}

func TestTailReadsFromKafka(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "tensorlake-events"))
	require.NoError(t, err)
	defer cluster.Close()
	s := newShell(t, "FNBRIDGE_SINKS=kafka", "FNBRIDGE_KAFKA_BROKERS="+cluster.ListenAddrs()[0])
	s.serve()
	out, errs, exit := s.run("check")
	require.Equal(t, 0, exit, out+errs)
	_, errs, exit = s.runWith(fmt.Sprintf(workflowPayload, "invocation_XXXX"), "send", "-")
	require.Equal(t, 0, exit, errs)
	out, errs, exit = s.run("tail", "--all", "--count", "2")
	require.Equal(t, 0, exit, errs)
	require.Regexp(t,
		`(?m)^\S+  tensorlake-events/\d@0  `+
			`\{"workflow_name":"workflow_XXXX","invocation_id":"invocation_XXXX","function":"fn_A"`, out)
	out, errs, exit = s.run("tail", "--sink", "kafka", "--since", "1h", "--count", "1", "--json")
	require.Equal(t, 0, exit, errs)
	require.Contains(t, out, `"key":"invocation_XXXX"`)
	_, errs, exit = s.run("tail", "--sink", "nats")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, "FNBRIDGE_SINKS has kafka")
}

func TestStatusAndDeadLettersOfADirectoryThatHasNone(t *testing.T) {
	s := newShell(t)
	for _, args := range [][]string{
		{"status"},
		{"dead-letters", "list"},
		{"dead-letters", "show", "1"},
		{"dead-letters", "retry", "--all"},
		{"dead-letters", "drop", "--all", "--yes"},
		{"sinks", "list"},
		{"sinks", "forget", "audit", "--yes"},
		{"sinks", "rename", "audit", "events"},
		{"replay", "--all", "--dry-run"},
		{"journal", "verify"},
		{"journal", "export"},
		{"journal", "export", "--output", "webhooks.jsonl"},
	} {
		_, errs, exit := s.run(args...)
		require.Equal(t, 1, exit)
		require.Contains(t, errs, "there is no journal in")
	}
	require.NoDirExists(t, filepath.Join(s.dir, "data"), "reading makes nothing")
	require.NoFileExists(t, filepath.Join(s.dir, "webhooks.jsonl"))
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "data"), 0o700))
	require.NoError(t,
		os.WriteFile(filepath.Join(s.dir, "data", "journal.db"), []byte(strings.Repeat("not a database\n", 1000)), 0o600))
	for _, command := range []string{"status", "serve"} {
		_, errs, exit := s.run(command)
		require.Equal(t, 1, exit)
		require.Contains(t, errs, "damaged")
	}
}

func TestCommandsWithoutAJournal(t *testing.T) {
	s := newShell(t, "FNBRIDGE_ACK=sinks")
	for _, args := range [][]string{
		{"dead-letters", "list"},
		{"dead-letters", "retry", "--all"},
		{"dead-letters", "drop", "--all", "--yes"},
		{"sinks", "list"},
		{"sinks", "forget", "audit", "--yes"},
		{"sinks", "rename", "audit", "events"},
		{"replay", "--all"},
		{"replay", "--all", "--dry-run"},
		{"journal", "verify"},
		{"journal", "export"},
	} {
		_, errs, exit := s.run(args...)
		require.Equal(t, 1, exit, "%v", args)
		require.Contains(t, errs, "with FNBRIDGE_ACK=sinks there is no journal", "%v", args)
	}
	_, errs, exit := s.run("status")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "the bridge does not answer at FNBRIDGE_OPS_LISTEN")

	bridge := s.serve()
	require.Eventually(t, func() bool {
		out, _, _ := s.run("status", "--json")
		return strings.Contains(out, `"ready": true`)
	}, within, 20*time.Millisecond)
	out, errs, exit := s.run("send")
	require.Equal(t, 0, exit, errs)
	require.Regexp(t, `^200 OK  msg_\w+  2 events\n$`, out)
	out, errs, exit = s.run("status")
	require.Equal(t, 0, exit, errs)
	require.Regexp(t, `(?m)^bridge    running \(\S+\), ready$`, out)
	require.Regexp(t, `(?m)^nats\s+up\s+yes\s+0 webhooks\s+0 events\s+-$`, out)
	p := s.start("status", "--watch")
	p.line(`^accepted  \S+ webhooks/s, 1 since the start, the last one \d+s ago$`)
	p.line(`^SINK +STATE +EVENTS/S +UNDER WAY +REQUIRED +MISSED$`)
	p.line(`^nats +up +\S+ +0 +yes +0$`)
	require.Equal(t, 0, p.signal(syscall.SIGINT))
	require.Equal(t, 0, bridge.signal(syscall.SIGTERM))
}

func TestSendWaitsForTheEventsAtEverySink(t *testing.T) {
	s := newShell(t)
	s.serve()
	for _, wait := range [][]string{{"--wait"}, {"--wait", "30s"}, {"--wait=30s"}} {
		out, errs, exit := s.run(append([]string{"send"}, wait...)...)
		require.Equal(t, 0, exit, errs)
		require.Regexp(t, `^202 Accepted  msg_\w+  2 events\nsink nats has 2 events after [0-9.]+ s\n$`, out)
	}

	out, errs, exit := s.run("send", "--wait", "30s", "--json")
	require.Equal(t, 0, exit, errs)
	var arrived struct {
		Sink            string
		Events, Missing int
	}
	require.NoError(t, json.Unmarshal([]byte(strings.Split(out, "\n")[1]), &arrived), out)
	require.Equal(t, "nats", arrived.Sink)
	require.Equal(t, 2, arrived.Events)
	require.Zero(t, arrived.Missing)

	out, errs, exit = s.runWith(`{"job_id":"job_1","status":"successful"}`, "send", "--wait", "30s", "-")
	require.Equal(t, 0, exit, errs)
	require.Contains(t, out, "sink nats has 1 event after")

	// Of what was known already nothing is published, and so nothing waited for.
	out, errs, exit = s.run("send", "--repeat", "--wait", "30s")
	require.Equal(t, 0, exit, errs)
	require.Equal(t, 1, strings.Count(out, "sink nats"))
	require.Contains(t, out, "was known already")

	_, errs, exit = s.run("send", "--count", "2", "--wait", "1s")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, "--wait goes with one webhook")

	s.env = append(s.env, "FNBRIDGE_SUMMARY_EVENTS=true")
	out, _, exit = s.run("send", "--wait")
	require.Equal(t, 1, exit)
	require.Contains(t, out,
		"sink nats has 0 of 2 events: the bridge makes 2 events of this webhook, and this command 3: "+
			"give both the same FNBRIDGE_SUMMARY_EVENTS")

	s.env = append(s.env, "FNBRIDGE_NATS_FORMAT=plain")
	out, _, exit = s.run("send", "--wait", "30s")
	require.Equal(t, 1, exit)
	require.Contains(t, out, "plain format")
}

func TestSendNamesTheSinkThatLacksEvents(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1)) // and no topic
	require.NoError(t, err)
	defer cluster.Close()
	s := newShell(t, "FNBRIDGE_SINKS=kafka,nats", "FNBRIDGE_KAFKA_BROKERS="+cluster.ListenAddrs()[0])
	s.serve()
	out, _, exit := s.run("send", "--wait", "15s")
	require.Equal(t, 1, exit)
	require.Regexp(t, `^202 Accepted  msg_\w+  2 events
sink kafka has 0 of 2 events: not there after 15s\. "fnbridge status" and "fnbridge check" say what is wrong
sink nats has 2 events after [0-9.]+ s
$`, out)
}

func TestSendWaitsForBothEventsOfAFunctionThatIsThereTwice(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "tensorlake-events"))
	require.NoError(t, err)
	defer cluster.Close()
	s := newShell(t, "FNBRIDGE_SINKS=kafka", "FNBRIDGE_KAFKA_BROKERS="+cluster.ListenAddrs()[0])
	s.serve()
	out, errs, exit := s.runWith(
		`{"workflow_name":"w","invocation_id":"i","fn_status":{"fn_A":"success","fn_A":"success"}}`, "send", "-", "--wait=60s")
	require.Equal(t, 0, exit, out+errs)
	require.Contains(t, out, "sink kafka has 2 events after")
}

func TestSendTellsHowFarItCameWhenInterrupted(t *testing.T) {
	s := newShell(t)
	s.serve()
	p := s.start("send", "--count", "5", "--rate", "0.1")
	p.line("202 Accepted")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	p.line(`^1 webhook in .*: 1 accepted \(2 events\)`)
	p.line("interrupted after 1 of 5 webhooks")
	require.Equal(t, 1, p.wait(t))
}

// Whoever has a signed request can have it taken, so it goes to nobody but the one that was asked.
func TestSendFollowsNoRedirect(t *testing.T) {
	followed := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
	defer elsewhere.Close()
	asked := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer asked.Close()
	out, _, exit := newShell(t, "FNBRIDGE_WEBHOOK_SECRETS=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").
		run("send", "--url", asked.URL)
	require.Equal(t, 1, exit)
	require.Contains(t, out, "307 Temporary Redirect")
	require.False(t, followed)
}
