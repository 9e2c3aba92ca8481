package charttest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhatIsGivenArrives gives each value that the chart only hands on, with a word to be found again in the template
// that it is for.
func TestWhatIsGivenArrives(t *testing.T) {
	t.Parallel()
	const word = "handed-on"
	for in, all := range map[string][]string{
		"statefulset.yaml": {
			`image: {repository: WORD}`, `image: {tag: WORD}`, `imagePullSecrets: [{name: WORD}]`,
			`nodeSelector: {a: WORD}`, `tolerations: [{key: WORD, operator: Exists}]`,
			`topologySpreadConstraints: [{maxSkew: 1, topologyKey: WORD, whenUnsatisfiable: DoNotSchedule}]`,
			`affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: WORD}]}}`,
			`priorityClassName: WORD`, `runtimeClassName: WORD`, `podLabels: {a: WORD}`, `podAnnotations: {a: WORD}`,
			`commonLabels: {a: WORD}`, `commonAnnotations: {a: WORD}`,
			`env: [{name: A, value: WORD}]`, `envFrom: [{secretRef: {name: WORD}}]`, `initContainers: [{name: WORD, image: a}]`,
			`extraContainers: [{name: WORD, image: a}]`,
			`{extraVolumes: [{name: a, configMap: {name: WORD}}], extraVolumeMounts: [{name: a, mountPath: /a}]}`,
			`{extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /WORD}]}`,
			`persistence: {storageClass: WORD}`, `persistence: {annotations: {a: WORD}}`, `persistence: {mountPath: /WORD}`,
			`serviceAccount: {name: WORD}`, `nameOverride: WORD`, `fullnameOverride: WORD`,
			`securityContext: {seLinuxOptions: {level: WORD}}`, `podSecurityContext: {seLinuxOptions: {level: WORD}}`,
		},
		"serviceaccount.yaml": {`serviceAccount: {annotations: {a: WORD}}`, `serviceAccount: {name: WORD}`},
		"service.yaml": {
			`service: {annotations: {a: WORD}}`,
			`service: {type: LoadBalancer, loadBalancerClass: example.com/WORD}`,
		},
		"ingress.yaml": {
			`ingress: {enabled: true, host: a.example.com, className: WORD}`, `ingress: {enabled: true, host: WORD.example.com}`,
			`ingress: {enabled: true, host: a.example.com, annotations: {a: WORD}}`,
			`ingress: {enabled: true, host: a.example.com, tlsSecret: WORD}`,
		},
		"httproute.yaml": {
			`httpRoute: {enabled: true, parentRefs: [{name: WORD}]}`,
			`httpRoute: {enabled: true, parentRefs: [{name: a}], hostnames: [WORD.example.com]}`,
			`httpRoute: {enabled: true, parentRefs: [{name: a}], annotations: {a: WORD}}`,
		},
		"networkpolicy.yaml": {
			`networkPolicy: {enabled: true, webhooksFrom: [{podSelector: {matchLabels: {a: WORD}}}]}`,
			`networkPolicy: {enabled: true, opsFrom: [{podSelector: {matchLabels: {a: WORD}}}]}`,
			`networkPolicy: {enabled: true, natsFrom: [{podSelector: {matchLabels: {a: WORD}}}]}`,
			`{sinks: {nats: {url: "nats://a:1"}}, networkPolicy: {enabled: true, sinksAt: [{podSelector: {matchLabels: {a: WORD}}}]}}`,
			`networkPolicy: {enabled: true, extraEgress: [{ports: [{port: 1}], to: [{podSelector: {matchLabels: {a: WORD}}}]}]}`,
		},
		"servicemonitor.yaml": {
			`serviceMonitor: {enabled: true, labels: {a: WORD}}`,
			`serviceMonitor: {enabled: true, relabelings: [{targetLabel: WORD}]}`,
			`serviceMonitor: {enabled: true, metricRelabelings: [{targetLabel: WORD}]}`,
		},
		"podmonitor.yaml": {
			`podMonitor: {enabled: true, labels: {a: WORD}}`,
			`podMonitor: {enabled: true, relabelings: [{targetLabel: WORD}]}`,
			`podMonitor: {enabled: true, metricRelabelings: [{targetLabel: WORD}]}`,
		},
		"prometheusrule.yaml": {
			`prometheusRule: {enabled: true, labels: {a: WORD}}`,
			`prometheusRule: {enabled: true, alertLabels: {a: WORD}}`,
			`prometheusRule: {enabled: true, extraGroups: [{name: WORD, rules: [{record: a, expr: "1"}]}]}`,
		},
		"dashboard.yaml": {
			`dashboard: {enabled: true, labels: {a: WORD}}`,
			`dashboard: {enabled: true, annotations: {a: WORD}}`,
		},
		"extraobjects.yaml": {`extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: WORD}}]`},
		"tests/webhook.yaml": {
			`image: {repository: WORD}`, `imagePullSecrets: [{name: WORD}]`, `nodeSelector: {a: WORD}`,
			`tolerations: [{key: WORD, operator: Exists}]`, `envFrom: [{secretRef: {name: WORD}}]`,
		},
	} {
		for _, text := range all {
			t.Run(in+" "+text, func(t *testing.T) {
				t.Parallel()
				files := mustRender(t, parse(t, strings.ReplaceAll(text, "WORD", word)))
				for _, o := range objects(t, files) {
					require.NoError(t, create(t, o))
				}
				require.Contains(t, files[in], word)
			})
		}
	}
}

func TestImage(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("0a", 32)
	for given, want := range map[string]string{
		`{}`:                         "ghcr.io/fnbridge/fnbridge:" + loadChart(t).AppVersion(),
		`{image: {tag: v1}}`:         "ghcr.io/fnbridge/fnbridge:v1",
		`{image: {repository: a/b}}`: "a/b:" + loadChart(t).AppVersion(),
		fmt.Sprintf(`{image: {tag: v1, digest: %q}}`, digest): "ghcr.io/fnbridge/fnbridge@" + digest,
	} {
		for name, pod := range pods(t, install(t, parse(t, given))) {
			require.Equal(t, want, pod.Spec.Containers[0].Image, name)
		}
	}
}
