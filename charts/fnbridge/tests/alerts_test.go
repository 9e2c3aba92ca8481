package charttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// alerts are those of the chart for the given way to acknowledge.
func alerts(t *testing.T, ack string) monitoringv1.PrometheusRuleSpec {
	t.Helper()
	all := install(t, parse(t, `{ack: `+ack+`, prometheusRule: {enabled: true}, sinks: {nats: {url: "nats://a"}}}`))
	return one[*monitoringv1.PrometheusRule](t, all).Spec
}

// series are the metrics on the page that is generated from the bridge's own registry, with their labels.
func series(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/metrics.md")
	require.NoError(t, err)
	all := make(map[string][]string)
	row := regexp.MustCompile("(?m)^\\| `(fnbridge_\\w+)` \\| \\w+ \\| ([^|]*) \\|")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		all[m[1]] = strings.Split(strings.TrimSpace(m[2]), ", ")
	}
	require.Greater(t, len(all), 15)
	return all
}

// TestAlertsAskForMetricsThatAreThere compares every metric and every label of an alert with what the bridge has.
func TestAlertsAskForMetricsThatAreThere(t *testing.T) {
	t.Parallel()
	metrics := series(t)
	label := regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"`)
	for _, ack := range []string{"journal", "sinks"} {
		for _, rule := range alerts(t, ack).Groups[0].Rules {
			found := regexp.MustCompile(`(fnbridge_\w+)\{([^}]*)\}`).FindAllStringSubmatch(rule.Expr.String(), -1)
			require.NotEmpty(t, found, rule.Alert)
			for _, m := range found {
				require.Contains(t, metrics, m[1], rule.Alert)
				if ack == "sinks" {
					require.NotContains(t, m[1], "journal", "without a journal, %s never fires", rule.Alert)
				}
				for _, l := range label.FindAllStringSubmatch(m[2], -1) {
					if l[1] != "namespace" && l[1] != "pod" { // which Prometheus adds
						require.Contains(t, metrics[m[1]], l[1], "%s: %s", rule.Alert, m[1])
					}
				}
			}
			text := rule.Annotations["summary"] + rule.Annotations["description"]
			require.NotContains(t, text, "`")
			for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				own := slices.Contains([]string{"pod", "namespace", "result"}, m[1]) || slices.Contains(metrics[found[0][1]], m[1])
				require.True(t, own, "%s speaks of the label %s", rule.Alert, m[1])
			}
		}
	}
}

// TestAlertsFire has promtool check the rules, and play what each alert is for.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	promtool := os.Getenv("PROMTOOL")
	if promtool == "" {
		t.Skip("Skipped: PROMTOOL does not name a promtool. make chart builds one.")
	}
	for _, ack := range []string{"journal", "sinks"} {
		t.Run(ack, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			rules, err := yaml.Marshal(alerts(t, ack))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(folder, "rules.yaml"), rules, 0o600))
			play, err := os.ReadFile(filepath.Join("testdata", "alerts-"+ack+".yaml"))
			require.NoError(t, err)
			for _, rule := range alerts(t, ack).Groups[0].Rules {
				require.Contains(t, string(play), `alertname="`+rule.Alert+`"`, "nothing plays what %s is for", rule.Alert)
			}
			require.NoError(t, os.WriteFile(filepath.Join(folder, "play.yaml"), play, 0o600))
			for _, args := range [][]string{
				{"check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"},
				{"test", "rules", "play.yaml"},
			} {
				command := exec.CommandContext(t.Context(), promtool, args...)
				command.Dir = folder
				out, err := command.CombinedOutput()
				require.NoError(t, err, "%s:\n%s", args, out)
			}
		})
	}
}

func TestAlertsCanBeLeftOut(t *testing.T) {
	t.Parallel()
	all := install(t, parse(t, `{prometheusRule: {enabled: true, disabled: [FnbridgeDown], alertLabels: {team: a}}}`))
	rules := one[*monitoringv1.PrometheusRule](t, all).Spec.Groups[0].Rules
	require.Len(t, rules, len(alerts(t, "journal").Groups[0].Rules)-1)
	for _, r := range rules {
		require.NotEqual(t, "FnbridgeDown", r.Alert)
		require.Equal(t, "a", r.Labels["team"])
		require.NotEmpty(t, r.Labels["severity"])
	}
}
