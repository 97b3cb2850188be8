//! Execution of the admission's actions: dispatch and partitions in `perform.rs`, transactions in
//! `transaction.rs`, local stores in `stores.rs`, the records that an order becomes in `output_records.rs`, and its
//! span in `order_spans.rs`.

mod order_spans;
mod output_records;
mod perform;
pub(crate) mod stores;
mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka::TransactionalProducer;
use kafka::producer::RecordSizes;
use rdkafka::consumer::ConsumerGroupMetadata;
use records::{LeaderEpoch, Partition, TopicsNote};
use store::{StateDirectory, Store};

use crate::changelog_deletions::ChangelogDeletions;
use crate::config::Config;
pub(crate) use crate::effects::order_spans::OrderSpans;
use crate::metrics::Metrics;
use crate::restore::Restorers;

/// Group metadata that binds a transaction to a membership: Kafka fences the commit of a former member by it.
pub(crate) type Fence = Arc<ConsumerGroupMetadata>;

/// Clients, stores and bookkeeping that the actions work with. The consumer is passed along instead, because
/// its records are borrowed meanwhile.
pub(crate) struct Shell {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) directory: Arc<StateDirectory>,
    /// Open stores of the running partitions.
    pub(crate) stores: BTreeMap<Partition, Box<Store>>,
    /// Committed leader epochs of the restored partitions, until they start.
    pub(crate) leader_epochs: BTreeMap<Partition, LeaderEpoch>,
    pub(crate) restorers: Restorers,
    pub(crate) deletions: ChangelogDeletions,
    pub(crate) producer: Option<TransactionalProducer>,
    /// Sizes that the producer's topics accept.
    pub(crate) record_sizes: RecordSizes,
    /// Maximum size of a dead letter, in bytes.
    pub(crate) dead_letter_bytes_max: usize,
    /// Note of the topics, for the metadata of each offset. It stays as it was checked at the start: a
    /// topic that changes while this validator runs must not look right to the next one.
    pub(crate) note: TopicsNote,
    /// Number of input records in the open transaction.
    pub(crate) transaction_orders: u32,
    /// Spans of the orders in the open transaction; `None` without traces.
    pub(crate) spans: Option<OrderSpans>,
    /// The group is left; nothing follows.
    pub(crate) has_left: bool,
}
