//! What the operator's commands decide about orders and stores, while no validator decides about them.

pub(super) mod changelog_rebuild;
pub(super) mod repartition;
pub mod resubmissions;
pub mod store_comparison;
