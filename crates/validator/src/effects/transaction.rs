//! Kafka transactions: the records of an order, the commit, and the producer that does both.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use kafka::consumer::CommitOffset;
use kafka::error::{ClientError, ErrorClass};
use kafka::producer::transactional::TransactionEnd;
use kafka::{Consumer, Record, TransactionalProducer};
use pipeline::admission::{Event, NextOffset, SeenAgain, Verdict};
use rdkafka::consumer::ConsumerGroupMetadata;
use records::TopicsNote;
use service::failpoint::{guard_removed, kill_at};

use crate::config::PRODUCER_OPEN_TIMEOUT;
use crate::effects::output_records::{self, InputHeaders};
use crate::effects::{Fence, Shell};
use crate::metrics::End;

impl Shell {
    /// Sends the records that follow from a verdict, within the transaction.
    ///
    /// # Errors
    /// A record was not taken; the transaction must be aborted.
    pub(crate) fn send(
        &mut self,
        input: &Record<'_>,
        headers: &InputHeaders<'_>,
        (verdict, again): (&Verdict, Option<&SeenAgain>),
        begins: bool,
    ) -> Result<(), ClientError> {
        self.metrics.count_verdict(verdict);
        if begins {
            self.begin()?;
        }
        let Some(producer) = &self.producer else {
            return Err(no_producer());
        };
        self.transaction_orders += 1;
        let topics = &self.config.topics;
        // `None` without traces, and if this order's is not recorded.
        let traceparent = self
            .spans
            .as_mut()
            .and_then(|spans| spans.decided(input, headers, verdict));
        if let Some(again) = again {
            let partition = input.partition();
            producer.send_tracked(output_records::seen_again(
                topics,
                partition,
                again,
                &again.entry.encode(),
            ))?;
        }
        match verdict {
            Verdict::Admit { key, entry, recorded } => {
                producer.send(output_records::pending_call(
                    topics,
                    input,
                    (headers, traceparent.as_ref()),
                    key,
                    entry,
                ))?;
                let partition = input.partition();
                // Tracked: its offset becomes the store's checkpoint.
                producer.send_tracked(output_records::change(
                    topics,
                    partition,
                    key,
                    &entry.encode(),
                    *recorded,
                ))?;
                if guard_removed!("guard-store-after-commit") {
                    self.apply_before_commit(partition, key, entry);
                }
            }
            // Nothing is sent, but its offset is committed with the others.
            Verdict::Duplicate { .. } => {}
            Verdict::Refuse(refusal) => {
                tracing::debug!(
                    topic = topics.orders, partition = %input.partition(), offset = %input.offset(),
                    reason = %refusal.reason, detail = refusal.detail, "order refused",
                );
                producer.send(output_records::dead_letter(
                    topics,
                    input,
                    headers,
                    refusal,
                    self.dead_letter_bytes_max,
                ))?;
            }
        }
        Ok(())
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The producer refused; everything must be restored.
    pub(crate) fn begin(&mut self) -> Result<(), ClientError> {
        self.transaction_orders = 0;
        // Whatever ended the last one has ended its spans, too.
        self.end_spans(End::Aborted);
        kill_at!("before-begin");
        self.producer.as_ref().ok_or_else(no_producer)?.begin()
    }

    /// Commits the transaction with its input offsets.
    ///
    /// # Errors
    /// This validator is fenced, or cannot commit until an operator acts.
    pub(super) fn end_transaction(
        &mut self,
        consumer: &Consumer,
        offsets: &[NextOffset],
        fence: &Fence,
    ) -> anyhow::Result<Event<Fence>> {
        let Some(producer) = &self.producer else {
            // Unreachable, as in `send`.
            return Ok(Event::TransactionFailed);
        };
        self.metrics
            .transaction_orders
            .observe(f64::from(self.transaction_orders));
        let started = Instant::now();
        kill_at!("after-produce");
        // The test's fault: metadata of a consumer that never joined, by which Kafka fences nothing.
        let unjoined = if guard_removed!("guard-group-metadata") {
            Some(Arc::new(self.unjoined_metadata()?))
        } else {
            None
        };
        let fence = unjoined.as_ref().unwrap_or(fence);
        let with_note = |next: &NextOffset| CommitOffset {
            partition: next.partition,
            offset: next.offset,
            metadata: TopicsNote {
                // A test removes the guard: the changelog is then cut where nobody is told that keys are forgotten.
                forgotten: next.forgotten.filter(|_| !guard_removed!("guard-forgotten-note")),
                ..self.note.clone()
            }
            .encode(),
            // A test removes the guard: the orders of a log that has lost its end and has grown again are then
            // skipped up to the committed offset.
            leader_epoch: consumer
                .leader_epoch(next.partition, next.offset)
                .filter(|_| !guard_removed!("guard-leader-epoch")),
        };
        let offsets: Vec<CommitOffset> = offsets.iter().map(with_note).collect();
        let ended = producer.end(&self.config.topics.orders, &offsets, fence, || {
            kill_at!("after-offsets");
            kill_at!("before-end");
        });
        self.metrics
            .transaction_end_seconds
            .observe(started.elapsed().as_secs_f64());
        self.end_spans(match &ended {
            TransactionEnd::Committed { .. } | TransactionEnd::CommittedRetireProducer { .. } => {
                End::Committed
            }
            TransactionEnd::Aborted(_) => End::Aborted,
            TransactionEnd::Unknown(_) => End::Unknown,
        });
        match ended {
            TransactionEnd::Committed { tracked } => {
                kill_at!("after-end");
                self.metrics.transaction_ended(End::Committed);
                Ok(Event::Committed(tracked))
            }
            TransactionEnd::CommittedRetireProducer { tracked, why } => {
                self.metrics.transaction_ended(End::Committed);
                if guard_removed!("guard-end-txn-in-flight") {
                    return Ok(Event::Committed(tracked));
                }
                // That request could commit the producer's next transaction halfway.
                tracing::warn!(
                    why,
                    "transaction committed with a commit request still in flight, opening a new producer"
                );
                Ok(Event::CommittedRetireProducer(tracked))
            }
            TransactionEnd::Aborted(error) => {
                self.metrics.transaction_ended(End::Aborted);
                failed(error, "transaction aborted, reading its orders again")
            }
            TransactionEnd::Unknown(error) => {
                self.metrics.transaction_ended(End::Unknown);
                failed(
                    error,
                    "transaction outcome unknown, reading the committed offsets again",
                )
            }
        }
    }

    /// Ends the spans of the orders in the transaction, if there are any.
    pub(super) fn end_spans(&mut self, end: End) {
        if let Some(spans) = &mut self.spans {
            spans.ended(end);
        }
    }

    /// Opens the transactional producer, which fences an earlier one and ends its open transaction.
    ///
    /// # Errors
    /// Kafka refuses the transactional id.
    pub(super) fn open_producer(&mut self) -> anyhow::Result<Event<Fence>> {
        let id = self.config.transactional_id();
        let limits = self.config.transaction_timeouts();
        let sizes = self.record_sizes;
        match TransactionalProducer::open(&self.config.kafka, &id, limits, sizes, PRODUCER_OPEN_TIMEOUT) {
            Ok(producer) => {
                self.producer = Some(producer);
                tracing::info!(transactional_id = id, "transactional producer opened");
                Ok(Event::ProducerOpened)
            }
            Err(error) if error.class == ErrorClass::Permanent => Err(error.into()),
            // Without a limit on retries: until it is open nothing is processed, and the admission backs off.
            Err(error) => {
                tracing::warn!(%error, transactional_id = id, "transactional producer not opened, retrying");
                Ok(Event::ProducerFailed)
            }
        }
    }

    fn unjoined_metadata(&self) -> anyhow::Result<ConsumerGroupMetadata> {
        kafka::consumer::unjoined_metadata(&self.config.kafka)
            .context("making the metadata of a consumer that never joined")
    }
}

// Nothing is admitted without a producer. Should it happen, the transaction fails and everything is restored.
fn no_producer() -> ClientError {
    ClientError::unavailable("sending a record without a producer")
}

fn failed(error: ClientError, consequence: &str) -> anyhow::Result<Event<Fence>> {
    match error.class {
        // The instance id is another member's, so opening a new producer would fence that one in turn.
        ErrorClass::Fenced => return Err(error.into()),
        ErrorClass::Permanent => {
            bail!(
                "{error}; nothing of this transaction is committed and the validator stops, operator action \
                 required"
            )
        }
        ErrorClass::Retriable | ErrorClass::Abortable | ErrorClass::Fatal => {}
    }
    tracing::warn!(%error, "{consequence}");
    Ok(Event::TransactionFailed)
}
