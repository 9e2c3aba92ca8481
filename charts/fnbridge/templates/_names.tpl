{{/* The chart's name in labels. */}}
{{- define "fnbridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What the names of all objects begin with. 48 characters leave room for -headless and for a pod's own ending. */}}
{{- define "fnbridge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "fnbridge.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What tells the pods of this release from all others. A selector cannot be changed later: nothing may be added here. */}}
{{- define "fnbridge.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fnbridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: bridge
{{- end -}}

{{/* Labels of an object: (dict "root" $ "component" "bridge" "labels" (dict …)). The chart's own win. */}}
{{- define "fnbridge.labels" -}}
{{- $own := dict
      "app.kubernetes.io/name" (include "fnbridge.name" .root)
      "app.kubernetes.io/instance" .root.Release.Name
      "app.kubernetes.io/component" (default "bridge" .component)
      "app.kubernetes.io/version" (.root.Chart.AppVersion | toString)
      "app.kubernetes.io/part-of" "fnbridge"
      "app.kubernetes.io/managed-by" .root.Release.Service
      "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (merge $own (default (dict) .labels) .root.Values.commonLabels) -}}
{{- end -}}

{{/* The metadata of an object: (dict "root" $ "name" "…" "component" "…" "labels" (dict …) "annotations" (dict …)). */}}
{{- define "fnbridge.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "fnbridge.labels" . | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "fnbridge.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fnbridge.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "fnbridge.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The one path that Tensorlake posts to, which the bridge takes with a slash behind it, too. */}}
{{- define "fnbridge.path" -}}
{{- default "/webhooks/tensorlake" .Values.config.path -}}
{{- end -}}

{{/* The IP families of every Service. */}}
{{- define "fnbridge.ipFamilies" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
