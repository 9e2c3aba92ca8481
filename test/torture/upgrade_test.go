//go:build linux

package torture

import (
	"context"
	"fmt"
	"regexp"
	"testing"
	"time"
)

// otherVersion is how the binary calls itself that an upgrade changes to.
const otherVersion = "v999.0.0-torture"

var shownVersion = regexp.MustCompile(`fnbridge_build_info\{[^}]*\bversion="([^"]*)"`)

// buildOtherVersion builds the command as another release of it, and returns the path of the binary.
func buildOtherVersion(t *testing.T, raceDetector bool) string {
	t.Helper()
	return buildBridge(t, raceDetector, "-ldflags=-X main.version="+otherVersion)
}

// changeVersion changes the binary that the next start runs: the first time for the other version, then back, and so
// on.
func (b *bridgeProcess) changeVersion() { b.binary, b.other = b.other, b.binary }

// version is the one that the bridge gives for its own. It takes webhooks.
func (r *run) version(ctx context.Context, b *bridgeProcess) (version string, err error) {
	err = r.await(ctx, recoveryLimit, func() error {
		text, err := b.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		m := shownVersion.FindStringSubmatch(text)
		if m == nil {
			return fmt.Errorf("/metrics has no fnbridge_build_info:\n%s", text)
		}
		version = m[1]
		return nil
	})
	return version, err
}

// playUpgraded replaces the bridge by another version as a rollout does, or as a machine that dies in the middle of
// one.
func playUpgraded(ctx context.Context, r *run) {
	before, err := r.version(ctx, r.bridge)
	if err != nil {
		r.failf("before an upgrade: %v", err)
		return
	}
	if r.rand.IntN(3) == 0 {
		r.bridge.kill()
	} else {
		r.bridge.terminate(context.WithoutCancel(ctx))
	}
	r.bridge.changeVersion()
	r.stay(ctx, 0, time.Second)
	r.startBridge(ctx)
	r.requireChanged(ctx, r.bridge, before)
}

func (r *run) requireChanged(ctx context.Context, b *bridgeProcess, before string) {
	after, err := r.version(context.WithoutCancel(ctx), b)
	switch {
	case err != nil:
		r.failf("after an upgrade: %v", err)
	case before == after || (before == otherVersion) == (after == otherVersion):
		r.failf("the bridge has the version %q after an upgrade from %q", after, before)
	}
}

// upgradeOneByOne replaces each replica by another version, as a Deployment or StatefulSet does: the next once one
// takes webhooks.
func (r *replicaRun) upgradeOneByOne(ctx context.Context, _ *run) {
	for _, b := range r.replicas.bridges {
		before, err := r.version(ctx, b)
		if err != nil {
			r.failf("before an upgrade: %v", err)
			return
		}
		b.terminate(ctx)
		b.changeVersion()
		b.start()
		limited, cancel := context.WithTimeout(ctx, recoveryLimit)
		if err := b.awaitReady(limited); err != nil {
			r.failf("%v", err)
		} else {
			r.requireChanged(limited, b, before)
		}
		cancel()
	}
}
