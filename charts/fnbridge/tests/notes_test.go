package charttest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNotes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		values string
		says   []string
		not    []string
	}{
		"minimal": {`{}`, []string{
			"statefulset/events-fnbridge", "helm -n messaging test events --logs", "service/events-fnbridge 8080",
			"Nothing outside of the cluster reaches it yet",
			"Secret events-fnbridge-webhook", "create secret generic fnbridge-tensorlake",
			"nats://events-fnbridge-nats.messaging:4222", "get secret events-fnbridge-nats", "{.data.token}",
			"exec events-fnbridge-0 -- /fnbridge status", "port-forward pod/events-fnbridge-0 8081",
			"get secret events-fnbridge-page -o jsonpath='{.data.token}' | base64 -d",
		}, []string{"WARNING"}},
		"ingress": {
			`{ingress: {enabled: true, host: a.example.com, tlsSecret: t}}`,
			[]string{"     https://a.example.com/webhooks/tensorlake\n"},
			[]string{"Nothing outside"},
		},
		"another path": {
			`{config: {path: /hooks}, ingress: {enabled: true, host: a.example.com}}`,
			[]string{"     http://a.example.com/hooks\n"},
			nil,
		},
		"ingress only": {
			`{ingress: {enabled: true, host: a.example.com}}`,
			[]string{"     http://a.example.com/webhooks/tensorlake\n"},
			nil,
		},
		"gateway": {
			`{httpRoute: {enabled: true, parentRefs: [{name: a}], hostnames: [a.example.com, b.example.com]}}`,
			[]string{"https://a.example.com/webhooks/tensorlake", "https://b.example.com/webhooks/tensorlake"},
			nil,
		},
		"load balancer": {
			`{service: {type: LoadBalancer}}`,
			[]string{"http://<address>:8080/webhooks/tensorlake", "get service events-fnbridge"},
			nil,
		},
		"secret of one's own": {
			`{config: {webhookSecrets: {secret: a, key: b}}}`,
			[]string{"rollout restart statefulset/events-fnbridge"},
			[]string{"create secret"},
		},
		"a page token of one's own": {
			`{config: {pageToken: {secret: a, key: b.c}}}`,
			[]string{`get secret a -o jsonpath='{.data.b\.c}' | base64 -d`},
			[]string{"events-fnbridge-page"},
		},
		"token of one's own": {
			`{config: {embeddedNatsToken: {secret: a, key: b}}}`,
			[]string{"get secret a -o", "{.data.b}"},
			[]string{"events-fnbridge-nats -o"},
		},
		"a token as it is": {
			`{config: {embeddedNatsToken: 0123456789abcdef}}`,
			[]string{"get secret events-fnbridge -o", `{.data.bridge\.EMBEDDED_NATS_TOKEN}`},
			[]string{"0123456789abcdef"},
		},
		"unsigned": {
			`{config: {insecureUnsigned: true}}`,
			[]string{"WARNING: config.insecureUnsigned"},
			[]string{"create secret"},
		},
		"no volume": {`{persistence: {enabled: false}}`, []string{"WARNING: persistence.enabled is false"}, nil},
		"stateless": {
			`{ack: sinks, sinks: {nats: {url: "nats://a", stream: S}, kafka: {brokers: "a:1", topic: T}}}`,
			[]string{
				"exec deployment/events-fnbridge -- /fnbridge status", "the Kafka topic T",
				"the NATS stream S, subjects tensorlake.{route}",
			},
			[]string{"with a token"},
		},
		"no test": {`{tests: {enabled: false}}`, nil, []string{"helm -n messaging test"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notes := mustRender(t, parse(t, test.values))["NOTES.txt"]
			for _, text := range test.says {
				require.Contains(t, notes, text)
			}
			for _, text := range test.not {
				require.NotContains(t, notes, text)
			}
			require.NotContains(t, notes, "\n\n\n")
			require.NotContains(t, notes, "{{")
		})
	}
}
