//! Health of the program's membership in its consumer group: readiness, and metrics with the same names in
//! each program.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use service::Health;
use service::metrics::{counter, gauge};

/// Readiness and metrics of one membership. Clones share them.
#[derive(Clone, Debug)]
pub struct GroupHealth {
    health: Health,
    partitions_unassigned: Gauge,
    rebalances_triggered: Counter,
    rejoins_after_fencing: Counter,
}

/// Condition that each partition is assigned to some member of the group.
const GROUP: &str = "group";
/// Condition that no other member of the group has the instance id of this program.
const INSTANCE_ID: &str = "instance-id";

/// What to do when a metric is odd, for the document of the metrics.
#[cfg(test)]
const ADVICE: &service::metrics::Advice = &[
    (
        "outbox_partitions_unassigned",
        "A rebalance is triggered by itself. If it lasts: start more instances, or see the log. Runbook: PartitionsUnassigned.",
    ),
    (
        "outbox_rebalances_triggered",
        "Often: instances die and restart during rebalances; see why.",
    ),
    (
        "outbox_rejoins_after_fencing",
        "The connections to the brokers break while it joins, or a second process with its `instance_id` was there. \
         Runbook: FencedAgain.",
    ),
];

impl GroupHealth {
    /// Creates the metrics and registers them.
    pub fn register(registry: &mut Registry, health: &Health) -> Self {
        Self {
            health: health.clone(),
            partitions_unassigned: gauge(
                registry,
                "outbox_partitions_unassigned",
                "Partitions assigned to no member of the group, although no rebalance is in progress",
            ),
            rebalances_triggered: counter(
                registry,
                "outbox_rebalances_triggered",
                "Rebalances triggered by this instance so that unassigned partitions are assigned",
            ),
            rejoins_after_fencing: counter(
                registry,
                "outbox_rejoins_after_fencing",
                "Times this instance rejoined its group after another member with its id had fenced it",
            ),
        }
    }

    /// Marks the group as unready: `count` partitions are assigned to no member.
    pub fn set_unassigned(&self, count: usize, reason: String) {
        // Unready although this instance works: orders on those partitions wait, and no other signal would
        // show it.
        self.partitions_unassigned
            .set(i64::try_from(count).unwrap_or(i64::MAX));
        self.health.set_unready(GROUP, reason);
    }

    /// Marks the group as ready: all partitions are assigned, or a rebalance is in progress.
    pub fn set_assigned(&self) {
        // A rebalance in progress counts as ready: otherwise each deployment would make all instances unready
        // at once.
        self.partitions_unassigned.set(0);
        self.health.set_ready(GROUP);
    }

    /// Counts a rebalance that this program triggered.
    pub fn count_rebalance(&self) {
        self.rebalances_triggered.inc();
    }

    /// Marks the instance id as unready: another member of the group has it, so this program cannot join.
    pub fn set_fenced(&self, reason: impl Into<String>) {
        // Alive, but unready: a restart would meet the same member again, so the supervisor must not kill for
        // it.
        self.health.set_unready(INSTANCE_ID, reason);
    }

    /// Marks the instance id as ready and counts the rejoin.
    pub fn set_rejoined(&self) {
        self.rejoins_after_fencing.inc();
        self.health.set_ready(INSTANCE_ID);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn metrics_are_documented() {
        let mut registry = Registry::default();
        let _group = GroupHealth::register(&mut registry, &Health::new(Duration::ZERO));
        service::metrics::assert_documented(&registry, "validator and caller", ADVICE);
    }

    /// Dashboards and alerts depend on these names: a change here is a change for the users.
    #[test]
    fn metric_names_are_pinned() {
        let mut registry = Registry::default();
        let _group = GroupHealth::register(&mut registry, &Health::new(Duration::ZERO));
        assert_eq!(
            service::metrics::names(&registry),
            [
                "outbox_partitions_unassigned gauge",
                "outbox_rebalances_triggered counter",
                "outbox_rejoins_after_fencing counter",
            ]
        );
    }

    #[test]
    fn readiness_and_metrics_agree() {
        let health = Health::new(Duration::from_secs(1));
        health.set_ready(Health::STARTED);
        let mut registry = Registry::default();
        let group = GroupHealth::register(&mut registry, &health);
        let state = || {
            let unready: Vec<_> = health
                .unready_conditions()
                .into_iter()
                .map(|unready| unready.condition)
                .collect();
            let counts = [
                group.rebalances_triggered.get(),
                group.rejoins_after_fencing.get(),
            ];
            (unready, group.partitions_unassigned.get(), counts)
        };
        group.set_unassigned(2, "partitions [3, 4] are unassigned".into());
        group.set_fenced("a stale member has the instance id");
        assert_eq!(state(), (vec!["group", "instance-id"], 2, [0, 0]));
        group.count_rebalance();
        group.set_assigned();
        group.set_rejoined();
        assert_eq!(state(), (vec![], 0, [1, 1]));
    }
}
