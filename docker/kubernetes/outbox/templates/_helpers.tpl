{{/* Prefix of all names. */}}
{{- define "outbox.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels that select the pods of a component: (list $ "validator"). */}}
{{- define "outbox.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ default $.Chart.Name $.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object: (list $ "validator"). */}}
{{- define "outbox.labels" -}}
{{- $ := index . 0 -}}
{{ include "outbox.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version }}
{{- end }}

{{- define "outbox.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "outbox.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Image of a component: (list $ "validator"). */}}
{{- define "outbox.image" -}}
{{- $ := index . 0 -}}
{{- $image := (index $.Values (index . 1)).image -}}
{{- $name := printf "%s/%s" (trimSuffix "/" $.Values.image.registry) $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default $.Chart.AppVersion $.Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* Settings file of a component: (list $ "validator"). The chart refuses text that is not TOML, which includes a section
that stands in both parts: a rolling update would otherwise stop at its first pod. */}}
{{- define "outbox.settings" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $own := (index $.Values $component).settings -}}
{{- $text := printf "%s\n\n%s" (trim $.Values.settings) (trim $own) | trim -}}
{{- $table := fromToml $text -}}
{{- if hasKey $table "Error" -}}
{{- fail (printf "`settings` and `%s.settings` together are not valid TOML: %s" $component $table.Error) -}}
{{- end -}}
{{- $text -}}
{{- /* Commands that go by the validators' settings know their file by this section. */ -}}
{{- if and (eq $component "validator") (not (hasKey $table "validator")) }}
[validator]
{{- end -}}
{{- end }}

{{/* Environment of a component that connects to Kafka: (list $ "validator"). */}}
{{- define "outbox.kafkaEnv" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $kafka := (index $.Values $component).kafka -}}
- name: OUTBOX__KAFKA__BOOTSTRAP_SERVERS
  value: {{ $.Values.kafka.bootstrapServers | quote }}
{{- range $name, $value := merge (dict) $kafka.properties $.Values.kafka.properties }}
{{- if contains "_" $name }}
{{- fail (printf "the librdkafka property %s has an underscore in its name, so that no environment variable can set it; set it in `%s.settings`, section [kafka.properties]" $name $component) }}
{{- end }}
{{- if or (hasSuffix "password" $name) (hasSuffix "secret" $name) (hasSuffix ".pem" $name) }}
{{- fail (printf "the librdkafka property %s is a secret; mount it as a file, or name its key in `%s.kafka.passwordKey` or in `%s.extraEnv`" $name $component $component) }}
{{- end }}
- name: OUTBOX__KAFKA__PROPERTIES__{{ $name | replace "." "_" | upper }}
  value: {{ $value | quote }}
{{- end }}
{{- if $kafka.passwordKey }}
- name: OUTBOX__KAFKA__PROPERTIES__SASL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required (printf "`%s.kafka.passwordKey` needs `%s.kafka.secret`" $component $component) $kafka.secret }}
      key: {{ $kafka.passwordKey }}
{{- end }}
{{- end }}

{{/* Mounts of the Secrets for Kafka: (list $ "validator"). */}}
{{- define "outbox.kafkaMounts" -}}
{{- $ := index . 0 -}}
{{- if $.Values.kafka.caSecret }}
- name: kafka-ca
  mountPath: /etc/outbox/kafka-ca
  readOnly: true
{{- end }}
{{- if (index $.Values (index . 1)).kafka.secret }}
- name: kafka-user
  mountPath: /etc/outbox/kafka-user
  readOnly: true
{{- end }}
{{- end }}

{{/* Volumes of the Secrets for Kafka: (list $ "validator"). Whole folders: files mounted by subPath are not updated. */}}
{{- define "outbox.kafkaVolumes" -}}
{{- $ := index . 0 -}}
{{- with $.Values.kafka.caSecret }}
- name: kafka-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with (index $.Values (index . 1)).kafka.secret }}
- name: kafka-user
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* Variable with the file of the admin token: (list $ "ADMIN"), or "STATUS" for the command line. */}}
{{- define "outbox.adminTokenEnv" -}}
{{- $ := index . 0 -}}
{{- if $.Values.adminToken.secret }}
- name: OUTBOX__{{ index . 1 }}__TOKEN_FILE
  value: /etc/outbox/admin/{{ $.Values.adminToken.key }}
{{- end }}
{{- end }}

{{- define "outbox.adminTokenMount" -}}
{{- if .Values.adminToken.secret }}
- name: admin-token
  mountPath: /etc/outbox/admin
  readOnly: true
{{- end }}
{{- end }}

{{- define "outbox.adminTokenVolume" -}}
{{- with .Values.adminToken.secret }}
- name: admin-token
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* Fields of each pod: (list $ serviceAccountName). */}}
{{- define "outbox.pod" -}}
{{- $ := index . 0 -}}
serviceAccountName: {{ index . 1 }}
automountServiceAccountToken: false
# The variables of Services would be among those of the programs, whose names begin with OUTBOX too.
enableServiceLinks: false
{{- with $.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $.Values.podSecurityContext | nindent 2 }}
{{- end }}

{{- define "outbox.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}

{{/* Fields that decide where the pods of a component run: (list $ "validator"). */}}
{{- define "outbox.placement" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $.Values $component -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if hasKey $values "topologySpreadConstraints" }}
topologySpreadConstraints:
{{- if not $values.topologySpreadConstraints }}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    # A pod that cannot be spread is better than none.
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "outbox.selector" (list $ $component) | nindent 8 }}
{{- end }}
{{- else }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Port and probes of a program: (list $ "validator"). */}}
{{- define "outbox.probes" -}}
{{- $ := index . 0 -}}
{{- $values := index $.Values (index . 1) -}}
ports:
  - name: admin
    containerPort: 9464
# Until the admin server listens, the program reaches the brokers and checks the topics.
startupProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: {{ max 1 (div $values.startupSeconds 2) }}
# 503 once the run loop stands still: for 30 s (caller), 60 s (validator). Restores and outages do not stop it.
livenessProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
# Not ready while partitions are restored, or the API is down: no reason to restart.
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 1
{{- end }}

{{/* Disruption budget of a component: (list $ "validator"). */}}
{{- define "outbox.podDisruptionBudget" }}
{{- $ := index . 0 }}
{{- $component := index . 1 }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "outbox.fullname" $ }}-{{ $component }}
  labels:
    {{- include "outbox.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ (index $.Values $component).podDisruptionBudget.maxUnavailable }}
  # During an outage of the API or of Kafka no pod is ready, and an eviction costs nothing: nodes can still be drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "outbox.selector" . | nindent 6 }}
{{- end }}

{{/* Number of pending calls of this release. The largest: during an update two pods report it. */}}
{{- define "outbox.pendingCallsQuery" -}}
{{- if not .Values.metrics.enabled -}}
{{- fail "caller.autoscaling needs metrics.enabled, or a query of its own" -}}
{{- end -}}
max(outbox_pending_calls{namespace="{{ .Release.Namespace }}", service="{{ include "outbox.fullname" . }}-metrics"})
{{- end }}

{{/* Components with metrics. */}}
{{- define "outbox.scraped" -}}
validator caller{{ if .Values.metrics.enabled }} metrics{{ end }}
{{- end }}
