//go:build linux

package torture

import (
	"context"
	"errors"
	"time"
)

// readyLimit is how long the bridge may take from its start, whatever is in its journal, until it takes webhooks.
const readyLimit = 30 * time.Second

// bridgeFaults are what can happen to the bridge's own process.
func bridgeFaults(long bool) []fault {
	return []fault{
		{"bridge: killed", playKilled},
		{"bridge: killed again and again while it starts", playKilledStarting},
		{"bridge: stopped with SIGTERM under load", playTerminated},
		{"bridge: upgraded under load", playUpgraded},
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyLimit)
	defer cancel()
	if err := r.bridge.awaitReady(ctx); err != nil {
		r.failf("a start: %v", err)
	}
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

// playBacklog kills the bridge while its sinks are away and webhooks have gathered for them.
func playBacklog(ctx context.Context, r *run, long bool) {
	webhooks, rate := int64(1500), 300.0
	if long {
		webhooks = 3000 + r.rand.Int64N(7000)
	}
	r.nats.stall()
	defer r.nats.unstall()
	r.kafka.stall()
	defer r.kafka.unstall()
	r.load.setRate(rate)
	defer r.load.setRate(r.rate)
	until := r.load.accepted() + webhooks
	if err := r.await(ctx, time.Minute, func() error {
		if r.load.accepted() < until {
			return errors.New("the load does not bring enough webhooks")
		}
		return nil
	}); err != nil {
		r.failf("a backlog: %v", err)
	}
	r.bridge.kill()
	r.startBridge(ctx)
}
