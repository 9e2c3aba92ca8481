package deploytest

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// loadCompose reads the compose file as docker compose does: interpolated, and held against the specification's schema.
func loadCompose(t *testing.T, environment ...string) *types.Project {
	t.Helper()
	project, err := tryCompose(t, filepath.Join("..", "compose", "compose.yaml"), environment...)
	require.NoError(t, err)
	return project
}

func tryCompose(t *testing.T, path string, environment ...string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{path}, cli.WithEnv(environment))
	require.NoError(t, err)
	return options.LoadProject(context.WithoutCancel(t.Context()))
}

// variables are the environment of a service's container.
func variables(t *testing.T, service types.ServiceConfig) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for name, value := range service.Environment {
		require.NotNil(t, value, "%s is taken from whoever starts it", name)
		all[name] = *value
	}
	return all
}

// imageVariables are those that the bridge's image sets.
func imageVariables(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	require.NoError(t, err)
	all := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^ENV (FNBRIDGE_\w+)=(\S+)$`).FindAllStringSubmatch(string(text), -1) {
		all[m[1]] = m[2]
	}
	require.Equal(t, "/data", all["FNBRIDGE_DATA_DIR"])
	return all
}

func TestComposeBridgeTakesItsVariables(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", "whsec_QSBzZWNyZXQgZm9yIGEgdGVzdCBhbG9uZS4h"} {
		service := loadCompose(t, "FNBRIDGE_WEBHOOK_SECRETS="+secret).Services["fnbridge"]
		all := variables(t, service)
		require.Equal(t, secret, all["FNBRIDGE_WEBHOOK_SECRETS"])
		for name, value := range imageVariables(t) {
			require.NotContains(t, all, name, "the image sets it")
			all[name] = value
		}
		// Without the warning that it is open: the file publishes it on 127.0.0.1 alone.
		all["FNBRIDGE_OPS_LISTEN"] = "127.0.0.1:0"
		requireConfiguration(t, all)
	}
}

// TestComposeBridgeReachesItsBrokers follows the addresses of the brokers to services that listen there.
func TestComposeBridgeReachesItsBrokers(t *testing.T) {
	t.Parallel()
	project := loadCompose(t)
	bridge := variables(t, project.Services["fnbridge"])

	nats, err := url.Parse(bridge["FNBRIDGE_NATS_URL"])
	require.NoError(t, err)
	require.Contains(t, project.Services, nats.Hostname())
	require.Equal(t, nats.Port(), strconv.Itoa(natsOptions(t, project).Port))

	kafka := variables(t, project.Services["kafka"])
	require.Contains(t, strings.Split(kafka["KAFKA_ADVERTISED_LISTENERS"], ","),
		"INSIDE://"+bridge["FNBRIDGE_KAFKA_BROKERS"],
		"the bridge would be sent to another address than its own")
	advertised := names(kafka["KAFKA_ADVERTISED_LISTENERS"])
	listening := names(kafka["KAFKA_LISTENERS"])
	require.ElementsMatch(t, listening, append(advertised, kafka["KAFKA_CONTROLLER_LISTENER_NAMES"]))
	require.Contains(t, advertised, kafka["KAFKA_INTER_BROKER_LISTENER_NAME"])
	for _, name := range listening {
		require.Contains(t, kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"], name+":PLAINTEXT")
	}
	require.Equal(t, "true", bridge["FNBRIDGE_KAFKA_CREATE_TOPIC"], "nobody else creates the topic")
	require.Equal(t, "1", bridge["FNBRIDGE_KAFKA_REPLICATION_FACTOR"], "there is one broker")
	require.Equal(t, "1", kafka["KAFKA_LOG_FLUSH_INTERVAL_MESSAGES"], "acknowledged before it is on the disk")
}

// names are those of listeners, NAME://HOST:PORT.
func names(listeners string) []string {
	var all []string
	for listener := range strings.SplitSeq(listeners, ",") {
		name, _, _ := strings.Cut(listener, "://")
		all = append(all, name)
	}
	return all
}

// natsOptions has the NATS server itself read its configuration.
func natsOptions(t *testing.T, project *types.Project) *server.Options {
	t.Helper()
	service := project.Services["nats"]
	require.Equal(t, types.ShellCommand{"--config", service.Configs[0].Target}, service.Command)
	file := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte(project.Configs[service.Configs[0].Source].Content), 0o600))
	options, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	return options
}

func TestComposeNATSKeepsWhatItAcknowledges(t *testing.T) {
	t.Parallel()
	project := loadCompose(t)
	options := natsOptions(t, project)
	require.True(t, options.JetStream)
	require.True(t, options.SyncAlways, "acknowledged before it is on the disk")
	require.Contains(t, mounts(project.Services["nats"]), options.StoreDir, "what it keeps goes with its container")
	require.Equal(t, "127.0.0.1", options.HTTPHost)
	require.Contains(t, strings.Join(project.Services["nats"].HealthCheck.Test, " "), "127.0.0.1:8222")
	require.Equal(t, 8222, options.HTTPPort)
}

// mounts are the paths in a container that outlive it.
func mounts(service types.ServiceConfig) []string {
	var all []string
	for _, v := range service.Volumes {
		if v.Type == types.VolumeTypeVolume && v.Source != "" {
			all = append(all, v.Target)
		}
	}
	return all
}

func TestComposeKeepsItsData(t *testing.T) {
	t.Parallel()
	project := loadCompose(t)
	require.Equal(t, []string{imageVariables(t)["FNBRIDGE_DATA_DIR"]}, mounts(project.Services["fnbridge"]))
	require.Equal(t, []string{variables(t, project.Services["kafka"])["KAFKA_LOG_DIRS"]},
		mounts(project.Services["kafka"]))
	require.Len(t, project.Volumes, 3)
}

func TestComposeBridgeIsConfined(t *testing.T) {
	t.Parallel()
	service := loadCompose(t).Services["fnbridge"]
	require.True(t, service.ReadOnly)
	require.Equal(t, []string{"ALL"}, service.CapDrop)
	require.Equal(t, []string{"no-new-privileges:true"}, service.SecurityOpt)
	require.False(t, service.Privileged)
	require.Empty(t, service.User, "the image has its own")
	require.NotNil(t, service.StopGracePeriod)
	require.GreaterOrEqual(t, time.Duration(*service.StopGracePeriod),
		shutdownTimeout(t, variables(t, service))+5*time.Second, "killed before it has drained")
	require.Empty(t, service.DependsOn, "webhooks would be refused while a broker is away")
}

func TestComposeLetsOthersReachTheWebhooksAlone(t *testing.T) {
	t.Parallel()
	project := loadCompose(t)
	for name, service := range project.Services {
		for _, port := range service.Ports {
			if name != "fnbridge" || port.Target != 8080 {
				require.Equal(t, "127.0.0.1", port.HostIP, "%s: the port %d is open to everybody", name, port.Target)
			}
		}
	}
}

func TestComposeBuildsTheImageOfThisModule(t *testing.T) {
	t.Parallel()
	service := loadCompose(t).Services["fnbridge"]
	want, err := filepath.Abs(root)
	require.NoError(t, err)
	require.Equal(t, want, service.Build.Context)
	require.FileExists(t, filepath.Join(service.Build.Context, service.Build.Dockerfile))
	require.Equal(t, "ghcr.io/fnbridge/fnbridge:dev", service.Image)
	require.Equal(t, "registry.example.com/fnbridge:1",
		loadCompose(t, "FNBRIDGE_IMAGE=registry.example.com/fnbridge:1").Services["fnbridge"].Image)
}

// TestComposeHasTheBrokersOfTheTests compares the versions with those that the sinks are tested against.
func TestComposeHasTheBrokersOfTheTests(t *testing.T) {
	t.Parallel()
	version := func(file, pattern string) string {
		text, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		match := regexp.MustCompile(pattern).FindStringSubmatch(string(text))
		require.NotEmpty(t, match, file)
		return match[1]
	}
	services := loadCompose(t).Services
	require.Equal(t, "nats:"+version("go.mod", `nats-server/v2 v(\d+\.\d+)\.`)+"-alpine", services["nats"].Image)
	require.Equal(t, "apache/kafka:"+version("sinks/sinktest/apachekafka/install.go", `const newest = "(\S+)"`),
		services["kafka"].Image)
}

// TestComposeFileIsReadStrictly holds that a misspelt key is noticed.
func TestComposeFileIsReadStrictly(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "compose", "compose.yaml"))
	require.NoError(t, err)
	broken := strings.Replace(string(text), "read_only: true", "readonly: true", 1)
	require.NotEqual(t, string(text), broken)
	path := filepath.Join(t.TempDir(), "compose.yaml")
	require.NoError(t, os.WriteFile(path, []byte(broken), 0o600))
	_, err = tryCompose(t, path)
	require.ErrorContains(t, err, "readonly")
}
