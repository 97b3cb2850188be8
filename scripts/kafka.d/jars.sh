# shellcheck shell=bash
# shellcheck disable=SC2154 # dir, java, cache, settings, heap and the ports are set by scripts/kafka and lib.sh
# The engine `jars`: Kafka as a Java process, from its jars on Maven Central.

pom=$here/kafka.d/pom.xml
kafka_version=${KAFKA_VERSION:-$(sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' "$pom")}

# A mark on the command line that no other process bears, so that a recycled process id is not taken for ours.
jars_process_tag() { echo "-Doutbox.kafka.dir=$dir"; }

jars_running() {
    local pid
    pid=$(cat "$dir/kafka.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    if [ -d /proc/self ]; then
        tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -e "$(jars_process_tag)"
    else
        ps -ww -o command= -p "$pid" 2>/dev/null | grep -qF -e "$(jars_process_tag) "
    fi
}

jars_describe() { echo "process $(cat "$dir/kafka.pid")"; }

jars_settings() { server_settings 127.0.0.1 "$dir/data"; }

jars_start() {
    find_java || need_java
    fetch_jars
    if [ ! -f "$dir/data/meta.properties" ]; then
        (jars_exec_java -Xmx128m -XX:TieredStopAtLevel=1 -- kafka.tools.StorageTool format \
            -t "$(cluster_id)" -c "$dir/server.properties" >"$dir/kafka.out" 2>&1 9>&-) ||
            fail "Kafka's data directory could not be made: $(head -n 5 "$dir/kafka.out")"
    fi
    # What the log held before this start says nothing about it.
    touch "$dir/kafka.log"
    log_bytes_before=$(wc -c <"$dir/kafka.log")
    # In the background of a script SIGINT is ignored: Ctrl-C ends a demo, which then ends Kafka in order.
    jars_exec_java -Xms256m "-Xmx${heap}m" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:+ExitOnOutOfMemoryError \
        -- kafka.Kafka "$dir/server.properties" </dev/null >"$dir/kafka.out" 2>&1 9>&- &
    local pid=$! deadline=$((SECONDS + 30))
    echo "$pid" >"$dir/kafka.pid"
    # Until it has become Java it bears no mark, and would be taken for one that has ended.
    while kill -0 "$pid" 2>/dev/null && ! jars_running && [ $SECONDS -lt $deadline ]; do sleep 0.02; done
}

# jars_exec_java JVM-OPTION... -- CLASS ARGUMENT...: becomes Java, so it is called in a process of its own. It
# outlives the terminal.
jars_exec_java() {
    local -a options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    trap '' HUP
    exec "$java" "${options[@]}" "$(jars_process_tag)" -Djava.awt.headless=true \
        "-Dlog4j2.configurationFile=$here/kafka.d/log4j2.xml" -cp "$jars/*" "$@"
}

jars_started() {
    tail -c "+$((log_bytes_before + 1))" "$dir/kafka.log" 2>/dev/null | grep -q "Kafka Server started"
}

# jars_stop NOW SECONDS: SIGTERM and, when that takes too long, SIGKILL.
jars_stop() {
    local pid deadline=$((SECONDS + $2))
    pid=$(cat "$dir/kafka.pid")
    [ -n "$1" ] || kill -TERM "$pid" 2>/dev/null || true
    while [ -z "$1" ] && jars_running && [ $SECONDS -lt $deadline ]; do sleep 0.05; done
    if jars_running; then
        [ -n "$1" ] || say "Kafka has not ended within $2 s of SIGTERM; SIGKILL"
        kill -KILL "$pid" 2>/dev/null || true
        while jars_running; do sleep 0.05; done
    fi
    rm -f "$dir/kafka.pid"
}

jars_logs() {
    [ ! -s "$dir/kafka.out" ] || cat "$dir/kafka.out"
    [ -f "$dir/kafka.log" ] || return 0
    if [ -n "$1" ]; then tail -n 100 -F "$dir/kafka.log"; else tail -n 100 "$dir/kafka.log"; fi
}

jars_clean() { :; }

# Sets `jars` to the directory with Kafka's jars, which Maven fills once a version. It gets its name when it
# is complete, so an interrupted fetch leaves nothing that looks like one.
fetch_jars() {
    jars=$cache/kafka-$kafka_version-$(cksum <"$pom" | cut -d ' ' -f 1)
    [ ! -d "$jars" ] || return 0
    need_maven
    say "fetching Kafka $kafka_version (40 MB, once) into $jars"
    mkdir -p "$cache"
    local partial
    partial=$(mktemp -d "$jars.XXXXXX")
    JAVA_HOME=$(dirname "$(dirname "$java")") mvn -B -q -f "$pom" "-Dkafka.version=$kafka_version" \
        org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DincludeScope=runtime "-DoutputDirectory=$partial" >"$partial.log" 2>&1 || {
        cat "$partial.log" >&2
        rm -rf "$partial" "$partial.log"
        fail "Maven could not fetch Kafka's jars; its messages are above."
    }
    rm -f "$partial.log"
    # Another start may have been quicker: its jars are the same.
    if [ -d "$jars" ]; then
        rm -rf "$partial"
    else
        chmod 755 "$partial"
        mv "$partial" "$jars"
    fi
}

# 16 bytes as Kafka writes them: base64 for URLs, without padding; no dash in front. Random, but brokers of one
# cluster have one id, which comes from what they all know.
cluster_id() {
    if [ -n "$voters" ]; then
        printf 'k%020dA\n' "$(printf '%s' "$voters" | cksum | cut -d ' ' -f 1)"
    else
        echo "k$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 2-22)"
    fi
}

# jars_exec_tool CLASS ARGUMENT...: becomes one of Kafka's tools.
jars_exec_tool() {
    find_java || need_java
    fetch_jars
    exec "$java" -Xmx256m -XX:TieredStopAtLevel=1 -cp "$jars/*" "$@"
}
