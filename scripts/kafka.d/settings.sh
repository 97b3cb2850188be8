# shellcheck shell=bash
# shellcheck disable=SC2154 # dir, here, settings, the ports and the cluster's options are set by scripts/kafka
# Who a broker is in its cluster, and where it listens.

# server_settings BIND DATA: the settings of this broker, which listens to clients on the address BIND.
server_settings() {
    local roles=broker inter_broker=PLAINTEXT
    local listeners="PLAINTEXT://$1:$broker_port" advertised="PLAINTEXT://127.0.0.1:$broker_port"
    if [ -n "$internal" ]; then
        listeners=$listeners,INTERNAL://$1:${internal%:*}
        advertised=$advertised,INTERNAL://127.0.0.1:${internal#*:}
        inter_broker=INTERNAL
    fi
    if [ -n "$controller_port" ]; then
        roles=broker,controller
        listeners=$listeners,CONTROLLER://127.0.0.1:$controller_port
    fi
    cat "$here/kafka.d/server.properties"
    echo "process.roles=$roles"
    echo "node.id=$node"
    echo "listeners=$listeners"
    echo "advertised.listeners=$advertised"
    echo "inter.broker.listener.name=$inter_broker"
    echo "controller.quorum.voters=${voters:-$node@127.0.0.1:$controller_port}"
    echo "log.dirs=$2"
    printf '%s' "$settings"
}

# The port that the list of voters has for this node; nothing where it is no controller.
voter_port() {
    local voter
    for voter in ${voters//,/ }; do
        case $voter in "$node"@*) echo "${voter##*:}" ;; esac
    done
}

# A restart keeps the broker's place in its cluster, as it keeps its port.
read_identity() {
    if [ -z "$node$voters$internal" ] && [ -f "$dir/identity" ]; then
        { read -r node && read -r voters && read -r internal; } <"$dir/identity"
    fi
    node=${node:-1}
}

write_identity() { printf '%s\n' "$node" "$voters" "$internal" >"$dir/identity"; }
