# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # used by jars.sh and container.sh; here is set by scripts/kafka
# Version of Kafka: `kafka_version`, from KAFKA_VERSION and the two that pom.xml names.

pom=$here/kafka.d/pom.xml

# pinned_version PROPERTY: prints a version that the pom names.
pinned_version() { sed -n "s/.*<$1>\\(.*\\)<.*/\\1/p" "$pom"; }

case ${KAFKA_VERSION:-newest} in
newest) kafka_version=$(pinned_version kafka.version) ;;
oldest) kafka_version=$(pinned_version kafka.oldest.version) ;;
[0-9]*.[0-9]*) kafka_version=$KAFKA_VERSION ;;
*) fail "KAFKA_VERSION must be newest, oldest or a version such as 4.2.1, not \"$KAFKA_VERSION\"." ;;
esac
