package charttest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// variable is what "fnbridge env --json" tells of one.
type variable struct {
	Name     string   `json:"name"` // declared cuts its prefix off
	Type     string   `json:"type"`
	Options  []string `json:"options"`
	Default  string   `json:"default"`
	Meaning  string   `json:"meaning"`
	Group    string   `json:"group"`
	Kind     string   `json:"kind"`
	Required bool     `json:"required"`
	Secret   bool     `json:"secret"`
	Reload   bool     `json:"reload"`
}

// kind is a kind of sinks, with the variables that its sinks have: those of every sink, and its own.
type kind struct {
	name, group string
	every, own  []variable
}

func (k kind) variables() []variable { return slices.Concat(k.every, k.own) }

// bridge is the command, built once from the module that this chart belongs to.
//
//nolint:gochecknoglobals // for every test of the package
var bridge = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "fnbridge-chart-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(folder, "fnbridge")
	build := exec.Command("go", "build", "-o", binary, "./cmd/fnbridge")
	build.Dir = "../../.."
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

func variables(t *testing.T) []variable {
	t.Helper()
	binary, err := bridge()
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), binary, "env", "--json").Output()
	require.NoError(t, err)
	var all []variable
	require.NoError(t, json.Unmarshal(out, &all))
	require.Greater(t, len(all), 30)
	return all
}

// ofChart are the variables of the bridge that come from other values than config, and from which.
func ofChart() map[string]string {
	return map[string]string{
		"ACK":                          "ack",
		"SINKS":                        "sinks",
		"LISTEN":                       "ports.http",
		"OPS_LISTEN":                   "ports.ops",
		"DRAIN":                        "preStopSeconds",
		"EMBEDDED_NATS_LISTEN":         "ports.nats",
		"EMBEDDED_NATS_MONITOR_LISTEN": "ports.natsMonitor",
		"DATA_DIR":                     "persistence.mountPath",
	}
}

// declared are the variables without their prefixes: those of the bridge that config has, and the kinds of sinks.
func declared(t *testing.T) (bridge []variable, kinds []kind) {
	t.Helper()
	const everySink = "FNBRIDGE_<SINK>_"
	var every []variable
	for _, v := range variables(t) {
		switch {
		case v.Kind != "":
			if len(kinds) == 0 || kinds[len(kinds)-1].name != v.Kind {
				kinds = append(kinds, kind{name: v.Kind, group: v.Group, every: every})
			}
			v.Name = strings.TrimPrefix(v.Name, "FNBRIDGE_"+strings.ToUpper(v.Kind)+"_")
			k := &kinds[len(kinds)-1]
			k.own = append(k.own, v)
		case strings.HasPrefix(v.Name, everySink):
			v.Name = strings.TrimPrefix(v.Name, everySink)
			every = append(every, v)
		default:
			v.Name = strings.TrimPrefix(v.Name, "FNBRIDGE_")
			if _, ok := ofChart()[v.Name]; !ok { // TestVariablesOfTheChart
				bridge = append(bridge, v)
			}
		}
	}
	return bridge, kinds
}

// key is the name of a variable in the values: MAX_BODY is maxBody.
func key(variable string) string {
	var b strings.Builder
	upper := false
	for _, r := range strings.ToLower(variable) {
		switch {
		case r == '_':
			upper = true
		case upper:
			b.WriteRune(unicode.ToUpper(r))
			upper = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// env are the variables of a container that have a value in its description.
func env(c corev1.Container) map[string]string {
	all := make(map[string]string)
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			all[e.Name] = e.Value
		}
	}
	return all
}

// sample is a value that a variable takes, other than its default, as a user writes it, and as the variable has it.
func sample(v variable) (given any, want string) {
	switch v.Type {
	case "boolean":
		if v.Default == "true" {
			return false, "false"
		}
		return true, "true"
	case "number":
		return 4, "4"
	case "size":
		return 8388608.0, "8388608" // as YAML's numbers come
	case "duration":
		return "1d3h", "1d3h"
	case "URLs":
		return []any{"nats://a:4222", "nats://b:4222"}, "nats://a:4222,nats://b:4222"
	case "addresses":
		return []any{"a:9092", "b:9092"}, "a:9092,b:9092"
	case "routes":
		return []any{"application.>", "workflow.*.*.failure"}, "application.>,workflow.*.*.failure"
	case "path":
		return "/hooks", "/hooks"
	case "file", "secret file":
		return "/elsewhere/file", "/elsewhere/file"
	}
	for _, w := range v.Options {
		if w != v.Default {
			return w, w
		}
	}
	return "some_" + strings.ToLower(v.Name), "some_" + strings.ToLower(v.Name)
}

// TestEveryVariableIsReachable sets every variable by its value, as it is and by reference, and finds it at the
// container.
func TestEveryVariableIsReachable(t *testing.T) {
	t.Parallel()
	bridge, kinds := declared(t)
	for _, v := range bridge {
		reach(t, "bridge/"+v.Name, "FNBRIDGE_"+v.Name, v, func(given any) values {
			config := map[string]any{key(v.Name): given}
			if v.Name == "TLS_CERT_FILE" {
				config["tlsKeyFile"] = "/elsewhere/key"
			}
			return values{"config": config}
		})
	}
	for _, k := range kinds {
		for _, v := range k.variables() {
			reach(t, k.name+"/"+v.Name, "FNBRIDGE_AUDIT_"+v.Name, v, func(given any) values {
				sink := map[string]any{"kind": k.name}
				for _, other := range k.own {
					if other.Required {
						sink[key(other.Name)], _ = sample(other)
					}
				}
				sink[key(v.Name)] = given
				return values{"sinks": map[string]any{"audit": sink}}
			})
		}
	}
}

// reach sets one variable, whose full name is name, by the values that with makes of what is given for it.
func reach(t *testing.T, test, name string, v variable, with func(given any) values) {
	t.Helper()
	t.Run(test, func(t *testing.T) {
		t.Parallel()
		given, want := sample(v)
		got := env(bridgeContainer(t, install(t, with(given))))
		if v.Secret {
			require.NotContains(t, got, name, "a secret that anybody who may look at the pod can read")
			require.Regexp(t, "^/etc/fnbridge/[a-z]+/"+v.Name+"$", got[name+"_FILE"])
		} else {
			require.Equal(t, want, got[name])
		}
		if v.Name == "SHUTDOWN_TIMEOUT" {
			return // the grace period is reckoned from it
		}
		got = env(bridgeContainer(t, install(t, with(map[string]any{"secret": "some-secret", "key": "some-key"}))))
		if !strings.HasSuffix(name, "_FILE") {
			name += "_FILE"
		}
		require.Regexp(t, "^/etc/fnbridge/[a-z]+/"+v.Name+"$", got[name])
	})
}

func TestVariablesOfTheChart(t *testing.T) {
	t.Parallel()
	got := env(bridgeContainer(t,
		install(t, parse(t, `{ports: {http: 1001, ops: 1002, nats: 1003}, persistence: {mountPath: /elsewhere}}`))))
	require.Equal(t, ":1001", got["FNBRIDGE_LISTEN"])
	require.Equal(t, ":1002", got["FNBRIDGE_OPS_LISTEN"])
	require.Equal(t, "0s", got["FNBRIDGE_DRAIN"], "the pod has waited before SIGTERM")
	require.Equal(t, ":1003", got["FNBRIDGE_EMBEDDED_NATS_LISTEN"])
	require.Equal(t, "/elsewhere", got["FNBRIDGE_DATA_DIR"])
	require.Equal(t, "nats=nats", got["FNBRIDGE_SINKS"])
	require.NotContains(t, got, "FNBRIDGE_ACK")

	got = env(bridgeContainer(t,
		install(t, parse(t, `{preStopSeconds: 0, ack: sinks,
			sinks: {nats: {url: "nats://a"}, b: {kind: kafka, brokers: "b:1"}}}`))))
	require.NotContains(t, got, "FNBRIDGE_DRAIN")
	require.Equal(t, "b=kafka,nats=nats", got["FNBRIDGE_SINKS"])
	require.Equal(t, "sinks", got["FNBRIDGE_ACK"])
	require.NotContains(t, got, "FNBRIDGE_DATA_DIR")
	require.NotContains(t, got, "FNBRIDGE_EMBEDDED_NATS_LISTEN")

	got = env(bridgeContainer(t, install(t, parse(t, `{embeddedNATS: {service: false}}`))))
	require.Equal(t, "127.0.0.1:4222", got["FNBRIDGE_EMBEDDED_NATS_LISTEN"])
}

// TestBridgeTakesItsVariables gives the bridge itself what its container would get, files included: it has to find
// nothing wrong, and nothing that it does not know.
func TestBridgeTakesItsVariables(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		requireConfiguration(t, all, podTemplate(t, all))
		for _, p := range of[*corev1.Pod](all) {
			requireConfiguration(t, all, corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec})
		}
	})
}

func requireConfiguration(t *testing.T, all []object, pod corev1.PodTemplateSpec) {
	t.Helper()
	variables := env(pod.Spec.Containers[0])
	if strings.HasSuffix(pod.Name, "-test") {
		require.NotEmpty(t, pod.Spec.Containers[0].Args)
	}
	files := make(map[string]bool)
	root := t.TempDir()
	for _, file := range mountedFiles(t, pod) {
		path := filepath.Join(root, file.path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, content(t, all, file), 0o600))
		files[file.path] = false
	}
	for name, value := range variables {
		if _, ok := files[value]; ok {
			require.True(t, strings.HasSuffix(name, "_FILE"), name)
			variables[name] = filepath.Join(root, value)
			files[value] = true
		}
	}
	for path, used := range files {
		require.True(t, used, "no variable names the file %s", path)
	}
	if variables["FNBRIDGE_DATA_DIR"] != "" {
		variables["FNBRIDGE_DATA_DIR"] = filepath.Join(root, "data")
	}
	validate(t, variables)
}

// validate runs "fnbridge check", which must find nothing wrong with the variables. Whether it reaches a broker does
// not matter.
func validate(t *testing.T, variables map[string]string) {
	t.Helper()
	binary, err := bridge()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check := exec.CommandContext(ctx, binary, "check", "--timeout", "1ms")
	check.Dir = t.TempDir()
	check.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		check.Env = append(check.Env, name+"="+variables[name])
	}
	var out, problems bytes.Buffer
	check.Stdout, check.Stderr = &out, &problems
	err = check.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		require.NotEqual(t, 2, exit.ExitCode(), "the bridge refuses its configuration:\n%s", &problems)
	} else {
		require.NoError(t, err)
	}
	require.Contains(t, out.String(), "configuration  ok")
	for line := range strings.Lines(problems.String()) {
		// That is for whoever knows the cluster's network to judge.
		require.Contains(t, line, "in clear text", "a warning about the configuration")
	}
}

// content is what a mounted file holds: what the chart puts there, or something of its kind.
func content(t *testing.T, all []object, file mounted) []byte {
	t.Helper()
	for _, s := range of[*corev1.Secret](all) {
		if s.Name == file.secret {
			if text, ok := s.StringData[file.key]; ok {
				return []byte(text)
			}
			return s.Data[file.key]
		}
	}
	switch {
	case strings.HasSuffix(file.path, "/WEBHOOK_SECRETS"):
		return []byte("whsec_c29tZSBzZWNyZXQgb2YgYW4gZW5kcG9pbnQ=\n")
	case strings.HasSuffix(file.path, "_CA_FILE"), strings.HasSuffix(file.path, "_CERT_FILE"),
		strings.HasSuffix(file.path, "_KEY_FILE"):
		certificate, private := pair(t)
		if strings.HasSuffix(file.path, "_KEY_FILE") {
			return private
		}
		return certificate
	}
	return []byte("some-" + file.key)
}

// pair makes a certificate and its key, in PEM.
func pair(t *testing.T) (certificate, private []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
	}
	certificate, err = x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	require.NoError(t, err)
	private, err = x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
