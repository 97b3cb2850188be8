# shellcheck shell=bash
# shellcheck disable=SC2154 # the variables are set by scripts/kafka, version.sh and lib.sh
# The engine `jars`: Kafka as a Java process of this machine, with the jars from Maven Central.

# Prints the JVM option that identifies the directory's broker among all processes: a process id alone may have been
# reused. log4j2.xml reads the same property.
jars_process_tag() { echo "-Doutbox.kafka.dir=$dir"; }

jars_running() {
    local pid
    pid=$(cat "$dir/kafka.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    if [ -d /proc/self ]; then
        tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -e "$(jars_process_tag)"
    else
        # macOS has no /proc; the space ends the path, so that a longer path does not match.
        ps -ww -o command= -p "$pid" 2>/dev/null | grep -qF -e "$(jars_process_tag) "
    fi
}

jars_describe() { echo "process $(cat "$dir/kafka.pid")"; }

jars_settings() { server_settings 127.0.0.1 "$dir/data"; }

jars_start() {
    find_java || need_java
    fetch_jars
    if [ ! -f "$dir/data/meta.properties" ]; then
        # C1 only: a program that runs for a second does not profit from the optimizing compiler.
        (jars_exec_java -Xmx128m -XX:TieredStopAtLevel=1 -- kafka.tools.StorageTool format \
            -t "$(cluster_id)" -c "$dir/server.properties" >"$dir/kafka.out" 2>&1 9>&-) ||
            fail "formatting Kafka's data directory $dir/data failed: $(head -n 5 "$dir/kafka.out")"
    fi
    # The log of earlier starts is skipped by jars_started.
    touch "$dir/kafka.log"
    log_bytes_before=$(wc -c <"$dir/kafka.log")
    # A background process of a script ignores SIGINT, so Ctrl-C stops the demo, which then stops Kafka. The lock
    # (descriptor 9) is closed: the broker would hold it for as long as it runs.
    jars_exec_java -Xms256m "-Xmx${heap}m" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:+ExitOnOutOfMemoryError \
        -- kafka.Kafka "$dir/server.properties" </dev/null >"$dir/kafka.out" 2>&1 9>&- &
    local pid=$! deadline=$((SECONDS + 30))
    echo "$pid" >"$dir/kafka.pid"
    # Before its exec the process has no tag yet, and jars_running would report it as not running.
    while kill -0 "$pid" 2>/dev/null && ! jars_running && [ $SECONDS -lt $deadline ]; do sleep 0.02; done
}

# jars_exec_java JVM-OPTION... -- CLASS ARGUMENT...: replaces this process with Java. Call it in a subshell or in the
# background.
jars_exec_java() {
    local -a options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    # The broker survives the end of the terminal session.
    trap '' HUP
    exec "$java" "${options[@]}" "$(jars_process_tag)" -Djava.awt.headless=true \
        "-Dlog4j2.configurationFile=$here/kafka.d/log4j2.xml" -cp "$jars/*" "$@"
}

# Succeeds when the broker has logged, since this start, that it is started.
jars_started() {
    tail -c "+$((log_bytes_before + 1))" "$dir/kafka.log" 2>/dev/null | grep -q "Kafka Server started"
}

# jars_stop NOW SECONDS: sends SIGTERM, and SIGKILL after SECONDS. A non-empty NOW sends SIGKILL at once.
jars_stop() {
    local pid deadline=$((SECONDS + $2))
    pid=$(cat "$dir/kafka.pid")
    [ -n "$1" ] || kill -TERM "$pid" 2>/dev/null || true
    while [ -z "$1" ] && jars_running && [ $SECONDS -lt $deadline ]; do sleep 0.05; done
    if jars_running; then
        [ -n "$1" ] || say "Kafka did not stop within $2 s of SIGTERM; sending SIGKILL"
        kill -KILL "$pid" 2>/dev/null || true
        while jars_running; do sleep 0.05; done
    fi
    # A process that exits loses its command line first, and its files and ports later: up to 80 ms were measured. A
    # start in between would find the port in use.
    deadline=$((SECONDS + 10))
    while has_live_thread "$pid" && [ $SECONDS -lt $deadline ]; do sleep 0.02; done
    rm -f "$dir/kafka.pid"
}

# has_live_thread PID: succeeds until each thread of the process has exited. One that has is a zombie (Z) until its
# parent waits for it, and holds no files.
has_live_thread() {
    if [ -d /proc/self ]; then
        grep -hs '^State:' "/proc/$1/task/"*/status | grep -q -v '^State:[[:space:]]*[ZX]'
    else
        ps -o stat= -p "$1" 2>/dev/null | grep -q -v '^Z'
    fi
}

jars_logs() {
    [ ! -s "$dir/kafka.out" ] || cat "$dir/kafka.out"
    [ -f "$dir/kafka.log" ] || return 0
    if [ -n "$1" ]; then tail -n 100 -F "$dir/kafka.log"; else tail -n 100 "$dir/kafka.log"; fi
}

# The data is in the broker's directory, which `clean` deletes.
jars_clean() { :; }

# Sets `jars` to the directory with Kafka's jars, and downloads them with Maven if it does not exist.
fetch_jars() {
    # The checksum of the pom is part of the name, so a changed dependency is downloaded again.
    jars=$cache/kafka-$kafka_version-$(cksum <"$pom" | cut -d ' ' -f 1)
    download_jars "Kafka $kafka_version (40 MB, once)" "$pom" "$jars" "-Dkafka.version=$kafka_version"
}

# Prints a cluster id: 16 bytes in unpadded URL-safe base64, as Kafka writes them.
cluster_id() {
    # Brokers of one cluster need the same id, so it is derived from the voters, which all of them know.
    if [ -n "$voters" ]; then
        printf 'k%020dA\n' "$(printf '%s' "$voters" | cksum | cut -d ' ' -f 1)"
    else
        # A letter in front: the command line would read a leading dash as an option.
        echo "k$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 2-22)"
    fi
}

# jars_exec_tool "CLASS..." ARGUMENT...: replaces this process with one of Kafka's tools: the first class that the jars
# have.
jars_exec_tool() {
    local classes=$1 class
    shift
    find_java || need_java
    fetch_jars
    for class in $classes; do
        # The directory at the end of a jar has the names of its files as they are.
        if grep -qs "$(printf '%s' "$class" | tr . /)\.class" "$jars"/kafka*.jar; then
            exec "$java" -Xmx256m -XX:TieredStopAtLevel=1 -cp "$jars/*" "$class" "$@"
        fi
    done
    fail "Kafka $kafka_version has none of the tools $classes."
}
