{{- define "cakes.name" -}}
{{- printf "%s-cakes" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "cakes.labels" -}}
app.kubernetes.io/name: cakes
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What a selector finds pods of a part by: list of root and part. */}}
{{- define "cakes.selector" -}}
app.kubernetes.io/name: cakes
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "cakes.image" -}}
{{- $root := index . 0 -}}
{{- $registry := $root.Values.image.registry -}}
{{- $prefix := empty $registry | ternary "" (printf "%s/" $registry) -}}
{{- printf "%s%s:%s" $prefix (index . 1) ($root.Values.image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}

{{- define "cakes.claim" -}}
{{- .Values.artifacts.existingClaim | default (printf "%s-artifacts" (include "cakes.name" .)) -}}
{{- end -}}

{{- define "cakes.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "cakes.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "cakes.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Workers whose names are proven need names that come again. */}}
{{- define "cakes.workerKind" -}}
{{- or .Values.security.workerCertSecret .Values.security.workerTokenSecret | empty | ternary "Deployment" "StatefulSet" -}}
{{- end -}}
