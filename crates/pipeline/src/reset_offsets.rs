//! The command that sets the offset of a group, as messages to operators have it.

use records::Partition;

/// Returns the command, in backticks, that sets the committed offset of a group on a partition. Kafka takes it while the
/// group has no member; the offset loses its metadata.
pub(crate) fn reset_offsets(group: &str, topic: &str, partition: Partition, to: &str) -> String {
    format!(
        "`kafka-consumer-groups.sh --bootstrap-server BROKERS --group {group} --topic {topic}:{partition} --reset-offsets \
         --to-offset {to} --execute`"
    )
}
