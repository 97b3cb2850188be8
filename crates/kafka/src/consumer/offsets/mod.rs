//! Committed offsets of a group, and the bounds of partitions.

pub(crate) mod leader_epoch;
pub mod log_check;

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{Bounds, LeaderEpoch, Offset, Partition};

use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::client::retry::retry_until;

/// Wait between two attempts of a request.
// A partition has no leader for a moment after its topic was created, or while a broker restarts.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Offset and metadata that a group has committed for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Partition of the offset.
    pub partition: Partition,
    /// First offset that is not final yet; `None` if the group never committed one, or it expired.
    pub offset: Option<Offset>,
    /// Commit metadata; empty if there is none, U+FFFD if it is not UTF-8.
    pub metadata: String,
    /// Leader epoch that was committed with the offset; `None` if an operator or an earlier version committed
    /// it.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// Reads committed offsets of a group without joining it.
pub struct OffsetReader {
    consumer: BaseConsumer,
    group_id: String,
}

impl OffsetReader {
    /// Opens the client, which connects on first use.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(settings: &KafkaSettings, client_id: &str) -> Result<Self, ClientError> {
        let consumer = settings
            .client(client_id)
            .set("group.id", &settings.group_id)
            .set("enable.auto.commit", "false")
            // Makes the coordinator wait for pending transactions (require_stable).
            .set("isolation.level", "read_committed")
            .create()
            .map_err(|error| ClientError::new("opening a reader of committed offsets", error))?;
        Ok(Self {
            consumer,
            group_id: settings.group_id.clone(),
        })
    }

    /// Returns the committed offsets, once no transaction is pending on them. Blocks.
    ///
    /// # Errors
    /// As those of [`committed`].
    pub fn committed(
        &self,
        topic: &str,
        partitions: &[Partition],
        timeout: Duration,
    ) -> Result<Vec<Committed>, ClientError> {
        committed_alone(&self.consumer, &self.group_id, topic, partitions, timeout)
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
        bounds(&self.consumer, topic, partition, timeout)
    }
}

/// Returns the group's committed offsets. With a read_committed consumer this waits while a transaction is
/// pending on one of them.
///
/// # Errors
/// The offsets are unstable for longer than `timeout`, or the coordinator cannot be reached.
pub fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group_id: &str,
    topic: &str,
    partitions: &[Partition],
    timeout: Duration,
) -> Result<Vec<Committed>, ClientError> {
    let failed = |error| {
        ClientError::new(
            format!("reading the committed offsets of {topic:?} in group {group_id:?}"),
            error,
        )
    };
    let response = consumer
        .committed_offsets(list(topic, partitions), timeout)
        .map_err(failed)?;
    response
        .elements()
        .iter()
        .map(|element| {
            element.error().map_err(failed)?;
            let offset = match element.offset() {
                Seek::Offset(offset) => Some(Offset(offset)),
                _ => None,
            };
            // rust-rdkafka panics on metadata that is not UTF-8, which another program may have committed. It
            // must not look like absent metadata, so it becomes a text that no program of ours writes.
            let metadata = std::panic::catch_unwind(|| element.metadata().to_owned());
            let metadata = metadata.unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string());
            Ok(Committed {
                partition: Partition(element.partition()),
                offset,
                metadata,
                leader_epoch: leader_epoch::get(&response, topic, Partition(element.partition())),
            })
        })
        .collect()
}

/// First wait for committed offsets, after which a refusal is looked for; each further one is twice as long.
const REFUSAL_WAIT: Duration = Duration::from_millis(500);
/// Maximum number of events of a consumer among which a refusal is looked for.
const EVENTS_MAX: usize = 64;

/// As [`committed`], by a consumer that is no member and has no records to read: fails soon if this user may not use the
/// group.
// librdkafka goes on looking for the coordinator until the timeout, and reports the refusal as an event beside that.
pub(super) fn committed_alone(
    consumer: &BaseConsumer,
    group_id: &str,
    topic: &str,
    partitions: &[Partition],
    timeout: Duration,
) -> Result<Vec<Committed>, ClientError> {
    let deadline = Instant::now() + timeout;
    let mut wait = REFUSAL_WAIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = committed(consumer, group_id, topic, partitions, wait.min(left));
        let has_timed_out = |error: &ClientError| error.code() == Some(RDKafkaErrorCode::OperationTimedOut);
        if !result.as_ref().is_err_and(has_timed_out) {
            return result;
        }
        if let Some(refused) = refusal(consumer) {
            let attempted = format!("reading the committed offsets of {topic:?} in group {group_id:?}");
            return Err(ClientError::new(attempted, refused));
        }
        if wait >= left {
            return result;
        }
        wait *= 2;
    }
}

/// Returns the refusal of the group among the consumer's events.
fn refusal(consumer: &BaseConsumer) -> Option<KafkaError> {
    (0..EVENTS_MAX)
        .map_while(|_| consumer.poll(Duration::ZERO))
        .filter_map(Result::err)
        .find(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed))
}

/// Returns the bounds of a partition by the consumer's isolation level: the end is the last stable offset for
/// read_committed, and the high watermark for read_uncommitted. Repeated while the partition has no
/// leader.
///
/// # Errors
/// The partition's leader did not respond within `timeout`.
pub fn bounds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: Partition,
    timeout: Duration,
) -> Result<Bounds, ClientError> {
    retry_until(Instant::now() + timeout, RETRY_INTERVAL, |left| {
        let (start, end) = consumer
            .fetch_watermarks(topic, partition.0, left)
            .map_err(|error| ClientError::new(format!("reading the bounds of {topic}/{partition}"), error))?;
        Ok(Bounds {
            start: Offset(start),
            end: Offset(end),
        })
    })
}

/// Returns a list of partitions for librdkafka, without offsets.
pub(super) fn list(topic: &str, partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, partition.0);
    }
    list
}
