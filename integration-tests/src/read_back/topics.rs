//! Reading a whole topic, up to an end that is proved and not guessed.

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

/// How long the reader waits without a record. An open transaction holds a read_committed reader back
/// until it ends; the programs' transactions time out well within this.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// One record, as it lies in its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// When its producer wrote it, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// What its value's bytes were; none for a tombstone.
    pub fingerprint: Option<Fingerprint>,
    /// The value itself, if the reader was told to keep it.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
}

/// A header's name and value.
pub type Header = (String, Option<Vec<u8>>);

/// What is kept of values: all of them, of a million orders, would be much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The fingerprint only.
    Fingerprints,
    /// The bytes as well.
    Values,
}

impl Record {
    /// The text of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    /// The key as text, for people.
    #[must_use]
    pub fn key_text(&self) -> String {
        match &self.key {
            Some(key) => String::from_utf8_lossy(key).into_owned(),
            None => "(no key)".into(),
        }
    }

    fn of(message: &BorrowedMessage<'_>, keep: Keep) -> Self {
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

/// All committed records of a topic: from each partition's beginning to its high watermark at this moment,
/// sorted by partition and offset.
///
/// # Errors
/// Kafka cannot be read, or a transaction stays open for longer than any of ours may.
pub fn read_topic(kafka: &str, topic: &str, keep: Keep) -> Result<Vec<Record>> {
    read_as(kafka, topic, keep, "read_committed")
}

/// All records of a topic, of aborted transactions too.
///
/// # Errors
/// Kafka cannot be read.
pub fn read_topic_uncommitted(kafka: &str, topic: &str, keep: Keep) -> Result<Vec<Record>> {
    read_as(kafka, topic, keep, "read_uncommitted")
}

/// All records of one partition up to an end, of aborted transactions too.
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
    let mut moved = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                found.push(Record::of(&message, keep));
                moved = Instant::now();
                continue;
            }
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
        }
        // The position, unlike the last record's offset, passes the markers of transactions.
        let behind = partitions_behind(&consumer, topic, ends)?;
        if behind.is_empty() {
            break;
        }
        if moved.elapsed() > SILENCE_MAX {
            bail!(
                "no record of {topic} came for {SILENCE_MAX:?}, and these partitions are not at their end: {}; a transaction may be open",
                behind.join(", ")
            );
        }
    }
    found.sort_by_key(|record| (record.partition, record.offset));
    // What came in after the watermarks were taken was not asked for.
    found.retain(|record| {
        ends.iter()
            .any(|(partition, end)| *partition == record.partition && record.offset < *end)
    });
    Ok(found)
}

/// The end of each partition, open transactions included: with read_committed it would be the last
/// *stable* offset, and what is behind an open transaction would be missed.
///
/// # Errors
/// The topic does not exist, or Kafka does not answer.
pub fn high_watermarks(kafka: &str, topic: &str) -> Result<Vec<(Partition, Offset)>> {
    ends_for(kafka, topic, "read_uncommitted")
}

/// How far a read_committed reader gets in each partition: to its end, or to its first transaction whose
/// marker is not yet written.
///
/// # Errors
/// The topic does not exist, or Kafka does not answer.
pub fn last_stable_offsets(kafka: &str, topic: &str) -> Result<Vec<(Partition, Offset)>> {
    ends_for(kafka, topic, "read_committed")
}

fn ends_for(kafka: &str, topic: &str, isolation: &str) -> Result<Vec<(Partition, Offset)>> {
    let consumer = reader(kafka, isolation)?;
    // A topic that was just created has partitions without a leader for a moment.
    await_until(
        &format!("Kafka tells the ends of {topic}"),
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
        .with_context(|| format!("asking Kafka for the partitions of {topic}"))?;
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
            .with_context(|| format!("asking for the end of {topic}/{}", partition.id()))?;
        ends.push((Partition(partition.id()), Offset(high)));
    }
    ends.sort();
    Ok(ends)
}

/// A consumer that never joins a group; librdkafka asks for a group id all the same.
pub(crate) fn reader(kafka: &str, isolation: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", "harness-reader")
        .set("client.id", "harness-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "32768")
        .create()
        .context("creating a consumer")
}

fn partitions_behind(
    consumer: &BaseConsumer,
    topic: &str,
    ends: &[(Partition, Offset)],
) -> Result<Vec<String>> {
    let positions = consumer.position().context("asking for the reader's position")?;
    let mut behind = Vec::new();
    for (partition, end) in ends {
        let position = positions
            .find_partition(topic, partition.0)
            .map_or(At::Invalid, |at| at.offset());
        let there = match position {
            At::Offset(offset) => offset >= end.0,
            // Nothing was read yet, which is the end only where there is nothing.
            _ => end.0 == 0,
        };
        if !there {
            behind.push(format!("{partition} (at {position:?}, end {end})"));
        }
    }
    Ok(behind)
}
