//! G8: what would break a guarantee halts the partition, or the start, with a message that says what to do.

mod halted_partitions;
mod lost_group;
mod startup_checks;
mod truncated_log;
