//! The transactional producer of deferrals, and one transaction of it: copies and notes together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kafka::consumer::CommitOffset;
use kafka::transaction::{Limits, Outgoing, TransactionEnd};
use kafka::{ClientError, TransactionalProducer};
use pipeline::delivery::DeferredCopy;
use rdkafka::consumer::ConsumerGroupMetadata;
use service::failpoint::{freeze_at, guard_removed, kill_at};

use crate::config::Config;
use crate::outbox::pending_call::Job;
use crate::outbox::terminal_records::Calendar;

/// The transactional producer. It is opened when the first deferral is wanted, and again after each transaction
/// that was not committed; no commit waits for that.
#[derive(Clone)]
pub(crate) struct Deferrals {
    config: Arc<Config>,
    calendar: Calendar,
    state: Arc<Mutex<State>>,
}

/// Where the producer is.
enum State {
    Closed,
    Opening,
    Idle(TransactionalProducer),
    AtWork,
}

/// What a deferral came to.
pub(crate) enum Deferred {
    /// Its calls are final at their places.
    Done,
    /// None of it will ever be visible.
    NotDone(ClientError),
    /// Nobody can know.
    Unknown(ClientError),
    /// There was no producer yet, or no membership, to do it with.
    PreflightError,
}

impl Deferrals {
    pub(crate) fn new(config: &Config, calendar: Calendar) -> Self {
        Self {
            config: Arc::new(config.clone()),
            calendar,
            state: Arc::new(Mutex::new(State::Closed)),
        }
    }

    /// The producer's identity, stable over restarts: a new life of this instance ends what the former one has
    /// left open.
    fn transactional_id(&self) -> String {
        let (group, instance) = (&self.config.kafka.group_id, &self.config.caller.instance_id);
        format!("{group}-{instance}")
    }

    /// Blocks for as long as a commit may take, in all.
    fn open(&self) -> Result<TransactionalProducer, ClientError> {
        let commit_timeout = self.config.caller.commit_timeout;
        let limits = Limits {
            transaction_timeout: commit_timeout,
            commit_timeout: commit_timeout / 2,
        };
        let id = self.transactional_id();
        let producer = TransactionalProducer::open(&self.config.kafka, &id, limits, commit_timeout / 2)?;
        tracing::info!(
            transactional_id = id,
            "transactional producer opened, for deferrals"
        );
        Ok(producer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer, if it is idle.
    pub(crate) fn take(&self) -> Option<TransactionalProducer> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::AtWork) {
            State::Idle(producer) => Some(producer),
            other @ (State::Closed | State::Opening | State::AtWork) => {
                *state = other;
                None
            }
        }
    }

    /// Opens the producer, if it is closed, and so ends what an earlier one of this instance has left open: nobody
    /// reads the notes of its partitions before. Off the loop.
    pub(crate) fn open_if_closed(&self) {
        {
            let mut state = self.state();
            match &*state {
                State::Closed => *state = State::Opening,
                State::Opening | State::Idle(_) | State::AtWork => return,
            }
        }
        let deferrals = self.clone();
        drop(tokio::task::spawn_blocking(move || {
            let opened = deferrals.open();
            *deferrals.state() = match opened {
                Ok(producer) => State::Idle(producer),
                Err(error) => {
                    tracing::warn!(%error, "the transactional producer is tried again when it is wanted");
                    State::Closed
                }
            };
        }));
    }

    /// Blocks until the transaction has come to something.
    pub(crate) fn defer(
        &self,
        producer: TransactionalProducer,
        copies: &[DeferredCopy<Job>],
        offsets: &[CommitOffset],
        metadata: &Arc<ConsumerGroupMetadata>,
    ) -> Deferred {
        let topic = &self.config.topics.pending;
        kill_at!("before-deferral");
        let sent = producer.begin().and_then(|()| {
            copies.iter().try_for_each(|copied| {
                let (key, value, headers) = copied.payload.copy(copied, self.calendar);
                producer.send(Outgoing {
                    topic,
                    partition: Some(copied.call.partition),
                    key: Some(key),
                    value: Some(value),
                    headers: Some(headers),
                    tracked: false,
                })
            })
        });
        if guard_removed!("guard-deferral-together") {
            // The copies alone; whoever dies now leaves the calls to be made twice.
            let copies_alone = producer.end_with(topic, &[], metadata, || ());
            kill_at!("before-deferral-end");
            tracing::warn!(?copies_alone, begun = ?producer.begin(), "a guard is taken out");
        }
        let ended = match sent {
            Ok(()) => producer.end_with(topic, offsets, metadata, || {
                kill_at!("before-deferral-end");
                freeze_at!("frozen-before-deferral-end");
            }),
            Err(fault) => TransactionEnd::Aborted(fault),
        };
        let deferred = match ended {
            TransactionEnd::Committed { .. } => {
                kill_at!("after-deferral-end");
                *self.state() = State::Idle(producer);
                return Deferred::Done;
            }
            TransactionEnd::CommittedRetireProducer { .. } => Deferred::Done,
            TransactionEnd::Aborted(fault) => Deferred::NotDone(fault),
            TransactionEnd::Unknown(fault) => Deferred::Unknown(fault),
        };
        producer.abandon();
        *self.state() = State::Closed;
        deferred
    }
}
