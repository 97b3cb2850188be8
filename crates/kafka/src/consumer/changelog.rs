//! Reading a partition of the changelog up to a proven end.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{Bounds, Offset, Partition, Timestamp};

use crate::client::config::KafkaSettings;
use crate::client::error::{ClientError, ErrorClass};
use crate::consumer::offsets::{self, Committed};

/// Reads committed offsets, ends and records of one partition at a time; never joins the group.
pub struct ChangelogReader {
    /// Sees what is committed, and waits for offsets to become stable.
    committed: BaseConsumer,
    /// Sees the true end. A read_committed client would take the last stable offset for the end, miss a
    /// committed transaction whose markers are still being written, and admit its orders again.
    uncommitted: BaseConsumer,
    group_id: String,
    topic: String,
}

/// A record of the changelog.
pub struct ChangelogRecord<'a> {
    /// The idempotency key.
    pub key: &'a [u8],
    /// The encoded entry; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Where the record lies.
    pub offset: Offset,
    /// When it was written, or by its producer's word; `None` if nobody said.
    pub at: Option<Timestamp>,
}

/// Why reading ended before the end that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The caller asked for it.
    #[error("the restore was cancelled")]
    Cancelled,
    /// Kafka refused; asking again does not help.
    #[error(transparent)]
    ClientError(#[from] ClientError),
    /// The sink could not take a change.
    #[error(transparent)]
    Sink(E),
}

impl ChangelogReader {
    /// Opens the clients; connects when first used.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(settings: &KafkaSettings, topic: &str) -> Result<Self, ClientError> {
        let client = |isolation: &str| {
            settings
                .client("changelog-reader")
                // The committed offsets are read in this group's name.
                .set("group.id", &settings.group_id)
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                .set("auto.offset.reset", "error")
                .set("isolation.level", isolation)
                .set("check.crcs", "true")
                .set("fetch.wait.max.ms", "50")
                .set("queued.max.messages.kbytes", "16384")
                .create::<BaseConsumer>()
                .map_err(|error| ClientError::new(format!("opening a reader of {topic:?}"), error))
        };
        Ok(Self {
            committed: client("read_committed")?,
            uncommitted: client("read_uncommitted")?,
            group_id: settings.group_id.clone(),
            topic: topic.to_owned(),
        })
    }

    /// Connects to the group's coordinator and the leader of a partition, and asks what the first read would have to
    /// ask: librdkafka looks for what it does not yet know at intervals of half a second. What fails here fails
    /// again where it matters, and is told there.
    pub fn warm_up(&self, input: &str, partition: Partition, timeout: Duration) {
        let warmed = self
            .input_committed(input, partition, timeout)
            .and_then(|_| self.bounds(partition, timeout))
            .and_then(|_| self.stable_bounds(partition, timeout));
        if let Err(fault) = warmed {
            tracing::debug!(%fault, "the changelog reader is not warm");
        }
    }

    /// The group's committed offset of an input partition, once no transaction is pending on it.
    ///
    /// # Errors
    /// It is unstable for longer than `timeout`, or the coordinator cannot be reached.
    pub fn input_committed(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<Committed, ClientError> {
        let found = offsets::committed(&self.committed, &self.group_id, topic, &[partition], timeout)?;
        Ok(found.into_iter().next().unwrap_or(Committed {
            partition,
            offset: None,
            metadata: String::new(),
        }))
    }

    /// The true ends of a partition of another topic.
    ///
    /// # Errors
    /// The leader did not answer within `timeout`.
    pub fn bounds_of(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.uncommitted, topic, partition, timeout)
    }

    /// The changelog's true ends: its end is the high watermark.
    ///
    /// # Errors
    /// The leader did not answer within `timeout`.
    pub fn bounds(&self, partition: Partition, timeout: Duration) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.uncommitted, &self.topic, partition, timeout)
    }

    /// The changelog's last stable offset. In place of its true end it is the guard that tests take out.
    ///
    /// # Errors
    /// The leader did not answer within `timeout`.
    pub fn stable_bounds(&self, partition: Partition, timeout: Duration) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.committed, &self.topic, partition, timeout)
    }

    /// Hands every committed change in `from..to` to `sink`, then returns. An open transaction of a dead owner
    /// must be decided before its records can be read or passed over; while nothing moves, this returns
    /// every few seconds, so that the end can be asked for anew.
    ///
    /// # Errors
    /// Nothing moved, cancelled, refused by Kafka, or refused by the sink; what was handed over until then is complete
    /// up to its last offset.
    pub fn read<E>(
        &self,
        partition: Partition,
        from: Offset,
        to: Offset,
        cancelled: impl Fn() -> bool,
        mut sink: impl FnMut(ChangelogRecord<'_>) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        self.read_topic(
            &self.topic,
            partition,
            Bounds { start: from, end: to },
            cancelled,
            &mut sink,
        )
    }

    /// Whether a partition holds any committed record.
    ///
    /// # Errors
    /// Kafka refused, or nothing moved for some seconds.
    pub fn has_committed(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
    ) -> Result<bool, ClientError> {
        struct Found;
        match self.read_topic(topic, partition, bounds, || false, &mut |_| Err(Found)) {
            Ok(()) => Ok(false),
            Err(ReadError::Sink(Found) | ReadError::Cancelled) => Ok(true),
            Err(ReadError::ClientError(fault)) => Err(fault),
        }
    }

    /// When the first committed record within the bounds was written; `None` if there is none or nobody said.
    ///
    /// # Errors
    /// Kafka refused, or nothing moved for some seconds.
    pub fn first_at(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
    ) -> Result<Option<Timestamp>, ClientError> {
        let mut found = None;
        struct Found;
        let outcome = self.read_topic(topic, partition, bounds, || false, &mut |change| {
            found = change.at;
            Err(Found)
        });
        match outcome {
            Ok(()) | Err(ReadError::Sink(Found) | ReadError::Cancelled) => Ok(found),
            Err(ReadError::ClientError(fault)) => Err(fault),
        }
    }

    /// When the last committed record within the bounds was written. Reads all of them.
    ///
    /// # Errors
    /// Kafka refused, or nothing moved for some seconds.
    pub fn last_at(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
    ) -> Result<Option<Timestamp>, ClientError> {
        let mut found = None;
        let outcome = self.read_topic(topic, partition, bounds, || false, &mut |change| {
            found = change.at.or(found);
            Ok::<(), std::convert::Infallible>(())
        });
        match outcome {
            Ok(()) | Err(ReadError::Cancelled) => Ok(found),
            Err(ReadError::Sink(never)) => match never {},
            Err(ReadError::ClientError(fault)) => Err(fault),
        }
    }

    fn read_topic<E>(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        cancelled: impl Fn() -> bool,
        sink: &mut impl FnMut(ChangelogRecord<'_>) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        let Bounds { start: from, end: to } = bounds;
        if from >= to {
            return Ok(());
        }
        let fault =
            |error| ClientError::new(format!("reading {topic}/{partition} from {from} to {to}"), error);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition.0, Seek::Offset(from.0))
            .map_err(fault)?;
        self.committed.assign(&list).map_err(fault)?;
        let outcome = self.read_assigned(topic, partition, to, cancelled, sink, fault);
        if let Err(error) = self.committed.unassign() {
            tracing::warn!(%error, "the changelog reader kept its assignment");
        }
        outcome
    }

    fn read_assigned<E>(
        &self,
        topic: &str,
        partition: Partition,
        to: Offset,
        cancelled: impl Fn() -> bool,
        sink: &mut impl FnMut(ChangelogRecord<'_>) -> Result<(), E>,
        fault: impl Fn(KafkaError) -> ClientError,
    ) -> Result<(), ReadError<E>> {
        let (mut moved_at, mut moved_to) = (Instant::now(), None);
        loop {
            match self.committed.poll(POLL) {
                Some(Ok(record)) if record.partition() == partition.0 && record.topic() == topic => {
                    let offset = Offset(record.offset());
                    let (key, value) = (record.key().unwrap_or_default(), record.payload());
                    let at = record.timestamp().to_millis().map(Timestamp);
                    sink(ChangelogRecord {
                        key,
                        value,
                        offset,
                        at,
                    })
                    .map_err(ReadError::Sink)?;
                    if offset.next() < to {
                        continue;
                    }
                }
                // Left over from the partition that was read before.
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    let fault = fault(error);
                    if matches!(
                        fault.class,
                        ErrorClass::Permanent | ErrorClass::Fatal | ErrorClass::Fenced
                    ) {
                        return Err(fault.into());
                    }
                    tracing::warn!(%fault, "the changelog cannot be read; trying again");
                }
                None => {}
            }
            // The position passes transaction markers and aborted records, a record's offset does not: it
            // alone proves the end.
            let position = self.committed.position().map_err(&fault)?;
            let position = position.elements().first().map(|element| element.offset());
            if matches!(position, Some(Seek::Offset(reached)) if reached >= to.0) {
                return Ok(());
            }
            if cancelled() {
                return Err(ReadError::Cancelled);
            }
            if position != moved_to {
                (moved_at, moved_to) = (Instant::now(), position);
            } else if moved_at.elapsed() > STILL_MAX {
                tracing::warn!(
                    topic, %partition, %to, ?position,
                    "the restore waits for the changelog, perhaps for an open transaction to be decided",
                );
                return Err(fault(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)).into());
            }
        }
    }
}

const POLL: Duration = Duration::from_millis(20);
/// The brokers write the markers of a decided transaction in milliseconds.
const STILL_MAX: Duration = Duration::from_secs(5);
