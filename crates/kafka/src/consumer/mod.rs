//! One membership in a consumer group.
//!
//! Rebalances are not handled inside librdkafka's callback, but queued and handed out by
//! [`Consumer::poll`] like everything else that happens. The group waits until the owner completes them
//! with [`Consumer::accept`] or [`Consumer::give_up`]; until then the membership is valid and offsets can
//! still be committed, so a transaction can end, and a drain can take its time, before a partition goes.

pub mod changelog;
mod commit;
pub mod headers;
pub mod offsets;
mod topic_recreation;

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset as Seek, TopicPartitionList};
use records::{Bounds, Offset, Partition};

use self::offsets::Committed;
use self::topic_recreation::{DEBUG_CONTEXT, Recreated};
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::client::log_bridge;

/// How a process belongs to its group.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Static membership under this id: a restart takes over at once, and a stop keeps the partitions
    /// until the session time-out. `None`: dynamic, a stop hands over at once.
    pub instance_id: Option<String>,
    /// How long the group waits for a heartbeat before the member is out.
    pub session_timeout: Duration,
    /// How often the member tells that it lives; also how soon it hears of a rebalance.
    pub heartbeat_interval: Duration,
    /// How much librdkafka may hold of what it fetched ahead, in KiB.
    pub prefetch_kib_max: u32,
}

/// What [`Consumer::poll`] hands out.
pub enum ConsumerEvent<'a> {
    /// A record of an accepted and started partition.
    Record(BorrowedMessage<'a>),
    /// A new generation of the group. Comes with each one, often with no new partition.
    Assigned {
        /// The partitions that are new to this member.
        partitions: Vec<Partition>,
        /// The membership as of this generation, for the transactions of this assignment. It is taken
        /// here and nowhere else: taken before the first assignment it would fence nothing.
        metadata: ConsumerGroupMetadata,
        /// The id that the coordinator has given to this member. Another one than before tells that the member
        /// was out of the group meanwhile, of which it may not have heard otherwise.
        member_id: String,
    },
    /// Partitions are wanted by another member; they are ours until they are given up.
    Revoked {
        /// Which.
        partitions: Vec<Partition>,
        /// The membership as of this generation: with it a transaction can still end.
        metadata: ConsumerGroupMetadata,
        /// As in [`Self::Assigned`].
        member_id: String,
    },
    /// Partitions may already belong to another member. Nothing may be committed for them.
    Lost {
        /// Which.
        partitions: Vec<Partition>,
    },
}

/// A member of a consumer group, with one topic.
pub struct Consumer {
    inner: BaseConsumer<Queue>,
    topic: String,
    group_id: String,
    /// The next offset of each started partition.
    next: Mutex<HashMap<Partition, Offset>>,
    /// The rebalance that was handed out and is not yet completed: whether it assigns, and what.
    uncompleted: Mutex<Option<(bool, Vec<Partition>)>>,
}

/// A committed offset with its metadata, to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    /// The partition.
    pub partition: Partition,
    /// The first offset that is not yet done.
    pub offset: Offset,
    /// At most 4096 bytes (the broker's default limit), ASCII.
    pub metadata: String,
}

impl Consumer {
    /// Joins the group. Returns at once; the first assignment comes by [`Self::poll`].
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn join(settings: &KafkaSettings, membership: &Membership, topic: &str) -> Result<Self, ClientError> {
        let mut config = settings.client(membership.instance_id.as_deref().unwrap_or(&settings.group_id));
        let debug = log_bridge::debug(&config, DEBUG_CONTEXT);
        config
            .set("debug", debug)
            .set_log_level(RDKafkaLogLevel::Debug)
            .set("group.id", &settings.group_id)
            // KIP-848 ends in a fatal error after a lost membership, where the classic protocol rejoins.
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set(
                "session.timeout.ms",
                membership.session_timeout.as_millis().to_string(),
            )
            .set(
                "heartbeat.interval.ms",
                membership.heartbeat_interval.as_millis().to_string(),
            )
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A lost position is an error that a person resolves, never a silent jump.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            // A batch that the disk or the network has changed is an error, not a gap.
            .set("check.crcs", "true")
            .set(
                "queued.max.messages.kbytes",
                membership.prefetch_kib_max.to_string(),
            )
            .set("queued.min.messages", "20000")
            // A broker with nothing new answers after this; it also bounds how late a resumed partition
            // is fetched again.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "20");
        if let Some(id) = &membership.instance_id {
            config.set("group.instance.id", id);
        }
        let attempted = || format!("joining group {:?} for topic {topic:?}", settings.group_id);
        let inner: BaseConsumer<Queue> = config
            .create_with_context(Queue::of(topic))
            .map_err(|error| ClientError::new(attempted(), error))?;
        inner
            .subscribe(&[topic])
            .map_err(|error| ClientError::new(attempted(), error))?;
        Ok(Self {
            inner,
            topic: topic.to_owned(),
            group_id: settings.group_id.clone(),
            next: Mutex::default(),
            uncompleted: Mutex::default(),
        })
    }

    /// Calls `wake` from a thread of librdkafka whenever something may be there to poll.
    pub fn on_ready(&mut self, wake: impl Fn() + Send + Sync + 'static) {
        self.inner.set_nonempty_callback(wake);
    }

    /// Waits for what happens next, at most `timeout`; zero does not wait.
    ///
    /// # Errors
    /// What librdkafka reports of the brokers and of the membership. [`crate::client::error::ErrorClass::Retriable`]
    /// ones mend themselves and need no more than a line in the log. Also that the topic was deleted and created
    /// again, before any of its new records is handed out.
    pub fn poll(&self, timeout: Duration) -> Result<Option<ConsumerEvent<'_>>, ClientError> {
        if let Some(happening) = self.rebalance() {
            return Ok(Some(happening));
        }
        let polled = self.inner.poll(timeout);
        if self.inner.context().recreated.take() {
            let attempted = format!(
                "going on to read {:?} in group {:?}, which was deleted and created again,",
                self.topic, self.group_id
            );
            return Err(ClientError::new(
                attempted,
                KafkaError::MessageConsumption(RDKafkaErrorCode::OffsetOutOfRange),
            ));
        }
        match polled {
            Some(Ok(record)) => Ok(self.in_turn(&record)?.then_some(ConsumerEvent::Record(record))),
            Some(Err(error)) => {
                let attempted = format!("reading {:?} in group {:?}", self.topic, self.group_id);
                Err(ClientError::new(attempted, self.cause(error)))
            }
            None => Ok(self.rebalance()),
        }
    }

    /// The next rebalance, to be handed out.
    fn rebalance(&self) -> Option<ConsumerEvent<'_>> {
        let queued = self.inner.context().take()?;
        *self.uncompleted() = Some(queued.what());
        Some(queued.into())
    }

    /// Completes [`ConsumerEvent::Assigned`]: takes the partitions, paused.
    ///
    /// # Errors
    /// librdkafka refused; the membership is lost.
    pub fn accept(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.uncompleted().take();
        // With a position of its own: left to itself librdkafka would look for a committed one, and report
        // an error where there is none yet. Nothing is read before `start` sets the true one.
        let list = self.list(partitions);
        let mut from_beginning = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            from_beginning
                .add_partition_offset(&self.topic, partition.0, Seek::Beginning)
                .map_err(|error| self.fault("accepting", partitions, error))?;
        }
        self.inner
            .incremental_assign(&from_beginning)
            .and_then(|()| self.inner.pause(&list))
            .map_err(|error| self.fault("accepting", partitions, error))
    }

    /// Completes [`ConsumerEvent::Revoked`] and [`ConsumerEvent::Lost`]: lets the partitions go.
    ///
    /// # Errors
    /// librdkafka refused; the membership is lost.
    pub fn give_up(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.uncompleted().take();
        self.next().retain(|partition, _| !partitions.contains(partition));
        self.inner
            .incremental_unassign(&self.list(partitions))
            .map_err(|error| self.fault("giving up", partitions, error))
    }

    /// Begins to hand out the records of an accepted partition, from `offset` on.
    ///
    /// # Errors
    /// The position could not be set; the partition stays paused.
    pub fn start(&self, partition: Partition, offset: Offset) -> Result<(), ClientError> {
        self.seek(partition, offset)?;
        self.next().insert(partition, offset);
        self.resume(&[partition])
    }

    /// Stops handing out records of these partitions; what was fetched ahead is dropped.
    ///
    /// # Errors
    /// A partition is not assigned.
    pub fn pause(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.inner
            .pause(&self.list(partitions))
            .map_err(|error| self.fault("pausing", partitions, error))
    }

    /// Goes on where [`Self::pause`] stopped.
    ///
    /// # Errors
    /// A partition is not assigned.
    pub fn resume(&self, partitions: &[Partition]) -> Result<(), ClientError> {
        self.inner
            .resume(&self.list(partitions))
            .map_err(|error| self.fault("resuming", partitions, error))?;
        partitions
            .iter()
            .try_for_each(|partition| self.wake(*partition))
            .map_err(|error| self.fault("resuming", partitions, error))
    }

    /// Lets librdkafka's thread of the partition's broker see at once that there is something to fetch: it sleeps for
    /// up to a second where all its partitions were paused, and is not told that one was resumed, but that one
    /// was sent somewhere: here to where it is. Nobody waits for it.
    fn wake(&self, partition: Partition) -> Result<(), KafkaError> {
        let next = self.next().get(&partition).copied();
        next.map_or(Ok(()), |next| {
            self.inner
                .seek(&self.topic, partition.0, Seek::Offset(next.0), Duration::ZERO)
        })
    }

    /// The group's committed offsets, once no transaction is pending on them. Blocks.
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

    /// The ends of a partition, as far as this consumer may read. Blocks.
    ///
    /// # Errors
    /// The partition's leader did not answer within `timeout`.
    pub fn bounds(&self, partition: Partition, timeout: Duration) -> Result<Bounds, ClientError> {
        offsets::bounds(&self.inner, &self.topic, partition, timeout)
    }

    /// Commits offsets under the current generation, and waits for the coordinator's answer. Blocks for as
    /// long as librdkafka keeps trying, so it belongs in a thread of its own.
    ///
    /// librdkafka stamps a commit with the generation that is current when it is sent, so one of a partition
    /// that was given up could overwrite what its new owner noted. Such a commit is refused here; who commits
    /// must wait for the answer before it gives a partition up.
    ///
    /// # Errors
    /// The coordinator refused at least one partition, or nobody can know.
    pub fn commit_and_wait(&self, commits: &[CommitOffset]) -> Result<(), ClientError> {
        let attempted = |partition: Option<Partition>| {
            let of = partition.map_or(String::new(), |partition| format!("/{partition}"));
            format!(
                "committing offsets of {:?}{of} in group {:?}",
                self.topic, self.group_id
            )
        };
        let mut list = TopicPartitionList::new();
        for commit in commits {
            if !self.next().contains_key(&commit.partition) {
                return Err(ClientError::unavailable(attempted(Some(commit.partition))));
            }
            let mut element = list.add_partition(&self.topic, commit.partition.0);
            element.set_metadata(&commit.metadata);
            element
                .set_offset(Seek::Offset(commit.offset.0))
                .map_err(|error| ClientError::new(attempted(Some(commit.partition)), error))?;
        }
        commit::commit_and_wait(&self.inner, &list)
            .map_err(|refused| ClientError::new(attempted(refused.partition), self.cause(refused.error)))
    }

    /// Leaves the group. Partitions that are still held are given up without a commit.
    pub fn leave(self) {
        drop(self);
    }

    /// Whether a record is the partition's next, or behind it as where markers or compacted records lie
    /// between. librdkafka may go back to the position that a partition was accepted with, when the answer
    /// to its look-up crosses the seek: then it is sent forward again.
    fn in_turn(&self, record: &BorrowedMessage<'_>) -> Result<bool, ClientError> {
        let (partition, offset) = (Partition(record.partition()), Offset(record.offset()));
        match self.next().get_mut(&partition) {
            Some(next) if offset >= *next => {
                *next = offset.next();
                return Ok(true);
            }
            Some(_) => {}
            None => return Ok(false),
        }
        let next = self.next().get(&partition).copied().unwrap_or(offset);
        tracing::warn!(topic = self.topic, %partition, %offset, %next, "the partition went back and is sent forward");
        self.seek(partition, next)?;
        Ok(false)
    }

    fn seek(&self, partition: Partition, offset: Offset) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        let fault = |error| self.fault("setting the position of", &[partition], error);
        list.add_partition_offset(&self.topic, partition.0, Seek::Offset(offset.0))
            .map_err(fault)?;
        let sought = self.inner.seek_partitions(list, SEEK_MAX).map_err(fault)?;
        sought
            .elements()
            .iter()
            .try_for_each(|element| element.error())
            .map_err(fault)
    }

    fn next(&self) -> MutexGuard<'_, HashMap<Partition, Offset>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uncompleted(&self) -> MutexGuard<'_, Option<(bool, Vec<Partition>)>> {
        self.uncompleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self, partitions: &[Partition]) -> TopicPartitionList {
        offsets::list(&self.topic, partitions)
    }

    fn fault(&self, what: &str, partitions: &[Partition], error: KafkaError) -> ClientError {
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.0).collect();
        ClientError::new(
            format!("{what} partitions {numbers:?} of {:?}", self.topic),
            self.cause(error),
        )
    }

    /// Whatever a client is asked for after a fatal error fails by that name alone; this is why it is fatal.
    fn cause(&self, error: KafkaError) -> KafkaError {
        match (error.rdkafka_error_code(), self.inner.client().fatal_error()) {
            (Some(RDKafkaErrorCode::Fatal), Some((code, _))) => KafkaError::MessageConsumptionFatal(code),
            _ => error,
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Closing assigns and revokes once more, when nobody polls for it any longer, and it waits for each
        // rebalance to be completed, for minutes: also for the one that was handed out, and for those that were not.
        self.inner.context().closing.store(true, Ordering::Release);
        let handed_out = self.uncompleted().take();
        let queued = std::iter::from_fn(|| self.inner.context().take()).map(|queued| queued.what());
        for (is_assign, partitions) in handed_out.into_iter().chain(queued) {
            complete(&self.inner, is_assign, &self.list(&partitions));
        }
    }
}

/// Completes a rebalance while the group is being left.
fn complete(consumer: &BaseConsumer<Queue>, is_assign: bool, list: &TopicPartitionList) {
    let completed = if is_assign {
        consumer.incremental_assign(list)
    } else {
        consumer.incremental_unassign(list)
    };
    if let Err(error) = completed {
        tracing::warn!(%error, "a rebalance could not be completed while leaving the group");
    }
}

/// The metadata of a consumer that never joined its group. Kafka takes it within a transaction and fences
/// nothing by it: for the test that shows why [`ConsumerEvent::Assigned`] hands out the member's own.
///
/// # Errors
/// librdkafka refused a setting.
pub fn unjoined_metadata(settings: &KafkaSettings) -> Result<ConsumerGroupMetadata, ClientError> {
    let attempted = "opening a consumer that does not join";
    let consumer: BaseConsumer = settings
        .client("unjoined")
        .set("group.id", &settings.group_id)
        .create()
        .map_err(|error| ClientError::new(attempted, error))?;
    consumer
        .group_metadata()
        .ok_or_else(|| ClientError::unavailable(attempted))
}

/// The id that the group's coordinator has given to this member; empty while it has none.
#[expect(
    unsafe_code,
    reason = "rust-rdkafka keeps what a group metadata object holds to itself"
)]
fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> String {
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as `consumer`; what librdkafka hands out is a C string of ours, which is
    // copied and then given back to it once.
    unsafe {
        let text = rdkafka::bindings::rd_kafka_memberid(client);
        if text.is_null() {
            return String::new();
        }
        let id = CStr::from_ptr(text).to_string_lossy().into_owned();
        rdkafka::bindings::rd_kafka_mem_free(client, text.cast());
        id
    }
}

/// How long librdkafka may take to set a position; it only has to tell a thread of its own.
const SEEK_MAX: Duration = Duration::from_secs(5);

/// What librdkafka's callbacks leave for [`Consumer::poll`]. Its length is bounded by the group, which
/// sends no second rebalance before the first is completed.
struct Queue {
    queued: Mutex<VecDeque<Queued>>,
    closing: AtomicBool,
    recreated: Recreated,
}

enum Queued {
    Assigned(Vec<Partition>, ConsumerGroupMetadata, String),
    Revoked(Vec<Partition>, ConsumerGroupMetadata, String),
    Lost(Vec<Partition>),
}

impl Queue {
    fn of(topic: &str) -> Self {
        Self {
            queued: Mutex::default(),
            closing: AtomicBool::default(),
            recreated: Recreated::of(topic),
        }
    }

    fn put(&self, queued: Queued) {
        self.queued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(queued);
    }

    fn take(&self) -> Option<Queued> {
        self.queued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

impl Queued {
    /// Whether it assigns, and what.
    fn what(&self) -> (bool, Vec<Partition>) {
        match self {
            Self::Assigned(partitions, ..) => (true, partitions.clone()),
            Self::Revoked(partitions, ..) | Self::Lost(partitions) => (false, partitions.clone()),
        }
    }
}

impl From<Queued> for ConsumerEvent<'_> {
    fn from(queued: Queued) -> Self {
        match queued {
            Queued::Assigned(partitions, metadata, member_id) => ConsumerEvent::Assigned {
                partitions,
                metadata,
                member_id,
            },
            Queued::Revoked(partitions, metadata, member_id) => ConsumerEvent::Revoked {
                partitions,
                metadata,
                member_id,
            },
            Queued::Lost(partitions) => ConsumerEvent::Lost { partitions },
        }
    }
}

impl ClientContext for Queue {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.recreated.hear(facility, line);
        log_bridge::log(level, facility, line);
    }
}

impl ConsumerContext for Queue {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<Partition> = list.elements().iter().map(|e| Partition(e.partition())).collect();
        let is_assign = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            complete(consumer, is_assign, list);
            return;
        }
        // In this order: should the member join anew between the two, the id is the new one already, and tells it.
        let metadata = consumer.group_metadata();
        let member_id = member_id(consumer);
        match metadata {
            Some(metadata) if is_assign => self.put(Queued::Assigned(partitions, metadata, member_id)),
            Some(metadata) if !consumer.assignment_lost() => {
                self.put(Queued::Revoked(partitions, metadata, member_id));
            }
            _ if !is_assign => self.put(Queued::Lost(partitions)),
            // Only a consumer without a group has none.
            _ => tracing::error!("an assignment came without group metadata and is not accepted"),
        }
    }
}
