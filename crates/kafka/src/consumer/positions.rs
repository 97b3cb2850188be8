//! Positions of a consumer's partitions: where reading starts, pauses and continues.

#![expect(
    unsafe_code,
    reason = "rust-rdkafka returns positions of the whole assignment only"
)]

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{LeaderEpoch, Offset, Partition};

use super::Consumer;
use super::offsets::leader_epoch;
use crate::client::error::ClientError;

/// Timeout for setting a position. librdkafka only has to notify a thread of its own.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// Next record of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    offset: Offset,
    /// Latest leader epoch that is known to have written below the offset.
    leader_epoch: Option<LeaderEpoch>,
    /// Number of batches that had been taken when the position was set. Their records are from before.
    sought_after: u64,
}

impl Next {
    /// Returns `true` for an offset of this batch that the partition has not returned yet.
    pub(super) fn is_next(&self, offset: Offset, batch: u64) -> bool {
        self.sought_after < batch && offset >= self.offset
    }

    /// Returns the leader epoch to commit with an offset of the partition; `None` if records below the offset were
    /// not read.
    // The latest epoch that was read will do for any offset up to there: if the log is truncated below that
    // offset later, what replaces its end has a higher one. Beyond, a later leader may have written, and the
    // log would look truncated at that leader's first record: a caller commits beyond calls that an earlier
    // owner has noted as final, without reading them.
    fn leader_epoch_of(self, offset: Offset) -> Option<LeaderEpoch> {
        self.leader_epoch.filter(|_| offset <= self.offset)
    }
}

impl Consumer {
    /// Starts to return the records of an accepted partition, from `offset` on. If the log up to there is not
    /// that of `leader_epoch` any more, now or later, [`Self::poll`] reports that instead.
    ///
    /// # Errors
    /// The position could not be set; the partition stays paused.
    pub fn start(
        &self,
        partition: Partition,
        offset: Offset,
        leader_epoch: Option<LeaderEpoch>,
    ) -> Result<(), ClientError> {
        let next = Next {
            offset,
            leader_epoch,
            sought_after: self.batches.load(Ordering::Relaxed),
        };
        self.seek(partition, next, SEEK_TIMEOUT)?;
        self.next().insert(partition, next);
        self.resume(&[partition])
    }

    /// Returns the leader epoch to commit with an offset of a started partition; `None` if none is known.
    #[must_use]
    pub fn leader_epoch(&self, partition: Partition, offset: Offset) -> Option<LeaderEpoch> {
        self.next().get(&partition)?.leader_epoch_of(offset)
    }

    /// Returns the started partitions whose position has passed transaction markers, or aborted records, since the last
    /// record that was returned, each with the offset that it reads next. All records below were returned, if no batch is
    /// left.
    #[must_use]
    pub fn passed_markers(&self) -> Vec<(Partition, Offset)> {
        let positions = self.positions();
        let mut passed = Vec::new();
        let mut started = self.next();
        for position in positions.elements() {
            let partition = Partition(position.partition());
            let (Some(next), Seek::Offset(reached)) = (started.get_mut(&partition), position.offset()) else {
                continue;
            };
            if reached > next.offset.0 {
                next.offset = Offset(reached);
                // That of the marker: a later leader may have written it.
                let leader_epoch = leader_epoch::get(&positions, &self.topic, partition);
                next.leader_epoch = next.leader_epoch.max(leader_epoch);
                passed.push((partition, next.offset));
            }
        }
        passed
    }

    /// Returns the positions of the started partitions, invalid where nothing was read since the start.
    // librdkafka moves a position when it hands out a record or drops a marker, in the order of the log. It forgets the
    // position with each assignment and each seek, so that one is never of an earlier start.
    pub(super) fn positions(&self) -> TopicPartitionList {
        let started: Vec<Partition> = self.next().keys().copied().collect();
        let positions = self.list(&started);
        // rust-rdkafka would ask librdkafka's main thread for the assignment first, and wait without a limit.
        // SAFETY: client and list are alive, and no other thread has the list.
        unsafe { rd::rd_kafka_position(self.inner.client().native_ptr(), positions.ptr()) };
        positions
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
    }

    /// Makes librdkafka fetch a resumed partition at once.
    fn wake_fetcher(&self, partition: Partition) -> Result<(), ClientError> {
        // The thread of the partition's broker sleeps for up to a second while all its partitions are paused.
        // A resume does not wake it, but a seek does, here to the position that the partition has anyhow.
        // With a timeout of zero nobody waits for the seek.
        let next = self.next().get(&partition).copied();
        next.map_or(Ok(()), |next| self.seek(partition, next, Duration::ZERO))
    }

    /// Returns `true` if a record of this batch is at or behind its partition's next offset, and advances that.
    /// Otherwise the record must be dropped.
    pub(super) fn is_expected(
        &self,
        partition: Partition,
        offset: Offset,
        batch: u64,
        leader_epoch: impl FnOnce() -> Option<LeaderEpoch>,
    ) -> Result<bool, ClientError> {
        let next = match self.next().get_mut(&partition) {
            // Some records before it may have been dropped while the partition stood still. It comes again after them.
            Some(next) if next.sought_after >= batch => return Ok(false),
            // Gaps are normal: transaction markers, aborted and compacted records are not returned.
            Some(next) if offset >= next.offset => {
                next.offset = offset.next();
                next.leader_epoch = next.leader_epoch.max(leader_epoch());
                return Ok(true);
            }
            Some(next) => *next,
            None => return Ok(false),
        };
        // librdkafka may return to the position that the partition was accepted with, when the response to
        // its look-up of that position crosses our seek. Without a second seek the partition would be read
        // from its beginning.
        tracing::warn!(
            topic = self.topic, %partition, %offset, next = %next.offset,
            "librdkafka returned to an earlier offset, seeking forward to the next one"
        );
        self.seek(partition, next, SEEK_TIMEOUT)?;
        Ok(false)
    }

    fn seek(&self, partition: Partition, next: Next, timeout: Duration) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        let failed = |error| self.error("setting the position of", &[partition], error);
        list.add_partition_offset(&self.topic, partition.0, Seek::Offset(next.offset.0))
            .map_err(failed)?;
        // Without the epoch librdkafka would not notice that the log was truncated and has grown again.
        leader_epoch::set(&list, &self.topic, partition, next.leader_epoch);
        let sought = self.inner.seek_partitions(list, timeout).map_err(failed)?;
        if let Some(next) = self.next().get_mut(&partition) {
            next.sought_after = self.batches.load(Ordering::Relaxed);
        }
        // The call succeeds as a whole even if the seek of a partition failed.
        sought
            .elements()
            .iter()
            .map(|element| element.error())
            // Without a timeout librdkafka only notes that the seek is on its way.
            .filter(|result| !matches!(result, Err(error) if is_in_progress(error)))
            .try_for_each(|result| result)
            .map_err(failed)
    }
}

fn is_in_progress(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::InProgress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_is_known_of_what_was_read_only() {
        let epoch = Some(LeaderEpoch(3));
        let next = Next {
            offset: Offset(10),
            leader_epoch: epoch,
            sought_after: 0,
        };
        let of = |offset| next.leader_epoch_of(Offset(offset));
        assert_eq!([of(4), of(10), of(11)], [epoch, epoch, None]);
    }
}
