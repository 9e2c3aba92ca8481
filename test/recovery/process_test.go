//go:build linux

package recovery

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
)

// asBridge is the variable that has this program run a bridge instead of tests.
const asBridge = "RECOVERY_BRIDGE"

// serve runs a bridge, as its variables say, until SIGTERM.
func serve() error {
	cfg, _, err := app.LoadConfig(os.Environ())
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a, err := app.New(ctx, app.Options{
		Config: cfg, Version: "test", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// startBridgeProcess is startBridge with a process, which can be killed.
func startBridgeProcess(t *testing.T, name string, env map[string]string) *runningBridge {
	t.Helper()
	public, err := child.ReservePort()
	require.NoError(t, err)
	t.Cleanup(public.Release)
	ops, err := child.ReservePort()
	require.NoError(t, err)
	t.Cleanup(ops.Release)
	settings := map[string]string{
		"DATA_DIR": t.TempDir(), "LISTEN": public.Address(), "OPS_LISTEN": ops.Address(), "INSECURE_UNSIGNED": "true",
	}
	maps.Copy(settings, env)
	log := &logText{}
	b := newRunningBridge(t, name, public.Address(), ops.Address())
	var running *child.Process
	start := func(t *testing.T) {
		t.Helper()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(environment(settings), asBridge+"=1", "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"))
		cmd.Stdout, cmd.Stderr = io.Discard, log
		running, err = child.Start(cmd)
		require.NoError(t, err)
	}
	end := func(t *testing.T, s syscall.Signal) {
		t.Helper()
		require.NoError(t, running.Signal(s), log)
		<-running.Done
	}
	b.restart = func(t *testing.T) {
		t.Helper()
		end(t, syscall.SIGKILL)
		start(t)
	}
	start(t)
	t.Cleanup(func() {
		end(t, syscall.SIGTERM)
		if running.Err != nil {
			t.Errorf("the bridge ended with: %v", running.Err)
		}
		if t.Failed() {
			t.Log(fmt.Sprint(log))
		}
	})
	return b
}

// killBridge kills the bridge, and starts it again.
func killBridge(t *testing.T, r *rig) {
	t.Helper()
	r.noteInFlight(t)
	r.bridges[0].restart(t)
}
