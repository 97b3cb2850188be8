//! Plan for the creation of missing topics, with their settings.

use std::collections::BTreeMap;

use records::Topics;
use serde::Serialize;

use super::rules::creatable_in_sync_min;
use super::{CHANGELOG_CONFIGS, ExistingTopics, HEADERS_BYTES, Purpose};

/// Maximum size of an order while there is no orders topic to follow: Kafka's own default, in bytes.
const ORDER_BYTES_MAX: u64 = 1_048_588;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewTopic {
    /// Name of the topic.
    pub name: String,
    /// Purpose, which decides the settings.
    pub purpose: Purpose,
    /// Number of partitions to create.
    pub partitions: usize,
    /// Number of replicas of each partition.
    pub replication_factor: usize,
    /// Explicit settings; the others are the cluster's defaults.
    pub configs: BTreeMap<&'static str, String>,
}

/// Returns the topics that are missing, in the order in which an order passes them. Existing topics are left
/// unchanged.
#[must_use]
pub fn missing(
    topics: &Topics,
    existing: &ExistingTopics,
    partitions: usize,
    replication_factor: usize,
) -> Vec<NewTopic> {
    let bytes_max = BytesMax::new(topics, existing);
    Purpose::ALL
        .into_iter()
        .filter(|purpose| !existing.contains_key(purpose.name(topics)))
        .map(|purpose| NewTopic {
            name: purpose.name(topics).to_owned(),
            purpose,
            partitions: if purpose.has_one_partition() {
                1
            } else {
                partitions
            },
            replication_factor,
            configs: configs(purpose, replication_factor, &bytes_max),
        })
        .collect()
}

fn configs(
    purpose: Purpose,
    replication_factor: usize,
    bytes_max: &BytesMax,
) -> BTreeMap<&'static str, String> {
    let mut configs = BTreeMap::from([
        (
            "min.insync.replicas",
            creatable_in_sync_min(replication_factor).to_string(),
        ),
        // A broker that lacks acknowledged records must not become leader.
        ("unclean.leader.election.enable", "false".to_owned()),
    ]);
    let mut keep = |days: Option<u64>| {
        let ms = days.map_or("-1".to_owned(), |days| (days * DAY_MS).to_string());
        configs.extend([
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", ms),
            ("retention.bytes", "-1".to_owned()),
        ]);
    };
    match purpose {
        Purpose::Orders => {
            keep(Some(7));
            configs.insert("max.message.bytes", bytes_max.orders.to_string());
        }
        Purpose::Pending => {
            // The time within which a call can be replayed.
            keep(Some(30));
            // By the broker's clock: with a validator's wrong one, calls would expire before they are sent.
            configs.insert("message.timestamp.type", "LogAppendTime".into());
            configs.insert("max.message.bytes", bytes_max.orders_copied().to_string());
        }
        Purpose::Changelog => configs.extend(
            CHANGELOG_CONFIGS
                .map(|(name, value)| (name, value.to_owned()))
                .into_iter()
                .chain([
                    // Only closed segments are compacted, so that the default of 1 GiB keeps aborted and repeated
                    // records for long. A partition needs up to twice this size on disk.
                    ("segment.bytes", (128 * 1024 * 1024).to_string()),
                    // A key is written once, so that compaction finds little: a lower ratio would only cost reads.
                    ("min.cleanable.dirty.ratio", "0.5".to_owned()),
                ]),
        ),
        // The latest switch of each group, for ever.
        Purpose::Control => {
            configs.insert("cleanup.policy", "compact".to_owned());
        }
        // For ever: who has changed what is few records, and a replay continues from them.
        Purpose::Operations => keep(None),
        Purpose::OrderDeadLetters => {
            // Until an operator has dealt with them.
            keep(None);
            configs.insert("max.message.bytes", bytes_max.orders_copied().to_string());
        }
        Purpose::Processed => {
            // Longer than the outbox keeps a call: of one whose outcome is gone nobody knows whether it was accepted. A
            // record lives for up to `segment.ms` (7 days) longer than its topic's retention.
            keep(Some(40));
            configs.insert("max.message.bytes", bytes_max.pending_copied().to_string());
        }
        Purpose::CallDeadLetters | Purpose::Parked => {
            keep(None);
            configs.insert("max.message.bytes", bytes_max.pending_copied().to_string());
        }
    }
    configs
}

/// Maximum record sizes of the topics whose records are copied, as they are or will be created.
struct BytesMax {
    orders: u64,
    pending: u64,
}

impl BytesMax {
    fn new(topics: &Topics, existing: &ExistingTopics) -> Self {
        let of = |purpose: Purpose| {
            let bytes = existing.get(purpose.name(topics))?.number("max.message.bytes")?;
            u64::try_from(bytes).ok()
        };
        let orders = of(Purpose::Orders).unwrap_or(ORDER_BYTES_MAX);
        Self {
            orders,
            pending: of(Purpose::Pending).unwrap_or(orders + HEADERS_BYTES),
        }
    }

    const fn orders_copied(&self) -> u64 {
        self.orders + HEADERS_BYTES
    }

    const fn pending_copied(&self) -> u64 {
        self.pending + HEADERS_BYTES
    }
}
