//! Metrics that `outbox metrics` serves: name, help and labels of each.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use records::Timestamp;
use service::metrics::{Labelled, RealGauge, counters, gauge, gauges, real_gauge};

/// What Kafka knows of the pipeline, as metrics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pending: Gauge,
    pending_oldest: RealGauge,
    orders_waiting: Gauge,
    orders_waiting_oldest: RealGauge,
    parked: Gauge,
    parked_oldest: RealGauge,
    parked_amount: Labelled<RealGauge>,
    members: Labelled<Gauge>,
    read_at: Labelled<Gauge>,
    failures: Labelled<Counter>,
}

/// What is read in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Offsets of the groups, and the records behind them.
    Backlog,
    /// Parked calls.
    Parked,
}

impl Subject {
    const ALL: [Self; 2] = [Self::Backlog, Self::Parked];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Parked => "parked",
        }
    }
}

/// What to do when a metric is odd, for the document of the metrics.
#[cfg(test)]
const ADVICE: &service::metrics::Advice = &[
    (
        "outbox_pending_calls",
        "Growing: more orders come than the API takes; `outbox_calls_bound_seconds_total` says what bounds the callers. \
         Runbook: PendingGrows.",
    ),
    (
        "outbox_pending_oldest_age_seconds",
        "`outbox status` names the partition. Runbook: PendingTooOld.",
    ),
    (
        "outbox_orders_waiting",
        "Growing: see the validators. Runbook: OrdersLag.",
    ),
    (
        "outbox_orders_waiting_oldest_age_seconds",
        "As above. Runbook: OrdersLag.",
    ),
    (
        "outbox_parked_calls",
        "Each waits for a person: `outbox parked groups`. Runbook: CallsParked.",
    ),
    (
        "outbox_parked_oldest_age_seconds",
        "A customer waits as long. Runbook: ParkedTooOld.",
    ),
    (
        "outbox_parked_amount",
        "The money that may have been charged or not. Runbook: CallsParked.",
    ),
    (
        "outbox_group_members",
        "0: no instance has joined. Runbook: NoValidator, NoCaller.",
    ),
    (
        "outbox_read_timestamp_seconds",
        "Old: the metrics of this program are, too. Runbook: WatchStale.",
    ),
    (
        "outbox_read_failures",
        "The log of `outbox metrics` has the error.",
    ),
];

impl Metrics {
    /// Creates the metrics and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self {
            pending: gauge(
                registry,
                "outbox_pending_calls",
                "Calls in the outbox without a final state; beyond 10,000 offsets of a partition estimated from those",
            ),
            pending_oldest: real_gauge(
                registry,
                "outbox_pending_oldest_age_seconds",
                "Time since the oldest pending call came into the outbox, deferrals included; 0 if none is pending",
            ),
            orders_waiting: gauge(
                registry,
                "outbox_orders_waiting",
                "Orders that no validator has decided; beyond 10,000 offsets of a partition estimated from those",
            ),
            orders_waiting_oldest: real_gauge(
                registry,
                "outbox_orders_waiting_oldest_age_seconds",
                "Time since the timestamp of the oldest order that waits; 0 if none does",
            ),
            parked: gauge(
                registry,
                "outbox_parked_calls",
                "Parked calls that wait for an operator, also those whose outcome may have left its topic",
            ),
            parked_oldest: real_gauge(
                registry,
                "outbox_parked_oldest_age_seconds",
                "Time since the oldest of them was parked; 0 if none waits",
            ),
            parked_amount: gauges(
                registry,
                "outbox_parked_amount",
                "Sum of their orders' amounts, if orders have the built-in form",
                "currency",
            ),
            members: gauges(
                registry,
                "outbox_group_members",
                "Members of the consumer groups",
                "stage",
            ),
            read_at: gauges(
                registry,
                "outbox_read_timestamp_seconds",
                "Time at which these values were last read from Kafka",
                "subject",
            ),
            failures: counters(
                registry,
                "outbox_read_failures",
                "Times that they could not be read",
                "subject",
                Subject::ALL.map(Subject::as_str),
            ),
        }
    }

    /// Sets the pending calls, and since when the oldest waits.
    pub(crate) fn set_pending(&self, calls: u64, oldest: Option<Timestamp>, now: Timestamp) {
        self.pending.set(number(calls));
        self.pending_oldest.set(age(oldest, now));
    }

    /// Sets the orders that wait for a validator.
    pub(crate) fn set_orders_waiting(&self, orders: u64, oldest: Option<Timestamp>, now: Timestamp) {
        self.orders_waiting.set(number(orders));
        self.orders_waiting_oldest.set(age(oldest, now));
    }

    /// Sets the parked calls, and since when the oldest waits.
    pub(crate) fn set_parked(&self, calls: u64, oldest: Option<Timestamp>, now: Timestamp) {
        self.parked.set(number(calls));
        self.parked_oldest.set(age(oldest, now));
    }

    /// Sets the amounts of the parked calls by currency. `before` has those that were set before.
    pub(crate) fn set_parked_amounts(
        &self,
        before: &BTreeMap<&'static str, f64>,
        now: &BTreeMap<&'static str, f64>,
    ) {
        // A currency of which no call is parked any more must fall back to 0.
        for (currency, _) in before.iter().filter(|(currency, _)| !now.contains_key(*currency)) {
            self.parked_amount.with(*currency).set(0.0);
        }
        for (currency, amount) in now {
            self.parked_amount.with(*currency).set(*amount);
        }
    }

    /// Sets the numbers of members of both stages.
    pub(crate) fn set_members(&self, validators: usize, callers: usize) {
        for (stage, count) in [("validators", validators), ("callers", callers)] {
            self.members
                .with(stage)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Takes in that a subject was read.
    pub(crate) fn read(&self, subject: Subject, now: Timestamp) {
        self.read_at.with(subject.as_str()).set(now.0 / 1_000);
    }

    /// Counts that a subject could not be read.
    pub(crate) fn failed(&self, subject: Subject) {
        self.failures.with(subject.as_str()).inc();
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Returns the seconds since a time; 0 if there is none, or if its clock is ahead.
fn age(since: Option<Timestamp>, now: Timestamp) -> f64 {
    let ms = since.map_or(0, |since| now.0.saturating_sub(since.0));
    Duration::from_millis(u64::try_from(ms).unwrap_or_default()).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_documented() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        // So that each label has its series.
        metrics.set_members(0, 0);
        metrics.set_parked_amounts(&BTreeMap::new(), &[("EUR", 0.0)].into());
        Subject::ALL
            .into_iter()
            .for_each(|subject| metrics.read(subject, Timestamp(0)));
        service::metrics::assert_documented(&registry, "outbox metrics", ADVICE);
    }

    /// Dashboards and alerts depend on these names: a change here is a change for the users.
    #[test]
    fn metric_names_are_pinned() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.set_members(0, 0);
        metrics.set_parked_amounts(&BTreeMap::new(), &[("EUR", 0.0)].into());
        metrics.read(Subject::Backlog, Timestamp(0));
        assert_eq!(
            service::metrics::names(&registry),
            [
                "outbox_pending_calls gauge",
                "outbox_pending_oldest_age_seconds gauge",
                "outbox_orders_waiting gauge",
                "outbox_orders_waiting_oldest_age_seconds gauge",
                "outbox_parked_calls gauge",
                "outbox_parked_oldest_age_seconds gauge",
                "outbox_parked_amount gauge",
                "outbox_group_members gauge",
                "outbox_read_timestamp_seconds gauge",
                "outbox_read_failures counter",
            ]
        );
    }

    #[test]
    fn age_is_never_negative() {
        let now = Timestamp(10_500);
        let ages = [None, Some(Timestamp(10_000)), Some(Timestamp(i64::MAX))].map(|since| age(since, now));
        assert_eq!(ages.map(|age| (age * 10.0).round()), [0.0, 5.0, 0.0]);
    }

    #[test]
    fn currency_without_parked_calls_falls_to_0() {
        let metrics = Metrics::register(&mut Registry::default());
        let before = [("EUR", 12.5), ("JPY", 7.0)].into();
        metrics.set_parked_amounts(&BTreeMap::new(), &before);
        metrics.set_parked_amounts(&before, &[("EUR", 1.5)].into());
        let amounts = ["EUR", "JPY"].map(|of| (metrics.parked_amount.with(of).get() * 10.0).round());
        assert_eq!(amounts, [15.0, 0.0]);
    }
}
