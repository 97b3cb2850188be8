//! Offsets of a group without members, for the operator who begins it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset as Seek, TopicPartitionList};
use records::{Bounds, Offset, Partition, Timestamp};

use super::Headers;
use super::commit::{self, CommitOffset, CommitResponse};
use super::offsets::{self, Committed, RETRY_INTERVAL};
use super::read_to_end::{ReadError, read_messages_to_end, read_to_end};
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::client::retry::retry_until;

/// Records of a range of a partition under read_committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Number of the records.
    pub records: u64,
    /// Timestamp of the first record.
    pub first_at: Option<Timestamp>,
    /// Timestamp of the last record.
    pub last_at: Option<Timestamp>,
}

/// Record of any topic.
pub struct TopicRecord<'a> {
    /// Offset of the record.
    pub offset: Offset,
    /// Timestamp, if it has one.
    pub at: Option<Timestamp>,
    /// Key; empty if there is none.
    pub key: &'a [u8],
    /// Value; empty if there is none.
    pub value: &'a [u8],
    /// Headers.
    pub headers: Headers<'a>,
}

/// Record of any topic, as it was written: an absent key or value is not an empty one.
pub struct ExactRecord<'a> {
    /// Offset of the record.
    pub offset: Offset,
    /// Timestamp, if it has one.
    pub at: Option<Timestamp>,
    /// Key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: Headers<'a>,
}

impl<'a> From<ExactRecord<'a>> for TopicRecord<'a> {
    fn from(record: ExactRecord<'a>) -> Self {
        Self {
            offset: record.offset,
            at: record.at,
            key: record.key.unwrap_or_default(),
            value: record.value.unwrap_or_default(),
            headers: record.headers,
        }
    }
}

/// Reads and commits offsets of a group without joining it.
pub struct GroupOffsets {
    consumer: BaseConsumer,
    // Sees the high watermark. The last stable offset is below the records of a transaction that is committed
    // and whose markers are still being written.
    uncommitted: BaseConsumer,
    config: ClientConfig,
    group_id: String,
}

impl GroupOffsets {
    /// Opens the client, which connects on first use.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(settings: &KafkaSettings, client_id: &str) -> Result<Self, ClientError> {
        let mut config = settings.client(client_id);
        config
            .set("group.id", &settings.group_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Records that are deleted while they are read are an error, not a smaller number.
            .set("auto.offset.reset", "error")
            // A changed batch is an error, not missing records.
            .set("check.crcs", "true")
            // A partition often ends with the marker of a transaction, behind which a fetch waits for more. With the
            // default a command waited for half a second at the end of each partition of each topic.
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384")
            // Once the queue was full, librdkafka fetches nothing for this long, by default a second: two million
            // records took half a minute instead of seconds.
            .set("fetch.queue.backoff.ms", "5");
        let client = |isolation: &str| {
            let mut config = config.clone();
            config
                .set("isolation.level", isolation)
                .create::<BaseConsumer>()
                .map_err(|error| ClientError::new("opening a client for the offsets of a group", error))
        };
        Ok(Self {
            consumer: client("read_committed")?,
            uncommitted: client("read_uncommitted")?,
            config,
            group_id: settings.group_id.clone(),
        })
    }

    /// Returns the committed offsets, once no transaction is pending on them. Blocks.
    ///
    /// # Errors
    /// The offsets are unstable for longer than `timeout`, or the coordinator cannot be reached.
    pub fn committed(
        &self,
        topic: &str,
        partitions: &[Partition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, ClientError> {
        retry_until(Instant::now() + timeout, RETRY_INTERVAL, |left| {
            offsets::committed_alone(&self.consumer, &self.group_id, topic, partitions, left)
        })
    }

    /// Returns the start and the last stable offset of a partition. Blocks.
    ///
    /// # Errors
    /// The partition's leader did not respond within `timeout`.
    pub fn bounds(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.consumer, topic, partition, timeout)
    }

    /// Returns the offset of the first record whose timestamp is `at` or later; `None` if there is none.
    /// Blocks.
    ///
    /// # Errors
    /// The partition's leader did not respond within `timeout`.
    pub fn offset_at(
        &self,
        topic: &str,
        partition: Partition,
        at: Timestamp,
        timeout: Duration,
    ) -> Result<Option<Offset>, ClientError> {
        let failed = |error| {
            ClientError::new(
                format!("looking for the first record of {topic}/{partition} from {at} on"),
                error,
            )
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition.0, Seek::Offset(at.0))
            .map_err(failed)?;
        retry_until(Instant::now() + timeout, RETRY_INTERVAL, |left| {
            let found = self
                .consumer
                .offsets_for_times(list.clone(), left)
                .map_err(failed)?;
            for element in found.elements() {
                element.error().map_err(failed)?;
                if let Seek::Offset(offset) = element.offset() {
                    return Ok(Some(Offset(offset)));
                }
            }
            Ok(None)
        })
    }

    /// Counts the records within the bounds, by reading them. Blocks.
    ///
    /// # Errors
    /// Kafka refused the read, or it made no progress for some seconds.
    pub fn count(&self, topic: &str, partition: Partition, bounds: Bounds) -> Result<Counted, ClientError> {
        let mut counted = Counted::default();
        let read = read_to_end(
            &self.consumer,
            topic,
            partition,
            bounds,
            || false,
            &mut |record| {
                // A record from beyond the bounds may come with the last fetch.
                if record.offset < bounds.end {
                    counted.records += 1;
                    counted.first_at = counted.first_at.or(record.at);
                    counted.last_at = record.at;
                }
                Ok::<(), Infallible>(())
            },
        );
        match read {
            Ok(()) => Ok(counted),
            Err(ReadError::Client(error)) => Err(error.in_group(&self.group_id)),
            Err(ReadError::Cancelled) => Err(ClientError::unavailable(format!(
                "counting the records of {topic}/{partition}"
            ))),
            Err(ReadError::Sink(never)) => match never {},
        }
    }

    /// Returns the start and the high watermark of a partition, once all transactions up to there have ended.
    /// Blocks.
    ///
    /// # Errors
    /// The partition's leader did not respond, or a transaction stayed open, for `timeout`.
    pub fn settled_bounds(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<Bounds, ClientError> {
        let deadline = Instant::now() + timeout;
        let settled = offsets::bounds(&self.uncommitted, topic, partition, timeout)?;
        while self.bounds(topic, partition, timeout)?.end < settled.end {
            if Instant::now() > deadline {
                return Err(ClientError::unavailable(format!(
                    "waiting for the open transactions of {topic}/{partition} to end"
                )));
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        Ok(settled)
    }

    /// Passes each committed record within the bounds to `sink`. Blocks.
    ///
    /// # Errors
    /// Kafka refused the read, it made no progress for some seconds, or `sink` refused a record.
    pub fn read<E: From<ClientError>>(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        mut sink: impl FnMut(&TopicRecord<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_exact(topic, partition, bounds, |record| sink(&record.into()))
    }

    /// As [`Self::read`], for the records of one key.
    ///
    /// # Errors
    /// As those of [`Self::read`].
    pub fn read_key<E: From<ClientError>>(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        key: &[u8],
        mut sink: impl FnMut(&TopicRecord<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let is_wanted = |of: Option<&[u8]>| of == Some(key);
        self.read_wanted(topic, partition, bounds, is_wanted, |record| sink(&record.into()))
    }

    /// Passes each committed record within the bounds to `sink`, as it was written. Blocks.
    ///
    /// # Errors
    /// As those of [`Self::read`].
    pub fn read_exact<E: From<ClientError>>(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        sink: impl FnMut(ExactRecord<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_wanted(topic, partition, bounds, |_| true, sink)
    }

    fn read_wanted<E: From<ClientError>>(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        is_wanted: impl Fn(Option<&[u8]>) -> bool,
        mut sink: impl FnMut(ExactRecord<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if bounds.start >= bounds.end {
            return Ok(());
        }
        let read = read_messages_to_end(
            &self.consumer,
            topic,
            partition,
            bounds,
            || false,
            &mut |record| {
                // A record from beyond the bounds may come with the last fetch.
                // The headers are parsed for the records that are wanted alone: it takes longer than all the rest.
                if record.offset() >= bounds.end.0 || !is_wanted(record.key()) {
                    return Ok(());
                }
                sink(ExactRecord {
                    offset: Offset(record.offset()),
                    at: record.timestamp().to_millis().map(Timestamp),
                    key: record.key(),
                    value: record.payload(),
                    headers: Headers::of(record),
                })
            },
        );
        match read {
            Ok(()) => Ok(()),
            Err(ReadError::Sink(error)) => Err(error),
            Err(ReadError::Client(error)) => Err(error.in_group(&self.group_id).into()),
            // Nothing cancels it.
            Err(ReadError::Cancelled) => {
                Err(ClientError::unavailable(format!("reading {topic}/{partition}")).into())
            }
        }
    }

    /// Commits offsets, and waits for the coordinator's response. Blocks. The coordinator takes them only
    /// while the group has no members, also those of a request that is still in flight.
    #[must_use]
    pub fn commit(&self, topic: &str, commits: &[CommitOffset]) -> CommitResponse {
        // A client of its own: the log of the others would pile up while nobody reads it.
        commit::without_membership(self.config.clone(), &self.group_id, topic, commits)
    }
}
