package apachekafka

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Run runs a program of Apache Kafka's to its end, by the name of its class, and returns what it printed.
func (c *Cluster) Run(tb testing.TB, class string, args ...string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o750); err != nil {
		tb.Fatalf("a directory for %s: %v", class, err)
	}
	cmd := exec.CommandContext(tb.Context(), c.java.binary, c.java.args(dir, c.options.JVM, class, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", class, err, lastLines(string(out), 20))
	}
	return string(out)
}
