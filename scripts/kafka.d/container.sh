# shellcheck shell=bash
# shellcheck disable=SC2154 # dir, settings and the ports are set by scripts/kafka
# The engine `container`: Kafka in a container of the official image, for machines with Docker and without Java.
# The data is in a volume, which survives stop and start; `clean` removes it.

container_image() { echo "apache/kafka:$kafka_version"; }

# Prints the name of the directory's container and volume.
container_name() { echo "outbox-kafka-$(printf '%s' "$dir" | cksum | cut -d ' ' -f 1)"; }

container_available() { have docker && docker info >/dev/null 2>&1; }

container_running() { [ "$(docker container inspect -f '{{.State.Running}}' "$(container_name)" 2>/dev/null)" = true ]; }

container_describe() { echo "container $(container_name)"; }

# Binds to all addresses of the container; Docker publishes the port on the host's loopback only.
container_settings() { server_settings 0.0.0.0 /var/lib/kafka/data; }

container_start() {
    local name
    name=$(container_name)
    # The image reads its settings from this folder and formats the data directory.
    mkdir -p "$dir/config"
    cp "$dir/server.properties" "$dir/config/server.properties"
    # The image runs as a user of its own, who must be able to read them.
    chmod 755 "$dir/config"
    chmod 644 "$dir/config/server.properties"
    container_started_at=$(date +%s)
    # The published port of a container cannot change, so the container is recreated on the same volume.
    docker rm -f "$name" >/dev/null 2>&1 || true
    docker run -d --name "$name" -p "127.0.0.1:$broker_port:$broker_port" \
        -v "$dir/config:/mnt/shared/config:ro" -v "$name:/var/lib/kafka/data" \
        -e KAFKA_HEAP_OPTS="-Xms256m -Xmx768m" "$(container_image)" >/dev/null 2>"$dir/kafka.out" ||
        fail "starting a container of $(container_image) failed: $(cat "$dir/kafka.out")"
}

# Succeeds when the broker has logged that it is started.
container_started() {
    # Without messages from before this start.
    docker logs --since "$container_started_at" "$(container_name)" 2>&1 | grep -q "Kafka Server started"
}

# container_stop NOW SECONDS: sends SIGTERM, and SIGKILL after SECONDS. A non-empty NOW sends SIGKILL at once.
container_stop() {
    if [ -n "$1" ]; then
        docker kill "$(container_name)" >/dev/null
    else
        docker stop -t "$2" "$(container_name)" >/dev/null
    fi
}

container_logs() {
    [ ! -s "$dir/kafka.out" ] || cat "$dir/kafka.out"
    if [ -n "$1" ]; then docker logs -n 100 -f "$(container_name)"; else docker logs -n 100 "$(container_name)"; fi
}

container_clean() {
    docker rm -f "$(container_name)" >/dev/null 2>&1 || true
    docker volume rm "$(container_name)" >/dev/null 2>&1 || true
}

# container_exec_tool NAME ARGUMENT...: replaces this process with one of Kafka's tools in a new container.
container_exec_tool() {
    local name=$1
    shift
    # On the host's network, because the broker advertises 127.0.0.1.
    exec docker run --rm -i --network host "$(container_image)" "/opt/kafka/bin/kafka-$name.sh" "$@"
}
