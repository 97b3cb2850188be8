# shellcheck shell=bash
# shellcheck disable=SC2154 # dir, settings and the ports are set by scripts/kafka
# The engine `container`: Kafka from its official image, for machines with Docker and no Java. The container
# keeps its data between a stop and a start; `clean` removes it.

container_image() { echo "apache/kafka:$kafka_version"; }

# One directory is one container.
container_name() { echo "outbox-kafka-$(printf '%s' "$dir" | cksum | cut -d ' ' -f 1)"; }

container_available() { have docker && docker info >/dev/null 2>&1; }

container_running() { [ "$(docker container inspect -f '{{.State.Running}}' "$(container_name)" 2>/dev/null)" = true ]; }

container_describe() { echo "container $(container_name)"; }

# Inside the container the broker listens on all its addresses; Docker publishes the port on loopback alone.
container_settings() { server_settings 0.0.0.0 /var/lib/kafka/data; }

container_start() {
    local name
    name=$(container_name)
    # The image takes its settings from this folder and formats the data directory by itself.
    mkdir -p "$dir/config"
    cp "$dir/server.properties" "$dir/config/server.properties"
    chmod 755 "$dir/config"
    chmod 644 "$dir/config/server.properties"
    container_started_at=$(date +%s)
    # A published port is fixed when a container is made; with another port it is made anew, on the same volume.
    docker rm -f "$name" >/dev/null 2>&1 || true
    docker run -d --name "$name" -p "127.0.0.1:$broker_port:$broker_port" \
        -v "$dir/config:/mnt/shared/config:ro" -v "$name:/var/lib/kafka/data" \
        -e KAFKA_HEAP_OPTS="-Xms256m -Xmx768m" "$(container_image)" >/dev/null 2>"$dir/kafka.out" ||
        fail "Docker could not start $(container_image): $(cat "$dir/kafka.out")"
}

container_started() {
    docker logs --since "$container_started_at" "$(container_name)" 2>&1 | grep -q "Kafka Server started"
}

# container_stop NOW SECONDS
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

# container_exec_tool NAME ARGUMENT...: becomes one of Kafka's tools, on the host's network so that it reaches
# what the host reaches.
container_exec_tool() {
    local name=$1
    shift
    exec docker run --rm -i --network host "$(container_image)" "/opt/kafka/bin/kafka-$name.sh" "$@"
}
