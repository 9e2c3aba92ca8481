{{/* Keys of config, and of sinks by their kind, that hold secrets or addresses to connect to. Written by make chart-generate. */}}
{{- define "fnbridge.declared" -}}
{
  "config": {
    "secrets": [
      "pageToken",
      "webhookSecrets",
      "embeddedNatsToken"
    ],
    "addresses": []
  },
  "sinks": {
    "kafka": {
      "secrets": [
        "saslPassword",
        "oauthClientSecret"
      ],
      "addresses": [
        "brokers",
        "oauthTokenUrl"
      ]
    },
    "nats": {
      "secrets": [
        "token",
        "password"
      ],
      "addresses": [
        "url"
      ]
    }
  }
}
{{- end -}}
