{{/* Name of every object of this release; a release named "stageline" does not repeat it. */}}
{{- define "stageline.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "stageline.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "stageline.fullname" .) -}}
{{- end -}}

{{/*
What never changes in the life of a release. The NetworkPolicies that the operator makes let pods of this name reach the
status ports of its children.
*/}}
{{- define "stageline.selectorLabels" -}}
app.kubernetes.io/name: stageline-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "stageline.labels" -}}
{{ include "stageline.selectorLabels" . }}
app.kubernetes.io/part-of: stageline
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "stageline.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Why an install stops at a definition that is not its own, and what to do; Helm's own message has no remedy. */}}
{{- define "stageline.definitionTaken" }}

The definition inferencedeployments.stageline.dev is there already, and belongs to
{{- if .release }} release {{ .release | quote }} in namespace {{ .namespace | quote }}.
{{- else }} no release.
{{- end }}
- If another release keeps it up to date, install this one with --set crds.install=false.
- If none does, give it to this release, and install with --force-conflicts; its resources stay as they are:
    kubectl label crd inferencedeployments.stageline.dev --overwrite app.kubernetes.io/managed-by=Helm
    kubectl annotate crd inferencedeployments.stageline.dev --overwrite meta.helm.sh/release-name={{ .ours.Name }} meta.helm.sh/release-namespace={{ .ours.Namespace }}
{{ end -}}
