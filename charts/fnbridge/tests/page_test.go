package charttest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestValuesOnThePageAreTaken installs each block of values that docs/deploy.md shows, and has the bridge read what
// becomes of it. Objects beside the chart's own are policies for its Service.
func TestValuesOnThePageAreTaken(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/deploy.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(blocks), 5)
	for _, block := range blocks {
		name, _, _ := strings.Cut(strings.TrimPrefix(block[1], "# values.yaml\n"), "\n")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := install(t, parse(t, block[1]))
			for _, o := range all {
				require.NoError(t, create(t, o))
			}
			requireConfiguration(t, all, podTemplate(t, all))
			public := called[*corev1.Service](t, all, fullname)
			for _, extra := range of[*unstructured.Unstructured](all) {
				if extra.GetKind() == "BackendConfig" {
					config := public.Annotations["cloud.google.com/backend-config"]
					require.JSONEq(t, `{"default": "`+extra.GetName()+`"}`, config)
					continue
				}
				target, _, err := unstructured.NestedString(extra.Object, "spec", "targetRef", "name")
				require.NoError(t, err)
				require.Equal(t, public.Name, target)
			}
		})
	}
}
