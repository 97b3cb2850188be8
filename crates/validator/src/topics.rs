//! What the validator asks of the topics before it does anything else.

use std::collections::BTreeMap;

use anyhow::Context;
use kafka::topics::{Required, Role};

use crate::config::Config;

/// What the validator needs to know of the topics.
pub(crate) struct Topics {
    /// How many partitions the pipeline has.
    pub(crate) partitions: usize,
    /// The largest record that the outbox takes, in bytes.
    pub(crate) record_bytes_max: usize,
    /// The ids of the topics that the state directory holds the state of.
    pub(crate) ids: BTreeMap<String, String>,
}

/// Checks the topics.
///
/// # Errors
/// What would break a guarantee, or the brokers cannot be reached.
pub(crate) fn check(config: &Config) -> anyhow::Result<Topics> {
    let required = Required {
        topics: &config.topics,
        role: Role::Validator,
        // The state directory remembers it, and is asked once it is known that the topics agree.
        partitions_remembered: None,
        bootstrap_servers: &config.kafka.bootstrap_servers,
    };
    let existing = kafka::preflight::check(&config.kafka, &config.validator.instance_id, &required)?;
    let orders = existing
        .get(&config.topics.orders)
        .context("the orders topic was not described")?;
    let pending = existing
        .get(&config.topics.pending)
        .context("the outbox was not described")?;
    let record_bytes_max = pending
        .configs
        .get("max.message.bytes")
        .and_then(|bytes| bytes.parse().ok())
        .with_context(|| {
            format!(
                "the topic {:?} does not tell its max.message.bytes",
                config.topics.pending
            )
        })?;
    let ids = [&config.topics.orders, &config.topics.changelog]
        .into_iter()
        .filter_map(|topic| Some((topic.clone(), existing.get(topic)?.id.clone()?)))
        .collect();
    Ok(Topics {
        partitions: orders.partitions,
        record_bytes_max,
        ids,
    })
}
