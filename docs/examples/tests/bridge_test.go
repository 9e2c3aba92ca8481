package deploytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// root is the module that the examples belong to.
const root = "../../.."

// bridge is the command, built once.
//
//nolint:gochecknoglobals // for every test of the package
var bridge = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "fnbridge-deploy-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(folder, "fnbridge")
	build := exec.Command("go", "build", "-o", binary, "./cmd/fnbridge")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := bridge(); err == nil {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

// requireConfiguration fails unless the bridge takes the variables, without a mistake and without a warning, such as
// that of a variable that it does not know. Whether it reaches a broker does not matter.
func requireConfiguration(t *testing.T, variables map[string]string) {
	t.Helper()
	problems, err := check(t, variables)
	require.NoError(t, err, problems)
	require.Empty(t, problems, "a warning about the configuration")
}

// check runs "fnbridge check" with the variables, in a data directory of the test, and returns what it says about the
// configuration. The error is for a configuration that is refused.
func check(t *testing.T, variables map[string]string) (problems string, err error) {
	t.Helper()
	binary, err := bridge()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), binary, "check", "--timeout", "1ms")
	command.Dir = t.TempDir()
	command.Env = []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range variables {
		if name == "FNBRIDGE_DATA_DIR" {
			value = filepath.Join(command.Dir, "data")
		}
		command.Env = append(command.Env, name+"="+value)
	}
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	err = command.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		err = nil // a broker cannot be reached
	}
	if err == nil {
		require.Contains(t, out.String(), "configuration  ok")
	}
	return errs.String(), err
}

// shutdownTimeout is how long the bridge takes to stop, at most, with the variables.
func shutdownTimeout(t *testing.T, variables map[string]string) time.Duration {
	t.Helper()
	text := variables["FNBRIDGE_SHUTDOWN_TIMEOUT"]
	if text == "" {
		binary, err := bridge()
		require.NoError(t, err)
		out, err := exec.CommandContext(t.Context(), binary, "env", "--json").Output()
		require.NoError(t, err)
		var all []struct{ Name, Default string }
		require.NoError(t, json.Unmarshal(out, &all))
		for _, v := range all {
			if v.Name == "FNBRIDGE_SHUTDOWN_TIMEOUT" {
				text = v.Default
			}
		}
	}
	timeout, err := time.ParseDuration(text)
	require.NoError(t, err)
	return timeout
}

// TestMistakesAreNoticed holds that the check of the other tests can fail.
func TestMistakesAreNoticed(t *testing.T) {
	t.Parallel()
	problems, err := check(t, map[string]string{"FNBRIDGE_SINKS": "nats,kafka", "FNBRIDGE_KAFKA_BROKER": "kafka:9092"})
	require.Error(t, err)
	require.Contains(t, problems, "FNBRIDGE_KAFKA_BROKERS")

	problems, err = check(t, map[string]string{"FNBRIDGE_NATS_URLS": "nats://nats:4222"})
	require.Error(t, err, "the embedded server would start in its place")
	require.Contains(t, problems, "FNBRIDGE_NATS_URLS")

	problems, err = check(t, map[string]string{"FNBRIDGE_NATS_URL": "nats://nats:4222", "FNBRIDGE_NATS_STRAEM": "A"})
	require.NoError(t, err)
	require.Contains(t, problems, "FNBRIDGE_NATS_STRAEM")
}
