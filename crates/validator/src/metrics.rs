//! The names of all metrics of the validator.

use pipeline::admission::{PartitionState, Verdict};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use records::dead_letter::Reason;

/// The validator's metrics; clones are the same metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    orders: Family<ByVerdict, Counter>,
    /// The two that are counted for nearly each order, looked up once.
    admitted: Counter,
    duplicates: Counter,
    dead_letters: Family<ByReason, Counter>,
    transactions: Family<ByEnd, Counter>,
    /// From the first wait for deliveries to the commit's answer.
    pub(crate) transaction_end_seconds: Histogram,
    pub(crate) transaction_orders: Histogram,
    pub(crate) restores: Counter,
    pub(crate) restore_records: Counter,
    pub(crate) restore_seconds: Histogram,
    pub(crate) stores_rebuilt: Counter,
    partitions: Family<ByStage, Gauge>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEnd {
    end: &'static str,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    Aborted,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStage {
    stage: &'static str,
}

/// Upper bounds in seconds; those of OpenTelemetry's messaging durations, with finer ones below.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

impl Metrics {
    /// Registers the metrics.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(SECONDS);
        let orders: Family<ByVerdict, Counter> = Family::default();
        let counter = |verdict| orders.get_or_create_owned(&ByVerdict { verdict });
        let metrics = Self {
            admitted: counter("admit"),
            duplicates: counter("duplicate"),
            orders: orders.clone(),
            dead_letters: Family::default(),
            transactions: Family::default(),
            transaction_end_seconds: seconds(),
            transaction_orders: Histogram::new([1.0, 10.0, 100.0, 1_000.0, 10_000.0]),
            restores: Counter::default(),
            restore_records: Counter::default(),
            restore_seconds: seconds(),
            stores_rebuilt: Counter::default(),
            partitions: Family::default(),
        };
        // Registered under names without `_total`, which the text format appends to counters.
        registry.register(
            "outbox_orders",
            "Input records by verdict, committed or not",
            metrics.orders.clone(),
        );
        registry.register(
            "outbox_order_dead_letters",
            "Refused input records by reason",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "outbox_transactions",
            "Transactions by their end",
            metrics.transactions.clone(),
        );
        registry.register(
            "outbox_transaction_end_seconds",
            "Time to end a transaction",
            metrics.transaction_end_seconds.clone(),
        );
        registry.register(
            "outbox_transaction_orders",
            "Orders per transaction",
            metrics.transaction_orders.clone(),
        );
        registry.register(
            "outbox_restores",
            "Restores of a partition's store",
            metrics.restores.clone(),
        );
        registry.register(
            "outbox_restore_records",
            "Changelog records read by restores",
            metrics.restore_records.clone(),
        );
        registry.register(
            "outbox_restore_seconds",
            "Time of a restore",
            metrics.restore_seconds.clone(),
        );
        registry.register(
            "outbox_stores_rebuilt",
            "Stores that were not trusted",
            metrics.stores_rebuilt.clone(),
        );
        registry.register(
            "outbox_partitions",
            "Assigned partitions by stage",
            metrics.partitions.clone(),
        );
        // Each reason is there from the start, so that the first one shows as an increase.
        for reason in Reason::ALL {
            let _ = metrics.dead_letters.get_or_create(&ByReason {
                reason: reason.as_str(),
            });
        }
        metrics
    }

    /// Counts an input record.
    pub(crate) fn count(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Admit { .. } => {
                self.admitted.inc();
            }
            Verdict::Duplicate { .. } => {
                self.duplicates.inc();
            }
            Verdict::Refuse(refusal) => {
                self.dead_letters
                    .get_or_create(&ByReason {
                        reason: refusal.reason.as_str(),
                    })
                    .inc();
                let verdict = if refusal.reason == Reason::Conflict {
                    "conflict"
                } else {
                    "refuse"
                };
                self.orders.get_or_create(&ByVerdict { verdict }).inc();
            }
        }
    }

    /// Counts a transaction.
    pub(crate) fn ended(&self, end: End) {
        let end = match end {
            End::Committed => "committed",
            End::Aborted => "aborted",
            End::Unknown => "unknown",
        };
        self.transactions.get_or_create(&ByEnd { end }).inc();
    }

    /// Counts the assigned partitions.
    pub(crate) fn stages<'a>(&self, stages: impl Iterator<Item = &'a PartitionState>) {
        let mut counts = [0; 4];
        let labels = ["awaits-producer", "restoring", "running", "refused"];
        for stage in stages {
            let at = match stage {
                PartitionState::AwaitsProducer => 0,
                PartitionState::Restoring(_) => 1,
                PartitionState::Running { .. } => 2,
                PartitionState::Refused(_) => 3,
            };
            counts[at] += 1;
        }
        for (stage, count) in labels.into_iter().zip(counts) {
            self.partitions.get_or_create(&ByStage { stage }).set(count);
        }
    }
}
