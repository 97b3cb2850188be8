#!/bin/bash
# Starts a Kafka broker with the settings in KAFKA_*, as the official image does: KAFKA_LOG_DIRS is log.dirs, and two
# underscores stand for one.
set -euo pipefail
settings=/tmp/server.properties
: >"$settings"
while IFS='=' read -r -d '' name value; do
    case $name in
    KAFKA_HEAP_OPTS | KAFKA_OPTS) ;;
    KAFKA_*)
        name=${name#KAFKA_}
        name=${name//__/-}
        name=${name//_/.}
        printf '%s=%s\n' "$(tr '[:upper:]-' '[:lower:]_' <<<"$name")" "$value" >>"$settings"
        ;;
    esac
done < <(env -0)
run=(java -Djava.awt.headless=true -Dlog4j2.configurationFile=/opt/kafka/config/log4j2.xml -cp '/opt/kafka/libs/*')
"${run[@]}" -Xmx128m -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format --ignore-formatted \
    --cluster-id "$CLUSTER_ID" --config "$settings"
# shellcheck disable=SC2086 # several options
exec "${run[@]}" ${KAFKA_HEAP_OPTS:-} -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError kafka.Kafka "$settings"
