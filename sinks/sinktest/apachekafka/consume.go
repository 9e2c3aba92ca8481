package apachekafka

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// JavaRecord is a record as Kafka's console consumer shows it.
type JavaRecord struct {
	Partition int
	Offset    int64
	Timestamp time.Time // in milliseconds
	Key       string
	Headers   []JavaHeader
	Value     string
}

// JavaHeader is a header of a JavaRecord.
type JavaHeader struct{ Key, Value string }

// What the console consumer puts between the parts of its output, chosen so that no test's data has it.
const (
	fieldSeparator  = "\x1f"
	recordSeparator = "\x1e"
	headerSeparator = "\x1d"
)

// ConsoleConsume reads the first count records of a topic with Kafka's console consumer, in Java. It fails the test if
// none comes within a minute.
func (c *Cluster) ConsoleConsume(tb testing.TB, topic string, count int) []JavaRecord {
	tb.Helper()
	args := []string{
		"--bootstrap-server", strings.Join(c.Brokers(), ","), "--topic", topic,
		"--from-beginning", "--max-messages", strconv.Itoa(count), "--timeout-ms", "60000",
	}
	for _, property := range []string{
		"print.partition=true", "print.offset=true", "print.timestamp=true", "print.key=true", "print.headers=true",
		"key.separator=" + fieldSeparator, "line.separator=" + recordSeparator, "headers.separator=" + headerSeparator,
	} {
		args = append(args, "--formatter-property", property)
	}
	dir := tb.TempDir()
	out := c.java.run(tb, dir, "", c.java.args(dir, nil, "org.apache.kafka.tools.consumer.ConsoleConsumer", args...))
	var records []JavaRecord
	for line := range strings.SplitSeq(strings.TrimSuffix(out, recordSeparator), recordSeparator) {
		r, err := parseRecord(line)
		if err != nil {
			tb.Fatalf("the console consumer printed %q: %v", line, err)
		}
		records = append(records, r)
	}
	if len(records) != count {
		tb.Fatalf("the console consumer read %d records of %s, not %d", len(records), topic, count)
	}
	return records
}

// parseRecord reads, for instance, CreateTime:1700000000000␟Partition:3␟Offset:0␟name:value␟key␟value.
func parseRecord(line string) (JavaRecord, error) {
	fields := strings.Split(line, fieldSeparator)
	if len(fields) != 6 {
		return JavaRecord{}, fmt.Errorf("it has %d fields rather than 6", len(fields))
	}
	var r JavaRecord
	numbers := make([]int64, 3)
	for i, name := range []string{"CreateTime:", "Partition:", "Offset:"} {
		text, ok := strings.CutPrefix(fields[i], name)
		if !ok {
			return r, fmt.Errorf("field %d does not begin with %s", i+1, name)
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return r, fmt.Errorf("%s %w", name, err)
		}
		numbers[i] = n
	}
	r.Timestamp, r.Partition, r.Offset = time.UnixMilli(numbers[0]), int(numbers[1]), numbers[2]
	if fields[3] != "NO_HEADERS" {
		for header := range strings.SplitSeq(fields[3], headerSeparator) {
			key, value, _ := strings.Cut(header, ":")
			r.Headers = append(r.Headers, JavaHeader{Key: key, Value: value})
		}
	}
	r.Key, r.Value = fields[4], fields[5]
	return r, nil
}

// JavaPartitions returns the partition, of so many, that Kafka's own producer in Java picks for each key.
func JavaPartitions(tb testing.TB, keys []string, partitions int) []int {
	tb.Helper()
	j := needJava(tb)
	var lines strings.Builder
	for _, key := range keys {
		lines.WriteString(hex.EncodeToString([]byte(key)) + "\n")
	}
	dir := tb.TempDir()
	program := filepath.Join(j.jars, "JavaPartitions.java")
	out := j.run(tb, dir, lines.String(), j.args(dir, nil, program, strconv.Itoa(partitions)))
	picked := make([]int, 0, len(keys))
	for line := range strings.Lines(out) {
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			tb.Fatalf("Kafka's partitioner printed %q", line)
		}
		picked = append(picked, n)
	}
	if len(picked) != len(keys) {
		tb.Fatalf("Kafka's partitioner answered %d keys of %d", len(picked), len(keys))
	}
	return picked
}

// run runs Java to its end and returns what it printed.
func (j java) run(tb testing.TB, dir, stdin string, args []string) string {
	tb.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o750); err != nil {
		tb.Fatalf("making Java's directory: %v", err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, j.binary, args...)
	var out, log bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &log
	if err := cmd.Run(); err != nil {
		tb.Fatalf("java: %v\n%s", err, lastLines(log.String(), 30))
	}
	return out.String()
}
