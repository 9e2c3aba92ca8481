{{/* Keys of config, and of sinks by their kind, that hold secrets or addresses to connect to. Written by make chart-generate. */}}
{{- define "fnbridge.declared" -}}
{
  "config": {
    "secrets": [
      "webhookSecrets"
    ],
    "addresses": []
  },
  "sinks": {
    "kafka": {
      "secrets": [
        "saslPassword"
      ],
      "addresses": [
        "brokers"
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
