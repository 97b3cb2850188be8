//! One membership in a consumer group.
//!
//! Rebalances are not handled inside librdkafka's callback, but queued and returned by [`Consumer::poll`]
//! like records. The group waits until the owner completes them with [`Consumer::accept`] or
//! [`Consumer::release`]. Until then the membership is valid and offsets can still be committed, so that a
//! transaction can end, and calls in flight can finish, before a partition is released.

mod batch;
pub mod changelog;
mod commit;
mod event;
pub mod group_offsets;
mod headers;
mod join;
mod member_id;
pub mod offsets;
mod positions;
mod read_to_end;
mod topic_recreation;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{ClientContext as _, Offset as Seek, TopicPartitionList};
use records::{Bounds, Offset, Partition};

use self::batch::RecordQueue;
pub use self::batch::{Record, RecordBatch};
use self::commit::responses::OffsetCommitResponses;
pub use self::commit::{CommitOffset, CommitResponse};
pub use self::event::ConsumerEvent;
use self::event::{Rebalance, RebalanceQueue, complete};
pub use self::headers::Headers;
pub use self::join::Membership;
pub use self::member_id::unjoined_metadata;
use self::offsets::{Committed, leader_epoch};
use self::positions::Next;
use crate::client::error::ClientError;
use crate::client::log_queue::LogQueue;
use crate::client::with_deadline::DroppedWithin;

/// A member of a consumer group that reads one topic.
pub struct Consumer {
    // Declared before the client, so that they are dropped first.
    log: LogQueue,
    /// Queue of the records, if they are taken in batches.
    records: Option<RecordQueue>,
    commit_responses: OffsetCommitResponses,
    inner: DroppedWithin<BaseConsumer<RebalanceQueue>>,
    topic: String,
    group_id: String,
    /// Next record of each started partition.
    next: Mutex<BTreeMap<Partition, Next>>,
    /// Number of batches that were taken.
    batches: AtomicU64,
    /// Rebalance that `poll` has returned and that is not completed yet.
    uncompleted: Mutex<Option<Rebalance>>,
}

impl Consumer {
    /// Calls `wake` from a thread of librdkafka whenever there may be something to poll.
    pub fn on_ready(&mut self, wake: impl Fn() + Send + Sync + 'static) {
        self.inner.set_nonempty_callback(wake);
    }

    /// Returns the next event, and waits for it at most for `timeout`. Zero does not wait.
    ///
    /// # Errors
    /// librdkafka reported an error of the brokers or of the membership; it recovers by itself from those of
    /// the class [`crate::client::error::ErrorClass::Retriable`]. Or the topic was deleted and created again;
    /// this is reported before any record of the new topic is returned.
    pub fn poll(&self, timeout: Duration) -> Result<Option<ConsumerEvent<'_>>, ClientError> {
        if let Some(event) = self.next_rebalance() {
            return Ok(Some(event));
        }
        let polled = self.inner.poll(timeout);
        // Before the record: it may be the first one of the new topic, at an offset of the old one.
        self.check_recreation()?;
        match polled {
            Some(Ok(record)) => {
                let (partition, offset) = (Partition(record.partition()), Offset(record.offset()));
                let is_expected =
                    self.is_expected(partition, offset, batch::NONE, || leader_epoch::of(&record))?;
                Ok(is_expected.then_some(ConsumerEvent::Record(record)))
            }
            Some(Err(error)) => Err(self.read_failed(error)),
            // The callback may have queued a rebalance while `poll` waited.
            None => Ok(self.next_rebalance()),
        }
    }

    /// Serves the log, and reports if the topic was recreated.
    fn check_recreation(&self) -> Result<(), ClientError> {
        self.serve_log();
        if !self.inner.context().topic_recreation.take() {
            return Ok(());
        }
        let attempted = format!(
            "reading {:?} in group {:?} (the topic was deleted and created again)",
            self.topic, self.group_id
        );
        Err(ClientError::new(
            attempted,
            KafkaError::MessageConsumption(RDKafkaErrorCode::OffsetOutOfRange),
        ))
    }

    fn read_failed(&self, error: KafkaError) -> ClientError {
        let attempted = format!("reading {:?} in group {:?}", self.topic, self.group_id);
        ClientError::new(attempted, self.cause(error))
    }

    fn next_rebalance(&self) -> Option<ConsumerEvent<'_>> {
        let event = self.inner.context().take()?;
        *self.uncompleted() = Rebalance::of(&event);
        Some(event)
    }

    /// Completes [`ConsumerEvent::Assigned`]: takes the partitions, paused.
    ///
    /// # Errors
    /// librdkafka refused, and the membership is lost.
    pub fn accept(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.uncompleted().take();
        self.forward_records(partitions)?;
        let list = self.list(partitions);
        // With an explicit position: otherwise librdkafka looks up the committed one, and reports an error
        // where there is none yet. Nothing is read from here, because `start` sets the true position first.
        let mut from_beginning = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            from_beginning
                .add_partition_offset(&self.topic, partition.0, Seek::Beginning)
                .map_err(|error| self.error("accepting", partitions, error))?;
        }
        self.inner
            .incremental_assign(&from_beginning)
            .and_then(|()| self.inner.pause(&list))
            .map_err(|error| self.error("accepting", partitions, error))
    }

    /// Completes [`ConsumerEvent::Revoked`] or [`ConsumerEvent::Lost`]: releases the partitions.
    ///
    /// # Errors
    /// librdkafka refused, and the membership is lost.
    pub fn release(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.uncompleted().take();
        // First, so that a commit that comes later is refused.
        self.next().retain(|partition, _| !partitions.contains(partition));
        self.inner
            .incremental_unassign(&self.list(partitions))
            .map_err(|error| self.error("releasing", partitions, error))
    }

    /// Returns the group's committed offsets, once no transaction is pending on them. Blocks.
    ///
    /// # Errors
    /// The offsets are unstable for longer than `timeout`, or the coordinator cannot be reached.
    pub fn committed(
        &self,
        partitions: &[Partition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, ClientError> {
        offsets::committed(&self.inner, &self.group_id, &self.topic, partitions, timeout)
    }

    /// Returns the start and the last stable offset of a partition. Blocks.
    ///
    /// # Errors
    /// The partition's leader did not respond within `timeout`.
    pub fn bounds(&self, partition: Partition, timeout: Duration) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.inner, &self.topic, partition, timeout)
    }

    /// Returns the id of the topic that the records come from; `None` if the brokers do not report ids. If it
    /// changes later, [`Self::poll`] reports that before it returns a record of the new topic.
    #[must_use]
    pub fn topic_id(&self) -> Option<String> {
        self.inner.context().topic_recreation.id()
    }

    /// Leaves the group, as dropping it does; it waits for at most 5 s. Partitions that are still owned are released
    /// without a commit.
    pub fn leave(self) {
        drop(self);
    }

    /// Passes on the log lines that librdkafka has written so far.
    fn serve_log(&self) {
        self.log.serve(|level, facility, line| {
            self.commit_responses.observe_log(facility, line);
            self.inner.context().log(level, facility, line);
        });
    }

    fn next(&self) -> MutexGuard<'_, BTreeMap<Partition, Next>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uncompleted(&self) -> MutexGuard<'_, Option<Rebalance>> {
        self.uncompleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self, partitions: &[Partition]) -> TopicPartitionList {
        offsets::list(&self.topic, partitions)
    }

    fn error(&self, verb: &str, partitions: &[Partition], error: KafkaError) -> ClientError {
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.0).collect();
        ClientError::new(
            format!("{verb} partitions {numbers:?} of {:?}", self.topic),
            self.cause(error),
        )
    }

    /// Returns the fatal error behind an error, if there is one.
    fn cause(&self, error: KafkaError) -> KafkaError {
        // After a fatal error every request fails with `_FATAL` alone, which says nothing about the reason.
        match (error.rdkafka_error_code(), self.inner.client().fatal_error()) {
            (Some(RDKafkaErrorCode::Fatal), Some((code, _))) => KafkaError::MessageConsumptionFatal(code),
            _ => error,
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Closing revokes once more and waits, for minutes, until each rebalance is completed, and nobody
        // polls any longer. So the callback completes new ones itself from here on, and those returned or
        // queued before are completed below.
        self.inner.context().closing.store(true, Ordering::Release);
        let returned = self.uncompleted().take();
        let queued = std::iter::from_fn(|| self.inner.context().take());
        let rebalances = returned
            .into_iter()
            .chain(queued.filter_map(|event| Rebalance::of(&event)));
        for Rebalance {
            is_assign,
            partitions,
        } in rebalances
        {
            complete(&self.inner, is_assign, &self.list(&partitions));
        }
    }
}
