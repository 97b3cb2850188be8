//! The watch over this caller's group: whether partitions belong to nobody, and what that means for readiness and
//! metrics.

use std::sync::Arc;

use anyhow::Context;
use kafka::admin::Admin;
use kafka::group_watch::{self, Myself, Told, Watched};
use service::Health;
use service::failpoint::guard_removed;

use crate::config::Config;
use crate::metrics::Metrics;

/// Watches until the process ends.
///
/// # Errors
/// There is no thread left.
pub(crate) fn watch(
    config: &Config,
    admin: &Arc<Admin>,
    metrics: &Metrics,
    health: &Health,
) -> anyhow::Result<Myself> {
    let myself = Myself::default();
    if guard_removed!("guard-unowned") {
        return Ok(myself);
    }
    let watched = Watched {
        admin: Arc::clone(admin),
        settings: config.kafka.clone(),
        client_id: config.caller.instance_id.clone(),
        topic: config.topics.pending.clone(),
        elsewhere: config.topics.processed.clone(),
        session_timeout: config.caller.session_timeout,
        // A partition is given up once its calls in flight are final.
        give_up_max: config.caller.drain_max,
    };
    let (metrics, health) = (metrics.clone(), health.clone());
    group_watch::watch(watched, &myself, move |told| match told {
        Told::Unowned(count, reason) => {
            metrics.unowned.set(i64::try_from(count).unwrap_or(i64::MAX));
            health.unmet_because(GROUP, reason);
        }
        Told::AtRest => {
            metrics.unowned.set(0);
            health.met(GROUP);
        }
        Told::Rebalanced => {
            metrics.rebalances_made.inc();
        }
    })
    .context("the thread that watches the group cannot be started")?;
    Ok(myself)
}

/// The name of the condition that each partition belongs to some member of the group.
const GROUP: &str = "group";
