package apachekafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

// StartNode starts nodes that are down, and returns once each serves and knows of all others that run. The
// quorum needs most of the nodes: bring back several at once by one call.
func (c *Cluster) StartNode(tb testing.TB, nodes ...int) {
	tb.Helper()
	for _, id := range nodes {
		if err := c.launch(c.node(tb, id)); err != nil {
			tb.Fatalf("starting Kafka's node %d: %v", id, err)
		}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	for _, id := range nodes {
		if err := c.awaitNode(ctx, c.node(tb, id)); err != nil {
			tb.Fatalf("waiting for Kafka's node %d: %v", id, err)
		}
	}
}

// Kill ends nodes at once (SIGKILL), as a crash does. They keep what they have stored and their addresses.
func (c *Cluster) Kill(tb testing.TB, nodes ...int) {
	tb.Helper()
	c.stop(tb, syscall.SIGKILL, nodes)
}

// Stop ends nodes in good order (SIGTERM): each hands its partitions over before it goes. They keep what they have
// stored and their addresses. One that finds nobody to agree its leaving with, as the last of a cluster do, is killed
// after a while: to end a whole cluster, Kill is quicker.
func (c *Cluster) Stop(tb testing.TB, nodes ...int) {
	tb.Helper()
	c.stop(tb, syscall.SIGTERM, nodes)
}

// Pause freezes nodes (SIGSTOP): their connections stay open, and nobody answers.
func (c *Cluster) Pause(tb testing.TB, nodes ...int) {
	tb.Helper()
	c.signal(tb, syscall.SIGSTOP, true, nodes)
}

// Resume lets paused nodes go on.
func (c *Cluster) Resume(tb testing.TB, nodes ...int) {
	tb.Helper()
	c.signal(tb, syscall.SIGCONT, false, nodes)
}

func (c *Cluster) signal(tb testing.TB, s syscall.Signal, paused bool, nodes []int) {
	tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range nodes {
		n := c.node(tb, id)
		if n.process == nil {
			tb.Fatalf("sending %v: Kafka's node %d does not run", s, id)
		}
		err := n.process.Signal(s)
		gone := s == syscall.SIGCONT && errors.Is(err, syscall.ESRCH)
		if err != nil && !gone {
			tb.Fatalf("Kafka's node %d: %v", id, err)
		}
		n.paused = paused
	}
}

func (c *Cluster) stop(tb testing.TB, s syscall.Signal, nodes []int) {
	tb.Helper()
	c.signal(tb, s, false, nodes)
	c.signal(tb, syscall.SIGCONT, false, nodes) // a paused node would not see the signal
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	for _, id := range nodes {
		n := c.node(tb, id)
		select {
		case <-n.process.Done:
		case <-timeout.C:
			timeout.Reset(0) // for the others too
			if err := n.process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				tb.Fatalf("Kafka's node %d: %v", id, err)
			}
			<-n.process.Done
		}
		c.mu.Lock()
		n.process = nil
		c.mu.Unlock()
	}
}

func (c *Cluster) launch(n *node) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.process != nil {
		return errors.New("it runs already")
	}
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening its log: %w", err)
	}
	defer func() { _ = log.Close() }() // the child has its own by then
	args := c.java.args(n.dir, c.options.JVM, "kafka.Kafka", n.configFile())
	cmd := exec.Command(c.java.binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	n.process, err = child.Start(cmd)
	return err
}

// awaitNode waits until n serves and knows of every node that runs.
func (c *Cluster) awaitNode(ctx context.Context, n *node) error {
	c.mu.Lock()
	p := n.process
	c.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-p.Done:
			cancel(fmt.Errorf("it ended: %w", p.Err))
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(nil); <-watched }()
	return await(ctx, func(ctx context.Context) error {
		var known []int
		metadata, err := request[*kmsg.MetadataResponse](ctx, n, kmsg.NewPtrMetadataRequest())
		if err != nil {
			return err
		}
		for _, b := range metadata.Brokers {
			known = append(known, int(b.NodeID))
		}
		for _, other := range c.running() {
			if !slices.Contains(known, other.id) {
				return fmt.Errorf("it knows of the nodes %v, but not yet of %d", known, other.id)
			}
		}
		return nil
	})
}

// ProcessIDs returns the process of each node that has one.
func (c *Cluster) ProcessIDs() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var pids []int
	for _, n := range c.nodes {
		if n.process != nil {
			pids = append(pids, n.process.PID)
		}
	}
	return pids
}

// running returns the nodes that can answer.
func (c *Cluster) running() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var nodes []*node
	for _, n := range c.nodes {
		if n.process != nil && !n.process.Ended() && !n.paused {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func (c *Cluster) node(tb testing.TB, id int) *node {
	tb.Helper()
	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.id == id })
	if i < 0 {
		tb.Fatalf("Kafka has no node %d, but %v", id, c.Nodes())
	}
	return c.nodes[i]
}

// await calls f until it returns nil, and otherwise until ctx ends: then the error is f's last and why ctx ended.
func await(ctx context.Context, f func(ctx context.Context) error) error {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
