package app_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	language := map[string]string{".go": "go", ".py": "python", ".js": "js"}
	for page, want := range map[string][]string{
		examplesPage: exampleFiles(t, language),
		"README.md": {
			examples + "/go/nats/main.go", examples + "/node/nats_consumer.js", examples + "/python/nats_consumer.py",
		},
	} {
		path := filepath.Join(root, page)
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
		require.Equal(t, want, files, "the files that %s shows", page)
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(current), 0o600))
			continue
		}
		require.Empty(t, stale, "%s shows other code than these files have; run: go generate ./bridge/app", page)
	}
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
	durable string // its consumer in JetStream; empty for those that read Kafka
	group   string // its consumer group in Kafka; empty for those that read NATS
	command []string
}

// TestExamples runs the programs that the pages show: those in Go always, those in other languages where
// FNBRIDGE_TEST_EXAMPLES names a folder with their interpreters and packages, as .ci/examples makes it.
func TestExamples(t *testing.T) {
	programs := []example{
		{"go-nats", "example-go", "", []string{build(t, "nats")}},
		{"go-kafka", "", "example-go", []string{build(t, "kafka")}},
	}
	if installed := os.Getenv("FNBRIDGE_TEST_EXAMPLES"); installed != "" {
		python, node := filepath.Join(installed, "venv/bin/python"), filepath.Join(installed, "node/node_modules/.bin/node")
		sources := filepath.Join(root, examples, "python")
		programs = append(programs,
			example{"python-nats", "example-python", "", []string{python, filepath.Join(sources, "nats_consumer.py")}},
			example{"python-kafka", "", "example-python", []string{python, filepath.Join(sources, "kafka_consumer.py")}},
			example{"node-nats", "example-node", "", []string{node, filepath.Join(installed, "node/nats_consumer.js")}},
			example{"node-kafka", "", "example-node", []string{node, filepath.Join(installed, "node/kafka_consumer.js")}},
		)
	} else {
		t.Log("the examples in Python and Node are not run: .ci/examples installs what they need and runs them too")
	}
	// One partition, so that what comes last is read last.
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "tensorlake-events"))
	require.NoError(t, err)
	defer cluster.Close()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	r := start(t, t.TempDir(), map[string]string{"SINKS": "nats,kafka", "KAFKA_BROKERS": brokers})
	nc, err := nats.Connect(r.NATSURL())
	require.NoError(t, err)
	defer nc.Close()
	js, err := natsjs.New(nc)
	require.NoError(t, err)
	environment := append(os.Environ(), "NATS_URL="+r.NATSURL(), "KAFKA_BROKERS="+brokers)
	post := func(webhook, invocation string) {
		r.mustPost(webhook, strings.ReplaceAll(workflow, "invocation_XXXX", invocation), 202)
	}

	post("msg_1", "first")
	post("msg_2", "first") // the same facts again, with the same ids
	post("msg_3", "second")
	r.inStream(4)
	memory := t.TempDir()
	for _, p := range programs {
		t.Run(p.name+" handles every event once", func(t *testing.T) {
			p.run(t, environment, memory, "first/fn_A", "first/fn_B", "second/fn_A", "second/fn_B")
			if p.group != "" {
				// With kfake the place is now and then earlier than the last event handled; with Apache Kafka it
				// never was. The programs drop what comes again, so it does not show in what they print.
				require.Positive(t, committed(t, cluster.ListenAddrs(), p.group), "events are not acknowledged")
				return
			}
			consumer, err := js.Consumer(t.Context(), "TENSORLAKE", p.durable)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				info, err := consumer.Info(t.Context())
				return err == nil && info.NumAckPending == 0 && info.NumPending == 0
			}, 10*time.Second, 10*time.Millisecond, "events are not acknowledged")
		})
	}
	post("msg_4", "third")
	for _, p := range programs {
		t.Run(p.name+" goes on where it stopped", func(t *testing.T) {
			p.run(t, environment, memory, "third/fn_A", "third/fn_B")
		})
	}
}

func build(t *testing.T, name string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../"+examples+"/go/"+name).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return binary
}

var printed = regexp.MustCompile(`(?m)^[0-9a-f]{32} tensorlake\.workflow\.function\.\w+ \{.*"invocation_id":"(\w+)","function":"(\w+)"`)

// committed returns the place in the topic's one partition from which a consumer group goes on, or -1 if there is none.
func committed(t *testing.T, brokers []string, group string) int64 {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	require.NoError(t, err)
	defer client.Close()
	request := kmsg.NewPtrOffsetFetchRequest()
	request.Groups = []kmsg.OffsetFetchRequestGroup{{
		Group: group, MemberEpoch: -1, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "tensorlake-events", Partitions: []int32{0}}},
	}}
	response, err := request.RequestWith(t.Context(), client)
	require.NoError(t, err)
	require.Len(t, response.Groups, 1)
	require.Len(t, response.Groups[0].Topics, 1)
	require.Len(t, response.Groups[0].Topics[0].Partitions, 1)
	return response.Groups[0].Topics[0].Partitions[0].Offset
}

// run starts the program, with what it remembers in the folder memory, waits until it has printed the events, stops it as Ctrl-C does, and
// checks that it printed no others and ended well.
func (e example) run(t *testing.T, environment []string, memory string, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, errs := &logText{}, &logText{}
	cmd := exec.CommandContext(ctx, e.command[0], e.command[1:]...)
	cmd.Env = append(slices.Clone(environment), "HANDLED_DB="+filepath.Join(memory, e.name+".db"))
	cmd.Stdout, cmd.Stderr = out, errs
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	events := func() []string {
		var events []string
		for _, m := range printed.FindAllStringSubmatch(out.String(), -1) {
			events = append(events, m[1]+"/"+m[2])
		}
		return events
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !slices.Contains(events(), want[len(want)-1]) {
		select {
		case err := <-ended:
			require.Fail(t, "it ended before it had printed the events", "%v\n%s%s", err, out, errs)
		case <-tick.C:
		}
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, <-ended, "%s%s", out, errs)
	require.Equal(t, want, events(), "%s", errs)
}
