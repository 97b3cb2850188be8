//! Reading a range of a partition up to a proven end.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{Bounds, Offset, Partition, Timestamp};

use super::headers::Headers;
use crate::client::error::{ClientError, ErrorClass};

/// Wait for the next record before the position is checked.
const POLL_TIMEOUT: Duration = Duration::from_millis(20);
/// Maximum time without progress. Brokers write the markers of a finished transaction within milliseconds.
const STALLED_MAX: Duration = Duration::from_secs(5);

/// A record of the changelog, or of another topic that is read to its end.
pub struct ChangelogRecord<'a> {
    /// Bytes of the key, the idempotency key.
    pub key: &'a [u8],
    /// Bytes of the value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers; the changelog's records have none.
    pub headers: Headers<'a>,
    /// Offset of the record.
    pub offset: Offset,
    /// Timestamp of the record, by its producer or its broker; `None` if it has none.
    pub at: Option<Timestamp>,
}

/// Reason why reading stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The read was cancelled.
    #[error("the restore was cancelled")]
    Cancelled,
    /// Kafka refused the read, or the position did not move.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The sink refused a record.
    #[error(transparent)]
    Sink(E),
}

/// Passes every committed record within the bounds to `sink`, as a record of the changelog. Returns once the
/// reader's position proves that there are no more.
///
/// # Errors
/// As those of [`read_messages_to_end`].
pub(super) fn read_to_end<E>(
    consumer: &BaseConsumer,
    topic: &str,
    partition: Partition,
    bounds: Bounds,
    cancelled: impl Fn() -> bool,
    sink: &mut impl FnMut(ChangelogRecord<'_>) -> Result<(), E>,
) -> Result<(), ReadError<E>> {
    let mut sink = |record: &BorrowedMessage<'_>| {
        sink(ChangelogRecord {
            key: record.key().unwrap_or_default(),
            value: record.payload(),
            headers: Headers::of(record),
            offset: Offset(record.offset()),
            at: record.timestamp().to_millis().map(Timestamp),
        })
    };
    read_messages_to_end(consumer, topic, partition, bounds, cancelled, &mut sink)
}

/// Passes every committed record within the bounds to `sink`. Returns once the reader's position proves that
/// there are no more. A record from beyond the bounds may come with the last fetch.
///
/// # Errors
/// The position did not move for some seconds; or the read was cancelled, or refused by Kafka or the sink.
pub(super) fn read_messages_to_end<E>(
    consumer: &BaseConsumer,
    topic: &str,
    partition: Partition,
    bounds: Bounds,
    cancelled: impl Fn() -> bool,
    sink: &mut impl FnMut(&BorrowedMessage<'_>) -> Result<(), E>,
) -> Result<(), ReadError<E>> {
    let Bounds { start: from, end: to } = bounds;
    if from >= to {
        return Ok(());
    }
    let failed = |error| ClientError::new(format!("reading {topic}/{partition} from {from} to {to}"), error);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition.0, Seek::Offset(from.0))
        .map_err(failed)?;
    consumer.assign(&list).map_err(failed)?;
    let result = read_assigned(consumer, topic, partition, to, cancelled, sink, failed);
    // The next read replaces the assignment anyhow; until then an open one would only fetch for nobody.
    if let Err(error) = consumer.unassign() {
        tracing::warn!(%error, "unassigning failed, the reader goes on fetching until its next read");
    }
    result
}

fn read_assigned<E>(
    consumer: &BaseConsumer,
    topic: &str,
    partition: Partition,
    to: Offset,
    cancelled: impl Fn() -> bool,
    sink: &mut impl FnMut(&BorrowedMessage<'_>) -> Result<(), E>,
    failed: impl Fn(KafkaError) -> ClientError,
) -> Result<(), ReadError<E>> {
    let (mut moved_at, mut moved_to) = (Instant::now(), None);
    loop {
        // Before each record: a changelog may take minutes to read, and the next restore waits meanwhile.
        if cancelled() {
            return Err(ReadError::Cancelled);
        }
        match consumer.poll(POLL_TIMEOUT) {
            Some(Ok(record)) if record.partition() == partition.0 && record.topic() == topic => {
                let offset = Offset(record.offset());
                sink(&record).map_err(ReadError::Sink)?;
                if offset.next() < to {
                    continue;
                }
            }
            // Fetched ahead for the partition that was read before.
            Some(Ok(_)) => continue,
            Some(Err(error)) => {
                let error = failed(error);
                match error.class {
                    ErrorClass::Permanent | ErrorClass::Fatal | ErrorClass::Fenced => {
                        return Err(error.into());
                    }
                    ErrorClass::Retriable | ErrorClass::Abortable => {
                        tracing::warn!(%error, "reading failed, trying again");
                    }
                }
            }
            None => {}
        }
        // The end is proved by the position alone: it passes transaction markers and aborted records, while
        // the offset of the last record stays below them.
        let position = consumer.position().map_err(&failed)?;
        let position = position.elements().first().map(|element| element.offset());
        if matches!(position, Some(Seek::Offset(reached)) if reached >= to.0) {
            return Ok(());
        }
        if position != moved_to {
            (moved_at, moved_to) = (Instant::now(), position);
        } else if moved_at.elapsed() > STALLED_MAX {
            // A timeout is an error and never an end: what is not read yet may be a key, and its order would
            // be paid twice. The restore asks for the end again.
            tracing::warn!(
                topic, %partition, %to, ?position,
                "the restore waits for the changelog, perhaps for an open transaction to end",
            );
            return Err(failed(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)).into());
        }
    }
}
