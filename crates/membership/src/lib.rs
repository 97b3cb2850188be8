//! A program's membership in its consumer group, as the validator and the caller share it: the watch for
//! unassigned partitions, readiness and metrics of the group, and the wait after another member has taken the
//! instance id.
//!
//! This crate connects `kafka`, which detects, with `service`, which reports; neither knows the other.

mod group_health;
mod group_member;

pub use group_health::GroupHealth;
pub use group_member::{GroupMember, MemberSettings};
