//! Positions of a consumer's partitions: where reading starts, pauses and continues.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{Offset, Partition};

use super::Consumer;
use crate::client::error::ClientError;

/// Timeout for setting a position. librdkafka only has to notify a thread of its own.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

impl Consumer {
    /// Starts to return the records of an accepted partition, from `offset` on.
    ///
    /// # Errors
    /// The position could not be set; the partition stays paused.
    pub fn start(&self, partition: Partition, offset: Offset) -> Result<(), ClientError> {
        self.seek(partition, offset)?;
        self.next().insert(partition, offset);
        self.resume(&[partition])
    }

    /// Stops returning records of these partitions. Records that were fetched ahead are dropped.
    ///
    /// # Errors
    /// A partition is not assigned.
    pub fn pause(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.inner
            .pause(&self.list(partitions))
            .map_err(|error| self.error("pausing", partitions, error))
    }

    /// Continues where [`Self::pause`] stopped.
    ///
    /// # Errors
    /// A partition is not assigned.
    pub fn resume(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.inner
            .resume(&self.list(partitions))
            .map_err(|error| self.error("resuming", partitions, error))?;
        partitions
            .iter()
            .try_for_each(|partition| self.wake_fetcher(*partition))
            .map_err(|error| self.error("resuming", partitions, error))
    }

    /// Makes librdkafka fetch a resumed partition at once.
    fn wake_fetcher(&self, partition: Partition) -> Result<(), KafkaError> {
        // The thread of the partition's broker sleeps for up to a second while all its partitions are paused.
        // A resume does not wake it, but a seek does, here to the position that the partition has anyhow.
        // With a timeout of zero nobody waits for the seek.
        let next = self.next().get(&partition).copied();
        next.map_or(Ok(()), |next| {
            self.inner
                .seek(&self.topic, partition.0, Seek::Offset(next.0), Duration::ZERO)
        })
    }

    /// Returns `true` if a record is at or behind its partition's next offset, and advances that. Otherwise
    /// the record must be dropped.
    pub(super) fn is_expected(&self, record: &BorrowedMessage<'_>) -> Result<bool, ClientError> {
        let (partition, offset) = (Partition(record.partition()), Offset(record.offset()));
        let next = match self.next().get_mut(&partition) {
            // Gaps are normal: transaction markers, aborted and compacted records are not returned.
            Some(next) if offset >= *next => {
                *next = offset.next();
                return Ok(true);
            }
            Some(next) => *next,
            None => return Ok(false),
        };
        // librdkafka may return to the position that the partition was accepted with, when the response to
        // its look-up of that position crosses our seek. Without a second seek the partition would be read
        // from its beginning.
        tracing::warn!(
            topic = self.topic, %partition, %offset, %next,
            "partition went back, seeking forward to the next offset"
        );
        self.seek(partition, next)?;
        Ok(false)
    }

    fn seek(&self, partition: Partition, offset: Offset) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        let failed = |error| self.error("setting the position of", &[partition], error);
        list.add_partition_offset(&self.topic, partition.0, Seek::Offset(offset.0))
            .map_err(failed)?;
        let sought = self.inner.seek_partitions(list, SEEK_TIMEOUT).map_err(failed)?;
        // The call succeeds as a whole even if the seek of a partition failed.
        sought
            .elements()
            .iter()
            .try_for_each(|element| element.error())
            .map_err(failed)
    }
}
