#!/bin/bash
# Kafka's command-line tools, by the names that they have in its distribution.
case ${0##*/} in
kafka-topics.sh) class=org.apache.kafka.tools.TopicCommand ;;
kafka-console-producer.sh) class=org.apache.kafka.tools.ConsoleProducer ;;
kafka-console-consumer.sh) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
kafka-consumer-groups.sh) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
*)
    echo "unknown tool $0" >&2
    exit 1
    ;;
esac
exec java -Xmx256m -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' "$class" "$@"
