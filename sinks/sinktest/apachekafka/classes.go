package apachekafka

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// withClasses returns j with an archive of Kafka's classes, laid out as this very Java wants them in memory: it spares
// each node almost half of its start. Whoever comes first makes it beside the jars, by a run of one node, and the
// others wait.
func withClasses(tb testing.TB, j java) java {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), installTimeout)
	defer cancel()
	digest := sha256.Sum256([]byte(j.version))
	archive := filepath.Join(j.jars, hex.EncodeToString(digest[:4])+".jsa")
	exists := func() bool { _, err := os.Stat(archive); return err == nil }
	if !exists() {
		unlock, err := lockFile(ctx, j.jars+".lock")
		if err != nil {
			tb.Fatalf("archiving Kafka's classes: %v", err)
		}
		defer unlock()
	}
	if !exists() {
		if err := archiveClasses(tb, j, archive); err != nil {
			tb.Fatalf("archiving Kafka's classes: %v", err)
		}
	}
	j.classes = archive
	return j
}

func archiveClasses(tb testing.TB, j java, archive string) error {
	tb.Helper()
	partial := archive + ".partial"
	if err := os.Remove(partial); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("what an earlier run has left: %w", err)
	}
	c := start(tb, Options{Nodes: 1, JVM: []string{"-XX:ArchiveClassesAtExit=" + partial}}, j)
	n := c.nodes[0]
	p := n.process
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("ending the node: %w", err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	select {
	case <-p.Done:
	case <-ctx.Done():
		return fmt.Errorf("the node does not end: %w", ctx.Err())
	}
	n.process = nil
	if err := os.Rename(partial, archive); err != nil {
		return fmt.Errorf("the node has left no archive: %w\n%s", err, n.logTail(20))
	}
	return nil
}
