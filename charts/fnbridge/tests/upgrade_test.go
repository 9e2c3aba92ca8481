package charttest

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
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

// TestThePodLivesUntilTheBridgeHasStopped reckons in every form that the bridge takes.
func TestThePodLivesUntilTheBridgeHasStopped(t *testing.T) {
	t.Parallel()
	for timeout, seconds := range map[string]int64{
		"25s": 25, "1m30s": 90, "1500ms": 2, "1.5s": 2, "1d": 86400, "1d1m": 86460, "0d2s": 2,
	} {
		all := install(t, values{"config": map[string]any{"shutdownTimeout": timeout}, "preStopSeconds": 7})
		pod := podTemplate(t, all)
		requireConfiguration(t, all, pod)
		require.Equal(t, seconds+7+10, *pod.Spec.TerminationGracePeriodSeconds, timeout)
	}
}

// TestASecretThatChangesReplacesNoPod holds that nothing but the chart's own Secret differs, and that a bridge that
// runs takes over what that holds.
func TestASecretThatChangesReplacesNoPod(t *testing.T) {
	t.Parallel()
	with := func(secret, replicas string) (others []object) {
		text := strings.ReplaceAll(`{config: {webhookSecrets: SECRET, pageToken: SECRET, embeddedNatsToken: SECRET},
			sinks: {nats: {replicas: `+replicas+`},
				kafka: {brokers: "a:1", saslMechanism: PLAIN, saslUsername: u, saslPassword: SECRET}}}`, "SECRET", secret)
		for _, o := range install(t, parse(t, text)) {
			if _, ok := o.(*corev1.Secret); !ok {
				others = append(others, o)
			}
		}
		return others
	}
	first := with("one", "1")
	require.Equal(t, first, with("two", "1"), "replaced for a secret, or shows something of it")
	require.NotEqual(t, first, with("one", "3"))
	bridge, kinds := declared(t)
	for _, k := range kinds {
		bridge = append(bridge, k.variables()...)
	}
	for _, v := range bridge {
		require.True(t, !v.Secret || v.Reload, "a pod would keep the %s of its start", v.Name)
	}
	mounted := install(t, parse(t, `{config: {webhookSecrets: {secret: a, key: b}}}`))
	for _, mount := range bridgeContainer(t, mounted).VolumeMounts {
		require.Empty(t, mount.SubPath, "%s never changes", mount.Name)
	}
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
	version, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, false, err
	}
	return c.client.Resource(version.WithResource(map[string]string{
		"Secret": "secrets", "StatefulSet": "statefulsets", "PersistentVolumeClaim": "persistentvolumeclaims",
	}[kind])), true, nil
}

func TestSecretsThatWereMadeAreKept(t *testing.T) {
	t.Parallel()
	secret := func(c cluster, name, key string) []byte {
		files, err := renderChart(t, loadChart(t), nil, c)
		require.NoError(t, err)
		return called[*corev1.Secret](t, objects(t, files), fullname+name).Data[key]
	}
	empty := cluster{fake.NewSimpleDynamicClient(scheme.Scheme)}
	for name, key := range map[string]string{"-webhook": "secrets", "-page": "token", "-nats": "token"} {
		first, second := secret(empty, name, key), secret(empty, name, key)
		require.NotEqual(t, first, second, "everybody's secret would be the same")
		installed := &corev1.Secret{Data: map[string][]byte{key: first}}
		installed.Name, installed.Namespace = fullname+name, namespace
		require.Equal(t, first, secret(cluster{fake.NewSimpleDynamicClient(scheme.Scheme, installed)}, name, key))
	}
	made := secret(empty, "-webhook", "secrets")
	require.Regexp(t, "^whsec_", string(made))
	random, err := base64.StdEncoding.DecodeString(string(made[len("whsec_"):]))
	require.NoError(t, err)
	require.Len(t, random, 32)
	require.Regexp(t, "^[a-zA-Z0-9]{32}$", string(secret(empty, "-page", "token")))
	require.Regexp(t, "^[a-zA-Z0-9]{32}$", string(secret(empty, "-nats", "token")))
}

func TestNoJournalIsLeftBehind(t *testing.T) {
	t.Parallel()
	const nats = `sinks: {nats: {url: "nats://a"}}`
	for text, want := range map[string]string{
		`{replicas: 1, ` + nats + `}`:                         "replicas: 1 would leave the journals",
		`{replicas: 3, ack: sinks, ` + nats + `}`:             "ack: sinks would leave the journals",
		`{replicas: 3, ` + nats + `}`:                         "",
		`{replicas: 0, ` + nats + `}`:                         "",
		`{replicas: 1, journalsDrained: true, ` + nats + `}`:  "",
		`{ack: sinks, journalsDrained: true, ` + nats + `}`:   "",
		`{replicas: 4, ` + nats + `, journalsDrained: false}`: "",
	} {
		for _, replicas := range []int32{3, 0} { // as installed, and as somebody has scaled it since
			_, err := renderChart(t, loadChart(t), parse(t, text), installed(replicas, 3))
			if want == "" {
				require.NoError(t, err, text)
				continue
			}
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, "from "+fullname+"-")
			require.ErrorContains(t, err, "to "+fullname+"-2,")
			require.ErrorContains(t, err, "journalsDrained: true")
			require.Equal(t, replicas == 0, strings.Contains(err.Error(), "Scale the StatefulSet to 3 again."), err)
		}
	}
	// Without claims there is nothing to leave behind, and claims that were drained and left do not count.
	_, err := renderChart(t, loadChart(t), parse(t, `{ack: sinks, `+nats+`}`), installed(0, 0))
	require.NoError(t, err)
	_, err = renderChart(t, loadChart(t), parse(t, `{replicas: 1, `+nats+`}`), installed(1, 3))
	require.NoError(t, err)
}

// installed has a StatefulSet, claims of it, and one of somebody else.
func installed(replicas int32, claims int) cluster {
	set := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: &replicas}}
	set.Name, set.Namespace = fullname, namespace
	other := &corev1.PersistentVolumeClaim{}
	other.Name, other.Namespace = "data-"+fullname+"-test-7", namespace
	all := []runtime.Object{set, other}
	for i := range claims {
		claim := &corev1.PersistentVolumeClaim{}
		claim.Name, claim.Namespace = fmt.Sprintf("data-%s-%d", fullname, i), namespace
		all = append(all, claim)
	}
	return cluster{fake.NewSimpleDynamicClient(scheme.Scheme, all...)}
}
