//! G8: what would break a guarantee halts the partition, or the start, with a message that says what to do.

mod changed_topics;
mod copied_topics;
pub(crate) mod halted_partitions;
mod lost_group;
mod more_partitions;
mod rebuilt_changelog;
mod recovered_group;
mod startup_checks;
mod truncated_log;
