//! The transactional producer: one object owns everything from `begin` to the transaction's end.
//!
//! ```text
//! open ── begin ── send … ── end ──▶ Committed                 keep the producer
//!                             ├────▶ CommittedRetireProducer            ┐ drop the producer; a new one with the
//!                             ├────▶ Aborted, surely            │ same id ends what is left open
//!                             └────▶ Unknown                    ┘
//! ```
//!
//! After anything but `Committed` the producer is not used again: librdkafka speaks the transaction
//! protocol without KIP-890's epoch bump per transaction, so that a late record of an aborted transaction
//! could join the next one of the same epoch. Opening a new producer bumps the epoch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as Seek, TopicPartitionList};
use records::{Offset, Partition};

use crate::client::config::KafkaSettings;
use crate::client::error::{ClientError, ErrorClass};
use crate::client::log_bridge;
use crate::consumer::CommitOffset;
use crate::producer::end_txn_responses::{DEBUG_CONTEXT, EndAnswers};
use crate::producer::native::{OutgoingHeaders, Record, Sender};
use crate::producer::with_deadline::{self, GIVEN_UP_MAX};

/// A producer with a transactional id, at most one transaction at a time.
pub struct TransactionalProducer {
    inner: Arc<Sender<Deliveries>>,
    limits: Limits,
}

/// How long a transaction and its steps may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After this the broker aborts a transaction by itself (`transaction.timeout.ms`). It bounds how long
    /// a dead owner's transaction holds up its readers.
    pub transaction_timeout: Duration,
    /// How long [`TransactionalProducer::end`] tries before the outcome counts as unknown.
    pub commit_timeout: Duration,
}

/// A record to be sent within the transaction.
pub struct Outgoing<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None` leaves it to the key's hash.
    pub partition: Option<Partition>,
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The value, if any.
    pub value: Option<&'a [u8]>,
    /// The headers, in their order.
    pub headers: Option<OutgoingHeaders>,
    /// Whether [`TransactionEnd::Committed`] shall tell where the last such record of this partition came to lie;
    /// for records with an explicit partition.
    pub tracked: bool,
}

/// How a transaction ended.
#[derive(Debug)]
pub enum TransactionEnd {
    /// All of it is visible, and the offsets with it.
    Committed {
        /// For each partition with tracked records, the offset behind the last of them.
        tracked: HashMap<Partition, Offset>,
    },
    /// Like `Committed`; but a request to end it may still be on its way, and would end the next transaction
    /// of this producer, in the middle.
    CommittedRetireProducer {
        /// As in `Committed`.
        tracked: HashMap<Partition, Offset>,
        /// Why.
        why: String,
    },
    /// None of it will ever be visible.
    Aborted(ClientError),
    /// It may yet be committed or aborted; only the committed offsets will tell.
    Unknown(ClientError),
}

impl TransactionalProducer {
    /// Opens the producer: ends what an earlier one with this id has left open, and fences it.
    ///
    /// # Errors
    /// Kafka did not answer within `timeout` ([`ErrorClass::Retriable`]), or refuses the id; or too many earlier
    /// producers of this process still wait for an answer ([`ErrorClass::Permanent`]).
    pub fn open(
        settings: &KafkaSettings,
        transactional_id: &str,
        limits: Limits,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let fault = |error| {
            ClientError::new(
                format!("opening the transactional producer {transactional_id:?}"),
                error,
            )
        };
        let given_up = with_deadline::given_up();
        if given_up >= GIVEN_UP_MAX {
            return Err(ClientError::refused(format!(
                "opening the transactional producer {transactional_id:?} beside {given_up} earlier ones that wait for \
                 an answer for ever (each holds a thread and connections until this process ends, so it is to be \
                 started again)"
            )));
        }
        let mut config = settings.client(transactional_id);
        let debug = log_bridge::debug(&config, DEBUG_CONTEXT);
        let inner: ThreadedProducer<Deliveries> = config
            .set("debug", debug)
            .set("transactional.id", transactional_id)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // The topic's own limit decides what is too large, not the client's default of 1 MB.
            .set("message.max.bytes", "67108864")
            .set(
                "transaction.timeout.ms",
                limits.transaction_timeout.as_millis().to_string(),
            )
            // Not longer than the transaction: what is delivered later than that is aborted anyhow.
            .set(
                "message.timeout.ms",
                limits.transaction_timeout.as_millis().to_string(),
            )
            // librdkafka waits for the coordinator's answer to the offsets for as long as a request may take, whatever
            // limit it is given: with its default a lost coordinator holds up the program for most of a minute.
            .set(
                "socket.timeout.ms",
                (limits.commit_timeout.as_millis() / 2).max(1_000).to_string(),
            )
            // Records of a transaction gather for this long, so that a request carries many of a partition:
            // librdkafka makes one for each partition, and wakes its thread for each that begins to gather.
            // The end of the transaction flushes, and waits for none of it.
            .set("linger.ms", "20")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072")
            .set_log_level(RDKafkaLogLevel::Debug)
            .create_with_context(Deliveries::default())
            .map_err(fault)?;
        inner.init_transactions(timeout).map_err(fault)?;
        Ok(Self {
            inner: Arc::new(Sender::new(inner)),
            limits,
        })
    }

    /// Begins a transaction. Asks nothing of the brokers yet.
    ///
    /// # Errors
    /// The producer is fenced or otherwise done for.
    pub fn begin(&self) -> Result<(), ClientError> {
        self.deliveries().sent.store(0, Ordering::Release);
        *self.deliveries().lock() = Delivered::default();
        self.inner
            .producer()
            .begin_transaction()
            .map_err(|error| ClientError::new("beginning a transaction", error))
    }

    /// Sends a record within the transaction. Waits, within the transaction's time, while the producer's
    /// queue is full.
    ///
    /// # Errors
    /// The record was not taken; the transaction must not be committed.
    pub fn send(&self, outgoing: Outgoing<'_>) -> Result<(), ClientError> {
        let Outgoing {
            topic,
            partition,
            key,
            value,
            mut headers,
            tracked,
        } = outgoing;
        let record = Record {
            topic,
            partition: partition.map(|partition| partition.0),
            key,
            value,
            opaque: match partition {
                Some(partition) if tracked => usize::try_from(partition.0).unwrap_or(usize::MAX - 1) + 1,
                Some(_) | None => UNTRACKED,
            },
        };
        self.deliveries().sent.fetch_add(1, Ordering::AcqRel);
        let mut full_since = None;
        loop {
            match self.inner.send(record, &mut headers) {
                Ok(()) => return Ok(()),
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull))
                    if full_since.get_or_insert_with(Instant::now).elapsed() < self.limits.commit_timeout =>
                {
                    std::thread::sleep(QUEUE_FULL_WAIT);
                }
                Err(error) => {
                    self.deliveries().sent.fetch_sub(1, Ordering::AcqRel);
                    return Err(ClientError::new(format!("sending a record to {topic:?}"), error));
                }
            }
        }
    }

    /// Ends the transaction: waits until every record is acknowledged, adds the input's offsets, commits.
    ///
    /// `before_commit` runs between the offsets and the commit; tests strike there.
    pub fn end(
        &self,
        topic: &str,
        offsets: &[(Partition, Offset)],
        metadata: &Arc<ConsumerGroupMetadata>,
        before_commit: impl FnOnce(),
    ) -> TransactionEnd {
        let without_metadata = |(partition, offset): &(Partition, Offset)| CommitOffset {
            partition: *partition,
            offset: *offset,
            metadata: String::new(),
        };
        let offsets: Vec<CommitOffset> = offsets.iter().map(without_metadata).collect();
        self.end_with(topic, &offsets, metadata, before_commit)
    }

    /// As [`Self::end`], with the metadata of each offset.
    pub fn end_with(
        &self,
        topic: &str,
        offsets: &[CommitOffset],
        metadata: &Arc<ConsumerGroupMetadata>,
        before_commit: impl FnOnce(),
    ) -> TransactionEnd {
        let deadline = Instant::now() + self.limits.commit_timeout;
        if let Err(fault) = self
            .delivered(deadline)
            .and_then(|()| self.add(topic, offsets, metadata, deadline))
        {
            return TransactionEnd::Aborted(fault);
        }
        before_commit();
        match self.commit(deadline) {
            Ok(()) => {
                let tracked = std::mem::take(&mut self.deliveries().lock().tracked);
                match self.deliveries().end.on_its_way() {
                    None => TransactionEnd::Committed { tracked },
                    Some(why) => TransactionEnd::CommittedRetireProducer { tracked, why },
                }
            }
            // Also where librdkafka asks for an abort: it says itself that the commit may have been taken.
            Err(fault) => TransactionEnd::Unknown(fault),
        }
    }

    /// Aborts what is open, as far as that is quickly done; opening the next producer does it otherwise.
    pub fn abandon(self) {
        if let Err(error) = self.inner.producer().abort_transaction(ABORT_MAX) {
            tracing::debug!(%error, "the transaction is left to the next producer to abort");
        }
        // Closing waits for librdkafka's threads; nothing depends on it, since the next producer fences
        // this one.
        std::thread::spawn(move || drop(self));
    }

    fn deliveries(&self) -> &Deliveries {
        self.inner.producer().client().context()
    }

    fn delivered(&self, deadline: Instant) -> Result<(), ClientError> {
        let sent = self.deliveries().sent.load(Ordering::Acquire);
        self.inner
            .flush(deadline.saturating_duration_since(Instant::now()));
        let mut delivered = self.deliveries().lock();
        while delivered.reported < sent && delivered.failure.is_none() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let attempted = format!(
                    "delivering {} of {sent} records of the transaction",
                    sent - delivered.reported
                );
                return Err(ClientError::new(
                    attempted,
                    KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut),
                ));
            };
            delivered = self
                .deliveries()
                .changed
                .wait_timeout(delivered, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        match delivered.failure.take() {
            Some((attempted, error)) => Err(ClientError::new(attempted, error)),
            None => Ok(()),
        }
    }

    /// With a limit of our own: librdkafka looks for the group's coordinator without any, and has been seen to
    /// do so for minutes after a broker's death. What is not added by the deadline never will be: the
    /// next producer fences this one, whose last handle that thread may hold until it is answered.
    fn add(
        &self,
        topic: &str,
        offsets: &[CommitOffset],
        metadata: &Arc<ConsumerGroupMetadata>,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let attempted = format!("adding the offsets of {topic:?} to the transaction");
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for offset in offsets {
            let mut element = list.add_partition(topic, offset.partition.0);
            element.set_metadata(&offset.metadata);
            element
                .set_offset(Seek::Offset(offset.offset.0))
                .map_err(|error| ClientError::new(attempted.clone(), error))?;
        }
        let asking = {
            let (inner, metadata) = (Arc::clone(&self.inner), Arc::clone(metadata));
            let attempted = attempted.clone();
            move || {
                retry_until(deadline, |left| {
                    inner
                        .producer()
                        .send_offsets_to_transaction(&list, &metadata, left)
                        .map_err(|error| ClientError::new(attempted.clone(), error))
                })
            }
        };
        with_deadline::with_deadline(deadline, "offsets", asking).unwrap_or_else(|| {
            let late = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
            Err(ClientError::new(attempted, late))
        })
    }

    fn commit(&self, deadline: Instant) -> Result<(), ClientError> {
        // With anything in its queue rust-rdkafka's commit sleeps for up to 100 ms. All is delivered, but
        // the last report may not be out of the queue yet.
        while self.inner.producer().in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(QUEUE_EMPTY_WAIT);
        }
        self.deliveries().end.reset();
        retry_until(deadline, |left| {
            self.inner
                .producer()
                .commit_transaction(left)
                .map_err(|error| ClientError::new("committing the transaction", error))
        })
    }
}

/// Makes a request again while its fault is retriable and there is time. librdkafka resumes the request
/// rather than sending a second one.
fn retry_until(
    deadline: Instant,
    request: impl Fn(Duration) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match request(left) {
            Err(fault) if fault.class == ErrorClass::Retriable && !left.is_zero() => {
                std::thread::sleep(RETRY_WAIT.min(left));
            }
            outcome => return outcome,
        }
    }
}

const UNTRACKED: usize = 0;
/// Most retriable errors come after a wait of librdkafka's own; some come at once.
const RETRY_WAIT: Duration = Duration::from_millis(2);
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
const QUEUE_EMPTY_WAIT: Duration = Duration::from_micros(50);
/// An abort that takes longer is left to the next producer, which has a limit of its own.
const ABORT_MAX: Duration = Duration::from_secs(2);

/// What the delivery reports of the open transaction have told.
#[derive(Default)]
struct Deliveries {
    /// Records given to librdkafka. Apart from the rest, so that sending does not contend for the lock.
    sent: AtomicU64,
    state: Mutex<Delivered>,
    changed: Condvar,
    end: EndAnswers,
}

#[derive(Default)]
struct Delivered {
    reported: u64,
    tracked: HashMap<Partition, Offset>,
    failure: Option<(String, KafkaError)>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Delivered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.end.hear(facility, line);
        log_bridge::log(level, facility, line);
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, opaque: usize) {
        let mut delivered = self.lock();
        delivered.reported += 1;
        match report {
            Ok(record) if opaque != UNTRACKED => {
                let behind = Offset(record.offset()).next();
                let last = delivered
                    .tracked
                    .entry(Partition(record.partition()))
                    .or_insert(behind);
                *last = (*last).max(behind);
            }
            Ok(_) => {}
            Err((error, record)) => {
                // The first failure is the cause; those after it are librdkafka's consequence.
                delivered.failure.get_or_insert_with(|| {
                    (
                        format!("delivering a record to {}/{}", record.topic(), record.partition()),
                        error.clone(),
                    )
                });
            }
        }
        if delivered.reported >= self.sent.load(Ordering::Acquire) || delivered.failure.is_some() {
            self.changed.notify_all();
        }
    }
}
