{{/* The pod of the StatefulSet and of the Deployment. */}}
{{- define "fnbridge.pod" -}}
{{- include "fnbridge.refusals" . -}}
{{- $v := .Values -}}
{{- $fullname := include "fnbridge.fullname" . -}}
{{- $sources := include "fnbridge.fileSources" . -}}
{{- $journal := eq $v.ack "journal" -}}
{{- $annotations := dict "kubectl.kubernetes.io/default-container" "fnbridge" -}}
metadata:
  labels:
    {{- /* Not the chart's version: a new chart with the same pod restarts nothing. */}}
    {{- toYaml (merge (include "fnbridge.selectorLabels" . | fromYaml) $v.podLabels $v.commonLabels) | nindent 4 }}
  annotations:
    {{- /* No checksum of a secret: a bridge that runs takes over what its files hold, and more people may read these
    than may read Secrets. */}}
    {{- toYaml (merge $annotations $v.podAnnotations $v.commonAnnotations) | nindent 4 }}
spec:
  serviceAccountName: {{ include "fnbridge.serviceAccountName" . }}
  automountServiceAccountToken: false
  # The variables of a Service called fnbridge would look like the bridge's own.
  enableServiceLinks: false
  {{- with $v.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ include "fnbridge.gracePeriod" . }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $v.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.affinity }}
  affinity:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- include "fnbridge.spread" . | nindent 4 }}
  {{- with $v.initContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - name: fnbridge
      image: {{ include "fnbridge.image" . }}
      {{- with $v.image.pullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      args: [serve]
      env:
        {{- include "fnbridge.env" (dict "root" . "test" false) | nindent 8 }}
      {{- with $v.envFrom }}
      envFrom:
        {{- tpl (toYaml .) $ | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: {{ $v.ports.http }}
          protocol: TCP
        - name: ops
          containerPort: {{ $v.ports.ops }}
          protocol: TCP
        {{- if and (include "fnbridge.embedded" .) $v.embeddedNATS.service }}
        - name: nats
          containerPort: {{ $v.ports.nats }}
          protocol: TCP
        {{- end }}
        {{- if and (include "fnbridge.embedded" .) $v.embeddedNATS.monitor }}
        - name: nats-monitor
          containerPort: {{ $v.ports.natsMonitor }}
          protocol: TCP
        {{- end }}
      startupProbe:
        httpGet: {path: /livez, port: ops}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: {{ max 1 (div (add (int $v.probes.startupSeconds) 1) 2) }}
      livenessProbe:
        httpGet: {path: /livez, port: ops}
        {{- toYaml $v.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        {{- toYaml $v.probes.readiness | nindent 8 }}
      {{- if $v.preStopSeconds }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ $v.preStopSeconds }}
      {{- end }}
      {{- with $v.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $v.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if or $journal $sources $v.extraVolumeMounts }}
      volumeMounts:
        {{- if $journal }}
        - name: data
          mountPath: {{ $v.persistence.mountPath }}
        {{- end }}
        {{- if $sources }}
        - name: files
          mountPath: {{ include "fnbridge.files" . }}
          readOnly: true
        {{- end }}
        {{- with $v.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
    {{- with $v.extraContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- $emptyDir := and $journal (not $v.persistence.enabled) }}
  {{- if or $emptyDir $sources $v.extraVolumes }}
  volumes:
    {{- if $emptyDir }}
    - name: data
      emptyDir:
        sizeLimit: {{ $v.persistence.size }}
    {{- end }}
    {{- if $sources }}
    {{- include "fnbridge.filesVolume" . | nindent 4 }}
    {{- end }}
    {{- with $v.extraVolumes }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{/*
The one volume with the files of all variables. Its content follows that of the Secrets, and the bridge follows it. Without a subPath: such a
mount never changes.
*/}}
{{- define "fnbridge.filesVolume" -}}
- name: files
  projected:
    defaultMode: 0440
    sources:
      {{- include "fnbridge.fileSources" . | nindent 6 }}
{{- end -}}

{{- define "fnbridge.spread" -}}
{{- $constraints := .Values.topologySpreadConstraints -}}
{{- if not $constraints -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" -}}
{{- $constraints = append $constraints (dict "maxSkew" 1 "topologyKey" . "whenUnsatisfiable" "ScheduleAnyway") -}}
{{- end -}}
{{- end -}}
{{- $selector := dict "matchLabels" (include "fnbridge.selectorLabels" . | fromYaml) -}}
{{- $all := list -}}
{{- range $constraints -}}
{{- $all = append $all (merge (dict) . (dict "labelSelector" $selector)) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/*
Fails if fewer journals would be in use than there are: what waits in the others would stay behind, unseen. Scaled to 0,
as somebody does who looks into a journal, a StatefulSet has as many as there are claims; else claims that were drained
and left do not count.
*/}}
{{- define "fnbridge.keepJournals" -}}
{{- $name := include "fnbridge.fullname" .root -}}
{{- $there := lookup "apps/v1" "StatefulSet" .root.Release.Namespace $name -}}
{{- if and $there (not .root.Values.journalsDrained) -}}
{{- $replicas := dig "spec" "replicas" 1 $there | int -}}
{{- $again := "" -}}
{{- if not $replicas -}}
{{- range lookup "v1" "PersistentVolumeClaim" .root.Release.Namespace "" | dig "items" list -}}
{{- $ordinal := trimPrefix (printf "data-%s-" $name) .metadata.name -}}
{{- if regexMatch "^[0-9]+$" $ordinal -}}
{{- $replicas = max $replicas (add1 (int $ordinal)) | int -}}
{{- end -}}
{{- end -}}
{{- $again = printf "Scale the StatefulSet to %d again. " $replicas -}}
{{- end -}}
{{- if lt (int .replicas) $replicas -}}
{{- $last := printf "%s-%d" $name (sub $replicas 1) -}}
{{- fail (printf "%s would leave the journals of pods behind, with what they have not delivered yet. %sHave nothing sent to them, wait until \"kubectl --namespace %s exec %s -- /fnbridge status\" shows no backlog in any of the pods from %s-%d to %s, and set journalsDrained: true for this upgrade" .change $again .root.Release.Namespace $last $name (int .replicas) $last) -}}
{{- end -}}
{{- end -}}
{{- end -}}
