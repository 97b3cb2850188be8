# shellcheck shell=bash
# shellcheck disable=SC2154 # lib.sh sets `project`, tools.sh `helm` and `kubeconform`
# Checks of the Helm chart and the samples for Strimzi. Sourced by scripts/test, whose `skip` reports what was not
# checked.

kubernetes=$project/docker/kubernetes

# check_chart [update]: renders the chart for each docker/kubernetes/tests/NAME.values.yaml and compares the result with
# NAME.yaml beside it, or writes that. So a change of the chart shows in review, as it will reach a cluster.
check_chart() {
    local values rendered
    check_app_version || return
    if ! find_helm; then
        skip "the chart" "Helm $helm_version is neither on the PATH nor could it be installed"
        return
    fi
    for values in "$kubernetes"/tests/*.values.yaml; do
        rendered=${values%.values.yaml}.yaml
        if [ "${1:-}" = update ]; then
            { render "$values" >"$rendered.new" && mv -f "$rendered.new" "$rendered"; } || return
        elif ! render "$values" | diff -u "$rendered" - >&2; then
            say "the chart no longer renders to $rendered. If that is intended: scripts/test kubernetes update"
            return 1
        fi
    done
    check_refusals
}

render() {
    # The oldest release that the chart supports. Trailing blanks are left by empty parts of the templates.
    "$helm" template outbox "$kubernetes/outbox" --namespace payments --kube-version 1.27.0 --values "$1" |
        sed 's/[[:space:]]*$//'
}

check_app_version() {
    local version app_version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$project/Cargo.toml")
    app_version=$(sed -n 's/^appVersion: "\(.*\)"/\1/p' "$kubernetes/outbox/Chart.yaml")
    [ "$version" = "$app_version" ] && return
    say "appVersion in $kubernetes/outbox/Chart.yaml is $app_version, and the programs' version is $version."
    return 1
}

# Values that the chart must refuse, for what they would do to orders and calls.
check_refusals() {
    refused "/image/registry" --set image.registry= &&
        refused "/kafka/bootstrapServers" --set kafka.bootstrapServers=kafka &&
        refused "additional properties 'replica' not allowed" --set validator.replica=3 &&
        refused "it must be at least 10 s longer" --set caller.terminationGracePeriodSeconds=44 &&
        refused "it must be at least 10 s longer" --set-string 'caller.settings=[caller]
drain_timeout = "1m"
[api]
url = "http://api"' &&
        refused "write it in whole seconds or minutes" --set-string 'caller.settings=[caller]
drain_timeout = "1m30s"
[api]
url = "http://api"' &&
        refused "write it in whole seconds or minutes" --set-string 'caller.settings=[caller]
drain_timeout = 90
[api]
url = "http://api"' &&
        refused "would have nothing to do" --set validator.replicas=4 &&
        refused "would have nothing to do" --set caller.replicas=4 &&
        refused "minReplicas is 3, and maxReplicas 2" --set caller.autoscaling.enabled=true \
            --set caller.autoscaling.prometheusAddress=http://prometheus:9090 \
            --set caller.autoscaling.minReplicas=3 --set caller.autoscaling.maxReplicas=2 &&
        refused "fallbackReplicas is 2, and maxReplicas 1" --set caller.autoscaling.enabled=true \
            --set caller.autoscaling.prometheusAddress=http://prometheus:9090 \
            --set caller.autoscaling.fallbackReplicas=2 --set caller.autoscaling.maxReplicas=1 &&
        refused "together are not valid TOML" --set-string 'settings=[api]' &&
        refused "has no api.url" --set-string caller.settings= &&
        refused "is a secret" --set-string 'kafka.properties.sasl\.password=x' &&
        refused "no environment variable can set it" --set-string 'kafka.properties.log_level=7' &&
        refused "needs \`caller.kafka.secret\`" --set caller.kafka.passwordKey=password &&
        refused "/networkPolicy/kafka" --set networkPolicy.enabled=true
}

# refused TEXT OPTION...: succeeds if the chart refuses the values for a trial with these changes, and names this reason.
refused() {
    local text=$1 error
    shift
    if error=$("$helm" template outbox "$kubernetes/outbox" --values "$kubernetes/tests/trial.values.yaml" "$@" 2>&1); then
        say "the chart accepts: $*"
        return 1
    fi
    [[ $error == *"$text"* ]] && return
    say "the chart refuses $*, but does not say \"$text\": $error"
    return 1
}

# Checks the rendered objects, and the samples for Strimzi, against the schemas in docker/kubernetes/schemas, in which
# an unknown field is an error.
check_schemas() {
    if ! find_kubeconform; then
        skip "schemas of Kubernetes" "kubeconform $kubeconform_version could not be built: it needs Go and a module proxy"
        return
    fi
    "$kubeconform" -strict -summary \
        -schema-location "$kubernetes/schemas/{{.ResourceKind}}{{.KindSuffix}}.json" \
        "$kubernetes"/tests/trial.yaml "$kubernetes"/tests/production.yaml "$kubernetes"/strimzi/*.yaml >&2
}
