package charttest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	v2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

const (
	chartDir    = ".."
	releaseName = "events"
	namespace   = "messaging"
	fullname    = "events-fnbridge"
)

// values are what a user gives.
type values map[string]any

// parse reads values as a user writes them.
func parse(t *testing.T, text string) values {
	t.Helper()
	var v values
	require.NoError(t, yaml.Unmarshal([]byte(text), &v))
	return v
}

// situations are the values files of ci and examples, by name.
func situations(t *testing.T) map[string]values {
	t.Helper()
	all := make(map[string]values)
	for _, folder := range []string{"ci", "examples"} {
		files, err := filepath.Glob(filepath.Join(chartDir, folder, "*-values.yaml"))
		require.NoError(t, err)
		require.NotEmpty(t, files, folder)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			all[strings.TrimSuffix(filepath.Base(file), "-values.yaml")] = parse(t, string(text))
		}
	}
	return all
}

// each runs f for every situation.
func each(t *testing.T, f func(t *testing.T, v values)) {
	t.Helper()
	all := situations(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, all[name])
		})
	}
}

func loadChart(t *testing.T) *v2.Chart {
	t.Helper()
	chart, err := loader.Load(chartDir)
	require.NoError(t, err)
	return chart
}

// render does what helm install does before it talks to a cluster: it checks the values against the schema and renders
// every template. The result is by the template's name within the chart.
func render(t *testing.T, v values) (map[string]string, error) {
	t.Helper()
	return renderChart(t, loadChart(t), v, nil)
}

// renderChart is render for a chart that may have been changed, and with a cluster that lookup asks, which may be nil.
func renderChart(t *testing.T, chart *v2.Chart, v values, cluster engine.ClientProvider) (map[string]string, error) {
	t.Helper()
	options := common.ReleaseOptions{Name: releaseName, Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValuesWithSchemaValidation(chart, v, options, common.DefaultCapabilities, false)
	if err != nil {
		return nil, err
	}
	var rendered map[string]string
	if cluster != nil {
		rendered, err = engine.RenderWithClientProvider(chart, all, cluster)
	} else {
		rendered, err = engine.Render(chart, all)
	}
	if err != nil {
		return nil, err
	}
	files := make(map[string]string)
	for name, text := range rendered {
		if strings.TrimSpace(text) != "" && !strings.HasSuffix(name, ".tpl") {
			files[strings.TrimPrefix(name, chart.Name()+"/templates/")] = text
		}
	}
	return files, nil
}

// mustRender is render for values that have to be right.
func mustRender(t *testing.T, v values) map[string]string {
	t.Helper()
	files, err := render(t, v)
	require.NoError(t, err)
	return files
}
