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

// alerts are those of the chart with the given values.
func alerts(t *testing.T, text string) monitoringv1.PrometheusRuleSpec {
	t.Helper()
	v := parse(t, text)
	if v["prometheusRule"] == nil {
		v["prometheusRule"] = map[string]any{"enabled": true}
	}
	return one[*monitoringv1.PrometheusRule](t, install(t, v)).Spec
}

// alertsOf are all that there are, by the way to acknowledge.
func alertsOf(t *testing.T) map[string]monitoringv1.PrometheusRuleSpec {
	t.Helper()
	all := make(map[string]monitoringv1.PrometheusRuleSpec)
	for _, ack := range []string{"journal", "sinks"} {
		all[ack] = alerts(t, `{ack: `+ack+`, replicas: 2, sinks: {nats: {url: "nats://a"}},
			prometheusRule: {enabled: true, silenceSeconds: 3600}}`)
	}
	return all
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
	for ack, spec := range alertsOf(t) {
		for _, rule := range spec.Groups[0].Rules {
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
				own := slices.Contains([]string{"pod", "namespace"}, m[1]) || slices.Contains(metrics[found[0][1]], m[1])
				require.True(t, own, "%s speaks of the label %s", rule.Alert, m[1])
			}
		}
	}
}

// TestAlertsAreSound has promtool check the rules. That they fire when they should is played in incidents_test.go.
func TestAlertsAreSound(t *testing.T) {
	t.Parallel()
	prometheus := promtool(t)
	played, err := os.ReadFile("incidents_test.go")
	require.NoError(t, err)
	for ack, spec := range alertsOf(t) {
		rules, err := yaml.Marshal(spec)
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), "rules.yaml")
		require.NoError(t, os.WriteFile(file, rules, 0o600))
		out, err := exec.CommandContext(t.Context(), prometheus, "check", "rules", "--lint=all", "--lint-fatal", file).
			CombinedOutput()
		require.NoError(t, err, "%s: %s", ack, out)
		for _, rule := range spec.Groups[0].Rules {
			require.Contains(t, string(played), rule.Alert+" "+rule.Labels["severity"], "no incident plays what it is for")
		}
	}
}

// TestAlertsLinkToWhatToDo follows each link to its heading.
func TestAlertsLinkToWhatToDo(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/operations.md")
	require.NoError(t, err)
	var anchors []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(page), -1) {
		text := regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors = append(anchors, strings.ReplaceAll(text, " ", "-"))
	}
	for ack, spec := range alertsOf(t) {
		for _, rule := range spec.Groups[0].Rules {
			link, ok := strings.CutPrefix(rule.Annotations["runbook_url"],
				"https://github.com/fnbridge/fnbridge/blob/main/docs/operations.md#")
			require.True(t, ok, "%s links to %s", rule.Alert, rule.Annotations["runbook_url"])
			require.Contains(t, anchors, link, "%s with ack: %s", rule.Alert, ack)
			if ack == "sinks" {
				require.NotContains(t, []string{"the-journal", "the-disk", "dead-letters", "a-sink-is-down-or-blocked"}, link,
					"%s leads to what is there with a journal only", rule.Alert)
			}
		}
	}
}

func TestAlertsCanBeLeftOut(t *testing.T) {
	t.Parallel()
	all := install(t, parse(t, `{prometheusRule: {enabled: true, disabled: [FnbridgeDown], alertLabels: {team: a}}}`))
	rules := one[*monitoringv1.PrometheusRule](t, all).Spec.Groups[0].Rules
	require.Len(t, rules, len(alerts(t, "{}").Groups[0].Rules)-1)
	for _, r := range rules {
		require.NotEqual(t, "FnbridgeDown", r.Alert)
		require.Equal(t, "a", r.Labels["team"])
		require.NotEmpty(t, r.Labels["severity"])
	}
}
