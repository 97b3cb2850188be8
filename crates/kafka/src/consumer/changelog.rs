//! Reader of the changelog, and of the offsets that a restore compares with it.

use std::convert::Infallible;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use records::{Bounds, Offset, Partition, Timestamp};

use super::offsets::log_check::LogCheck;
use super::offsets::{self, Committed};
use super::read_to_end::read_to_end;
pub use super::read_to_end::{ChangelogRecord, ReadError};
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// Reads committed offsets, bounds and records, one partition at a time. Never joins the group.
pub struct ChangelogReader {
    /// Sees committed records only, and waits for committed offsets to become stable.
    committed: BaseConsumer,
    // Sees the high watermark. A read_committed client would take the last stable offset for the end, miss a
    // committed transaction whose markers are still being written, and admit its orders again.
    uncommitted: BaseConsumer,
    log_check: LogCheck,
    group_id: String,
    topic: String,
}

impl ChangelogReader {
    /// Opens the clients, which connect on first use.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(settings: &KafkaSettings, topic: &str) -> Result<Self, ClientError> {
        let client = |isolation: &str| {
            settings
                .client("changelog-reader")
                // The committed offsets of this group are read; without a group id `assign` fails.
                .set("group.id", &settings.group_id)
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                // A changelog that is cut while it is read is an error, not a gap.
                .set("auto.offset.reset", "error")
                .set("isolation.level", isolation)
                // A changed batch is an error, not missing keys.
                .set("check.crcs", "true")
                // A broker without new records responds after this time; orders wait for the restore.
                .set("fetch.wait.max.ms", "50")
                // Bounds the memory of each of several restores.
                .set("queued.max.messages.kbytes", "16384")
                // Once the queue was full, librdkafka fetches nothing for this long, by default a second.
                .set("fetch.queue.backoff.ms", "5")
                .create::<BaseConsumer>()
                .map_err(|error| ClientError::new(format!("opening a reader of {topic:?}"), error))
        };
        Ok(Self {
            committed: client("read_committed")?,
            uncommitted: client("read_uncommitted")?,
            log_check: LogCheck::open(settings)?,
            group_id: settings.group_id.clone(),
            topic: topic.to_owned(),
        })
    }

    /// Connects to the group's coordinator and a partition's leader ahead of the first restore.
    pub fn warm_up(&self, input: &str, partition: Partition, timeout: Duration) {
        // librdkafka looks for what it does not know yet at intervals of half a second, which the first
        // restore would have to wait for.
        let warmed = self
            .input_committed(input, partition, timeout)
            .and_then(|_| self.bounds(partition, timeout))
            .and_then(|_| self.stable_bounds(partition, timeout))
            .and_then(|_| self.input_metadata(input, &[partition], timeout));
        self.log_check.warm_up(input, partition, timeout);
        // The restore makes the same requests, and reports an error that lasts.
        if let Err(error) = warmed {
            tracing::debug!(%error, "changelog reader not warmed up");
        }
    }

    /// Returns the group's committed offset of an input partition, once no transaction is pending on it.
    ///
    /// # Errors
    /// The offset is unstable for longer than `timeout`, or the coordinator cannot be reached.
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
            leader_epoch: None,
        }))
    }

    /// Returns the client that checks the log of the input topic.
    #[must_use]
    pub const fn log_check(&self) -> &LogCheck {
        &self.log_check
    }

    /// Returns the metadata of the committed offsets of input partitions, also while transactions are pending
    /// on them: then of the offsets before.
    ///
    /// # Errors
    /// The coordinator cannot be reached.
    pub fn input_metadata(
        &self,
        topic: &str,
        partitions: &[Partition],
        timeout: Duration,
    ) -> Result<Vec<(Partition, String)>, ClientError> {
        let found = offsets::committed(&self.uncommitted, &self.group_id, topic, partitions, timeout)?;
        Ok(found
            .into_iter()
            .map(|found| (found.partition, found.metadata))
            .collect())
    }

    /// Returns the start and the high watermark of a partition of another topic.
    ///
    /// # Errors
    /// The leader did not respond within `timeout`.
    pub fn bounds_of(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.uncommitted, topic, partition, timeout)
    }

    /// Returns the start and the high watermark of a changelog partition.
    ///
    /// # Errors
    /// The leader did not respond within `timeout`.
    pub fn bounds(&self, partition: Partition, timeout: Duration) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.uncommitted, &self.topic, partition, timeout)
    }

    /// Returns the start and the last stable offset of a partition of another topic.
    ///
    /// # Errors
    /// The leader did not respond within `timeout`.
    pub fn stable_bounds_of(
        &self,
        topic: &str,
        partition: Partition,
        timeout: Duration,
    ) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.committed, topic, partition, timeout)
    }

    /// Returns the start and the last stable offset of a changelog partition. A test restores up to here, to
    /// show why the high watermark is needed.
    ///
    /// # Errors
    /// The leader did not respond within `timeout`.
    pub fn stable_bounds(&self, partition: Partition, timeout: Duration) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.committed, &self.topic, partition, timeout)
    }

    /// Passes every committed record of the changelog in `from..to` to `sink`.
    ///
    /// # Errors
    /// Kafka or the sink refused, the read was cancelled, or the position did not move for some seconds: then
    /// a transaction is still open, and the end should be asked for again. The sink has then received all
    /// records up to the last one that it was passed.
    pub fn read<E>(
        &self,
        partition: Partition,
        from: Offset,
        to: Offset,
        cancelled: impl Fn() -> bool,
        mut sink: impl FnMut(ChangelogRecord<'_>) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        let bounds = Bounds { start: from, end: to };
        read_to_end(
            &self.committed,
            &self.topic,
            partition,
            bounds,
            cancelled,
            &mut sink,
        )
    }

    /// Returns `true` if a partition has any committed record within the bounds.
    ///
    /// # Errors
    /// Kafka refused, or the position did not move for some seconds.
    pub fn has_committed(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
    ) -> Result<bool, ClientError> {
        // The error ends the read at the first record.
        struct Found;
        match self.read_other(topic, partition, bounds, |_| Err(Found)) {
            Ok(()) => Ok(false),
            Err(ReadError::Sink(Found) | ReadError::Cancelled) => Ok(true),
            Err(ReadError::Client(error)) => Err(error),
        }
    }

    /// Returns the timestamp of the first committed record within the bounds; `None` if there is no record,
    /// or it has no timestamp.
    ///
    /// # Errors
    /// Kafka refused, or the position did not move for some seconds.
    pub fn first_timestamp(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
    ) -> Result<Option<Timestamp>, ClientError> {
        // The error ends the read at the first record.
        struct Found;
        let mut at = None;
        let result = self.read_other(topic, partition, bounds, |record| {
            at = record.at;
            Err(Found)
        });
        match result {
            Ok(()) | Err(ReadError::Sink(Found) | ReadError::Cancelled) => Ok(at),
            Err(ReadError::Client(error)) => Err(error),
        }
    }

    /// Returns the timestamp of the last committed record within the bounds. Reads all of them.
    ///
    /// # Errors
    /// Kafka refused, or the position did not move for some seconds.
    pub fn last_timestamp(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
    ) -> Result<Option<Timestamp>, ClientError> {
        let mut at = None;
        let result = self.read_other(topic, partition, bounds, |record| {
            at = record.at.or(at);
            Ok::<(), Infallible>(())
        });
        match result {
            Ok(()) | Err(ReadError::Cancelled) => Ok(at),
            Err(ReadError::Sink(never)) => match never {},
            Err(ReadError::Client(error)) => Err(error),
        }
    }

    /// Passes every committed record of another topic's partition within the bounds to `sink`.
    ///
    /// # Errors
    /// As those of [`Self::read`].
    pub fn read_other<E>(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        mut sink: impl FnMut(ChangelogRecord<'_>) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        // Never cancelled: these reads are short, or those of a command, which ends with its process.
        let read = read_to_end(&self.committed, topic, partition, bounds, || false, &mut sink);
        read.map_err(|error| match error {
            ReadError::Client(error) => ReadError::Client(error.in_group(&self.group_id)),
            other => other,
        })
    }
}
