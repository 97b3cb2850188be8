//! The watch over this caller's group: whether partitions belong to nobody, and what that means for readiness and
//! metrics; and whether our place in it is another's.

use std::sync::Arc;

use anyhow::Context;
use kafka::admin::Admin;
use kafka::group_watch::{self, GroupStatus, MemberId, Watched};
use kafka::instance_id_watch::FencedMember;
use service::GroupHealth;
use service::failpoint::guard_removed;

use crate::config::Config;

/// Watches until the process ends.
///
/// # Errors
/// There is no thread left.
pub(crate) fn watch(config: &Config, admin: &Arc<Admin>, health: &GroupHealth) -> anyhow::Result<MemberId> {
    let myself = MemberId::default();
    if guard_removed!("guard-unowned") {
        return Ok(myself);
    }
    let watched = Watched {
        admin: Arc::clone(admin),
        settings: config.kafka.clone(),
        client_id: config.caller.instance_id.clone(),
        topic: config.topics.pending.clone(),
        unused_topic: config.topics.processed.clone(),
        session_timeout: config.caller.session_timeout,
        // A partition is given up once its calls in flight are final.
        revoke_timeout: config.caller.drain_timeout,
    };
    let health = health.clone();
    group_watch::watch(watched, &myself, move |told| match told {
        GroupStatus::UnassignedPartitions(count, reason) => health.unowned(count, reason),
        GroupStatus::AtRest => health.at_rest(),
        GroupStatus::Rebalanced => health.rebalanced(),
    })
    .context("the thread that watches the group cannot be started")?;
    Ok(myself)
}

/// What is to be known of the group when another member has taken this caller's instance id.
pub(crate) fn fenced(config: &Config, admin: &Arc<Admin>) -> FencedMember {
    FencedMember {
        admin: Arc::clone(admin),
        group_id: config.kafka.group_id.clone(),
        topic: config.topics.pending.clone(),
        instance_id: config.caller.instance_id.clone(),
        session_timeout: config.caller.session_timeout,
    }
}
