//! Reads whole topics, up to end offsets fetched beforehand.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use records::{Fingerprint, Offset, Partition};

use crate::wait::await_until;

/// Maximum time without a record. Longer than the transaction timeout of the programs: an open transaction
/// blocks a read_committed reader until it ends.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(90);

/// A record as read from its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
    /// Timestamp set by the producer, in milliseconds since 1970; -1 if there is none.
    pub timestamp_ms: i64,
    /// Key of the record.
    pub key: Option<Vec<u8>>,
    /// Fingerprint of the value; none for a tombstone.
    pub fingerprint: Option<Fingerprint>,
    /// The value itself, only with [`Keep::Values`].
    pub value: Option<Vec<u8>>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

/// Name and value of a header.
pub type Header = (String, Option<Vec<u8>>);

/// Part of the values that is kept in memory; the values of a million orders would not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Fingerprints without the values.
    Fingerprints,
    /// Fingerprints and the values themselves.
    Values,
}

impl Record {
    /// Returns the first header of this name, if it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    /// Returns the key as text for messages.
    #[must_use]
    pub fn key_text(&self) -> String {
        match &self.key {
            Some(key) => String::from_utf8_lossy(key).into_owned(),
            None => "(no key)".into(),
        }
    }

    fn from_message(message: &BorrowedMessage<'_>, keep: Keep) -> Self {
        let headers = message
            .headers()
            .map(|headers| {
                headers
                    .iter()
                    .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                    .collect()
            })
            .unwrap_or_default();
        Self {
            partition: Partition(message.partition()),
            offset: Offset(message.offset()),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key().map(<[u8]>::to_vec),
            fingerprint: message.payload().map(Fingerprint::of),
            value: match keep {
                Keep::Fingerprints => None,
                Keep::Values => message.payload().map(<[u8]>::to_vec),
            },
            headers,
        }
    }
}

/// Returns all committed records of a topic up to its current high watermarks, sorted by partition and
/// offset.
///
/// # Errors
/// Kafka cannot be read, or a transaction stays open for more than 90 s.
pub fn read_topic(kafka: &str, topic: &str, keep: Keep) -> Result<Vec<Record>> {
    read_as(kafka, topic, keep, "read_committed")
}

/// Returns all records of a topic, including those of aborted transactions.
///
/// # Errors
/// Kafka cannot be read.
pub fn read_topic_uncommitted(kafka: &str, topic: &str, keep: Keep) -> Result<Vec<Record>> {
    read_as(kafka, topic, keep, "read_uncommitted")
}

/// Returns all records of one partition below an end offset, including those of aborted transactions.
///
/// # Errors
/// Kafka cannot be read.
pub fn read_partition_uncommitted(
    kafka: &str,
    topic: &str,
    end: (Partition, Offset),
    keep: Keep,
) -> Result<Vec<Record>> {
    read_until(kafka, topic, &[end], keep, "read_uncommitted")
}

fn read_as(kafka: &str, topic: &str, keep: Keep, isolation: &str) -> Result<Vec<Record>> {
    read_until(kafka, topic, &high_watermarks(kafka, topic)?, keep, isolation)
}

fn read_until(
    kafka: &str,
    topic: &str,
    ends: &[(Partition, Offset)],
    keep: Keep,
    isolation: &str,
) -> Result<Vec<Record>> {
    let consumer = reader(kafka, isolation)?;
    let mut from = TopicPartitionList::new();
    for (partition, _) in ends {
        from.add_partition_offset(topic, partition.0, At::Beginning)?;
    }
    consumer
        .assign(&from)
        .with_context(|| format!("assigning the partitions of {topic}"))?;

    let mut found = Vec::new();
    let mut last_record_at = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                found.push(Record::from_message(&message, keep));
                last_record_at = Instant::now();
                continue;
            }
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
        }
        // By the position and not the last record's offset: it passes transaction markers, which are no
        // records.
        let behind = partitions_behind(&consumer, topic, ends)?;
        if behind.is_empty() {
            break;
        }
        if last_record_at.elapsed() > SILENCE_TIMEOUT {
            bail!(
                "no record of {topic} arrived for {SILENCE_TIMEOUT:?}, and these partitions are not read to \
                 their end: {}; a transaction may be open",
                behind.join(", ")
            );
        }
    }
    found.sort_by_key(|record| (record.partition, record.offset));
    // Records appended after the end offsets were fetched are left out.
    found.retain(|record| {
        ends.iter()
            .any(|(partition, end)| *partition == record.partition && record.offset < *end)
    });
    Ok(found)
}

/// Returns the high watermark of each partition.
///
/// # Errors
/// The topic does not exist, or Kafka does not answer.
pub fn high_watermarks(kafka: &str, topic: &str) -> Result<Vec<(Partition, Offset)>> {
    // A read_committed client gets the last stable offset instead, and would miss what follows an open
    // transaction.
    ends_for(kafka, topic, "read_uncommitted")
}

/// Returns the last stable offset of each partition: its end, or the start of its first open transaction.
///
/// # Errors
/// The topic does not exist, or Kafka does not answer.
pub fn last_stable_offsets(kafka: &str, topic: &str) -> Result<Vec<(Partition, Offset)>> {
    ends_for(kafka, topic, "read_committed")
}

fn ends_for(kafka: &str, topic: &str, isolation: &str) -> Result<Vec<(Partition, Offset)>> {
    let consumer = reader(kafka, isolation)?;
    // The partitions of a topic just created have no leader for a moment.
    await_until(
        &format!("end offsets of {topic}"),
        Duration::from_secs(20),
        || {
            Ok(match ends(&consumer, topic) {
                Ok(ends) => ControlFlow::Break(ends),
                Err(error) => ControlFlow::Continue(format!("{error:#}")),
            })
        },
    )
}

fn ends(consumer: &BaseConsumer, topic: &str) -> Result<Vec<(Partition, Offset)>> {
    let limit = Duration::from_secs(5);
    let metadata = consumer
        .fetch_metadata(Some(topic), limit)
        .with_context(|| format!("fetching the partitions of {topic}"))?;
    let partitions = metadata
        .topics()
        .first()
        .map_or(&[][..], |topic| topic.partitions());
    if partitions.is_empty() {
        bail!("the topic {topic} does not exist");
    }
    let mut ends = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let (_, high) = consumer
            .fetch_watermarks(topic, partition.id(), limit)
            .with_context(|| format!("fetching the end offset of {topic}/{}", partition.id()))?;
        ends.push((Partition(partition.id()), Offset(high)));
    }
    ends.sort();
    Ok(ends)
}

/// Creates a consumer for manual assignment.
pub(crate) fn reader(kafka: &str, isolation: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", kafka)
        // librdkafka refuses `assign` without a group id; the consumer never joins the group.
        .set("group.id", "harness-reader")
        .set("client.id", "harness-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that is gone must fail the run, and not skip records.
        .set("auto.offset.reset", "error")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .context("creating a consumer")
}

fn partitions_behind(
    consumer: &BaseConsumer,
    topic: &str,
    ends: &[(Partition, Offset)],
) -> Result<Vec<String>> {
    let positions = consumer.position().context("reading the consumer's position")?;
    let mut behind = Vec::new();
    for (partition, end) in ends {
        let position = positions
            .find_partition(topic, partition.0)
            .map_or(At::Invalid, |at| at.offset());
        let is_at_end = match position {
            At::Offset(offset) => offset >= end.0,
            // Nothing read yet: at the end only if the partition never had a record.
            _ => end.0 == 0,
        };
        if !is_at_end {
            behind.push(format!("{partition} (position {position:?}, end {end})"));
        }
    }
    Ok(behind)
}
