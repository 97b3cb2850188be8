//! Records of a consumer, many at a time.
//!
//! rust-rdkafka hands out one record with each poll, and reads the clock, allocates and locks for it; that took a tenth
//! of the validator's time. librdkafka hands out many at once, but must find nothing but records in the queue: it
//! would complete a rebalance itself. So the partitions have a queue of their own, and all else stays in the client's.

#![expect(unsafe_code, reason = "rust-rdkafka has no batches")]

mod record;

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::Offset as Seek;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::IsError as _;
use records::Partition;

pub use self::record::Record;
use crate::client::error::ClientError;
use crate::consumer::Consumer;
use crate::consumer::positions::Next;

/// Maximum number of records in a batch.
const RECORDS_MAX: usize = 64;

/// In place of the number of a batch: the record came alone.
pub(super) const NONE: u64 = u64::MAX;

/// Queue that the records of all partitions are forwarded to.
pub(super) struct RecordQueue(NonNull<rd::rd_kafka_queue_t>);

// SAFETY: librdkafka locks its queues itself, and any thread may use and destroy them.
unsafe impl Send for RecordQueue {}
// SAFETY: as above.
unsafe impl Sync for RecordQueue {}

impl RecordQueue {
    /// Opens a queue.
    ///
    /// # Safety
    /// The client outlives the queue.
    pub(super) unsafe fn of<C: ConsumerContext>(client: &BaseConsumer<C>) -> Self {
        // SAFETY: the client is alive. The function never returns null.
        Self(unsafe { NonNull::new_unchecked(rd::rd_kafka_queue_new(client.client().native_ptr())) })
    }

    /// Forwards the records of a partition. Returns `false` if there is no such partition.
    pub(super) fn forward<C: ConsumerContext>(
        &self,
        client: &BaseConsumer<C>,
        topic: &str,
        partition: Partition,
    ) -> bool {
        let Ok(topic) = CString::new(topic) else {
            return false;
        };
        // SAFETY: the client is alive, and the topic ends with a zero. The handle is ours and is given back; both
        // queues keep each other alive as long as they have to.
        unsafe {
            let of_partition =
                rd::rd_kafka_queue_get_partition(client.client().native_ptr(), topic.as_ptr(), partition.0);
            if of_partition.is_null() {
                return false;
            }
            rd::rd_kafka_queue_forward(of_partition, self.0.as_ptr());
            rd::rd_kafka_queue_destroy(of_partition);
        }
        true
    }
}

impl Drop for RecordQueue {
    fn drop(&mut self) {
        // SAFETY: the client outlives this queue, which is not used afterwards. What is forwarded to it later is
        // dropped.
        unsafe { rd::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// Records that were taken together.
pub struct RecordBatch<'c> {
    consumer: &'c Consumer,
    records: std::vec::IntoIter<Record<'c>>,
    /// Number of the batch, counted from 1.
    number: u64,
}

impl Consumer {
    /// Has the records returned by [`Self::take_records`], and not by [`Self::poll`].
    #[must_use]
    pub fn with_batches(mut self) -> Self {
        // SAFETY: `Consumer` drops the queue before the client.
        self.records = Some(unsafe { RecordQueue::of(&self.inner) });
        self
    }

    /// Forwards the records of partitions that are accepted.
    pub(super) fn forward_records(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        let Some(records) = &self.records else {
            return Ok(());
        };
        let is_forwarded = |partition: &Partition| records.forward(&self.inner, &self.topic, *partition);
        if partitions.iter().all(is_forwarded) {
            return Ok(());
        }
        // Its records would be taken for events, and skipped.
        Err(ClientError::unavailable(format!(
            "opening the queues of partitions {partitions:?} of {:?}",
            self.topic
        )))
    }

    /// Takes the records that have been fetched, at most some tens; waits for the first one at most for `timeout`.
    /// All other events are [`Self::poll`]'s.
    ///
    /// # Errors
    /// The topic was deleted and created again. No record of the new topic is returned before this error.
    pub fn take_records(&self, timeout: Duration) -> Result<RecordBatch<'_>, ClientError> {
        let Some(queue) = &self.records else {
            return Err(ClientError::unavailable(format!(
                "taking records of {:?} in batches",
                self.topic
            )));
        };
        let number = self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        let mut messages = [ptr::null_mut(); RECORDS_MAX];
        let mut take = |timeout, count: usize| {
            // SAFETY: the queue is alive, and the array has room for as many messages.
            let taken = unsafe {
                rd::rd_kafka_consume_batch_queue(queue.0.as_ptr(), timeout, messages.as_mut_ptr(), count)
            };
            // Negative only without memory.
            let taken = usize::try_from(taken).unwrap_or(0);
            let taken = messages.iter().take(taken).copied().filter_map(NonNull::new);
            // SAFETY: the messages are handed over, and their client is `self`'s.
            taken.map(|message| unsafe { Record::new(message) }).collect()
        };
        let mut records: Vec<Record<'_>> = take(0, RECORDS_MAX);
        if records.is_empty() && !timeout.is_zero() {
            // Only one: librdkafka waits until there are as many as it is asked for.
            records = take(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX), 1);
        }
        let batch = RecordBatch {
            consumer: self,
            records: records.into_iter(),
            number,
        };
        // Before the first record is returned: it may be of the new topic, at an offset of the old one.
        self.check_recreation()?;
        Ok(batch)
    }

    /// Returns `true` if the brokers have told of records that were not fetched yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let client = self.inner.client().native_ptr();
        let Ok(topic) = CString::new(self.topic.as_str()) else {
            return false;
        };
        // They pass over the markers of transactions.
        let positions = self.positions();
        positions.elements().iter().any(|element| {
            let (mut start, mut end) = (0, 0);
            // SAFETY: the client is alive, and the topic ends with a zero. The bounds are those of the last response.
            let error = unsafe {
                rd::rd_kafka_get_watermark_offsets(
                    client,
                    topic.as_ptr(),
                    element.partition(),
                    &raw mut start,
                    &raw mut end,
                )
            };
            matches!(element.offset(), Seek::Offset(next) if !error.is_error() && end > next)
        })
    }
}

impl<'c> RecordBatch<'c> {
    /// Returns `true` if there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.len() == 0
    }

    /// Returns the next record. Those of partitions that were stopped, or started anew, since the batch was taken are
    /// left out: what they have to return comes again.
    ///
    /// # Errors
    /// As those of [`Consumer::poll`].
    pub fn next_record(&mut self) -> Result<Option<Record<'c>>, ClientError> {
        for record in self.records.by_ref() {
            if let Some(error) = record.error() {
                return Err(self.consumer.read_failed(error));
            }
            let (partition, offset) = (record.partition(), record.offset());
            if self
                .consumer
                .is_expected(partition, offset, self.number, || record.leader_epoch())?
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

impl Drop for RecordBatch<'_> {
    fn drop(&mut self) {
        // librdkafka goes on behind them. Nothing more of their partitions is returned until they are started again.
        for record in self.records.by_ref() {
            let (partition, offset) = (record.partition(), record.offset());
            let is_next = |next: &Next| next.is_next(offset, self.number);
            let mut started = self.consumer.next();
            if started.get(&partition).is_some_and(is_next) {
                tracing::warn!(
                    %partition, %offset,
                    "fetched records dropped unread, partition not read until it is started again"
                );
                started.remove(&partition);
            }
        }
    }
}
