//! Polling of the consumer: changes of the assignment as events, and records through the admission.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use kafka::error::{ClientError, ErrorClass};
use kafka::{Consumer, ConsumerEvent, Record, RecordBatch};
use pipeline::admission::{AdmitResult, Event, Input, Membership, StoreFailure};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::Message as _;

use crate::effects::Fence;
use crate::effects::stores::report_failure;
use crate::run::{Loop, Time};

/// Interval at which the consumer is asked for transaction markers behind the last record. Monitoring asks for the group's
/// lag more rarely.
const MARKERS_INTERVAL: Duration = Duration::from_secs(1);

/// Look-ups of keys of which one is measured.
const MEASURED_EVERY: u64 = 1024;

impl Loop<'_> {
    /// Handles the next event that is no record, if there is one.
    ///
    /// # Errors
    /// This validator is fenced, or the program cannot continue.
    pub(super) fn poll(&mut self, consumer: &Consumer) -> anyhow::Result<()> {
        let event = match consumer.poll(Duration::ZERO) {
            Ok(Some(ConsumerEvent::Assigned {
                partitions,
                metadata,
                member_id,
            })) => {
                // Before the partitions are accepted: nothing may be decided by the old partition count.
                self.check_growth(&partitions)?;
                tracing::info!(?partitions, member_id, "partitions assigned");
                self.is_assigned = true;
                self.member.set_id(&member_id);
                Event::Assigned(partitions, membership(member_id, metadata))
            }
            Ok(Some(ConsumerEvent::Revoked {
                partitions,
                metadata,
                member_id,
            })) => {
                tracing::info!(?partitions, member_id, "partitions revoked");
                self.member.set_id(&member_id);
                Event::Revoked(partitions, membership(member_id, metadata))
            }
            Ok(Some(ConsumerEvent::Lost { partitions })) => {
                tracing::warn!(?partitions, "partitions lost: session expired");
                Event::Lost(partitions)
            }
            Ok(Some(ConsumerEvent::Record(record))) => {
                // All partitions have another queue, so it is unreachable. Should it happen, each record is read again.
                tracing::error!(
                    partition = record.partition(),
                    offset = record.offset(),
                    "record delivered on the queue of the events, reading the orders again"
                );
                Event::TransactionFailed
            }
            Ok(None) => return Ok(()),
            Err(error) => return self.poll_failed(consumer, error),
        };
        self.apply(consumer, event)
    }

    /// Takes in that the partitions' positions have passed transaction markers, if it is time to look. No record that was
    /// fetched is left to be decided.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(super) fn pass_markers(&mut self, consumer: &Consumer, now: Instant) -> anyhow::Result<()> {
        if now < self.markers_due {
            return Ok(());
        }
        self.markers_due = now + MARKERS_INTERVAL;
        for (partition, next) in consumer.passed_markers() {
            if self.admission.reached_end(partition, next, now)
                && let Err(error) = self.shell.begin()
            {
                tracing::warn!(%error, "transaction not begun, restoring all partitions");
                return self.apply(consumer, Event::TransactionFailed);
            }
        }
        Ok(())
    }

    /// Takes the records that have come, and waits at most this long for the first one.
    ///
    /// # Errors
    /// As those of [`Self::poll`].
    pub(super) fn take<'c>(
        &mut self,
        consumer: &'c Consumer,
        wait: Duration,
    ) -> anyhow::Result<Option<RecordBatch<'c>>> {
        match consumer.take_records(wait) {
            Ok(records) if records.is_empty() => Ok(None),
            Ok(records) => Ok(Some(records)),
            Err(error) => self.poll_failed(consumer, error).map(|()| None),
        }
    }

    /// Handles the next record of a batch. Returns `false` after the last one.
    ///
    /// # Errors
    /// As those of [`Self::poll`].
    pub(super) fn next_record(
        &mut self,
        consumer: &Consumer,
        records: &mut RecordBatch<'_>,
        time: Time,
    ) -> anyhow::Result<bool> {
        match records.next_record() {
            Ok(Some(record)) => self.record(consumer, &record, time)?,
            Ok(None) => return Ok(false),
            // Those behind it are read all the same, or come again.
            Err(error) => self.poll_failed(consumer, error)?,
        }
        Ok(true)
    }

    fn poll_failed(&mut self, consumer: &Consumer, error: ClientError) -> anyhow::Result<()> {
        if !error.is_out_of_range() {
            return poll_failed(error);
        }
        // librdkafka does not say of which partition. So all are restored: each restore compares its offset with the
        // log, and only a partition that has lost orders halts.
        tracing::error!(%error, "offset out of range, orders may be lost; verifying all partitions");
        self.apply(consumer, Event::TransactionFailed)
    }

    fn record(&mut self, consumer: &Consumer, record: &Record<'_>, time: Time) -> anyhow::Result<()> {
        let partition = record.partition();
        let headers = record.headers();
        let input = Input {
            partition,
            offset: record.offset(),
            at: record.timestamp(),
            key: record.key(),
            value: record.value(),
            headers: &headers.readable,
            unreadable_header: headers.unreadable,
        };
        self.lag.decided(input.at, time.wall);
        // Borrowed apart from `self`, which the admission borrows too.
        let (stores, metrics) = (&self.shell.stores, &self.shell.metrics);
        let look_ups = &mut self.look_ups;
        let taken = self.admission.admit(&input, time.wall, time.now, |key, hash| {
            *look_ups += 1;
            // Two readings of the clock per order would cost more than most look-ups.
            let started = look_ups.is_multiple_of(MEASURED_EVERY).then(Instant::now);
            // An error, not "unknown key": without its store a partition would admit duplicates.
            let found = stores
                .get(&partition)
                .map_or_else(|| Err(None), |store| store.get_hashed(key, hash).map_err(Some));
            if let Some(started) = started {
                metrics
                    .store_lookup_seconds
                    .observe(started.elapsed().as_secs_f64());
            }
            found
        });
        let event = match taken {
            // Read ahead of a pause. It comes again once the partition runs.
            Ok(AdmitResult::NotRunning) => return Ok(()),
            // Asked for in the next turn; the record comes again once the registry has answered.
            Ok(AdmitResult::AwaitsSchema(schema)) => {
                tracing::debug!(%partition, offset = %input.offset, %schema, "order waits for its schema");
                return Ok(());
            }
            Ok(AdmitResult::ClockBehind(reason)) => Event::Halt(partition, reason),
            Ok(AdmitResult::Decided {
                verdict,
                begins,
                again,
            }) => {
                match self
                    .shell
                    .send(record, &headers.readable, (&verdict, again.as_ref()), begins)
                {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            "record not sent, transaction aborted, reading its orders again"
                        );
                        Event::TransactionFailed
                    }
                }
            }
            Err(Some(error)) => report_failure(partition, &error),
            Err(None) => {
                tracing::error!(%partition, "store not open, restoring it");
                Event::StoreFailed(partition, StoreFailure::Unavailable)
            }
        };
        self.apply(consumer, event)
    }
}

fn poll_failed(error: ClientError) -> anyhow::Result<()> {
    match error.class {
        ErrorClass::Fenced => Err(error.into()),
        ErrorClass::Fatal | ErrorClass::Permanent => {
            bail!("{error}; the validator cannot continue, operator action required")
        }
        ErrorClass::Retriable | ErrorClass::Abortable => {
            tracing::warn!(%error, "transient consumer error, continuing");
            Ok(())
        }
    }
}

/// Binds the metadata that came with a consumer event to its membership. Metadata read at another time may be
/// that of a member that never joined, which Kafka does not fence.
fn membership(member_id: String, metadata: ConsumerGroupMetadata) -> Membership<Fence> {
    Membership {
        member_id: member_id.into(),
        metadata: Arc::new(metadata),
    }
}
