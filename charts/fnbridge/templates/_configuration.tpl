{{/*
From values to the bridge's variables.

A value of config or of a sink is a text, a number, true or false, a list, or a reference to a key of a Secret or a ConfigMap
({secret: NAME, key: KEY}, {configMap: NAME, key: KEY}). What is referred to becomes a file, and so does a secret that was given as it is, by way of
the chart's own Secret: a variable's value shows in "kubectl describe", a file's content does not.
*/}}

{{/* The sinks by name, as JSON. One that a later values file sets to null is none. */}}
{{- define "fnbridge.sinks" -}}
{{- $sinks := dict -}}
{{- range $name, $sink := .Values.sinks -}}
{{- if not (kindIs "invalid" $sink) -}}
{{- $_ := set $sinks $name $sink -}}
{{- end -}}
{{- end -}}
{{- toJson (default (dict "nats" (dict "kind" "nats")) $sinks) -}}
{{- end -}}

{{/* The kind of a sink: (dict "name" "…" "sink" (dict …)). A sink that is called as its kind need not name it. */}}
{{- define "fnbridge.kind" -}}
{{- $kind := default .name .sink.kind -}}
{{- $kinds := (include "fnbridge.declared" . | fromJson).sinks -}}
{{- if not (hasKey $kinds $kind) -}}
{{- fail (printf "sinks.%s.kind: %s is no kind of sink; give one of %s" .name $kind (keys $kinds | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $kind -}}
{{- end -}}

{{/* "true" if a sink uses the NATS server inside the bridge, else nothing. */}}
{{- define "fnbridge.embedded" -}}
{{- $embedded := "" -}}
{{- range $name, $sink := include "fnbridge.sinks" . | fromJson -}}
{{- if and (eq (include "fnbridge.kind" (dict "name" $name "sink" $sink)) "nats") (not $sink.url) -}}
{{- $embedded = "true" -}}
{{- end -}}
{{- end -}}
{{- $embedded -}}
{{- end -}}

{{/* A value as the text that a variable takes. YAML's numbers come as floats, and 1048576 must not become 1.048576e+06. */}}
{{- define "fnbridge.text" -}}
{{- if kindIs "slice" . -}}
{{- $texts := list -}}
{{- range . -}}
{{- $texts = append $texts (include "fnbridge.text" .) -}}
{{- end -}}
{{- join "," $texts -}}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- int64 . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/*
Every variable that config and sinks give, as JSON {"variables": […]}, each with
  env            its name, with FNBRIDGE_ and perhaps _FILE
  value          its value; or
  file           the path of its file below the mount of all of them, and where that comes from:
  secret, configMap and key, or made (the text for the chart's own Secret)
*/}}
{{- define "fnbridge.variables" -}}
{{- $given := list -}}
{{- $declared := include "fnbridge.declared" . | fromJson -}}
{{- range $key, $value := .Values.config -}}
{{- $given = append $given (dict "path" (printf "config.%s" $key) "prefix" "" "place" "bridge" "name" (snakecase $key | upper) "value" $value
      "secret" (has $key $declared.config.secrets)) -}}
{{- end -}}
{{- range $name, $sink := include "fnbridge.sinks" . | fromJson -}}
{{- $of := get $declared.sinks (include "fnbridge.kind" (dict "name" $name "sink" $sink)) -}}
{{- range $key, $value := omit $sink "kind" -}}
{{- $given = append $given (dict "path" (printf "sinks.%s.%s" $name $key) "prefix" (printf "%s_" (upper $name)) "place" $name "name" (snakecase $key | upper) "value" $value
      "secret" (has $key $of.secrets)) -}}
{{- end -}}
{{- end -}}
{{- $variables := list -}}
{{- range $given -}}
{{- if and (not (kindIs "invalid" .value)) (ne (toString .value) "") (ne (toString .value) "[]") -}}
{{- $file := hasSuffix "_FILE" .name -}}
{{- $env := printf "FNBRIDGE_%s%s" .prefix .name -}}
{{- $variable := dict "path" .path "env" $env "reload" .reload -}}
{{- if or (kindIs "map" .value) .secret -}}
{{- $_ := set $variable "env" (ternary $env (printf "%s_FILE" $env) $file) -}}
{{- $_ := set $variable "file" (printf "%s/%s" .place .name) -}}
{{- if kindIs "map" .value -}}
{{- $_ := merge $variable .value -}}
{{- else -}}
{{- $_ := set $variable "made" (include "fnbridge.text" .value) -}}
{{- end -}}
{{- else -}}
{{- $_ := set $variable "value" (include "fnbridge.text" .value) -}}
{{- end -}}
{{- $variables = append $variables $variable -}}
{{- end -}}
{{- end -}}
{{- if include "fnbridge.makesWebhookSecret" . -}}
{{- $variables = append $variables (dict "path" "config.webhookSecrets" "env" "FNBRIDGE_WEBHOOK_SECRETS_FILE" "file" "bridge/WEBHOOK_SECRETS"
      "secret" (include "fnbridge.webhookSecretName" .) "key" "secrets") -}}
{{- end -}}
{{- if not .Values.config.pageToken -}}
{{- $variables = append $variables (dict "path" "config.pageToken" "env" "FNBRIDGE_PAGE_TOKEN_FILE" "file" "bridge/PAGE_TOKEN"
      "secret" (include "fnbridge.pageSecretName" .) "key" "token") -}}
{{- end -}}
{{- if include "fnbridge.makesNATSToken" . -}}
{{- $variables = append $variables (dict "path" "config.embeddedNatsToken" "env" "FNBRIDGE_EMBEDDED_NATS_TOKEN_FILE" "file" "bridge/EMBEDDED_NATS_TOKEN"
      "secret" (include "fnbridge.natsTokenName" .) "key" "token") -}}
{{- end -}}
{{- toJson (dict "variables" $variables) -}}
{{- end -}}

{{/* "true" if no webhook secret was given, and one is made, else nothing. */}}
{{- define "fnbridge.makesWebhookSecret" -}}
{{- if not (or .Values.config.webhookSecrets .Values.config.insecureUnsigned) -}}
true
{{- end -}}
{{- end -}}

{{- define "fnbridge.webhookSecretName" -}}
{{- printf "%s-webhook" (include "fnbridge.fullname" .) -}}
{{- end -}}

{{- define "fnbridge.pageSecretName" -}}
{{- printf "%s-page" (include "fnbridge.fullname" .) -}}
{{- end -}}

{{/* "true" if others reach the NATS server inside the bridge and no token was given for it, so that one is made, else nothing. */}}
{{- define "fnbridge.makesNATSToken" -}}
{{- if and (include "fnbridge.embedded" .) .Values.embeddedNATS.service (not .Values.config.embeddedNatsToken) -}}
true
{{- end -}}
{{- end -}}

{{- define "fnbridge.natsTokenName" -}}
{{- printf "%s-nats" (include "fnbridge.fullname" .) -}}
{{- end -}}

{{/* The key of the chart's own Secret that holds a file. */}}
{{- define "fnbridge.madeKey" -}}
{{- . | replace "/" "." -}}
{{- end -}}

{{/* The data of the chart's own Secret, as YAML; nothing if there is none. */}}
{{- define "fnbridge.madeSecrets" -}}
{{- $data := dict -}}
{{- range (include "fnbridge.variables" . | fromJson).variables -}}
{{- if hasKey . "made" -}}
{{- $_ := set $data (include "fnbridge.madeKey" .file) .made -}}
{{- end -}}
{{- end -}}
{{- if $data -}}
{{- toYaml $data -}}
{{- end -}}
{{- end -}}

{{/* Where the files of variables are mounted. */}}
{{- define "fnbridge.files" -}}
/etc/fnbridge
{{- end -}}

{{/* The sources of the volume with all files, as YAML; nothing if there are none. */}}
{{- define "fnbridge.fileSources" -}}
{{- $root := . -}}
{{- $sources := list -}}
{{- range (include "fnbridge.variables" . | fromJson).variables -}}
{{- if hasKey . "file" -}}
{{- $item := dict "path" .file -}}
{{- $kind := "secret" -}}
{{- $name := "" -}}
{{- if hasKey . "made" -}}
{{- $name = include "fnbridge.fullname" $root -}}
{{- $_ := set $item "key" (include "fnbridge.madeKey" .file) -}}
{{- else -}}
{{- $kind = ternary "secret" "configMap" (hasKey . "secret") -}}
{{- $name = tpl (get . $kind) $root -}}
{{- $_ := set $item "key" .key -}}
{{- end -}}
{{- $sources = append $sources (dict $kind (dict "name" $name "items" (list $item))) -}}
{{- end -}}
{{- end -}}
{{- if $sources -}}
{{- toYaml $sources -}}
{{- end -}}
{{- end -}}

{{/*
The variables of a container, as a list in YAML: (dict "root" $ "test" false). In the test's pod the NATS server inside the bridge is another
machine's, and so is reached through its Service.
*/}}
{{- define "fnbridge.env" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $sinks := include "fnbridge.sinks" $root | fromJson -}}
{{- $env := list -}}
{{- $names := list -}}
{{- range $name, $sink := $sinks -}}
{{- $names = append $names (printf "%s=%s" $name (include "fnbridge.kind" (dict "name" $name "sink" $sink))) -}}
{{- end -}}
{{- $env = append $env (dict "name" "FNBRIDGE_SINKS" "value" (join "," $names)) -}}
{{- if eq $v.ack "sinks" -}}
{{- $env = append $env (dict "name" "FNBRIDGE_ACK" "value" "sinks") -}}
{{- end -}}
{{- $env = append $env (dict "name" "FNBRIDGE_LISTEN" "value" (printf ":%s" (include "fnbridge.text" $v.ports.http))) -}}
{{- $env = append $env (dict "name" "FNBRIDGE_OPS_LISTEN" "value" (printf ":%s" (include "fnbridge.text" $v.ports.ops))) -}}
{{- if $v.preStopSeconds -}}
{{- $env = append $env (dict "name" "FNBRIDGE_DRAIN" "value" "0s") -}}
{{- end -}}
{{- if eq $v.ack "journal" -}}
{{- $env = append $env (dict "name" "FNBRIDGE_DATA_DIR" "value" $v.persistence.mountPath) -}}
{{- end -}}
{{- if and (include "fnbridge.embedded" $root) (not .test) -}}
{{- $host := ternary "" "127.0.0.1" $v.embeddedNATS.service -}}
{{- $env = append $env (dict "name" "FNBRIDGE_EMBEDDED_NATS_LISTEN" "value" (printf "%s:%s" $host (include "fnbridge.text" $v.ports.nats))) -}}
{{- end -}}
{{- if and (include "fnbridge.embedded" $root) $v.embeddedNATS.monitor (not .test) -}}
{{- $env = append $env (dict "name" "FNBRIDGE_EMBEDDED_NATS_MONITOR_LISTEN" "value" (printf ":%s" (include "fnbridge.text" $v.ports.natsMonitor))) -}}
{{- end -}}
{{- if .test -}}
{{- range $name, $sink := $sinks -}}
{{- if and (eq (include "fnbridge.kind" (dict "name" $name "sink" $sink)) "nats") (not $sink.url) -}}
{{- $env = append $env (dict "name" (printf "FNBRIDGE_%s_URL" (upper $name)) "value" (printf "nats://%s-nats:%s" (include "fnbridge.fullname" $root) (include "fnbridge.text" $v.ports.nats))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $test := .test -}}
{{- range (include "fnbridge.variables" $root | fromJson).variables -}}
{{- $token := .file -}}
{{- if and $test (hasPrefix "FNBRIDGE_EMBEDDED_NATS_TOKEN" .env) -}}
{{- range $name, $sink := $sinks -}}
{{- if and (eq (include "fnbridge.kind" (dict "name" $name "sink" $sink)) "nats") (not $sink.url) -}}
{{- $env = append $env (dict "name" (printf "FNBRIDGE_%s_TOKEN_FILE" (upper $name)) "value" (printf "%s/%s" (include "fnbridge.files" $root) $token)) -}}
{{- end -}}
{{- end -}}
{{- else if hasKey . "file" -}}
{{- $env = append $env (dict "name" .env "value" (printf "%s/%s" (include "fnbridge.files" $root) .file)) -}}
{{- else -}}
{{- $env = append $env (dict "name" .env "value" (tpl .value $root)) -}}
{{- end -}}
{{- end -}}
{{- if not .test -}}
{{- with ($v.resources.limits).memory -}}
{{- $env = append $env (dict "name" "GOMEMLIMIT" "value" (include "fnbridge.memoryLimit" .)) -}}
{{- end -}}
{{- if ($v.resources.limits).cpu -}}
{{- $env = append $env (dict "name" "GOMAXPROCS" "valueFrom" (dict "resourceFieldRef" (dict "containerName" "fnbridge" "resource" "limits.cpu" "divisor" "1"))) -}}
{{- end -}}
{{- end -}}
{{- $set := list -}}
{{- range $env -}}
{{- $set = append $set .name -}}
{{- end -}}
{{- range $v.env -}}
{{- if has .name $set -}}
{{- if hasPrefix "GO" .name -}}
{{- fail (printf "env: %s comes from resources.limits; change it there" .name) -}}
{{- end -}}
{{- fail (printf "env: %s is set by the chart already, from ack, config, sinks, ports or persistence; change it there" .name) -}}
{{- end -}}
{{- $set = append $set .name -}}
{{- $env = append $env . -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{/* Nine tenths of a memory limit in bytes, for GOMEMLIMIT: the collector works harder before the kernel kills. */}}
{{- define "fnbridge.memoryLimit" -}}
{{- $text := include "fnbridge.text" . -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text -}}
{{- if or (not $number) (not (hasKey $units $unit)) -}}
{{- fail (printf "resources.limits.memory: %s is not understood; give a whole number with Mi or Gi" $text) -}}
{{- end -}}
{{- mulf (float64 $number) (get $units $unit) 0.9 | floor | int64 -}}
{{- end -}}

{{/* A duration as Go writes it, perhaps with whole days before it, in whole seconds, rounded up. */}}
{{- define "fnbridge.seconds" -}}
{{- $days := regexFind "^[0-9]+d" . -}}
{{- $rest := default "0s" (trimPrefix $days .) -}}
{{- $start := toDate "2006-01-02" "2000-01-01" -}}
{{- $whole := sub (dateModify (printf "+%s" $rest) $start | unixEpoch | int64) ($start | unixEpoch | int64) -}}
{{- if regexMatch "(\\.|[0-9](ns|us|µs|ms))" $rest -}}
{{- $whole = add $whole 1 -}}
{{- end -}}
{{- add $whole (mul 86400 (trimSuffix "d" $days | int64)) -}}
{{- end -}}

{{/* Seconds that a pod has from the announcement of its end until it is killed. */}}
{{- define "fnbridge.gracePeriod" -}}
{{- $drain := default "25s" .Values.config.shutdownTimeout -}}
{{- if kindIs "map" $drain -}}
{{- fail "config.shutdownTimeout: give it as it is, not as a reference; the pod's grace period is reckoned from it" -}}
{{- end -}}
{{- $least := add (include "fnbridge.seconds" $drain | int) (int .Values.preStopSeconds) 5 -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- add $least 5 -}}
{{- else if lt (int $given) (int $least) -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is too short: preStopSeconds (%d), config.shutdownTimeout (%s) and five seconds to close everything are %d" (int $given) (int .Values.preStopSeconds) $drain (int $least)) -}}
{{- else -}}
{{- int $given -}}
{{- end -}}
{{- end -}}

{{/* What is right by itself and wrong together. Everything that cannot work is refused here, with the reason. */}}
{{- define "fnbridge.refusals" -}}
{{- $v := .Values -}}
{{- $replicas := int $v.replicas -}}
{{- if include "fnbridge.embedded" . -}}
{{- if eq $v.ack "sinks" -}}
{{- fail "ack: with sinks, a 2xx means that every sink's broker has the events, and a pod keeps nothing; but a sink uses the NATS server inside the bridge, whose events would be gone with the pod. Give that sink a url, or set ack to journal" -}}
{{- end -}}
{{- if gt $replicas 1 -}}
{{- fail (printf "replicas: %d bridges would each have a NATS server of their own inside, and a subscriber would see the events of one of them. Give every nats sink a url, or set replicas to 1" $replicas) -}}
{{- end -}}
{{- end -}}
{{- if eq $v.ack "sinks" -}}
{{- $required := false -}}
{{- range $name, $sink := include "fnbridge.sinks" . | fromJson -}}
{{- if ne (toString $sink.required) "false" -}}
{{- $required = true -}}
{{- end -}}
{{- if $sink.giveUpAfter -}}
{{- fail (printf "sinks.%s.giveUpAfter: with ack: sinks there is nothing to give up; a webhook that a sink does not take in time is answered 503, and its sender keeps it. Leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- if not $required -}}
{{- fail "sinks: with ack: sinks, a 2xx means that every required sink has the events, and none is required. Leave out required: false at one of them" -}}
{{- end -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (eq $v.ack "journal") -}}
{{- fail "autoscaling.enabled: a bridge that is scaled away takes its journal with it, and what it has not delivered would wait until it is back. Set ack to sinks to scale, or replicas to a fixed number" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas: %d is more than maxReplicas (%d)" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) -}}
{{- fail "ingress.host is missing: give the name that Tensorlake is to post to" -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty: name the Gateway that the route attaches to" -}}
{{- end -}}
{{- if and $v.serviceMonitor.enabled $v.podMonitor.enabled -}}
{{- fail "serviceMonitor.enabled and podMonitor.enabled: with both, everything would be counted twice. Enable one" -}}
{{- end -}}
{{- $ports := list (int $v.ports.http) (int $v.ports.ops) -}}
{{- if include "fnbridge.embedded" . -}}
{{- $ports = append $ports (int $v.ports.nats) -}}
{{- if $v.embeddedNATS.monitor -}}
{{- $ports = append $ports (int $v.ports.natsMonitor) -}}
{{- end -}}
{{- end -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
{{- fail "ports: two of them are the same; give each its own" -}}
{{- end -}}
{{- end -}}
