//go:build linux

package torture

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// readyLimit is how long the bridge may take from its start, whatever is in its journal, until it takes webhooks.
const readyLimit = 2 * time.Minute

// bridgeFaults are what can happen to the bridge's own process.
func bridgeFaults(long bool) []fault {
	return []fault{
		{"bridge: killed", playKilled},
		{"bridge: killed again and again while it starts", playKilledStarting},
		{"bridge: stopped with SIGTERM under load", playTerminated},
		{"bridge: upgraded under load", playUpgraded},
		{"bridge: what reads its log stands still", playLogStandstill},
		{"bridge: what reads its log ends", playLogEnds},
		{
			"bridge: stands still longer than the sender waits",
			func(ctx context.Context, r *run) { playStopped(ctx, r, long) },
		},
		{"bridge: killed with a large backlog", func(ctx context.Context, r *run) { playBacklog(ctx, r, long) }},
	}
}

// startBridge starts the bridge and waits until it takes webhooks. Its failure is the end of the run.
func (r *run) startBridge(ctx context.Context) {
	r.bridge.start()
	if err := r.takesWebhooks(ctx); err != nil {
		r.failf("a start: %v", err)
	}
}

// takesWebhooks waits until a bridge that was started takes webhooks.
func (r *run) takesWebhooks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyLimit)
	defer cancel()
	return r.bridge.awaitReady(ctx)
}

func playKilled(ctx context.Context, r *run) {
	r.stay(ctx, 0, time.Second)
	r.bridge.kill()
	r.stay(ctx, 0, time.Second)
	r.startBridge(ctx)
}

// playKilledStarting kills the bridge while it recovers from having been killed.
func playKilledStarting(ctx context.Context, r *run) {
	r.bridge.kill()
	for range 3 + r.rand.IntN(5) {
		r.bridge.start()
		r.stay(ctx, 0, 400*time.Millisecond)
		r.bridge.kill()
	}
	r.startBridge(ctx)
}

func playTerminated(ctx context.Context, r *run) {
	r.bridge.terminate(context.WithoutCancel(ctx))
	r.startBridge(ctx)
}

// loggedWebhooks is how many webhooks the bridge takes while nobody reads its log, which has a line for each.
const loggedWebhooks = 200

func playLogStandstill(ctx context.Context, r *run) {
	r.playLogReader(ctx, func(*os.File) error { return nil })
}

func playLogEnds(ctx context.Context, r *run) { r.playLogReader(ctx, (*os.File).Close) }

// playLogReader starts the bridge with its log in a small pipe from which nobody reads, and leaves the pipe's other end
// to what becomes of its reader. The bridge has to go on, and to stop as ever.
func (r *run) playLogReader(ctx context.Context, becomes func(*os.File) error) {
	r.bridge.terminate(context.WithoutCancel(ctx))
	reader, writer, err := os.Pipe()
	if err != nil {
		r.failf("a pipe for the log: %v", err)
		return
	}
	defer reader.Close() // it may be closed already
	if _, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		r.failf("a pipe for the log: %v", err)
	}
	r.bridge.startInto(writer, "LOG_LEVEL=debug")
	if err := errors.Join(writer.Close(), r.takesWebhooks(ctx), becomes(reader)); err != nil {
		r.failf("a start with a log that nobody reads: %v", err)
	}
	if err := r.accept(ctx, loggedWebhooks); err != nil {
		r.failf("while nobody reads the log: %v", err)
	}
	r.bridge.terminate(context.WithoutCancel(ctx))
	r.startBridge(ctx)
}

func playStopped(ctx context.Context, r *run, long bool) {
	timeout := shortTimeout
	if long && r.rand.IntN(4) == 0 {
		timeout = senderTimeout
	}
	r.load.setTimeout(timeout)
	defer r.load.setTimeout(shortTimeout)
	r.bridge.pause()
	r.stay(ctx, timeout+time.Second, timeout+3*time.Second)
	r.bridge.resume()
}

// backlogRate is how many webhooks a second come where they are to gather.
const backlogRate = 300

// playBacklog kills the bridge while its sinks are away and webhooks have gathered for them.
func playBacklog(ctx context.Context, r *run, long bool) {
	webhooks := int64(1500)
	if long {
		webhooks = 3000 + r.rand.Int64N(7000)
	}
	r.nats.stall()
	defer r.nats.unstall()
	r.kafka.stall()
	defer r.kafka.unstall()
	r.load.setRate(backlogRate)
	defer r.load.setRate(r.rate)
	if err := r.accept(ctx, webhooks); err != nil {
		r.failf("a backlog: %v", err)
	}
	r.bridge.kill()
	r.startBridge(ctx)
}
