# shellcheck shell=bash
# shellcheck disable=SC2154 # chart.sh sets `kubernetes`
# Runs the real programs with the settings and the environment that the chart renders. Sourced by scripts/test, which
# sets OUTBOX_BIN_DIR and KAFKA_BOOTSTRAP_SERVERS.

# Creates the topics as the Job of the trial does, then checks the settings of both installations and starts them.
check_chart_settings() {
    local dir status=0
    if ! have openssl; then
        skip "settings of the Helm chart" "openssl, which makes a certificate, is not installed"
        return
    fi
    dir=$(mktemp -d "${TMPDIR:-/tmp}/outbox-chart.XXXXXX") || return
    {
        make_api_secret "$dir/etc/api" &&
            mkdir -p "$dir/etc/admin" && printf '0123456789abcdef' >"$dir/etc/admin/token" &&
            create_rendered_topics "$dir" trial &&
            check_rendered "$dir" trial validator StatefulSet &&
            check_rendered "$dir" trial caller Deployment &&
            check_rendered "$dir" production validator StatefulSet &&
            check_rendered "$dir" production caller Deployment &&
            probe_rendered "$dir" trial validator StatefulSet &&
            probe_rendered "$dir" trial caller Deployment &&
            probe_rendered "$dir" production validator StatefulSet &&
            probe_rendered "$dir" production caller Deployment &&
            probe_rendered "$dir" production metrics Deployment outbox validator
    } || status=1
    rm -rf "$dir"
    return $status
}

# make_api_secret FOLDER: makes what production.values.yaml expects in the Secret for the API.
make_api_secret() {
    mkdir -p "$1" && printf 'token' >"$1/token" && printf 'key' >"$1/hmac" &&
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test \
            -keyout "$1/tls.key" -out "$1/tls.crt" 2>/dev/null &&
        cp "$1/tls.crt" "$1/ca.crt"
}

create_rendered_topics() {
    local command
    write_settings "$1" "$2" topics outbox.toml || return
    set_command "$1" "$2" topics Job outbox
    "${command[@]}" >"$1/out" 2>&1 && return
    cat "$1/out" >&2
    say "the Job of $2.yaml fails."
    return 1
}

# check_rendered DIRECTORY INSTALLATION PROGRAM KIND: runs the program with --check.
check_rendered() {
    local command
    write_settings "$1" "$2" "$3" "$3.toml" || return
    set_command "$1" "$2" "$3" "$4" "$3"
    "${command[@]}" --check >"$1/out" 2>&1 && return
    cat "$1/out" >&2
    say "$3 --check refuses what $2.yaml sets."
    return 1
}

# probe_rendered DIRECTORY INSTALLATION NAME KIND [PROGRAM SETTINGS]: starts the program, requests the paths of its probes
# until they succeed, and ends it by SIGTERM.
probe_rendered() {
    local command pid path status=0 settings=${6:-$3}
    write_settings "$1" "$2" "$settings" "$settings.toml" || return
    set_command "$1" "$2" "$3" "$4" "${5:-$3}"
    "${command[@]}" >"$1/out" 2>&1 &
    pid=$!
    for path in $(rendered_document "$2" "$4" "$3" | sed -n 's/^ *path: \(\/.*z\)$/\1/p' | sort -u); do
        await_success "$1/out" "$path" "$pid" || status=1
    done
    kill "$pid" 2>/dev/null && wait "$pid" || status=1
    [ $status -eq 0 ] && return
    cat "$1/out" >&2
    say "$3 with the settings of $2.yaml does not become ready, or does not end by SIGTERM."
    return 1
}

# set_command DIRECTORY INSTALLATION NAME KIND PROGRAM: sets `command` to what the container of this object runs, with its
# environment.
set_command() {
    local environment arguments
    read_lines environment < <(rendered_environment "$1" "$2" "$4" "$3")
    read_lines arguments < <(rendered_document "$2" "$4" "$3" | list_of args |
        sed -e "s#/etc/outbox#$1/etc#" -e 's#^--listen=.*#--listen=127.0.0.1:0#')
    command=(env "${environment[@]}" "$OUTBOX_BIN_DIR/$5" "${arguments[@]}")
}

# await_success LOG PATH PROCESS: requests the path of the admin server, whose address is in the log, while the process
# lives, for 60 s at most.
await_success() {
    local port code deadline=$((SECONDS + 60))
    while [ $SECONDS -lt $deadline ] && kill -0 "$3" 2>/dev/null; do
        port=$(sed -n 's/.*admin http server listening.*"addr":"127\.0\.0\.1:\([0-9]*\)".*/\1/p' "$1")
        code=""
        if [ -n "$port" ] && exec 3<>"/dev/tcp/127.0.0.1/$port"; then
            printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
            read -r -u 3 _ code _ || true
            exec 3>&-
        fi 2>/dev/null
        [ "$code" != 200 ] || return 0
        sleep 0.2
    done
    say "no success of $2 within 60 s, or until the program ended; the last status is: ${code:-none}"
    return 1
}

# write_settings DIRECTORY INSTALLATION CONFIGMAP FILE: writes the settings file, and the schema of the orders.
write_settings() {
    mkdir -p "$1/etc/settings" || return
    rendered_document "$2" ConfigMap "$3" >"$1/document"
    [ -s "$1/document" ] || { say "$2.yaml has no ConfigMap outbox-$3." && return 1; }
    text_of "$4" <"$1/document" | sed "s#/etc/outbox#$1/etc#" >"$1/etc/settings/$4"
    text_of order.schema.json <"$1/document" >"$1/etc/settings/order.schema.json"
}

# rendered_environment DIRECTORY INSTALLATION KIND NAME: prints the environment of the container, a variable a line, with
# what differs on this machine.
rendered_environment() {
    local topic
    # Without TLS, which the Kafka of the tests does not have.
    rendered_document "$2" "$3" "$4" | awk '
        /^ *- name: OUTBOX/ { name = $3; next }
        name && /^ *value: / { sub(/^ *value: /, ""); print name "=" $0 }
        { name = "" }' |
        sed -e 's/="\(.*\)"$/=\1/' -e 's/\\"/"/g' -e "s#/etc/outbox#$1/etc#" -e '/__SSL_/d' -e '/__SECURITY_PROTOCOL=/d' \
            -e '/__BOOTSTRAP_SERVERS=/d' -e '/__STORE__DIR=/d' -e '/__ADMIN__LISTEN=/d'
    echo "OUTBOX__KAFKA__BOOTSTRAP_SERVERS=$KAFKA_BOOTSTRAP_SERVERS"
    echo "OUTBOX_LOG=info"
    echo "OUTBOX_LOG_FORMAT=json"
    # What Kubernetes takes from the pod and from the Secret.
    case $4 in
    validator)
        echo "OUTBOX__VALIDATOR__INSTANCE_ID=outbox-validator-0"
        echo "OUTBOX__STORE__DIR=$1/state"
        echo "OUTBOX__ADMIN__LISTEN=127.0.0.1:0"
        ;;
    caller)
        echo "OUTBOX__CALLER__INSTANCE_ID=outbox-caller-5d8c7b9f6d-x2x4z"
        echo "OUTBOX__ADMIN__LISTEN=127.0.0.1:0"
        ;;
    esac
    # A cluster that others use may have topics and groups of these names.
    for topic in orders pending changelog order_dead_letters processed call_dead_letters parked control operations; do
        echo "OUTBOX__TOPICS__$(tr '[:lower:]' '[:upper:]' <<<"$topic")=chart-$$-$topic"
    done
    [ "$4" = topics ] || echo "OUTBOX__KAFKA__GROUP_ID=chart-$$-$4"
}

# rendered_document INSTALLATION KIND NAME: prints the object `outbox-NAME` of this kind.
rendered_document() {
    awk -v kind="$2" -v name="outbox-$3" '
        function flush() {
            if (index(text, "\nkind: " kind "\n") && index(text, "\nmetadata:\n  name: " name "\n")) printf "%s", text
            text = ""
        }
        $0 == "---" { flush(); next }
        { text = text $0 "\n" }
        END { flush() }' "$kubernetes/tests/$1.yaml"
}

# text_of KEY: prints the text of this key of a ConfigMap.
text_of() {
    awk -v key="  $1: |" '
        $0 == key { inside = 1; next }
        inside && /^    |^$/ { print substr($0, 5); next }
        { inside = 0 }'
}

# list_of KEY: prints the entries of the first list of this name, one a line.
list_of() {
    awk -v key="$1:" '
        !done && $1 == key { inside = 1; next }
        inside && $1 ~ /^#/ { next }
        inside && $1 == "-" { gsub(/"/, "", $2); print $2; next }
        inside { inside = 0; done = 1 }'
}

# read_lines VARIABLE: reads the lines of standard input into an array. bash 3.2 has no mapfile.
# shellcheck disable=SC2034 # eval uses the line
read_lines() {
    local line
    eval "$1=()"
    while IFS= read -r line; do eval "$1+=(\"\$line\")"; done
}
