package deploytest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/stretchr/testify/require"
)

var service = filepath.Join("..", "systemd", "fnbridge.service") //nolint:gochecknoglobals // a constant

// options are those of the unit's section Service, by name.
func options(t *testing.T) map[string][]string {
	t.Helper()
	file, err := os.Open(service)
	require.NoError(t, err)
	defer file.Close()
	all, err := unit.DeserializeOptions(file)
	require.NoError(t, err)
	byName := make(map[string][]string)
	for _, o := range all {
		if o.Section == "Service" {
			byName[o.Name] = append(byName[o.Name], o.Value)
		}
	}
	return byName
}

// unitVariables are those that the unit sets, and those of the file that it reads; with all, also what is commented out
// there.
func unitVariables(t *testing.T, all bool) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, v := range options(t)["Environment"] {
		name, value, ok := strings.Cut(v, "=")
		require.True(t, ok, v)
		found[name] = value
	}
	require.Equal(t, []string{"/etc/fnbridge/fnbridge.env"}, options(t)["EnvironmentFile"])
	text, err := os.ReadFile(filepath.Join("..", "systemd", "fnbridge.env"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if all {
			line = regexp.MustCompile(`^#(FNBRIDGE_\w+=)`).ReplaceAllString(line, "$1")
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		require.True(t, ok, line)
		require.NotContains(t, found, name, "set twice")
		found[name] = value
	}
	return found
}

func TestUnitBridgeTakesItsVariables(t *testing.T) {
	t.Parallel()
	asInstalled, everything := unitVariables(t, false), unitVariables(t, true)
	require.Greater(t, len(everything), len(asInstalled)+3)
	requireConfiguration(t, asInstalled)
	// What stands in the file's place for a secret is refused: whoever takes it over has to give a real one.
	everything["FNBRIDGE_WEBHOOK_SECRETS"] = "whsec_QSBzZWNyZXQgZm9yIGEgdGVzdCBhbG9uZS4h"
	requireConfiguration(t, everything)
}

func TestUnitKeepsItsDataAndItsPromises(t *testing.T) {
	t.Parallel()
	all := options(t)
	require.Equal(t, "/var/lib/"+all["StateDirectory"][0], unitVariables(t, false)["FNBRIDGE_DATA_DIR"],
		"it may write nowhere else")
	require.Equal(t, []string{"strict"}, all["ProtectSystem"])
	require.Equal(t, []string{"always"}, all["Restart"])
	stop, err := time.ParseDuration(all["TimeoutStopSec"][0])
	require.NoError(t, err)
	require.GreaterOrEqual(t, stop, shutdownTimeout(t, unitVariables(t, false))+5*time.Second,
		"killed before it has drained")

	// The exit code of a wrong configuration, for which a restart is no remedy.
	_, err = check(t, map[string]string{"FNBRIDGE_SINKS": "nothing"})
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, []string{"2"}, all["RestartPreventExitStatus"])
	require.Equal(t, 2, exit.ExitCode())
}

// A crash of Go's runtime, which SIGQUIT is too, is no wrong configuration: systemd has to start the bridge again.
func TestUnitStartsABridgeAgainThatHasCrashed(t *testing.T) {
	t.Parallel()
	binary, err := bridge()
	require.NoError(t, err)
	serve := exec.CommandContext(t.Context(), binary, "serve")
	serve.Dir = t.TempDir()
	serve.Env = []string{
		"FNBRIDGE_LISTEN=127.0.0.1:0", "FNBRIDGE_OPS_LISTEN=127.0.0.1:0", "FNBRIDGE_EMBEDDED_NATS_LISTEN=127.0.0.1:0",
	}
	for _, v := range options(t)["Environment"] {
		if !strings.HasPrefix(v, "FNBRIDGE_DATA_DIR=") {
			serve.Env = append(serve.Env, v)
		}
	}
	log, err := serve.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, serve.Start())
	lines := bufio.NewScanner(log)
	ready := false
	for !ready && lines.Scan() {
		ready = strings.Contains(lines.Text(), "fnbridge is ready")
	}
	require.True(t, ready, "it ended before it was ready")
	require.NoError(t, serve.Process.Signal(syscall.SIGQUIT))
	_, _ = io.Copy(io.Discard, log)
	var exit *exec.ExitError
	require.ErrorAs(t, serve.Wait(), &exit)
	require.NotContains(t, options(t)["RestartPreventExitStatus"], strconv.Itoa(exit.ExitCode()))
}

// TestSystemdTakesTheUnit has systemd itself look for what it does not know or does not understand, and rate what the
// unit lets the bridge do.
func TestSystemdTakesTheUnit(t *testing.T) {
	t.Parallel()
	const command = "systemd-analyze" //nolint:misspell // systemd's spelling
	tool, err := exec.LookPath(command)
	if err != nil {
		if os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") != "" {
			t.Fatal(command + " is not installed, and FNBRIDGE_TEST_REQUIRE_ALL is set")
		}
		t.Skip("Skipped: " + command + " is not installed.")
	}
	binary, err := bridge()
	require.NoError(t, err)
	text, err := os.ReadFile(service)
	require.NoError(t, err)
	// systemd also looks for the command.
	require.Contains(t, string(text), "ExecStart=/usr/local/bin/fnbridge serve\n")
	path := filepath.Join(t.TempDir(), "fnbridge.service")
	installed := strings.Replace(string(text), "/usr/local/bin/fnbridge", binary, 1)
	require.NoError(t, os.WriteFile(path, []byte(installed), 0o600))

	out, err := exec.CommandContext(t.Context(), tool, "verify", "--man=no", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))

	// In tenths, of at most 100; a unit that confines nothing has 96.
	out, err = exec.CommandContext(t.Context(), tool, "security",
		"--offline=true", "--no-pager", "--threshold=20", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
