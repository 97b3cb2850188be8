//! Health of a group membership: partitions that stay unassigned, and conflicts over an instance id.

pub mod group_watch;
pub mod instance_id_conflict;
pub mod instance_id_watch;
mod trigger_rebalance;
mod unassigned_partitions;
