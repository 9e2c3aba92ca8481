package charttest

import (
	"encoding/base64"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// TestWhatCannotChangeStays holds, for each situation, the names of all objects and every field that Kubernetes does
// not let change, as they were released. A difference here is an upgrade that fails at somebody's, or that leaves a
// volume behind.
func TestWhatCannotChangeStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		type fixed struct {
			Names                []string                       `json:"names"`
			Selector             map[string]string              `json:"selector"`
			ServiceName          string                         `json:"serviceName,omitempty"`
			PodManagementPolicy  appsv1.PodManagementPolicyType `json:"podManagementPolicy,omitempty"`
			VolumeClaimTemplates []corev1.PersistentVolumeClaim `json:"volumeClaimTemplates,omitempty"`
		}
		var f fixed
		all := install(t, v)
		for _, o := range all {
			f.Names = append(f.Names, o.GetObjectKind().GroupVersionKind().Kind+"/"+o.GetName())
		}
		slices.Sort(f.Names)
		for _, s := range of[*appsv1.StatefulSet](all) {
			f.Selector, f.ServiceName = s.Spec.Selector.MatchLabels, s.Spec.ServiceName
			f.PodManagementPolicy = s.Spec.PodManagementPolicy
			f.VolumeClaimTemplates = s.Spec.VolumeClaimTemplates
		}
		for _, d := range of[*appsv1.Deployment](all) {
			f.Selector = d.Spec.Selector.MatchLabels
		}
		text, err := yaml.Marshal(f)
		require.NoError(t, err)
		requireFile(t, filepath.Join("testdata", "fixed", filepath.Base(t.Name())+".yaml"), text)
	})
}

// TestTheNextVersionIsTakenAsAnUpgrade renders each situation as the next version of the chart and of the bridge would
// be, with everything changed that an operator changes, and has the API server's own code replace the one by the other.
func TestTheNextVersionIsTakenAsAnUpgrade(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		before := install(t, v)
		chart := loadChart(t)
		chart.Metadata.Version, chart.Metadata.AppVersion = "9.9.9", "9.9.9"
		changed := values{
			"replicas":  v["replicas"],
			"podLabels": map[string]any{"new": "label"}, "commonLabels": map[string]any{"another": "label"},
			"commonAnnotations": map[string]any{"new": "annotation"}, "preStopSeconds": 20, "terminationGracePeriodSeconds": 180,
			"resources": map[string]any{
				"limits":   map[string]any{"memory": "2Gi"},
				"requests": map[string]any{"cpu": "1", "memory": "1Gi"},
			},
		}
		for key, value := range v {
			if _, ok := changed[key]; !ok {
				changed[key] = value
			}
		}
		files, err := renderChart(t, chart, changed, nil)
		require.NoError(t, err)
		after := objects(t, files)
		replaced := 0
		for _, old := range before {
			for _, o := range after {
				if o.GetName() == old.GetName() && o.GetObjectKind().GroupVersionKind() == old.GetObjectKind().GroupVersionKind() {
					require.NoError(t, replace(t, old, o), "%s %s", o.GetObjectKind().GroupVersionKind().Kind, o.GetName())
					replaced++
				}
			}
		}
		require.Len(t, before, replaced, "the next version does not have all of the objects")
	})
}

// TestOnePodAtATime holds that a new version replaces one pod after the other.
func TestOnePodAtATime(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		for _, s := range of[*appsv1.StatefulSet](all) {
			require.Equal(t, appsv1.RollingUpdateStatefulSetStrategyType, s.Spec.UpdateStrategy.Type)
			require.Nil(t, s.Spec.UpdateStrategy.RollingUpdate, "one at a time, all of them")
		}
		for _, d := range of[*appsv1.Deployment](all) {
			require.Equal(t, appsv1.RollingUpdateDeploymentStrategyType, d.Spec.Strategy.Type)
			require.Equal(t, 0, d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue())
			require.Equal(t, 1, d.Spec.Strategy.RollingUpdate.MaxSurge.IntValue())
		}
		require.NotEmpty(t, of[*policyv1.PodDisruptionBudget](all))
		pod := podTemplate(t, all)
		lifecycle := bridgeContainer(t, all).Lifecycle
		require.NotNil(t, lifecycle, "stopped while load balancers still send")
		require.Greater(t, *pod.Spec.TerminationGracePeriodSeconds, lifecycle.PreStop.Sleep.Seconds+25,
			"killed before it has drained")
	})
}

func TestPodsAreReplacedWhenTheirSecretChanges(t *testing.T) {
	t.Parallel()
	with := func(password string) string {
		all := install(t, parse(t, `{sinks: {nats: {url: "nats://a", user: u, password: `+password+`}}}`))
		return podTemplate(t, all).Annotations["checksum/secret"]
	}
	first := with("one")
	require.NotEmpty(t, first)
	require.Equal(t, first, with("one"), "replaced by every upgrade")
	require.NotEqual(t, with("one"), with("two"))
}

func TestAnotherVersionOfTheChartAloneRestartsNothing(t *testing.T) {
	t.Parallel()
	chart := loadChart(t)
	v := parse(t, `{config: {webhookSecrets: {secret: a, key: b}}}`)
	before := podTemplate(t, install(t, v))
	chart.Metadata.Version = "9.9.9"
	files, err := renderChart(t, chart, v, nil)
	require.NoError(t, err)
	require.Equal(t, before, podTemplate(t, objects(t, files)))
}

// cluster is what lookup finds.
type cluster struct{ client dynamic.Interface }

// GetClientFor implements engine.ClientProvider.
func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return c.client.Resource(schema.GroupVersionResource{
		Version:  apiVersion,
		Resource: map[string]string{"Secret": "secrets"}[kind],
	}), true, nil
}

func TestTheSecretThatWasMadeIsKept(t *testing.T) {
	t.Parallel()
	secret := func(c cluster) []byte {
		files, err := renderChart(t, loadChart(t), nil, c)
		require.NoError(t, err)
		return called[*corev1.Secret](t, objects(t, files), fullname+"-webhook").Data["secrets"]
	}
	empty := cluster{fake.NewSimpleDynamicClient(scheme.Scheme)}
	first, second := secret(empty), secret(empty)
	require.NotEqual(t, first, second, "everybody's secret would be the same")
	require.Regexp(t, "^whsec_", string(first))
	random, err := base64.StdEncoding.DecodeString(string(first[len("whsec_"):]))
	require.NoError(t, err)
	require.Len(t, random, 32)

	installed := &corev1.Secret{Data: map[string][]byte{"secrets": first}}
	installed.Name, installed.Namespace = fullname+"-webhook", namespace
	require.Equal(t, first, secret(cluster{fake.NewSimpleDynamicClient(scheme.Scheme, installed)}))
}
