//! What is told of the program's place in its consumer group: readiness, and metrics of the same names in each program.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use service::Health;

/// Tells of one program's membership; clones tell of the same.
#[derive(Clone, Debug)]
pub struct GroupHealth {
    health: Health,
    unowned: Gauge,
    rebalances_triggered: Counter,
    rejoined: Counter,
}

impl GroupHealth {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry, health: &Health) -> Self {
        let group = Self {
            health: health.clone(),
            unowned: Gauge::default(),
            rebalances_triggered: Counter::default(),
            rejoined: Counter::default(),
        };
        // Registered under names without `_total`, which the text format appends to counters.
        registry.register(
            "outbox_partitions_unassigned",
            "Partitions that belong to no member of the group, though no rebalance is under way",
            group.unowned.clone(),
        );
        registry.register(
            "outbox_rebalances_triggered",
            "Rebalances made by this instance, so that partitions that belong to nobody are handed out",
            group.rebalances_triggered.clone(),
        );
        registry.register(
            "outbox_rejoins_after_fencing",
            "Times another member had taken this instance's id, was gone again, and the group was joined anew",
            group.rejoined.clone(),
        );
        group
    }

    /// Partitions belong to nobody, so many, for this reason.
    pub fn unowned(&self, count: usize, reason: String) {
        self.unowned.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.health.set_unready(GROUP, reason);
    }

    /// Each partition belongs to somebody, or is about to.
    pub fn at_rest(&self) {
        self.unowned.set(0);
        self.health.set_ready(GROUP);
    }

    /// This program made the group hand its partitions out anew.
    pub fn rebalanced(&self) {
        self.rebalances_triggered.inc();
    }

    /// The group cannot be joined yet, because of another member with this instance id.
    pub fn fenced(&self, reason: impl Into<String>) {
        self.health.set_unready(INSTANCE_ID, reason);
    }

    /// Nobody else has the instance id, and the group is joined again.
    pub fn rejoined(&self) {
        self.rejoined.inc();
        self.health.set_ready(INSTANCE_ID);
    }
}

/// The name of the condition that each partition belongs to some member of the group.
const GROUP: &str = "group";
/// The name of the condition that no other member has this program's instance id.
const INSTANCE_ID: &str = "instance-id";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn readiness_and_metrics_tell_the_same() {
        let health = Health::new(Duration::from_secs(1));
        health.set_ready(Health::STARTED);
        let mut registry = Registry::default();
        let group = GroupHealth::register(&mut registry, &health);
        let told = || {
            let unmet: Vec<_> = health
                .reasons()
                .into_iter()
                .map(|unmet| unmet.condition)
                .collect();
            let counts = [group.rebalances_triggered.get(), group.rejoined.get()];
            (unmet, group.unowned.get(), counts)
        };
        group.unowned(2, "partitions [3, 4] belong to nobody".into());
        group.fenced("a ghost has the name");
        assert_eq!(told(), (vec!["group", "instance-id"], 2, [0, 0]));
        group.rebalanced();
        group.at_rest();
        group.rejoined();
        assert_eq!(told(), (vec![], 0, [1, 1]));
    }
}
