//! The health of a group membership: partitions without an owner, and conflicts over an instance id.

pub mod group_watch;
pub mod instance_id_conflict;
pub mod instance_id_watch;
mod trigger_rebalance;
pub mod unassigned_partitions;
