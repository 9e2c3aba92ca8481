//go:build linux

package torture

import "context"

// bridgeProcess is the bridge: a process that can be killed and started again at the same addresses.
type bridgeProcess struct{}

// setEnv sets a variable (NAME without FNBRIDGE_) for the next starts; value "" unsets it.
func (b *bridgeProcess) setEnv(name, value string) {}

// start starts the process and returns at once. overrides (NAME=value) are for this start only.
func (b *bridgeProcess) start(overrides ...string) {}

// awaitReady waits until the bridge takes webhooks. Its error is that of ctx, or how the process ended.
func (b *bridgeProcess) awaitReady(ctx context.Context) error { return nil }

// awaitExit waits until a process that ends by itself has ended, and returns its exit code.
func (b *bridgeProcess) awaitExit(ctx context.Context) (code int, err error) { return 0, nil }

// kill ends the process with SIGKILL and returns once it has ended.
func (b *bridgeProcess) kill() {}

// terminate ends it with SIGTERM and returns its exit code; 0 is the only right one, which the caller need not check.
func (b *bridgeProcess) terminate(ctx context.Context) (code int) { return 0 }

// pause and resume send SIGSTOP and SIGCONT.
func (b *bridgeProcess) pause()  {}
func (b *bridgeProcess) resume() {}

// output is what the process that was started last has written so far.
func (b *bridgeProcess) output() string { return "" }

// metric returns the sum of the series of a metric whose labels hold all of labels: metric(ctx, "fnbridge_sink_up", `sink="kafka"`).
func (b *bridgeProcess) metric(ctx context.Context, name string, labels ...string) (float64, error) {
	return 0, nil
}
