package app_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

//go:generate go test -run ^TestExamplesPage$ . -update

const (
	root         = "../.."
	examples     = "docs/examples"
	examplesPage = "docs/consuming.md"
)

// shown is a block of code in a page, under a comment that names the file that it shows.
var shown = regexp.MustCompile("(?s)<!-- file: (\\S+) -->\n```(\\w*)\n(.*?)\n```\n")

func TestExamplesPage(t *testing.T) {
	language := map[string]string{".go": "go", ".py": "python", ".mjs": "js"}
	path := filepath.Join(root, examplesPage)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var files, stale []string
	current := shown.ReplaceAllStringFunc(string(text), func(block string) string {
		file := shown.FindStringSubmatch(block)[1]
		files = append(files, file)
		fresh := fmt.Sprintf("<!-- file: %s -->\n```%s\n%s```\n", file, language[filepath.Ext(file)], code(t, file))
		if fresh != block {
			stale = append(stale, file)
		}
		return fresh
	})
	slices.Sort(files)
	require.Equal(t, exampleFiles(t, language), files, "the files that %s shows", examplesPage)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(current), 0o600))
		return
	}
	require.Empty(t, stale, "%s shows other code than these files have; run: go generate ./bridge/app", examplesPage)
}

// exampleFiles lists the programs in the folder of examples.
func exampleFiles(t *testing.T, language map[string]string) []string {
	t.Helper()
	var files []string
	err := fs.WalkDir(os.DirFS(root), examples, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{"node_modules", ".venv", "tests"}, entry.Name()):
			return fs.SkipDir
		case language[filepath.Ext(name)] != "":
			files = append(files, name)
		}
		return nil
	})
	require.NoError(t, err)
	return files
}

// code returns what a page shows of a file: all of it, but in Go only what follows the package's comment, which is for
// this repository.
func code(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	if filepath.Ext(file) == ".go" {
		_, program, found := strings.Cut(string(text), "\npackage main\n")
		require.True(t, found, "%s is no program", file)
		return "package main\n" + program
	}
	return string(text)
}

// example is a program that a page shows.
type example struct {
	name    string
	file    string
	durable string // its consumer in JetStream; empty for those that read Kafka
	group   string // its consumer group in Kafka; empty for those that read NATS
	// What to replace in it for a handler that takes its time, and what by. Each fetch of ten then takes much less, on any
	// machine, than the time for which its acknowledgements are awaited, and all events more.
	slow    []string
	command func(t *testing.T, text string) []string // makes what runs the program with that text
}

// examplePrograms lists those in Go always, and those in other languages where FNBRIDGE_TEST_EXAMPLES names a folder
// with their interpreters and packages, as .ci/examples makes it.
func examplePrograms(t *testing.T) []example {
	t.Helper()
	run := func(interpreter, folder, name string) func(*testing.T, string) []string {
		return func(t *testing.T, text string) []string {
			t.Helper()
			file := filepath.Join(temporary(t, folder), name)
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			return []string{interpreter, file}
		}
	}
	programs := []example{{
		name: "go-nats", file: examples + "/go/nats/main.go", durable: "example-go", command: build,
		slow: []string{
			"AckWait:        30 * time.Second", "AckWait: 10 * time.Second",
			"_, err := fmt.Println(", "time.Sleep(400 * time.Millisecond); _, err := fmt.Println(",
		},
	}, {
		name: "go-kafka", file: examples + "/go/kafka/main.go", group: "example-go", command: build,
		slow: []string{"// Your work.", "time.Sleep(100 * time.Millisecond)"},
	}}
	installed := os.Getenv("FNBRIDGE_TEST_EXAMPLES")
	if installed == "" {
		t.Log("the examples in Python and Node are not run: .ci/examples installs what they need and runs them too")
		return programs
	}
	python, node := filepath.Join(installed, "venv/bin/python"), filepath.Join(installed, "node/node_modules/.bin/node")
	return append(programs, example{
		name: "python-nats", file: examples + "/python/nats_consumer.py", durable: "example-python",
		command: run(python, "", "nats_consumer.py"),
		slow:    []string{"ack_wait=30", "ack_wait=10", "    print(", "    await asyncio.sleep(0.4)\n    print("},
	}, example{
		name: "python-kafka", file: examples + "/python/kafka_consumer.py", group: "example-python",
		command: run(python, "", "kafka_consumer.py"),
		slow:    []string{"# Your work.", "stop.wait(0.1)"},
	}, example{
		name: "node-nats", file: examples + "/node/nats_consumer.mjs", durable: "example-node",
		command: run(node, filepath.Join(installed, "node"), "nats_consumer.mjs"),
		slow:    []string{"nanos(30_000)", "nanos(10_000)", "  console.log(", "  await sleep(400);\n  console.log("},
	}, example{
		name: "node-kafka", file: examples + "/node/kafka_consumer.mjs", group: "example-node",
		command: run(node, filepath.Join(installed, "node"), "kafka_consumer.mjs"),
		slow:    []string{"// Your work.", "await sleep(100);"},
	})
}

// temporary makes a folder within another, or within that of the system.
func temporary(t *testing.T, within string) string {
	t.Helper()
	if within == "" {
		return t.TempDir()
	}
	folder, err := os.MkdirTemp(within, "test-") //nolint:usetesting // Node looks for packages in the folders above
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	return folder
}

func build(t *testing.T, text string) []string {
	t.Helper()
	folder := t.TempDir()
	binary, file := filepath.Join(folder, "example"), filepath.Join(folder, "main.go")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return []string{binary}
}

// asShown makes what runs the program as the page shows it.
func (e example) asShown(t *testing.T) []string {
	t.Helper()
	return e.command(t, e.text(t))
}

// slowed makes what runs the program with a handler that takes its time.
func (e example) slowed(t *testing.T) []string {
	t.Helper()
	text := e.text(t)
	for change := range slices.Chunk(e.slow, 2) {
		require.Equal(t, 1, strings.Count(text, change[0]), "%q in %s", change[0], e.file)
		text = strings.Replace(text, change[0], change[1], 1)
	}
	return e.command(t, text)
}

func (e example) text(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, e.file))
	require.NoError(t, err)
	return string(text)
}

// consumer is a program that runs.
type consumer struct {
	t         *testing.T
	name      string
	out, errs *logText
	cmd       *exec.Cmd
	ended     chan error
}

// start runs a command until stop is called or the test ends, with what it remembers in the folder memory.
func (e example) start(t *testing.T, command, environment []string, memory string) *consumer {
	t.Helper()
	c := &consumer{t: t, name: e.name, out: &logText{}, errs: &logText{}, ended: make(chan error, 1)}
	c.cmd = exec.CommandContext(t.Context(), command[0], command[1:]...)
	c.cmd.Env = slices.Concat(os.Environ(), environment, []string{"HANDLED_DB=" + filepath.Join(memory, e.name+".db")})
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.errs
	require.NoError(t, c.cmd.Start())
	go func() { c.ended <- c.cmd.Wait(); close(c.ended) }()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		if err := <-c.ended; err != nil { // nil after stop
			t.Logf("%s: %v", e.name, err)
		}
	})
	return c
}

// printed finds the events of functions and of requests in what a program prints.
var printed = regexp.MustCompile(`(?m)^tensorlake\.(?:workflow\.function|application\.request)\.\w+ (\S+) \{`)

// events returns the subjects of those that were handled.
func (c *consumer) events() []string {
	var events []string
	for _, m := range printed.FindAllStringSubmatch(c.out.String(), -1) {
		events = append(events, m[1])
	}
	return events
}

// await waits until as many events were handled as are wanted, and checks that they are these.
func (c *consumer) await(want ...string) {
	c.t.Helper()
	c.awaitThat(func() bool { return len(c.events()) >= len(want) }, "it has not handled the events")
	require.Equal(c.t, want, c.events(), "%s: %s", c.name, c.errs)
}

func (c *consumer) awaitThat(done func() bool, otherwise string) {
	c.t.Helper()
	tick, timeout := time.NewTicker(10*time.Millisecond), time.After(bound)
	defer tick.Stop()
	for !done() {
		select {
		case err := <-c.ended:
			require.Fail(c.t, c.name+" has ended", "%v\n%s%s", err, c.out, c.errs)
		case <-timeout:
			require.Fail(c.t, c.name+": "+otherwise, "%s%s", c.out, c.errs)
		case <-tick.C:
		}
	}
}

// stop stops the program as Ctrl-C does.
func (c *consumer) stop() {
	c.t.Helper()
	require.NoError(c.t, c.cmd.Process.Signal(os.Interrupt))
	select {
	case err := <-c.ended:
		require.NoError(c.t, err, "%s: %s%s", c.name, c.out, c.errs)
	case <-time.After(bound):
		require.Fail(c.t, c.name+" does not stop", "%s%s", c.out, c.errs)
	}
}

// request is the event of a request to an application.
func request(id string) string {
	return fmt.Sprintf(`{"event_id":"evt_%s","event_type":"tensorlake.application.request.failed","event_version":1,
 "occurred_at":"2026-08-04T12:00:00.125Z","project_id":"project_7","source_id":"invoices/req_1","source_revision":"7","source_ordinal":0,
 "data":{"application":{"name":"invoices","version":"3"},"request":{"id":%q,"status":"failed","failure_reason":"function_timeout",
 "created_at":"2026-08-04T11:59:00Z","finished_at":"2026-08-04T12:00:00Z"}}}`, id, id)
}

// TestExamples runs the programs that the pages show.
func TestExamples(t *testing.T) {
	t.Parallel()
	programs := examplePrograms(t)
	// One partition, so that what comes last is read last.
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "tensorlake-events"))
	require.NoError(t, err)
	defer cluster.Close()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	r := start(t, t.TempDir(), map[string]string{"SINKS": "nats,kafka", "KAFKA_BROKERS": brokers})
	js := jetStream(t, r.NATSURL())
	environment := []string{"NATS_URL=" + r.NATSURL(), "KAFKA_BROKERS=" + brokers}
	invocation := func(webhook, invocation string) {
		r.mustPost(webhook, workflowOf(invocation), 202)
	}

	// One after the other: events of different keys may overtake one another.
	invocation("msg_1", "first")
	invocation("msg_2", "first") // the same facts again, with the same ids
	awaitDelivered(r)
	r.mustPost("msg_3", request("req_1"), 202)
	awaitDelivered(r)
	invocation("msg_4", "second")
	awaitDelivered(r)
	memory := t.TempDir()
	first := []string{"first/fn_A", "first/fn_B", "invoices/req_1", "second/fn_A", "second/fn_B"}
	for _, p := range programs {
		t.Run(p.name+" handles every event once", func(t *testing.T) {
			if p.durable != "" { // with the filter of an earlier version of the program
				_, err := js.CreateConsumer(t.Context(), "TENSORLAKE", natsjs.ConsumerConfig{
					Durable: p.durable, AckPolicy: natsjs.AckExplicitPolicy, FilterSubject: "tensorlake.workflow.other.>",
				})
				require.NoError(t, err)
			}
			c := p.start(t, p.asShown(t), environment, memory)
			c.await(first...)
			c.stop()
			if p.group != "" {
				// With kfake the place is now and then earlier than the last event handled; with Apache Kafka it
				// never was. The programs drop what comes again, so it does not show in what they print.
				require.Positive(t, committed(t, cluster.ListenAddrs(), p.group), "events are not acknowledged")
				return
			}
			requireAllAcknowledged(t, js, p.durable)
		})
	}
	invocation("msg_5", "third")
	for _, p := range programs {
		t.Run(p.name+" goes on where it stopped", func(t *testing.T) {
			c := p.start(t, p.asShown(t), environment, memory)
			c.await("third/fn_A", "third/fn_B")
			c.stop()
		})
	}
}

// TestExamplesWithASlowHandler gives them more events than they could handle while an acknowledgement is awaited.
func TestExamplesWithASlowHandler(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "tensorlake-events"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close) // after the programs, which run side by side
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	r := start(t, t.TempDir(), map[string]string{"SINKS": "nats,kafka", "KAFKA_BROKERS": brokers})
	js := jetStream(t, r.NATSURL())
	var want []string
	for i := range 30 {
		invocation := fmt.Sprintf("invocation_%d", i)
		r.mustPost("msg_"+invocation, workflowOf(invocation), 202)
		want = append(want, invocation+"/fn_A", invocation+"/fn_B")
	}
	awaitDelivered(r)
	slices.Sort(want)
	environment := []string{"NATS_URL=" + r.NATSURL(), "KAFKA_BROKERS=" + brokers}
	for _, p := range examplePrograms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			command := p.slowed(t)
			consumers := []*consumer{p.start(t, command, environment, t.TempDir())}
			if p.durable != "" { // another that shares its consumer would get what waits too long for its acknowledgement
				consumers = append(consumers, p.start(t, command, environment, t.TempDir()))
			}
			events := func() []string {
				var events []string
				for _, c := range consumers {
					events = append(events, c.events()...)
				}
				slices.Sort(events)
				return events
			}
			consumers[0].awaitThat(func() bool { return len(events()) >= len(want) }, "events are not handled")
			for _, c := range consumers {
				c.stop()
			}
			require.Equal(t, want, events())
			if p.durable != "" {
				require.EqualValues(t, len(want),
					requireAllAcknowledged(t, js, p.durable).Delivered.Consumer, "events are delivered again")
			}
		})
	}
}

// TestExamplesOutliveTheirStream starts the programs before there is anything to read, and takes that away again.
func TestExamplesOutliveTheirStream(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	programs := slices.DeleteFunc(examplePrograms(t), func(p example) bool { return p.durable == "" })
	var consumers []*consumer
	for _, p := range programs {
		consumers = append(consumers, p.start(t, p.asShown(t), []string{"NATS_URL=nats://" + address}, t.TempDir()))
	}
	var want []string
	handle := func(r *running, invocation string) {
		r.mustPost("msg_"+invocation, workflowOf(invocation), 202)
		want = append(want, invocation+"/fn_A", invocation+"/fn_B")
		for _, c := range consumers {
			c.await(want...)
		}
	}

	empty := start(t, t.TempDir(), map[string]string{"EMBEDDED_NATS_LISTEN": address, "NATS_CREATE_STREAM": "false"})
	for _, c := range consumers {
		c.awaitThat(func() bool { return strings.Contains(c.errs.String(), "stream not found") },
			"it does not say what it waits for")
	}
	require.NoError(t, empty.stop())

	first := start(t, t.TempDir(), map[string]string{"EMBEDDED_NATS_LISTEN": address, "NATS_CREATE_STREAM": "true"})
	handle(first, "first")
	js := jetStream(t, first.NATSURL())
	require.NoError(t, js.DeleteStream(t.Context(), "TENSORLAKE"))
	handle(first, "stream_made_anew")
	for _, p := range programs {
		require.NoError(t, js.DeleteConsumer(t.Context(), "TENSORLAKE", p.durable))
	}
	handle(first, "consumer_deleted")
	require.NoError(t, first.stop())

	handle(start(t, t.TempDir(), map[string]string{"EMBEDDED_NATS_LISTEN": address}), "data_gone")
	for _, c := range consumers {
		c.stop()
		require.Equal(t, want, c.events(), "%s: %s", c.name, c.errs)
	}
}

// TestExamplesAwaitTheirTopic starts the programs before there is a Kafka, and before there is a topic.
func TestExamplesAwaitTheirTopic(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	programs := slices.DeleteFunc(examplePrograms(t), func(p example) bool { return p.group == "" })
	var consumers []*consumer
	for _, p := range programs {
		consumers = append(consumers, p.start(t, p.asShown(t), []string{"KAFKA_BROKERS=" + address}, t.TempDir()))
	}
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(number))
	require.NoError(t, err)
	defer cluster.Close()
	for _, c := range consumers {
		if c.name != "go-kafka" { // its client waits by itself
			c.awaitThat(func() bool { return strings.Contains(c.errs.String(), "trying again") },
				"it does not say that it waits")
		}
	}
	r := start(t, t.TempDir(), map[string]string{
		"SINKS": "kafka", "KAFKA_BROKERS": address, "KAFKA_CREATE_TOPIC": "true",
		"KAFKA_PARTITIONS": "1", "KAFKA_REPLICATION_FACTOR": "1",
	})
	r.mustPost("msg_1", workflow, 202)
	for _, c := range consumers {
		c.await("invocation_XXXX/fn_A", "invocation_XXXX/fn_B")
		c.stop()
	}
}

// committed returns the place in the topic's one partition from which a consumer group goes on, or -1 if there is none.
func committed(t *testing.T, brokers []string, group string) int64 {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	require.NoError(t, err)
	defer client.Close()
	request := kmsg.NewPtrOffsetFetchRequest()
	request.Groups = []kmsg.OffsetFetchRequestGroup{{
		Group: group, MemberEpoch: -1,
		Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "tensorlake-events", Partitions: []int32{0}}},
	}}
	response, err := request.RequestWith(t.Context(), client)
	require.NoError(t, err)
	require.Len(t, response.Groups, 1)
	require.Len(t, response.Groups[0].Topics, 1)
	require.Len(t, response.Groups[0].Topics[0].Partitions, 1)
	return response.Groups[0].Topics[0].Partitions[0].Offset
}

func jetStream(t *testing.T, url string) natsjs.JetStream {
	t.Helper()
	return natsserver.JetStream(t, natsserver.Connect(t, url))
}

// requireAllAcknowledged waits until a consumer has nothing left, and returns what the server says of it.
func requireAllAcknowledged(t *testing.T, js natsjs.JetStream, durable string) *natsjs.ConsumerInfo {
	t.Helper()
	consumer, err := js.Consumer(t.Context(), "TENSORLAKE", durable)
	require.NoError(t, err)
	var info *natsjs.ConsumerInfo
	require.Eventually(t, func() bool {
		info, err = consumer.Info(t.Context())
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	}, bound, 10*time.Millisecond, "events are not acknowledged")
	return info
}

// awaitDelivered waits until nothing that was accepted is on its way.
func awaitDelivered(r *running) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, `fnbridge_sink_backlog_webhooks{sink="nats"} 0`) &&
			strings.Contains(metrics, `fnbridge_sink_backlog_webhooks{sink="kafka"} 0`)
	}, bound, 20*time.Millisecond)
}

// freeAddress is one that nobody else listens on until the test ends.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := child.ReservePort()
	require.NoError(t, err)
	t.Cleanup(port.Release)
	return port.Address()
}
