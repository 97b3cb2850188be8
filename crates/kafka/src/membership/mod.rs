//! Health of a group membership: partitions that stay unassigned, conflicts over an instance id, and members that the
//! group no longer has.

pub mod group_watch;
pub mod instance_id_conflict;
pub mod instance_id_watch;
pub mod static_members;
mod trigger_rebalance;
mod unassigned_partitions;
