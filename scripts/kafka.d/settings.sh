# shellcheck shell=bash
# shellcheck disable=SC2154 # dir, here, settings, the ports and the cluster options are set by scripts/kafka
# Identity of a broker in its cluster (node id, voters, inter-broker port), and its listeners.

# server_settings BIND DATA: prints the broker's settings. BIND is the address of the client listener, DATA the
# data directory.
server_settings() {
    local roles=broker inter_broker=PLAINTEXT
    local listeners="PLAINTEXT://$1:$broker_port" advertised="PLAINTEXT://127.0.0.1:$broker_port"
    # PORT alone is the advertised port too; with PORT:ADVERTISED the other brokers connect through a proxy.
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
    # Last, because the last of several values of a setting applies.
    printf '%s' "$settings"
}

# Prints this node's controller port from the list of voters; nothing if the node is not a voter.
voter_port() {
    local voter
    for voter in ${voters//,/ }; do
        case $voter in "$node"@*) echo "${voter##*:}" ;; esac
    done
}

# Sets node, voters and internal to those of the last start, unless an option sets one of them.
read_identity() {
    # With another node id or cluster id the broker would refuse its data directory.
    if [ -z "$node$voters$internal" ] && [ -f "$dir/identity" ]; then
        { read -r node && read -r voters && read -r internal; } <"$dir/identity"
    fi
    node=${node:-1}
}

write_identity() { printf '%s\n' "$node" "$voters" "$internal" >"$dir/identity"; }
