//! The transactional producer of deferrals, and one deferral transaction: copies at the outbox's tail and
//! call notes, together or not at all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kafka::consumer::CommitOffset;
use kafka::error::ErrorClass;
use kafka::producer::RecordSizes;
use kafka::producer::transactional::{TransactionEnd, TransactionTimeouts};
use kafka::{ClientError, OutgoingHeaders, OutgoingRecord, TransactionalProducer};
use pipeline::delivery::{Ambiguity, DeferredCopy};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::{Headers as _, OwnedHeaders};
use records::continuation::{self, Continuation};
use service::failpoint::{fails_at, freeze_at, guard_removed, kill_at};

use crate::config::Config;
use crate::outbox::call_span;
use crate::outbox::pending_call::PendingCall;
use crate::outbox::wall_clock::WallClock;

/// Transactional producer of deferrals. Clones share it.
///
/// Each producer makes one transaction. It is opened for the first deferral, and the next one as soon as a
/// transaction has ended.
#[derive(Clone)]
pub(crate) struct DeferralProducer {
    config: Arc<Config>,
    record_sizes: RecordSizes,
    clock: WallClock,
    state: Arc<Mutex<State>>,
}

enum State {
    Closed,
    Opening,
    /// Opening has failed for good. The error is taken by [`DeferralProducer::take_refusal`].
    Refused(Option<ClientError>),
    Idle(TransactionalProducer),
    InTransaction,
}

/// Result of a deferral.
pub(crate) enum DeferralResult {
    /// Committed: the calls are final at their old positions.
    Committed,
    /// Aborted: nothing of it becomes visible.
    Aborted(ClientError),
    /// Outcome unknown: the transaction may be committed or aborted.
    Unknown(ClientError),
    /// Not attempted: the producer is not open yet, or this program is no member of the group.
    NotStarted,
}

impl DeferralProducer {
    /// Creates the producer without opening it. `record_sizes` includes the size that the outbox accepts.
    pub(crate) fn new(config: &Config, record_sizes: RecordSizes, clock: WallClock) -> Self {
        Self {
            config: Arc::new(config.clone()),
            record_sizes,
            clock,
            state: Arc::new(Mutex::new(State::Closed)),
        }
    }

    fn transactional_id(&self) -> String {
        // Stable over restarts, so that a restarted instance fences and ends what its earlier run left open.
        let (group, instance) = (&self.config.kafka.group_id, &self.config.caller.instance_id);
        format!("{group}-{instance}")
    }

    /// Blocks for up to half of `caller.commit_timeout`.
    fn open(&self) -> Result<TransactionalProducer, ClientError> {
        let commit_timeout = self.config.caller.commit_timeout;
        // Halved: a deferral is the one commit in flight, so sending and ending it must fit into the time
        // after which the delivery treats a commit as late.
        let timeouts = TransactionTimeouts {
            transaction_timeout: commit_timeout,
            commit_timeout: commit_timeout / 2,
        };
        let id = self.transactional_id();
        if fails_at!("deferral-producer-refused") {
            return Err(ClientError::refused(format!(
                "opening the transactional producer {id:?}"
            )));
        }
        let started = Instant::now();
        let producer = TransactionalProducer::open(
            &self.config.kafka,
            &id,
            timeouts,
            self.record_sizes,
            commit_timeout / 2,
        )?;
        tracing::info!(transactional_id = id, took = ?started.elapsed(), "deferral producer opened");
        Ok(producer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves the state valid: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the producer for one transaction, if it is idle.
    pub(crate) fn take(&self) -> Option<TransactionalProducer> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::InTransaction) {
            State::Idle(producer) => Some(producer),
            other @ (State::Closed | State::Opening | State::Refused(_) | State::InTransaction) => {
                *state = other;
                None
            }
        }
    }

    /// Opens the producer on a blocking thread, if it is closed. This ends a transaction that an earlier
    /// producer of this instance has left open; until then the committed offsets of its partitions cannot
    /// be read.
    pub(crate) fn open_if_closed(&self) {
        {
            let mut state = self.state();
            match &*state {
                State::Closed => *state = State::Opening,
                State::Opening | State::Refused(_) | State::Idle(_) | State::InTransaction => return,
            }
        }
        let this = self.clone();
        // Not awaited: whoever needs the producer asks again.
        drop(tokio::task::spawn_blocking(move || this.finish_opening()));
    }

    /// Opens the producer, whatever its state is. Blocks as [`Self::open`].
    fn finish_opening(&self) {
        let opened = self.open();
        *self.state() = match opened {
            Ok(producer) => State::Idle(producer),
            // Each further attempt would be refused, too, and nobody would be told.
            Err(error) if error.class == ErrorClass::Permanent => State::Refused(Some(error)),
            Err(error) => {
                tracing::warn!(%error, "deferral producer not opened, retrying with the next deferral");
                State::Closed
            }
        };
    }

    /// Returns the error by which the producer can never be opened, once.
    pub(crate) fn take_refusal(&self) -> Option<ClientError> {
        match &mut *self.state() {
            State::Refused(error) => error.take(),
            State::Closed | State::Opening | State::Idle(_) | State::InTransaction => None,
        }
    }

    /// Runs one transaction with a producer from [`Self::take`]. Blocks until its end.
    pub(crate) fn defer(
        &self,
        producer: TransactionalProducer,
        copies: &[DeferredCopy<PendingCall>],
        offsets: &[CommitOffset],
        metadata: &Arc<ConsumerGroupMetadata>,
    ) -> DeferralResult {
        let topic = &self.config.topics.pending;
        let group = &self.config.kafka.group_id;
        kill_at!("before-deferral");
        let sent = producer.begin().and_then(|()| {
            copies.iter().try_for_each(|copied| {
                let (key, value, headers) = copied.payload.copy(copied, group, self.clock);
                producer.send(OutgoingRecord {
                    topic,
                    // The call's own partition, so that calls of one key stay with one caller.
                    partition: Some(copied.call.partition),
                    key: Some(key),
                    value: Some(value),
                    headers: Some(headers),
                    at: None,
                })
            })
        });
        if guard_removed!("guard-deferral-atomic") {
            // A test removes the guard: the copies are then committed alone, so a crash now leaves the calls to
            // be made twice.
            let copies_alone = producer.end_without_offsets(|| ());
            kill_at!("before-deferral-end");
            tracing::warn!(?copies_alone, begun = ?producer.begin(), "guard removed");
        }
        let end = match sent {
            Ok(()) => producer.end(topic, offsets, metadata, || {
                kill_at!("before-deferral-end");
                freeze_at!("frozen-before-deferral-end");
            }),
            Err(error) => TransactionEnd::Aborted(error),
        };
        let result = match end {
            TransactionEnd::Committed { .. } => {
                copies
                    .iter()
                    .for_each(|copied| copied.payload.ended(call_span::DEFERRED));
                kill_at!("after-deferral-end");
                if guard_removed!("guard-deferral-epoch") {
                    // A test removes the guard: a late request of this transaction can then join the next one.
                    *self.state() = State::Idle(producer);
                    return DeferralResult::Committed;
                }
                DeferralResult::Committed
            }
            TransactionEnd::CommittedRetireProducer { .. } => DeferralResult::Committed,
            TransactionEnd::Aborted(error) => DeferralResult::Aborted(error),
            TransactionEnd::Unknown(error) => DeferralResult::Unknown(error),
        };
        // Not reused: librdkafka repeats a request whose connection broke, without a word. The first copy may
        // arrive within the next transaction, and would put this one's call notes over those, or end it
        // halfway. The epoch of a new producer fences it.
        producer.abandon();
        *self.state() = State::Closed;
        result
    }
}

impl PendingCall {
    /// Returns key, value and headers of the copy that continues this call at the outbox's tail, for the callers of
    /// this group.
    fn copy(
        &self,
        copied: &DeferredCopy<Self>,
        group: &str,
        clock: WallClock,
    ) -> (&[u8], &[u8], OutgoingHeaders) {
        let before = self.continuation.as_ref();
        // The first position, through any number of deferrals: it identifies the call.
        let call = before.map_or(&self.position, |before| before.first(&self.position));
        let mut continuation = Continuation::new(call.clone(), group.to_owned(), self.seen_at);
        continuation.deferrals = before
            .filter(|before| !before.repeats)
            .map_or(1, |before| before.deferrals.saturating_add(1));
        continuation.first_attempt_at = self.first_attempt_at(&copied.history, clock);
        continuation.attempts = copied.history.attempts;
        continuation.attempts_ambiguous = copied.history.attempts_ambiguous;
        continuation.lookups = copied.lookups;
        continuation.ambiguity = copied.ambiguity.map(|ambiguity| match ambiguity {
            Ambiguity::AmbiguousResponse => continuation::Ambiguity::AmbiguousResponse,
            Ambiguity::Redelivered => continuation::Ambiguity::Redelivered,
        });
        let own = self.headers.as_ref();
        let mut headers = OutgoingHeaders::with_capacity(own.map_or(1, |own| own.count() + 1));
        for header in own.into_iter().flat_map(OwnedHeaders::iter) {
            // One per record: an older continuation would only grow the copy with each deferral.
            if header.key != continuation::CONTINUES {
                headers.add(header.key, header.value);
            }
        }
        headers.add(continuation::CONTINUES, Some(&continuation.to_json()));
        (&self.key, &self.value, headers)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::bindings::rd_kafka_resp_err_t as Code;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::RDKafkaApiKey;

    use super::*;

    /// Opens a producer on a broker that refuses the producer id with this error.
    fn opened_after(refusal: Code) -> DeferralProducer {
        let brokers = MockCluster::new(1).expect("a mock");
        brokers.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
        let mut config = Config::default();
        config.kafka.bootstrap_servers = brokers.bootstrap_servers();
        config.caller.commit_timeout = Duration::from_secs(60);
        let sizes = RecordSizes::of(&[].into(), []);
        let producer = DeferralProducer::new(&config, sizes, WallClock::new(Instant::now()));
        producer.finish_opening();
        producer
    }

    #[test]
    fn refused_producer_is_reported_once() {
        let producer = opened_after(Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
        let refusal = producer.take_refusal().expect("a refusal");
        assert_eq!(refusal.class, ErrorClass::Permanent);
        assert!(producer.take_refusal().is_none() && producer.take().is_none());
    }

    #[test]
    fn producer_is_opened_after_a_transient_error() {
        let producer = opened_after(Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS);
        assert!(producer.take_refusal().is_none());
        assert!(producer.take().is_some());
    }
}
