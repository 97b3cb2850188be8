//! Check whether the log up to a committed offset is still the one that was read.
//!
//! A log that lost its end, by an unclean leader election for example, grows again with other records at the
//! same offsets. Their leader epoch is a later one, which the broker compares with the committed epoch (KIP-320).

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{EpochEnd, LeaderEpoch, Offset, Partition};

use super::leader_epoch;
use crate::client::config::KafkaSettings;
use crate::client::error::{ClientError, ErrorClass};
use crate::client::log_bridge;

/// Checks one offset at a time. Never joins the group.
pub struct LogCheck {
    consumer: BaseConsumer<QuietContext>,
}

impl LogCheck {
    /// Opens the client, which connects on first use.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(settings: &KafkaSettings) -> Result<Self, ClientError> {
        let consumer = settings
            .client("log-check")
            // Without a group id `assign` fails.
            .set("group.id", &settings.group_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // librdkafka reports a log that was truncated as an error, and does not go on elsewhere.
            .set("auto.offset.reset", "error")
            // An offset at the end of the log is confirmed by this report, any other one by a record.
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted")
            .set("fetch.wait.max.ms", "10")
            .set("fetch.message.max.bytes", "1024")
            .set("queued.max.messages.kbytes", "1024")
            .create_with_context(QuietContext)
            .map_err(|error| ClientError::new("opening a client that checks logs", error))?;
        Ok(Self { consumer })
    }

    /// Connects to a partition's leader ahead of the first check. Blocks.
    pub fn warm_up(&self, topic: &str, partition: Partition, timeout: Duration) {
        if let Err(error) = super::bounds(&self.consumer, topic, partition, timeout) {
            tracing::debug!(%error, "log check not warmed up");
        }
    }

    /// Returns how far the log from `start` to the committed offset is the one that was read in the committed
    /// epoch. Blocks.
    ///
    /// # Errors
    /// The partition's leader did not respond within `timeout` to one of its requests.
    pub fn epoch_end(
        &self,
        (topic, partition): (&str, Partition),
        start: Offset,
        (committed, epoch): (Offset, LeaderEpoch),
        timeout: Duration,
    ) -> Result<EpochEnd, ClientError> {
        let is_same_until = |offset| self.is_same_until(topic, partition, (offset, epoch), timeout);
        // Nothing is below the start that could have been replaced; and librdkafka checks no offset 0.
        if committed <= start || is_same_until(committed)? {
            let end = committed;
            return Ok(EpochEnd { epoch, end });
        }
        // librdkafka keeps the broker's answer to itself, so the end is searched: the log is the same until
        // `same`, and not until `other`.
        let (mut same, mut other) = (start.0, committed.0);
        while other - same > 1 {
            let middle = same + (other - same) / 2;
            if is_same_until(Offset(middle))? {
                same = middle;
            } else {
                other = middle;
            }
        }
        let end = Offset(same);
        Ok(EpochEnd { epoch, end })
    }

    fn is_same_until(
        &self,
        topic: &str,
        partition: Partition,
        (offset, epoch): (Offset, LeaderEpoch),
        timeout: Duration,
    ) -> Result<bool, ClientError> {
        let attempted = || {
            let LeaderEpoch(epoch) = epoch;
            format!("checking {topic}/{partition} up to offset {offset} of leader epoch {epoch}")
        };
        let mut list = TopicPartitionList::new();
        let sought = list
            .add_partition_offset(topic, partition.0, Seek::Offset(offset.0))
            .and_then(|()| {
                leader_epoch::set(&list, topic, partition, Some(epoch));
                self.consumer.assign(&list)
            })
            // Only a seek makes librdkafka compare the epoch before it reads, and it drops what was read before.
            .and_then(|()| self.consumer.seek_partitions(list, timeout))
            .and_then(|sought| sought.elements().iter().try_for_each(|element| element.error()));
        let result = sought
            .map_err(|error| ClientError::new(attempted(), error))
            .and_then(|()| self.await_answer(topic, partition, offset, timeout, attempted));
        if let Err(error) = self.consumer.unassign() {
            tracing::warn!(%error, "unassigning failed, the log check goes on fetching until the next one");
        }
        // What is still queued must not be taken for an answer to the next check.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        result
    }

    fn await_answer(
        &self,
        topic: &str,
        partition: Partition,
        offset: Offset,
        timeout: Duration,
        attempted: impl Fn() -> String,
    ) -> Result<bool, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let late = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(ClientError::new(attempted(), late));
            }
            match self.consumer.poll(left) {
                Some(Ok(record)) => {
                    let is_answer = record.topic() == topic && record.partition() == partition.0;
                    if is_answer && record.offset() >= offset.0 {
                        return Ok(true);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(of))) if of == partition.0 => return Ok(true),
                Some(Err(error)) => {
                    let error = ClientError::new(attempted(), error);
                    match error.class {
                        _ if error.is_out_of_range() => return Ok(false),
                        ErrorClass::Permanent | ErrorClass::Fatal | ErrorClass::Fenced => return Err(error),
                        ErrorClass::Retriable | ErrorClass::Abortable => {
                            tracing::debug!(%error, "log check continues");
                        }
                    }
                }
                None => {}
            }
        }
    }
}

/// Context that leaves the client's errors to the caller.
struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_bridge::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Each step of a search reports a truncation, which the check returns as its result.
        tracing::debug!(%error, reason, "log check's client reports an error");
    }
}

impl ConsumerContext for QuietContext {}
