//! The transactional producer: one object owns everything from `begin` to the transaction's end.
//!
//! ```text
//! open ── begin ── send … ── end ──▶ Committed                keep the producer
//!                             ├────▶ CommittedRetireProducer  ┐ drop the producer; a new one with the same
//!                             ├────▶ Aborted                  │ transactional id ends what is left open
//!                             └────▶ Unknown                  ┘
//! ```
//!
//! After anything but `Committed` the producer is not used again: librdkafka speaks the transaction protocol
//! without KIP-890's epoch bump per transaction, so that a late record of an aborted transaction could join
//! the next one of the same epoch. Opening a new producer bumps the epoch.
//!
//! `Committed` has one exception. librdkafka repeats TxnOffsetCommit by itself when its connection breaks; the
//! first copy may arrive within the producer's next transaction, after that one's own offsets, and set the
//! committed offsets back to those of the transaction before. A program for which that is not harmless uses a
//! producer for one transaction. To the validator it is: the orders are read again and are duplicates; at most
//! their dead letters are written twice.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{Offset, Partition};

use super::delivery_reports::{DeliveryReports, TRACKED, UNTRACKED};
use super::end_txn_responses::DEBUG_CONTEXT;
use super::marker_wait::MarkerWait;
use super::native::Sender;
use super::record::OutgoingRecord;
use super::record_sizes::RecordSizes;
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::client::log_bridge;
use crate::client::retry::retry_until;
use crate::client::with_deadline::{ABANDONED_MAX, Request, abandoned};
use crate::consumer::CommitOffset;
use crate::consumer::offsets::leader_epoch;

/// A producer with a transactional id, and at most one open transaction.
pub struct TransactionalProducer {
    sender: Arc<Sender<DeliveryReports>>,
    limits: TransactionTimeouts,
    markers: RefCell<Markers>,
}

/// Markers of the last transaction.
#[derive(Default)]
struct Markers {
    wait: MarkerWait,
    /// End of the last transaction, after which the brokers write them.
    ended_at: Option<Instant>,
}

/// Timeouts of a transaction and its steps.
#[derive(Clone, Copy, Debug)]
pub struct TransactionTimeouts {
    /// Time after which the broker aborts the transaction by itself (`transaction.timeout.ms`). It bounds how
    /// long a dead producer blocks readers of its topics.
    pub transaction_timeout: Duration,
    /// Time after which [`TransactionalProducer::end`] stops trying and the outcome counts as unknown.
    pub commit_timeout: Duration,
}

/// Outcome of a transaction.
#[derive(Debug)]
pub enum TransactionEnd {
    /// All records and offsets are committed.
    Committed {
        /// By partition, the offset behind the last tracked record.
        tracked: HashMap<Partition, Offset>,
    },
    /// Committed; but an EndTxn request may still be in flight, and would end this producer's next
    /// transaction prematurely.
    CommittedRetireProducer {
        /// As in `Committed`.
        tracked: HashMap<Partition, Offset>,
        /// Evidence for the request in flight.
        why: String,
    },
    /// Nothing of it will ever become visible.
    Aborted(ClientError),
    /// Outcome unknown: it may still be committed or aborted. Only the committed offsets can show which.
    Unknown(ClientError),
}

impl TransactionalProducer {
    /// Opens the producer. This aborts a transaction that an earlier producer with the same id has left open,
    /// and fences that producer.
    ///
    /// # Errors
    /// Kafka did not respond within `timeout` ([`Retriable`](crate::error::ErrorClass::Retriable)) or refused the id; or too many
    /// earlier producers of this process still wait for a response ([`Permanent`](crate::error::ErrorClass::Permanent)).
    pub fn open(
        settings: &KafkaSettings,
        transactional_id: &str,
        limits: TransactionTimeouts,
        sizes: RecordSizes,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let failed = |error| {
            ClientError::new(
                format!("opening the transactional producer {transactional_id:?}"),
                error,
            )
        };
        // A coordinator that never responds would otherwise cost a thread and a producer for each
        // transaction, until the process runs out of them.
        let abandoned = abandoned();
        if abandoned >= ABANDONED_MAX {
            return Err(ClientError::refused(format!(
                "opening the transactional producer {transactional_id:?} beside {abandoned} earlier clients \
                 whose requests Kafka never answered, or that do not close (each holds a thread and connections; \
                 restart this process)"
            )));
        }
        let mut config = settings.client(transactional_id);
        let debug = log_bridge::debug(&config, DEBUG_CONTEXT);
        config
            .set("debug", debug)
            .set("transactional.id", transactional_id)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set(
                "transaction.timeout.ms",
                limits.transaction_timeout.as_millis().to_string(),
            )
            // Not longer than the transaction: what is delivered later is aborted anyhow.
            .set(
                "message.timeout.ms",
                limits.transaction_timeout.as_millis().to_string(),
            )
            // librdkafka waits for the response to the offsets for as long as a request may take, whatever
            // timeout it is given: with its default a lost coordinator blocks the program for most of a
            // minute.
            .set(
                "socket.timeout.ms",
                (limits.commit_timeout.as_millis() / 2).max(1_000).to_string(),
            )
            // Records gather for this long, so that a request carries many of a partition: librdkafka makes
            // one request per partition, and wakes its thread for each that begins to gather. If it ends before the
            // response to the partition's last request, the thread spins until then. The transaction's end flushes, so it
            // does not wait for this.
            .set("linger.ms", "50")
            .set("batch.num.messages", "10000")
            // This and `QUEUE_KIB_MAX` bound the memory of records that are not acknowledged yet; beyond them
            // `send` waits.
            .set("queue.buffering.max.messages", "200000")
            // The EndTxn responses are logged at this level.
            .set_log_level(RDKafkaLogLevel::Debug);
        sizes.configure(&mut config, QUEUE_KIB_MAX);
        let producer: ThreadedProducer<DeliveryReports> = config
            .create_with_context(DeliveryReports::default())
            .map_err(failed)?;
        let deadline = Instant::now() + timeout;
        let sender = Sender::new(producer);
        // While no connection is up, librdkafka looks for the coordinator every 500 ms only.
        sender.await_connection(CONNECT_WAIT_MAX.min(timeout));
        sender
            .producer()
            .init_transactions(deadline.saturating_duration_since(Instant::now()))
            .map_err(failed)?;
        Ok(Self {
            sender: Arc::new(sender),
            limits,
            markers: RefCell::default(),
        })
    }

    /// Begins a transaction. Sends nothing to the brokers yet. Soon after the last transaction it first waits for the
    /// brokers to write the markers, for some milliseconds.
    ///
    /// # Errors
    /// The producer is fenced, or has failed otherwise.
    pub fn begin(&self) -> Result<(), ClientError> {
        self.await_markers();
        self.reports().reset();
        self.sender
            .producer()
            .begin_transaction()
            .map_err(|error| ClientError::new("beginning a transaction", error))
    }

    fn await_markers(&self) {
        let Markers { wait, ended_at } = &mut *self.markers.borrow_mut();
        let Some(ended_at) = ended_at.take() else {
            return;
        };
        wait.learn(self.reports().take_came_too_early());
        std::thread::sleep(wait.wait().saturating_sub(ended_at.elapsed()));
    }

    /// Sends a record within the transaction. While the producer's queue is full it waits, at most for the
    /// commit timeout.
    ///
    /// # Errors
    /// The record was refused; the transaction must not be committed.
    pub fn send(&self, record: OutgoingRecord<'_>) -> Result<(), ClientError> {
        self.send_as(record, UNTRACKED)
    }

    /// As [`Self::send`]; in addition [`TransactionEnd::Committed`] has the offset behind the last such
    /// record of each partition.
    ///
    /// # Errors
    /// As those of [`Self::send`].
    pub fn send_tracked(&self, record: OutgoingRecord<'_>) -> Result<(), ClientError> {
        self.send_as(record, TRACKED)
    }

    fn send_as(&self, mut record: OutgoingRecord<'_>, opaque: usize) -> Result<(), ClientError> {
        self.reports().record_sent();
        let mut full_since = None;
        loop {
            match self.sender.send(&mut record, opaque) {
                Ok(()) => return Ok(()),
                // Records leave the queue by themselves, so that waiting is enough.
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull))
                    if full_since.get_or_insert_with(Instant::now).elapsed() < self.limits.commit_timeout =>
                {
                    std::thread::sleep(QUEUE_FULL_WAIT);
                }
                Err(error) => {
                    self.reports().record_refused();
                    let attempted = format!("sending a record to {:?}", record.topic);
                    return Err(ClientError::new(attempted, error));
                }
            }
        }
    }

    /// Ends the transaction: waits until every record is acknowledged, adds the input's offsets with their
    /// commit metadata, and commits.
    ///
    /// `before_commit` runs between the offsets and the commit, where tests inject faults.
    pub fn end(
        &self,
        topic: &str,
        offsets: &[CommitOffset],
        metadata: &Arc<ConsumerGroupMetadata>,
        before_commit: impl FnOnce(),
    ) -> TransactionEnd {
        let deadline = Instant::now() + self.limits.commit_timeout;
        let add = || self.add_offsets(topic, offsets, metadata, deadline);
        // Beside the last records, because the group's coordinator takes about as long as they do. Both are part of
        // the transaction, and so are committed together or not at all. One after the other while an earlier request
        // hangs: brokers that take no records may not answer this one either, and few may hang at a time.
        let beside = (abandoned() == 0).then(add);
        let delivered = self.await_deliveries(deadline);
        let added = match (beside, &delivered) {
            // Awaited in any case: the abort of a producer with another request in progress is refused.
            (Some(adding), _) => adding.and_then(|adding| adding.finish(deadline)),
            (None, Ok(())) => add().and_then(|adding| adding.finish(deadline)),
            (None, Err(_)) => Ok(()),
        };
        let written = match (delivered, added) {
            (Err(delivery), added) if is_consequence(&delivery) => {
                // Records that were taken back say nothing of the cause. librdkafka refuses offsets for it, also those
                // that it has taken before the transaction failed.
                let refused = added.and_then(|()| add()?.finish(deadline));
                Err(refused.err().unwrap_or(delivery))
            }
            (delivered, added) => delivered.and(added),
        };
        self.end_after(written, deadline, before_commit)
    }

    /// As [`Self::end`], for a transaction that has consumed nothing: it has no offsets.
    pub fn end_without_offsets(&self, before_commit: impl FnOnce()) -> TransactionEnd {
        let deadline = Instant::now() + self.limits.commit_timeout;
        self.end_after(self.await_deliveries(deadline), deadline, before_commit)
    }

    fn end_after(
        &self,
        written: Result<(), ClientError>,
        deadline: Instant,
        before_commit: impl FnOnce(),
    ) -> TransactionEnd {
        // Before EndTxn is sent nothing can have been committed, so every error here is an abort.
        if let Err(error) = written {
            return TransactionEnd::Aborted(error);
        }
        before_commit();
        match self.commit(deadline) {
            Ok(()) => {
                self.markers.borrow_mut().ended_at = Some(Instant::now());
                let tracked = self.reports().take_tracked();
                match self.reports().end_txn.request_in_flight() {
                    None => TransactionEnd::Committed { tracked },
                    Some(why) => TransactionEnd::CommittedRetireProducer { tracked, why },
                }
            }
            // Also where librdkafka requires an abort: by its own documentation the commit may have been
            // processed.
            Err(error) => TransactionEnd::Unknown(error),
        }
    }

    /// Drops the producer, after an attempt to abort what is open.
    pub fn abandon(self) {
        // An early abort only lets readers proceed sooner; opening the next producer aborts in any case.
        if let Err(error) = self.sender.producer().abort_transaction(ABORT_TIMEOUT) {
            tracing::debug!(%error, "abort failed, left to the next producer");
        }
        // Nothing depends on it, since the next producer fences this one.
        self.close();
    }

    /// Closes the producer on a thread of its own, because it waits for librdkafka's threads. An open transaction stays
    /// open.
    pub fn close(self) {
        std::thread::spawn(move || drop(self));
    }

    fn reports(&self) -> &DeliveryReports {
        self.sender.producer().client().context()
    }

    fn await_deliveries(&self, deadline: Instant) -> Result<(), ClientError> {
        let sent = self.reports().sent();
        self.sender
            .flush(deadline.saturating_duration_since(Instant::now()));
        self.reports().await_all(sent, deadline)
    }

    /// Begins to add offsets to the transaction.
    fn add_offsets(
        &self,
        topic: &str,
        offsets: &[CommitOffset],
        metadata: &Arc<ConsumerGroupMetadata>,
        deadline: Instant,
    ) -> Result<AddingOffsets, ClientError> {
        let attempted = format!("adding the offsets of {topic:?} to the transaction");
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for offset in offsets {
            let mut element = list.add_partition(topic, offset.partition.0);
            element.set_metadata(&offset.metadata);
            element
                .set_offset(Seek::Offset(offset.offset.0))
                .map_err(|error| ClientError::new(attempted.clone(), error))?;
        }
        for offset in offsets {
            leader_epoch::set(&list, topic, offset.partition, offset.leader_epoch);
        }
        let request = {
            let (sender, metadata) = (Arc::clone(&self.sender), Arc::clone(metadata));
            let attempted = attempted.clone();
            move || {
                retry_until(deadline, RETRY_WAIT, |left| {
                    sender
                        .producer()
                        .send_offsets_to_transaction(&list, &metadata, left)
                        .map_err(|error| ClientError::new(attempted.clone(), error))
                })
            }
        };
        // librdkafka looks for the group's coordinator without a timeout, and was seen to do so for minutes
        // after a broker's death. Offsets that are not added by the deadline never will be: the next producer
        // fences this one, whose last handle the abandoned thread may own.
        Ok(AddingOffsets {
            request: Request::start("offsets", request),
            attempted,
        })
    }

    fn commit(&self, deadline: Instant) -> Result<(), ClientError> {
        // While anything is queued rust-rdkafka's commit sleeps for up to 100 ms. All records are
        // acknowledged here, but the last report may not have left the queue yet.
        while self.sender.producer().in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(QUEUE_EMPTY_WAIT);
        }
        // From here on librdkafka logs responses to this transaction's EndTxn only.
        self.reports().end_txn.reset();
        retry_until(deadline, RETRY_WAIT, |left| {
            self.sender
                .producer()
                .commit_transaction(left)
                .map_err(|error| ClientError::new("committing the transaction", error))
        })
    }
}

/// Offsets that are being added to a transaction.
struct AddingOffsets {
    /// None if no thread could be started.
    request: Option<Request<Result<(), ClientError>>>,
    attempted: String,
}

impl AddingOffsets {
    fn finish(self, deadline: Instant) -> Result<(), ClientError> {
        let finished = self.request.and_then(|request| request.finish(deadline));
        finished.unwrap_or_else(|| {
            let late = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
            Err(ClientError::new(self.attempted, late))
        })
    }
}

/// Returns whether a record was not delivered because its transaction had failed before.
fn is_consequence(delivery: &ClientError) -> bool {
    matches!(
        delivery.code(),
        Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
    )
}

/// Maximum wait for the first connection. Afterwards librdkafka goes on by itself.
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Maximum size of records that are not acknowledged yet, in KiB.
const QUEUE_KIB_MAX: u64 = 16 * 1024;
// Safe to repeat: librdkafka resumes the request rather than sending a second one.
/// Wait before a retry. Most retriable errors come after a wait inside librdkafka, but some come at once.
const RETRY_WAIT: Duration = Duration::from_millis(2);
/// Wait before the next attempt to queue a record.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// Wait before the queue of reports is checked again.
const QUEUE_EMPTY_WAIT: Duration = Duration::from_micros(50);
/// Timeout of an abort. A slower one is left to the next producer, which has a timeout of its own.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);
