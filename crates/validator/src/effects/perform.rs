//! What the state machine asks for, done: one short method per action.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kafka::error::{ClientError, ErrorClass};
use kafka::transaction::TransactionEnd;
use kafka::{Consumer, TransactionalProducer};
use pipeline::admission::{Action, Admitted, Event, Offsets, Verdict};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::{BorrowedMessage, Message};
use records::{Entry, IdempotencyKey, Offset, Partition, Timestamp};
use service::failpoint::{guard_removed, kill_at};
use store::{Change, StateDirectory, Store};

use crate::config::Config;
use crate::effects::output_records::{self as outgoing, InputHeaders};
use crate::metrics::{End, Metrics};
use crate::restore::Restorers;

/// What a transaction is bound to a membership by.
pub(crate) type Bound = Arc<ConsumerGroupMetadata>;

/// Everything that actions act on, but for the consumer, whose records are borrowed meanwhile.
pub(crate) struct Shell {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) directory: Arc<StateDirectory>,
    pub(crate) stores: BTreeMap<Partition, Box<Store>>,
    pub(crate) restorers: Restorers,
    pub(crate) producer: Option<TransactionalProducer>,
    pub(crate) transaction_orders: u32,
    pub(crate) left: bool,
}

impl Shell {
    /// Does an action; what comes of it comes back as an event.
    ///
    /// # Errors
    /// The program cannot go on.
    pub(crate) fn perform(
        &mut self,
        consumer: &Consumer,
        action: Action<Bound>,
    ) -> anyhow::Result<Option<Event<Bound>>> {
        match action {
            Action::Accept(partitions) => consumer.accept(&partitions)?,
            Action::Restore(partition, token) => {
                let store = self.stores.remove(&partition);
                self.restorers.begin(partition, token, store);
            }
            Action::CancelRestore(partition) => self.restorers.cancel(partition),
            Action::Start(partition, offset) => {
                if let Err(fault) = consumer.start(partition, offset) {
                    // librdkafka has stopped it meanwhile, as when its topic is being deleted.
                    tracing::warn!(error = %fault, "the partition cannot be started yet, and is looked at anew");
                    return Ok(Some(Event::Failed));
                }
            }
            Action::Pause(partitions) => consumer.pause(&partitions)?,
            Action::End(offsets, membership) => return self.end(&offsets, &membership).map(Some),
            Action::Apply(partition, admitted, checkpoint) => {
                return Ok(self.apply(partition, admitted, checkpoint));
            }
            Action::Abandon => {
                if let Some(producer) = self.producer.take() {
                    producer.abandon();
                }
            }
            Action::OpenProducer => return self.open_producer().map(Some),
            Action::Close(partition) => self.close(partition),
            Action::Discard(partition) => self.discard(partition),
            Action::GiveUp(partitions) => {
                kill_at!("before-give-up");
                consumer.give_up(&partitions)?;
            }
            Action::Leave => self.left = true,
        }
        Ok(None)
    }

    /// Sends the records of a decided input record within the transaction.
    pub(crate) fn send(
        &mut self,
        input: &BorrowedMessage<'_>,
        headers: &InputHeaders<'_>,
        verdict: &Verdict,
        begins: bool,
    ) -> Result<(), ClientError> {
        self.metrics.count(verdict);
        self.transaction_orders = if begins { 1 } else { self.transaction_orders + 1 };
        let Some(producer) = &self.producer else {
            // The machine admits nothing without a producer; should it, the transaction fails and is
            // resolved like any other.
            return Err(ClientError::unavailable("sending a record without a producer"));
        };
        if begins {
            kill_at!("before-begin");
            producer.begin()?;
        }
        let topics = &self.config.topics;
        match verdict {
            Verdict::Admit { key, entry } => {
                producer.send(outgoing::pending(topics, input, headers, key, entry))?;
                let partition = Partition(input.partition());
                producer.send(outgoing::change(topics, partition, key, &entry.encode()))?;
                if guard_removed!("guard-store-after-commit") {
                    self.apply_early(partition, key, entry);
                }
            }
            Verdict::Duplicate { .. } => {}
            Verdict::Refuse(refusal) => {
                tracing::debug!(
                    topic = input.topic(), partition = input.partition(), offset = input.offset(),
                    reason = %refusal.reason, detail = refusal.detail, "order refused",
                );
                producer.send(outgoing::dead_letter(
                    topics,
                    input,
                    headers,
                    refusal,
                    Timestamp::now(),
                ))?;
            }
        }
        Ok(())
    }

    /// Makes durable what a store has taken in since the last time.
    pub(crate) fn persist(&mut self, partition: Partition) -> Option<Event<Bound>> {
        let persisted = self
            .stores
            .get_mut(&partition)
            .map_or(Ok(()), |store| store.persist());
        self.store_event(partition, persisted)
    }

    fn end(
        &mut self,
        offsets: &Offsets,
        membership: &Arc<ConsumerGroupMetadata>,
    ) -> anyhow::Result<Event<Bound>> {
        let Some(producer) = &self.producer else {
            return Ok(Event::Failed);
        };
        self.metrics
            .transaction_orders
            .observe(f64::from(self.transaction_orders));
        let began = Instant::now();
        kill_at!("after-produce");
        let unjoined = if guard_removed!("guard-group-metadata") {
            Some(Arc::new(self.unjoined_membership()?))
        } else {
            None
        };
        let membership = unjoined.as_ref().unwrap_or(membership);
        let ended = producer.end(&self.config.topics.orders, offsets, membership, || {
            kill_at!("after-offsets");
            kill_at!("before-end");
        });
        self.metrics
            .transaction_end_seconds
            .observe(began.elapsed().as_secs_f64());
        match ended {
            TransactionEnd::Committed { tracked } => {
                kill_at!("after-end");
                self.metrics.ended(End::Committed);
                Ok(Event::Committed(tracked))
            }
            TransactionEnd::CommittedRetireProducer { tracked, why } => {
                self.metrics.ended(End::Committed);
                if guard_removed!("guard-end-on-its-way") {
                    return Ok(Event::Committed(tracked));
                }
                tracing::warn!(
                    why,
                    "the transaction is committed, and a request to commit it may still be on its way; so the next one                      gets a new producer",
                );
                Ok(Event::CommittedRetireProducer(tracked))
            }
            TransactionEnd::Aborted(fault) => {
                self.metrics.ended(End::Aborted);
                self.failed(fault, "the transaction is aborted, and its orders are read again")
            }
            TransactionEnd::Unknown(fault) => {
                self.metrics.ended(End::Unknown);
                self.failed(
                    fault,
                    "whether the transaction is committed is unknown; Kafka is asked",
                )
            }
        }
    }

    fn failed(&self, fault: ClientError, meaning: &str) -> anyhow::Result<Event<Bound>> {
        match fault.class {
            ErrorClass::Fenced => return Err(fault.into()),
            ErrorClass::Permanent => {
                bail!("{fault}; nothing of this transaction is committed, and the validator cannot go on")
            }
            ErrorClass::Retriable | ErrorClass::Abortable | ErrorClass::Fatal => {}
        }
        tracing::warn!(error = %fault, "{meaning}");
        Ok(Event::Failed)
    }

    fn apply(
        &mut self,
        partition: Partition,
        admitted: Admitted,
        checkpoint: Offset,
    ) -> Option<Event<Bound>> {
        kill_at!("before-store");
        let Some(store) = self.stores.get_mut(&partition) else {
            // It would lack these keys.
            return Some(Event::StoreFailed(partition));
        };
        let applied = store.admit(admitted, checkpoint);
        kill_at!("after-store");
        self.store_event(partition, applied)
    }

    /// Takes G1's guard away, for the test that shows what it is for: an order is in the store before
    /// Kafka has committed it.
    fn apply_early(&mut self, partition: Partition, key: &IdempotencyKey, entry: &Entry) {
        if let Some(store) = self.stores.get_mut(&partition) {
            let checkpoint = store.checkpoint().unwrap_or(Offset(0));
            let entry = entry.encode();
            let applied = store.apply(
                &mut [Change {
                    key: key.as_bytes(),
                    entry: Some(&entry),
                }],
                checkpoint,
            );
            if let Err(error) = applied.and_then(|()| store.persist()) {
                tracing::error!(%error, "the early write failed");
            }
        }
    }

    /// Takes another guard away: the metadata of a member that never joined, which fences nothing.
    fn unjoined_membership(&self) -> anyhow::Result<ConsumerGroupMetadata> {
        kafka::consumer::unjoined_metadata(&self.config.kafka).context("making the metadata of no member")
    }

    fn store_event(
        &mut self,
        partition: Partition,
        outcome: Result<(), store::StoreError>,
    ) -> Option<Event<Bound>> {
        let error = outcome.err()?;
        tracing::error!(%partition, %error, "the store failed and is rebuilt from the changelog");
        Some(Event::StoreFailed(partition))
    }

    fn open_producer(&mut self) -> anyhow::Result<Event<Bound>> {
        let id = self.config.transactional_id();
        let limits = self.config.transaction_limits();
        match TransactionalProducer::open(&self.config.kafka, &id, limits, OPEN_MAX) {
            Ok(producer) => {
                self.producer = Some(producer);
                tracing::info!(transactional_id = id, "transactional producer opened");
                Ok(Event::ProducerOpened)
            }
            Err(fault) if fault.class == ErrorClass::Permanent => Err(fault.into()),
            Err(fault) => {
                tracing::warn!(error = %fault, "the transactional producer is tried again");
                Ok(Event::ProducerFailed)
            }
        }
    }

    fn close(&mut self, partition: Partition) {
        if let Some(mut store) = self.stores.remove(&partition)
            && let Err(error) = store.persist()
        {
            // What was not made durable is read from the changelog by the next owner.
            tracing::warn!(%partition, %error, "the store was closed without its last orders");
        }
    }

    fn discard(&mut self, partition: Partition) {
        drop(self.stores.remove(&partition));
        self.metrics.stores_rebuilt.inc();
        let path = self.directory.store(partition);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::error!(%partition, path = %path.display(), %error, "the failed store cannot be removed");
        }
    }
}

/// How long one try to open the producer may take; meanwhile nothing is polled.
const OPEN_MAX: Duration = Duration::from_secs(15);
