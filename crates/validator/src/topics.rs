//! Check of the topics at start-up, and the facts about them that the validator works with.

use std::collections::BTreeMap;

use anyhow::Context;
use kafka::producer::RecordSizes;
use kafka::topics::{Requirements, Role};
use records::TopicsNote;

use crate::config::Config;

/// Facts about the topics.
pub(crate) struct Topics {
    /// Partition count of the orders topic and the changelog.
    pub(crate) partitions: usize,
    /// Maximum size of a record in the outbox, in bytes.
    pub(crate) record_bytes_max: usize,
    /// Sizes that the topics accept which the validator writes to.
    pub(crate) record_sizes: RecordSizes,
    /// Maximum size of a dead letter, in bytes.
    pub(crate) dead_letter_bytes_max: usize,
    /// Ids of the topics that the state directory belongs to, by name.
    pub(crate) ids: BTreeMap<String, String>,
    /// Partition count and ids, as they are committed with each offset.
    pub(crate) note: TopicsNote,
}

/// Checks the topics.
///
/// # Errors
/// A topic would break a guarantee, or the brokers cannot be reached.
pub(crate) fn check(config: &Config) -> anyhow::Result<Topics> {
    let required = Requirements {
        topics: &config.topics,
        role: Role::Validator,
        forgets_keys: Some(config.store.retention.is_some()),
        offsets_retention_minutes: None,
        unverified_brokers: &[],
        bootstrap_servers: &config.kafka.bootstrap_servers,
    };
    let existing = kafka::preflight::check(&config.kafka, &config.validator.instance_id, &required, true)?;
    let topics = &config.topics;
    let describe = |topic: &String| {
        existing
            .get(topic)
            .with_context(|| format!("the brokers did not describe the topic {topic:?}"))
    };
    let (orders, pending) = (describe(&topics.orders)?, describe(&topics.pending)?);
    // The topic's own limit: a larger order would be admitted and then fail the whole transaction.
    let record_bytes_max = pending
        .configs
        .get("max.message.bytes")
        .and_then(|bytes| bytes.parse().ok())
        .with_context(|| {
            format!(
                "the brokers did not report max.message.bytes of the topic {:?}; allow this user to describe \
                 its configs",
                topics.pending
            )
        })?;
    let ids: BTreeMap<String, String> = [&topics.orders, &topics.pending, &topics.changelog]
        .into_iter()
        // Brokers without topic ids cannot tell a recreated topic from the old one.
        .filter_map(|topic| Some((topic.clone(), existing.get(topic)?.id.clone()?)))
        .collect();
    Ok(Topics {
        note: TopicsNote::of(topics, orders.partitions, &ids),
        partitions: orders.partitions,
        record_bytes_max,
        record_sizes: RecordSizes::of(
            &existing,
            [
                topics.pending.as_str(),
                topics.changelog.as_str(),
                topics.order_dead_letters.as_str(),
            ],
        ),
        dead_letter_bytes_max: RecordSizes::of(&existing, [topics.order_dead_letters.as_str()])
            .accepted_by_all(),
        ids,
    })
}
