package charttest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// What follows is what no type and no API server knows: whether the objects find each other.

func selects(t *testing.T, selector *metav1.LabelSelector, set map[string]string) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	require.NoError(t, err)
	require.False(t, s.Empty(), "a selector that selects everything")
	return s.Matches(labels.Set(set))
}

// requirePort fails if the bridge's container has no port of that name.
func requirePort(t *testing.T, all []object, name string) {
	t.Helper()
	for _, p := range bridgeContainer(t, all).Ports {
		if p.Name == name {
			return
		}
	}
	require.Failf(t, "no such port", "the bridge's container has no port called %s", name)
}

func TestSelectorsFindTheBridgeAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		bridge := podTemplate(t, all).Labels
		var others []map[string]string
		for _, p := range of[*corev1.Pod](all) {
			others = append(others, p.Labels)
		}
		check := func(what string, selector *metav1.LabelSelector) {
			t.Helper()
			require.True(t, selects(t, selector, bridge), "%s does not select the bridge", what)
			for _, set := range others {
				require.False(t, selects(t, selector, set), "%s selects the test's pod", what)
			}
		}
		for _, s := range of[*corev1.Service](all) {
			check("Service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		}
		for _, s := range of[*appsv1.StatefulSet](all) {
			check("StatefulSet", s.Spec.Selector)
		}
		for _, d := range of[*appsv1.Deployment](all) {
			check("Deployment", d.Spec.Selector)
		}
		for _, b := range of[*policyv1.PodDisruptionBudget](all) {
			check("PodDisruptionBudget", b.Spec.Selector)
		}
		for _, n := range of[*networkingv1.NetworkPolicy](all) {
			check("NetworkPolicy", &n.Spec.PodSelector)
		}
		for _, m := range of[*monitoringv1.PodMonitor](all) {
			check("PodMonitor", &m.Spec.Selector)
		}
		for i, c := range podTemplate(t, all).Spec.TopologySpreadConstraints {
			check(fmt.Sprintf("topologySpreadConstraints[%d]", i), c.LabelSelector)
		}
		for _, m := range of[*monitoringv1.ServiceMonitor](all) {
			var found []string
			for _, s := range of[*corev1.Service](all) {
				if selects(t, &m.Spec.Selector, s.Labels) {
					found = append(found, s.Name)
				}
			}
			require.Equal(t, []string{fullname + "-headless"}, found, "the Services of the ServiceMonitor")
		}
	})
}

func TestPortsExistWhereTheyAreNamed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		for _, s := range of[*corev1.Service](all) {
			for _, p := range s.Spec.Ports {
				require.Equal(t, intstr.String, p.TargetPort.Type, "Service %s", s.Name)
				requirePort(t, all, p.TargetPort.StrVal)
			}
		}
		for _, n := range of[*networkingv1.NetworkPolicy](all) {
			for _, rule := range n.Spec.Ingress {
				for _, p := range rule.Ports {
					requirePort(t, all, p.Port.StrVal)
				}
			}
		}
		container := bridgeContainer(t, all)
		for _, probe := range []*corev1.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
			require.Equal(t, "ops", probe.HTTPGet.Port.StrVal)
			requirePort(t, all, "ops")
		}
		for _, m := range of[*monitoringv1.ServiceMonitor](all) {
			service := called[*corev1.Service](t, all, fullname+"-headless")
			for _, e := range m.Spec.Endpoints {
				require.Equal(t, service.Spec.Ports[0].Name, e.Port)
			}
		}
		for _, m := range of[*monitoringv1.PodMonitor](all) {
			for _, e := range m.Spec.PodMetricsEndpoints {
				requirePort(t, all, *e.Port)
			}
		}
	})
}

// TestProbesAndScrapesAskWhatTheBridgeAnswers compares the paths with those that a bridge has. Liveness must not depend
// on what readiness does: a restart mends no broker.
func TestProbesAndScrapesAskWhatTheBridgeAnswers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		container := bridgeContainer(t, all)
		require.Equal(t, "/livez", container.StartupProbe.HTTPGet.Path)
		require.GreaterOrEqual(t, container.StartupProbe.PeriodSeconds*container.StartupProbe.FailureThreshold, int32(600),
			"killed while it opens its journal")
		require.Equal(t, "/livez", container.LivenessProbe.HTTPGet.Path)
		require.Equal(t, "/readyz", container.ReadinessProbe.HTTPGet.Path)
		for _, m := range of[*monitoringv1.ServiceMonitor](all) {
			for _, e := range m.Spec.Endpoints {
				require.Equal(t, "/metrics", e.Path)
			}
		}
		for _, m := range of[*monitoringv1.PodMonitor](all) {
			for _, e := range m.Spec.PodMetricsEndpoints {
				require.Equal(t, "/metrics", e.Path)
			}
		}
	})
}

// TestLimitsOfGoFollowThoseOfThePod holds that the collector works harder before the kernel kills, and that no more
// threads run than there are CPUs.
func TestLimitsOfGoFollowThoseOfThePod(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		container := bridgeContainer(t, install(t, v))
		memory, hasMemory := container.Resources.Limits[corev1.ResourceMemory]
		value, isSet := env(container)["GOMEMLIMIT"]
		require.Equal(t, hasMemory, isSet)
		if isSet {
			limit, err := strconv.ParseInt(value, 10, 64)
			require.NoError(t, err)
			require.InDelta(t, 0.9, float64(limit)/float64(memory.Value()), 0.001)
		}
		_, hasCPU := container.Resources.Limits[corev1.ResourceCPU]
		found := false
		for _, e := range container.Env {
			if e.Name == "GOMAXPROCS" {
				found = true
				require.Equal(t, "limits.cpu", e.ValueFrom.ResourceFieldRef.Resource)
				require.Equal(t, container.Name, e.ValueFrom.ResourceFieldRef.ContainerName)
			}
		}
		require.Equal(t, hasCPU, found)
	})
}

// TestWayIn follows a webhook from outside: nothing but its path and its port may lead to the bridge.
func TestWayIn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		public := called[*corev1.Service](t, all, fullname)
		for _, s := range of[*corev1.Service](all) {
			if s.Name != public.Name {
				require.Equal(t, corev1.ServiceTypeClusterIP, s.Spec.Type, "only %s may leave the cluster", public.Name)
			}
		}
		require.Len(t, public.Spec.Ports, 1)
		require.Equal(t, "http", public.Spec.Ports[0].TargetPort.StrVal)
		variables := env(bridgeContainer(t, all))
		protocol := "http"
		if variables["FNBRIDGE_TLS_CERT_FILE"] != "" {
			protocol = "https"
		}
		require.Equal(t, protocol, *public.Spec.Ports[0].AppProtocol, "what a proxy speaks to the bridge")
		taken := []string{"/webhooks/tensorlake", "/webhooks/tensorlake/"} // as the bridge does
		for _, i := range of[*networkingv1.Ingress](all) {
			require.Nil(t, i.Spec.DefaultBackend)
			for _, rule := range i.Spec.Rules {
				require.NotEmpty(t, rule.Host)
				var paths []string
				for _, path := range rule.HTTP.Paths {
					paths = append(paths, path.Path)
					require.Equal(t, networkingv1.PathTypeExact, *path.PathType)
					require.Equal(t, public.Name, path.Backend.Service.Name)
					require.Equal(t, public.Spec.Ports[0].Name, path.Backend.Service.Port.Name)
				}
				require.Equal(t, taken, paths)
			}
		}
		for _, r := range of[*gatewayv1.HTTPRoute](all) {
			require.Len(t, r.Spec.Rules, 1)
			var paths []string
			for _, match := range r.Spec.Rules[0].Matches {
				paths = append(paths, *match.Path.Value)
				require.Equal(t, gatewayv1.PathMatchExact, *match.Path.Type)
			}
			require.Equal(t, taken, paths)
			require.Len(t, r.Spec.Rules[0].BackendRefs, 1)
			backend := r.Spec.Rules[0].BackendRefs[0]
			require.Equal(t, public.Name, string(backend.Name))
			require.Equal(t, public.Spec.Ports[0].Port, *backend.Port)
		}
		for _, p := range of[*corev1.Pod](all) {
			require.Contains(t, strings.Join(p.Spec.Containers[0].Args, " "),
				fmt.Sprintf("://%s:%d/webhooks/tensorlake", public.Name, public.Spec.Ports[0].Port))
		}
		for _, n := range of[*networkingv1.NetworkPolicy](all) {
			require.Len(t, n.Spec.PolicyTypes, 2)
			for _, rule := range n.Spec.Ingress {
				require.Len(t, rule.Ports, 1, "a rule without a port opens all of them")
				if rule.Ports[0].Port.StrVal != "http" {
					require.NotEmpty(t, rule.From, "the port %s is open to everybody", rule.Ports[0].Port.StrVal)
					for _, from := range rule.From {
						require.Nil(t, from.IPBlock)
					}
				}
			}
			for _, rule := range n.Spec.Egress {
				require.NotEmpty(t, rule.Ports, "a rule without a port opens all of them")
			}
		}
	})
}

// TestNetworkPolicyLetsTheBridgeOut compares where a bridge may go with where its variables send it.
func TestNetworkPolicyLetsTheBridgeOut(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		with := values{"networkPolicy": map[string]any{"enabled": true}}
		for key, value := range v {
			if key != "networkPolicy" {
				with[key] = value
			}
		}
		all := install(t, with)
		allowed := make(map[string]bool)
		for _, rule := range one[*networkingv1.NetworkPolicy](t, all).Spec.Egress {
			require.Empty(t, rule.To, "a rule for some addresses only")
			for _, p := range rule.Ports {
				allowed[string(*p.Protocol)+" "+p.Port.String()] = true
			}
		}
		want := map[string]bool{"UDP 53": true, "TCP 53": true}
		for name, value := range env(bridgeContainer(t, all)) {
			if strings.HasSuffix(name, "_URL") || strings.HasSuffix(name, "_BROKERS") {
				for address := range strings.SplitSeq(value, ",") {
					if strings.HasPrefix(address, "https://") {
						address = ":443"
					}
					want["TCP "+address[strings.LastIndex(address, ":")+1:]] = true
				}
			}
		}
		require.Equal(t, want, allowed)
	})
}

func TestNetworkPolicyKnowsThePortsOfSchemes(t *testing.T) {
	t.Parallel()
	for url, port := range map[string]int32{
		"nats://a": 4222, "tls://a/": 4222, "ws://a": 80, "wss://a/path": 443, "wss://a:8443/path": 8443,
		"nats://user:123@[::1]": 4222,
	} {
		all := install(t, values{
			"networkPolicy": map[string]any{"enabled": true}, "sinks": map[string]any{"nats": map[string]any{"url": url}},
		})
		sinks := one[*networkingv1.NetworkPolicy](t, all).Spec.Egress[1].Ports
		require.Len(t, sinks, 1, url)
		require.Equal(t, port, sinks[0].Port.IntVal, url)
	}
}

func TestMountsHaveVolumes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		for name, pod := range pods(t, all) {
			volumes := make(map[string]bool)
			for _, volume := range pod.Spec.Volumes {
				volumes[volume.Name] = false
			}
			if name == "bridge" {
				for _, set := range of[*appsv1.StatefulSet](all) {
					for _, claim := range set.Spec.VolumeClaimTemplates {
						require.NotContains(t, volumes, claim.Name)
						volumes[claim.Name] = false
					}
				}
			}
			for _, c := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
				for _, mount := range c.VolumeMounts {
					require.Contains(t, volumes, mount.Name, "%s mounts a volume that is not there", c.Name)
					volumes[mount.Name] = true
				}
			}
			for volume, mounted := range volumes {
				require.True(t, mounted, "%s: nobody mounts the volume %s", name, volume)
			}
		}
	})
}

// TestSecretsOfTheChartHaveTheirKeys looks up every key that a pod mounts of a Secret that the chart makes.
func TestSecretsOfTheChartHaveTheirKeys(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		made := make(map[string]map[string]string)
		used := make(map[string]bool)
		for _, s := range of[*corev1.Secret](all) {
			made[s.Name] = s.StringData
			if s.StringData == nil {
				made[s.Name] = make(map[string]string)
				for key, value := range s.Data {
					made[s.Name][key] = string(value)
				}
			}
		}
		for _, file := range mountedFiles(t, podTemplate(t, all)) {
			if keys, ok := made[file.secret]; ok {
				require.NotEmpty(t, keys[file.key], "%s has no key %s", file.secret, file.key)
				used[file.secret+"/"+file.key] = true
			}
		}
		for name, keys := range made {
			for key := range keys {
				require.True(t, used[name+"/"+key], "nobody mounts %s of %s", key, name)
			}
		}
	})
}

// mounted is a file that a pod has from a Secret or a ConfigMap.
type mounted struct {
	path, secret, configMap, key string
}

// mountedFiles are the files of the bridge's variables in its container.
func mountedFiles(t *testing.T, pod corev1.PodTemplateSpec) []mounted {
	t.Helper()
	var files []mounted
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		at := ""
		for _, mount := range pod.Spec.Containers[0].VolumeMounts {
			if mount.Name == volume.Name {
				require.True(t, mount.ReadOnly)
				require.Empty(t, mount.SubPath, "a file that is mounted alone does not follow its Secret")
				at = mount.MountPath
			}
		}
		for _, source := range volume.Projected.Sources {
			switch {
			case source.Secret != nil:
				for _, item := range source.Secret.Items {
					files = append(files, mounted{path: at + "/" + item.Path, secret: source.Secret.Name, key: item.Key})
				}
			case source.ConfigMap != nil:
				for _, item := range source.ConfigMap.Items {
					files = append(files, mounted{path: at + "/" + item.Path, configMap: source.ConfigMap.Name, key: item.Key})
				}
			}
		}
	}
	return files
}

func TestScaling(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		for _, h := range of[*autoscalingv2.HorizontalPodAutoscaler](all) {
			d := one[*appsv1.Deployment](t, all)
			require.Nil(t, d.Spec.Replicas, "the autoscaler and the chart would both set the replicas")
			require.Equal(t, autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name},
				h.Spec.ScaleTargetRef)
			require.NotEmpty(t, h.Spec.Metrics)
			for _, m := range h.Spec.Metrics {
				if m.Resource != nil {
					require.Contains(t, bridgeContainer(t, all).Resources.Requests, m.Resource.Name, "a share of nothing")
				}
			}
		}
		for _, s := range of[*appsv1.StatefulSet](all) {
			headless := called[*corev1.Service](t, all, s.Spec.ServiceName)
			require.Equal(t, corev1.ClusterIPNone, headless.Spec.ClusterIP)
		}
		for _, b := range of[*policyv1.PodDisruptionBudget](all) {
			require.Equal(t, policyv1.AlwaysAllow, *b.Spec.UnhealthyPodEvictionPolicy)
			require.Nil(t, b.Spec.MinAvailable, "with one replica, no node could be drained")
		}
	})
}
