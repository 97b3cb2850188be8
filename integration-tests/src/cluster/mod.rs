//! The Kafka cluster under test: its address, the groups' committed offsets, and brokers for one scenario.

pub mod access_control;
mod administrator;
pub mod broker;
pub mod log_truncation;
pub mod secured;
pub mod three_brokers;
pub mod two_brokers;

pub use administrator::Administrator;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use records::{Offset, Partition};

use crate::read_back::topics::{high_watermarks, reader};

/// Environment variable with the bootstrap servers to test against.
pub const ADDRESS_VARIABLE: &str = "KAFKA_BOOTSTRAP_SERVERS";

/// Timeout of each request to Kafka.
const LIMIT: Duration = Duration::from_secs(30);

/// Returns the bootstrap servers of a Kafka that answers.
///
/// # Errors
/// The variable is not set, or no broker answers.
pub fn address() -> Result<String> {
    // An error and never a skip: a guarantee that was not tested is not known to hold.
    let how = "start one with `./scripts/kafka start`, or run everything with `./scripts/test`";
    let kafka = std::env::var(ADDRESS_VARIABLE)
        .map_err(|_| anyhow!("no Kafka: {ADDRESS_VARIABLE} is not set; {how}"))?;
    reader(&kafka, "read_uncommitted")?
        .fetch_metadata(None, Duration::from_secs(10))
        .map_err(|error| anyhow!("no Kafka answers at {kafka} ({error}); {how}"))?;
    Ok(kafka)
}

/// Returns a group's committed offset of each partition; partitions without one are missing.
///
/// # Errors
/// Kafka does not answer, or a transaction keeps the offsets pending for 30 s.
pub fn committed(kafka: &str, group: &str, topic: &str) -> Result<HashMap<Partition, Offset>> {
    let offsets = committed_with_metadata(kafka, group, topic)?;
    Ok(offsets
        .elements()
        .iter()
        .filter_map(|element| match element.offset() {
            At::Offset(offset) => Some((Partition(element.partition()), Offset(offset))),
            // Invalid stands for a partition without a committed offset.
            _ => None,
        })
        .collect())
}

/// Returns a group's committed offset of each partition with its metadata.
///
/// # Errors
/// Kafka does not answer, or a transaction keeps the offsets pending for 30 s.
pub fn committed_with_metadata(kafka: &str, group: &str, topic: &str) -> Result<TopicPartitionList> {
    // read_committed makes librdkafka send require_stable: offsets of an open transaction are waited for.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .context("creating a consumer")?;
    let mut wanted = TopicPartitionList::new();
    for (partition, _) in high_watermarks(kafka, topic)? {
        wanted.add_partition(topic, partition.0);
    }
    consumer
        .committed_offsets(wanted, LIMIT)
        .with_context(|| format!("fetching the committed offsets of {group} for {topic}"))
}

/// Committed offsets of a group, with their metadata.
pub struct Offsets(TopicPartitionList);

/// Returns the committed offsets of a topic's first partition, to be committed again.
///
/// # Errors
/// Kafka does not answer.
pub fn read_offsets(kafka: &str, group: &str, topic: &str) -> Result<Offsets> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition(topic, 0);
    let offsets = offset_client(kafka, group)?
        .committed_offsets(wanted, LIMIT)
        .with_context(|| format!("fetching the committed offsets of {group} for {topic}"))?;
    Ok(Offsets(offsets))
}

/// Commits offsets again, with their metadata: brokers forget those of a deleted topic, but not always.
///
/// # Errors
/// Kafka refuses, which it does while the group has members.
pub fn write_offsets(kafka: &str, group: &str, offsets: &Offsets) -> Result<()> {
    offset_client(kafka, group)?
        .commit(&offsets.0, CommitMode::Sync)
        .with_context(|| format!("committing {:?} for {group}", offsets.0))
}

fn offset_client(kafka: &str, group: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", group)
        .create()
        .context("creating a consumer")
}

/// Sets a group's committed offset of a partition, as an operator's repair does.
///
/// # Errors
/// Kafka refuses, which it does while the group has members.
pub fn set_committed(kafka: &str, group: &str, topic: &str, partition: Partition, to: Offset) -> Result<()> {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition.0, At::Offset(to.0))?;
    offset_client(kafka, group)?
        .commit(&offsets, CommitMode::Sync)
        .with_context(|| format!("committing offset {to} of {topic}/{partition} for {group}"))
}

/// Returns a group's lag on a topic: the number of offsets from the committed ones to the ends.
///
/// # Errors
/// Kafka does not answer.
pub fn lag(kafka: &str, group: &str, topic: &str) -> Result<i64> {
    let committed = committed(kafka, group, topic)?;
    // A partition without a committed offset counts from 0: nothing of it was processed.
    Ok(high_watermarks(kafka, topic)?
        .into_iter()
        .map(|(partition, end)| end.0 - committed.get(&partition).map_or(0, |offset| offset.0))
        .sum())
}
