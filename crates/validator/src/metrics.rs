//! The validator's metrics: name, help and labels of each, and the functions that count.

use std::time::Duration;

use pipeline::admission::{PartitionState, Verdict};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use records::dead_letter::Reason;
use service::metrics::{Labelled, RealGauge, counter, counters, gauge, gauges, histogram, real_gauge};

/// Metrics of a validator. Clones share the metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    orders: Labelled<Counter>,
    admitted: Counter,
    duplicates: Counter,
    dead_letters: Labelled<Counter>,
    orders_lag: RealGauge,
    transactions: Labelled<Counter>,
    pub(crate) transaction_end_seconds: Histogram,
    pub(crate) transaction_orders: Histogram,
    pub(crate) restores: Counter,
    pub(crate) restore_records: Counter,
    pub(crate) restore_seconds: Histogram,
    pub(crate) stores_rebuilt: Counter,
    pub(crate) standby_records: Counter,
    pub(crate) standby_stores: Gauge,
    pub(crate) standby_lag: Gauge,
    pub(crate) mass_refusals: Counter,
    store_keys: Gauge,
    store_bytes: Gauge,
    store_oldest_key_seconds: Gauge,
    store_block_reads: Counter,
    pub(crate) store_lookup_seconds: Histogram,
    pub(crate) store_size_alarm: Gauge,
    pub(crate) forgettings: Counter,
    partitions: Labelled<Gauge>,
}

/// Result of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    Aborted,
    Unknown,
}

impl End {
    const ALL: [Self; 3] = [Self::Committed, Self::Aborted, Self::Unknown];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        }
    }
}

/// Bucket bounds in seconds.
// OpenTelemetry's for messaging durations, and finer ones below: a transaction ends within a few
// milliseconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// Bucket bounds for look-ups of keys, in seconds: below a microsecond from memory, more from the disk.
const LOOKUP_SECONDS: &[f64] = &[
    0.000_000_25,
    0.000_001,
    0.000_004,
    0.000_016,
    0.000_064,
    0.000_256,
    0.001,
    0.004,
    0.016,
    0.1,
    1.0,
];

/// Bucket bounds for the orders of a transaction. The last one is the default of
/// `validator.batch_orders_max`.
const ORDERS: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 50_000.0];

/// What to do when a metric is odd, for the document of the metrics.
#[cfg(test)]
const ADVICE: &service::metrics::Advice = &[
    (
        "outbox_orders",
        "`conflict`: a producer uses one key for two payments. `refuse`: see the dead letters. Many `duplicate`: a producer \
         repeats itself; nothing is charged twice.",
    ),
    (
        "outbox_order_dead_letters",
        "`outbox dead-letters groups` shows causes and amounts. Runbook: OrderDeadLetters.",
    ),
    (
        "outbox_orders_lag_seconds",
        "Above a minute and growing: add a validator, or find out what holds it up. Runbook: OrdersLag.",
    ),
    (
        "outbox_transactions",
        "Some `aborted` or `unknown` follow a broker's restart; many without one point at the brokers or the network.",
    ),
    (
        "outbox_transaction_end_seconds",
        "Tens of milliseconds are normal. More: slow brokers, disks or replicas.",
    ),
    (
        "outbox_transaction_orders",
        "1 under load: `validator.commit_interval` is too short.",
    ),
    (
        "outbox_restores",
        "One per assigned partition. More: see the log for the failure before.",
    ),
    (
        "outbox_restore_records",
        "As many as the changelog has grown since the store was left.",
    ),
    (
        "outbox_restore_seconds",
        "Long ones: lost stores. `store.standby = \"all\"` keeps warm ones.",
    ),
    (
        "outbox_stores_rebuilt",
        "Costs time only. If it rises without a new disk, test the disk, and compare the stores: `outbox state verify`, \
         also [in containers](README.md#in-containers).",
    ),
    (
        "outbox_standby_records",
        "Rises with the orders of other validators.",
    ),
    (
        "outbox_standby_stores",
        "0 with `store.standby = \"all\"`: see the log.",
    ),
    (
        "outbox_standby_lag_records",
        "Growing: the disk or the processor is too slow for the orders of all partitions.",
    ),
    (
        "outbox_mass_refusals",
        "A wrong setting, or a producer with a new schema. Runbook: MassRefusals.",
    ),
    (
        "outbox_store_keys",
        "Grows up to the orders of `store.retention`.",
    ),
    (
        "outbox_store_bytes",
        "Compare with the disk, and see `outbox_store_size_alarm`.",
    ),
    (
        "outbox_store_oldest_key_seconds",
        "Not above `store.retention` by more than some minutes, unless no orders come.",
    ),
    (
        "outbox_store_block_reads",
        "About one per duplicate. As many as new orders: the filters do not work; report it.",
    ),
    (
        "outbox_store_lookup_seconds",
        "Milliseconds: the stores do not fit into the page cache, or the disk is slow.",
    ),
    (
        "outbox_store_size_alarm",
        "Enlarge the disk, or shorten `store.retention`. Runbook: StoreSize.",
    ),
    (
        "outbox_forgettings",
        "Does not rise for a day although orders come: see the log.",
    ),
    (
        "outbox_partitions",
        "`halted` above 0: a person has to judge; `outbox status --program URL` has the reason. Runbook: PartitionHalted.",
    ),
];

impl Metrics {
    /// Creates the metrics and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        // Counted when the verdict is made: after an aborted transaction the same records are counted again.
        let orders = counters(
            registry,
            "outbox_orders",
            "Input records by verdict, whether or not their transaction was committed",
            "verdict",
            ["admit", "duplicate", "conflict", "refuse"],
        );
        Self {
            // These two are counted for almost every order, so they are looked up once and not per order.
            admitted: orders.with("admit"),
            duplicates: orders.with("duplicate"),
            orders,
            dead_letters: counters(
                registry,
                "outbox_order_dead_letters",
                "Refused input records, by reason",
                "reason",
                Reason::ALL.map(Reason::as_str),
            ),
            orders_lag: real_gauge(
                registry,
                "outbox_orders_lag_seconds",
                "Largest time from an order's timestamp to its decision since the last look, every 5 s; the time since the \
                 last one if none was decided; 0 when all orders are read",
            ),
            transactions: counters(
                registry,
                "outbox_transactions",
                "Transactions by result",
                "result",
                End::ALL.map(End::as_str),
            ),
            transaction_end_seconds: histogram(
                registry,
                "outbox_transaction_end_seconds",
                "Time to end a transaction, from the wait for delivery reports to the response to the commit",
                SECONDS,
            ),
            transaction_orders: histogram(
                registry,
                "outbox_transaction_orders",
                "Orders per transaction",
                ORDERS,
            ),
            restores: counter(
                registry,
                "outbox_restores",
                "Stores restored from the changelog, after an assignment or a failure",
            ),
            restore_records: counter(
                registry,
                "outbox_restore_records",
                "Changelog records read by restores",
            ),
            restore_seconds: histogram(
                registry,
                "outbox_restore_seconds",
                "Time to restore a store",
                SECONDS,
            ),
            // Rebuilding costs time only. A rising count without new disks points at corruption.
            stores_rebuilt: counter(
                registry,
                "outbox_stores_rebuilt",
                "Stores discarded and rebuilt from the changelog, because they could not be trusted",
            ),
            standby_records: counter(
                registry,
                "outbox_standby_records",
                "Changelog records read by standby stores",
            ),
            standby_stores: gauge(
                registry,
                "outbox_standby_stores",
                "Standby stores that follow the changelog",
            ),
            standby_lag: gauge(
                registry,
                "outbox_standby_lag_records",
                "Changelog offsets that the standby stores were behind when they were looked at last",
            ),
            mass_refusals: counter(
                registry,
                "outbox_mass_refusals",
                "Times most records of a partition were refused, so that it was paused",
            ),
            store_keys: gauge(
                registry,
                "outbox_store_keys",
                "Keys in the stores of running partitions",
            ),
            store_bytes: gauge(
                registry,
                "outbox_store_bytes",
                "Size of the stores of running partitions",
            ),
            store_oldest_key_seconds: gauge(
                registry,
                "outbox_store_oldest_key_seconds",
                "Time from the oldest key of a running partition to its newest order, by the times of the records: the \
                 largest of all",
            ),
            // A new key is answered by the filters in memory; a duplicate reads a block.
            store_block_reads: counter(
                registry,
                "outbox_store_block_reads",
                "Blocks that look-ups of keys have read from the stores, because the filters had no answer",
            ),
            store_lookup_seconds: histogram(
                registry,
                "outbox_store_lookup_seconds",
                "Time to look up a key, of one order in 1,024",
                LOOKUP_SECONDS,
            ),
            store_size_alarm: gauge(
                registry,
                "outbox_store_size_alarm",
                "1 while the stores are larger than store.size_alarm",
            ),
            forgettings: counter(
                registry,
                "outbox_forgettings",
                "Times a partition has forgotten keys that are older than store.retention",
            ),
            partitions: gauges(
                registry,
                "outbox_partitions",
                "Assigned partitions, by state",
                "state",
            ),
        }
    }

    /// Counts an input record by its verdict.
    pub(crate) fn count_verdict(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Admit { .. } => {
                self.admitted.inc();
            }
            Verdict::Duplicate { .. } => {
                self.duplicates.inc();
            }
            Verdict::Refuse(refusal) => {
                self.dead_letters.with(refusal.reason.as_str()).inc();
                self.orders.with(verdict.as_str()).inc();
            }
        }
    }

    /// Sets what the stores hold.
    pub(crate) fn set_sizes(&self, keys: u64, bytes: u64, age_ms: i64) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.store_keys.set(number(keys));
        self.store_bytes.set(number(bytes));
        self.store_oldest_key_seconds.set(age_ms / 1000);
    }

    /// Sets by how much the decisions lag behind the orders.
    pub(crate) fn set_lag(&self, lag: Duration) {
        self.orders_lag.set(lag.as_secs_f64());
    }

    /// Counts blocks that look-ups have read.
    pub(crate) fn count_block_reads(&self, blocks: u64) {
        self.store_block_reads.inc_by(blocks);
    }

    /// Counts a transaction by its result.
    pub(crate) fn transaction_ended(&self, end: End) {
        self.transactions.with(end.as_str()).inc();
    }

    /// Counts the assigned partitions by their state.
    pub(crate) fn set_partition_states<'a>(&self, states: impl Iterator<Item = &'a PartitionState>) {
        let labels = ["awaits-producer", "restoring", "running", "halted"];
        let mut counts = [0; 4];
        for state in states {
            let index = match state {
                PartitionState::AwaitsProducer => 0,
                PartitionState::Restoring(_) => 1,
                PartitionState::Running { .. } => 2,
                PartitionState::Halted(_) => 3,
            };
            counts[index] += 1;
        }
        // All four are written each time: a state that no partition is in any more must fall back to 0.
        for (state, count) in labels.into_iter().zip(counts) {
            self.partitions.with(state).set(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_documented() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        // So that each state has its series.
        metrics.set_partition_states([].into_iter());
        service::metrics::assert_documented(&registry, "validator", ADVICE);
    }

    /// Dashboards and alerts depend on these names: a change here is a change for the users.
    #[test]
    fn metric_names_are_pinned() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.set_partition_states([].into_iter());
        assert_eq!(
            service::metrics::names(&registry),
            [
                "outbox_orders counter",
                "outbox_order_dead_letters counter",
                "outbox_orders_lag_seconds gauge",
                "outbox_transactions counter",
                "outbox_transaction_end_seconds histogram",
                "outbox_transaction_orders histogram",
                "outbox_restores counter",
                "outbox_restore_records counter",
                "outbox_restore_seconds histogram",
                "outbox_stores_rebuilt counter",
                "outbox_standby_records counter",
                "outbox_standby_stores gauge",
                "outbox_standby_lag_records gauge",
                "outbox_mass_refusals counter",
                "outbox_store_keys gauge",
                "outbox_store_bytes gauge",
                "outbox_store_oldest_key_seconds gauge",
                "outbox_store_block_reads counter",
                "outbox_store_lookup_seconds histogram",
                "outbox_store_size_alarm gauge",
                "outbox_forgettings counter",
                "outbox_partitions gauge",
            ]
        );
    }
}
