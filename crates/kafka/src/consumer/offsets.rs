//! Committed offsets, and the ends of partitions.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{Bounds, Offset, Partition};

use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// What a group has committed for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The partition.
    pub partition: Partition,
    /// The first offset that is not yet done; `None` if the group never committed one, or it expired.
    pub offset: Option<Offset>,
    /// What was committed with it; empty if nothing was, U+FFFD if it is not UTF-8.
    pub metadata: String,
}

/// Reads what a group has committed, without joining it.
pub struct OffsetReader {
    consumer: BaseConsumer,
    group_id: String,
}

impl OffsetReader {
    /// Opens the client; connects when first used.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(settings: &KafkaSettings, client_id: &str) -> Result<Self, ClientError> {
        let consumer = settings
            .client(client_id)
            .set("group.id", &settings.group_id)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()
            .map_err(|error| ClientError::new("opening a reader of committed offsets", error))?;
        Ok(Self {
            consumer,
            group_id: settings.group_id.clone(),
        })
    }

    /// The committed offsets, once no transaction is pending on them. Blocks.
    ///
    /// # Errors
    /// As those of [`committed`].
    pub fn committed(
        &self,
        topic: &str,
        partitions: &[Partition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, ClientError> {
        committed(&self.consumer, &self.group_id, topic, partitions, timeout)
    }

    /// The ends of a partition, as far as transactions have ended. Blocks.
    ///
    /// # Errors
    /// The partition's leader did not answer within `timeout`.
    pub fn bounds(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<Bounds, ClientError> {
        bounds(&self.consumer, topic, partition, timeout)
    }
}

/// The group's committed offsets. With a read_committed consumer it waits while a transaction is pending
/// on one of them.
///
/// # Errors
/// The offsets are unstable for longer than `timeout`, or the coordinator cannot be reached.
pub fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group_id: &str,
    topic: &str,
    partitions: &[Partition],
    timeout: Duration,
) -> Result<Vec<Committed>, ClientError> {
    let fault = |error| {
        ClientError::new(
            format!("reading the committed offsets of {topic:?} in group {group_id:?}"),
            error,
        )
    };
    let answer = consumer
        .committed_offsets(list(topic, partitions), timeout)
        .map_err(fault)?;
    answer
        .elements()
        .iter()
        .map(|element| {
            element.error().map_err(fault)?;
            let offset = match element.offset() {
                Seek::Offset(offset) => Some(Offset(offset)),
                _ => None,
            };
            // rust-rdkafka panics on metadata that is not UTF-8, as a stranger may have committed it. It must
            // not be taken for none, so it is handed on as a text that nobody writes.
            let metadata = std::panic::catch_unwind(|| element.metadata().to_owned());
            let metadata = metadata.unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string());
            Ok(Committed {
                partition: Partition(element.partition()),
                offset,
                metadata,
            })
        })
        .collect()
}

/// The ends of a partition, by the consumer's own isolation level.
///
/// # Errors
/// The partition's leader did not answer within `timeout`.
pub fn bounds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: Partition,
    timeout: Duration,
) -> Result<Bounds, ClientError> {
    let (start, end) = consumer
        .fetch_watermarks(topic, partition.0, timeout)
        .map_err(|error| ClientError::new(format!("reading the ends of {topic}/{partition}"), error))?;
    Ok(Bounds {
        start: Offset(start),
        end: Offset(end),
    })
}

pub(crate) fn list(topic: &str, partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, partition.0);
    }
    list
}
