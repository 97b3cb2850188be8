//! Deferrals go to Kafka, off the loop: copies and notes in one transaction, and what it came to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kafka::consumer::CommitOffset;
use kafka::fault::Class;
use kafka::transaction::{Ended, Limits, Outgoing};
use kafka::{Fault, TransactionalProducer};
use pipeline::delivery::{Commit, CommitResult, Copied};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::types::RDKafkaErrorCode;
use records::Partition;
use service::failpoint::kill_at;

use crate::arrived::Arrived;
use crate::committing::offset_of;
use crate::config::Config;
use crate::ends::Calendar;
use crate::job::Job;
use crate::shell::Shell;

/// Where the transactional producer is while it is not at work. It is opened for the first deferral, and again
/// after each transaction that was not committed.
#[derive(Clone)]
pub(crate) struct Deferrals {
    config: Arc<Config>,
    calendar: Calendar,
    idle: Arc<Mutex<Option<TransactionalProducer>>>,
}

/// What a deferral came to.
pub(crate) enum Deferred {
    /// Its calls are final at their places.
    Done,
    /// None of it will ever be visible.
    NotDone(Fault),
    /// Nobody can know.
    Unknown(Fault),
    /// There was no membership to do it with.
    NoMembership,
}

impl Deferrals {
    pub(crate) fn new(config: &Config, calendar: Calendar) -> Self {
        Self {
            config: Arc::new(config.clone()),
            calendar,
            idle: Arc::default(),
        }
    }

    /// The producer's identity, stable over restarts: a new life of this instance ends what the former one has
    /// left open.
    fn transactional_id(&self) -> String {
        let (group, instance) = (&self.config.kafka.group_id, &self.config.caller.instance_id);
        format!("{group}-{instance}")
    }

    /// Blocks for as long as a commit may take, in all.
    fn open(&self) -> Result<TransactionalProducer, Fault> {
        let commit_timeout = self.config.caller.commit_timeout;
        let limits = Limits {
            transaction_max: commit_timeout,
            end_max: commit_timeout / 2,
        };
        let id = self.transactional_id();
        let producer = TransactionalProducer::open(&self.config.kafka, &id, limits, commit_timeout / 2)?;
        tracing::info!(
            transactional_id = id,
            "transactional producer opened, for deferrals"
        );
        Ok(producer)
    }

    fn take(&self) -> Option<TransactionalProducer> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, producer: TransactionalProducer) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(producer);
    }

    /// Opens the producer, if there is none, and so ends what an earlier one of this instance has left open:
    /// nobody reads the notes of its partitions before. Blocks.
    pub(crate) fn end_leftovers(&self) {
        let producer = match self.take() {
            Some(producer) => Ok(producer),
            None => self.open(),
        };
        match producer {
            Ok(producer) => self.put(producer),
            Err(error) => {
                tracing::warn!(%error, "the transactional producer is tried again when it is wanted");
            }
        }
    }

    fn defer(
        &self,
        copies: &[(Partition, Copied<Job>)],
        offsets: &[CommitOffset],
        metadata: &Arc<ConsumerGroupMetadata>,
        seconds: &mut Duration,
    ) -> Deferred {
        let topic = &self.config.topics.pending;
        let producer = match self.take().map_or_else(|| self.open(), Ok) {
            Ok(producer) => producer,
            Err(fault) => return Deferred::NotDone(fault),
        };
        let began = Instant::now();
        kill_at!("before-deferral");
        let sent = producer.begin().and_then(|()| {
            copies.iter().try_for_each(|(partition, copied)| {
                let (key, value, headers) = copied.payload.copy(copied, self.calendar);
                producer.send(Outgoing {
                    topic,
                    partition: Some(*partition),
                    key: Some(key),
                    value: Some(value),
                    headers: Some(headers),
                    tracked: false,
                })
            })
        });
        let ended = match sent {
            Ok(()) => producer.end_with(topic, offsets, metadata, || kill_at!("before-deferral-end")),
            Err(fault) => Ended::Aborted(fault),
        };
        *seconds = began.elapsed();
        let deferred = match ended {
            Ended::Committed { .. } => {
                kill_at!("after-deferral-end");
                self.put(producer);
                return Deferred::Done;
            }
            Ended::CommittedLastly { .. } => Deferred::Done,
            Ended::Aborted(fault) => Deferred::NotDone(fault),
            Ended::Unknown(fault) => Deferred::Unknown(fault),
        };
        producer.abandon();
        deferred
    }
}

impl Shell {
    /// Off the loop, because transactions block. It is the one commit in flight.
    pub(crate) fn defer(&mut self, copies: Vec<Copied<Job>>, commits: &[Commit]) {
        self.commits_sent += 1;
        let number = self.commits_sent;
        for copied in &copies {
            tracing::warn!(
                key = %copied.payload.key_text(), position = %copied.payload.position,
                attempts = copied.history.attempts, doubt = copied.doubt.map(|doubt| doubt.as_str()),
                "call is deferred to the end of the outbox, so that it does not hold up its partition"
            );
        }
        let offsets: Vec<CommitOffset> = commits.iter().map(offset_of).collect();
        let (deferrals, inbox) = (self.deferrals.clone(), self.inbox.clone());
        let metadata = self.group_metadata.clone();
        tokio::task::spawn_blocking(move || {
            let mut took = Duration::ZERO;
            let copies: Vec<(Partition, Copied<Job>)> = copies
                .into_iter()
                .map(|copied| (copied.call.partition, copied))
                .collect();
            let deferred = match &metadata {
                Some(metadata) => deferrals.defer(&copies, &offsets, metadata, &mut took),
                None => Deferred::NoMembership,
            };
            let is_done = matches!(deferred, Deferred::Done);
            // The loop is gone only when the program ends.
            let _ = inbox.send(Arrived::Deferred {
                number,
                deferred,
                calls: copies.len(),
                took,
            });
            if !is_done {
                // Until it has ended, nobody reads the notes of these partitions.
                deferrals.end_leftovers();
            }
        });
    }

    /// A deferral has come to something.
    ///
    /// # Errors
    /// Another process has taken our place.
    pub(crate) fn deferred(
        &self,
        number: u64,
        deferred: Deferred,
        calls: usize,
        took: Duration,
    ) -> anyhow::Result<Option<CommitResult>> {
        if number != self.commits_sent {
            // Of an earlier membership, which nobody waits for any more.
            return Ok(None);
        }
        let (result, label) = match deferred {
            Deferred::Done => {
                kill_at!("after-deferral");
                (CommitResult::Done, "done")
            }
            Deferred::NoMembership => (CommitResult::NotDone, "not-done"),
            Deferred::NotDone(fault) if fault.class == Class::Replaced => return Err(fault.into()),
            Deferred::NotDone(fault) => {
                let is_fenced = fault.code() == Some(RDKafkaErrorCode::UnknownMemberId);
                match fault.class {
                    Class::Refused => tracing::error!(
                        error = %fault,
                        "calls cannot be deferred, and are tried again where they are; the caller needs the right to \
                         write to the outbox and to use its transactional id"
                    ),
                    _ => tracing::warn!(error = %fault, "calls were not deferred; they are tried again"),
                }
                match is_fenced {
                    true => (CommitResult::Fenced, "fenced"),
                    false => (CommitResult::NotDone, "not-done"),
                }
            }
            Deferred::Unknown(fault) => {
                tracing::warn!(error = %fault, "whether calls were deferred is unknown; Kafka is asked");
                (CommitResult::Unknown, "unknown")
            }
        };
        self.metrics.deferred(label, calls, took);
        Ok(Some(result))
    }
}
