//! Polling of the consumer: records and changes of the assignment, as events of the delivery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::ConsumerEvent;
use kafka::error::ErrorClass;
use pipeline::delivery::Event;

use crate::effects::numbers;
use crate::outbox::pending_call::PendingCall;
use crate::run::{EVENTS_PER_TURN, Loop};

/// Interval at which the consumer is asked for transaction markers behind the last record. Autoscalers ask for the
/// group's lag more rarely.
const MARKERS_INTERVAL: Duration = Duration::from_secs(1);

/// Consecutive empty polls before the consumer's queue counts as drained.
const EMPTY_POLLS_MAX: u32 = 8;

impl Loop {
    /// Handles what the consumer has. Returns whether there may be more.
    ///
    /// # Errors
    /// A permanent error of the consumer, or the program cannot continue.
    pub(super) fn poll(&mut self) -> anyhow::Result<bool> {
        if self.shell.is_fenced {
            // A fenced consumer has no membership, and reports nothing but its fatal error.
            return Ok(false);
        }
        let consumer = Arc::clone(&self.shell.consumer);
        let mut empty_polls = 0;
        for _ in 0..EVENTS_PER_TURN {
            let event = match consumer.poll(Duration::ZERO) {
                // A poll is also empty if it served something internal, such as a log line of librdkafka.
                Ok(None) if empty_polls == EMPTY_POLLS_MAX => return Ok(false),
                Ok(None) => {
                    empty_polls += 1;
                    continue;
                }
                Ok(Some(event)) => match self.event_of(event)? {
                    Some(event) => event,
                    None => continue,
                },
                Err(error) => match error.class {
                    ErrorClass::Retriable | ErrorClass::Abortable => {
                        tracing::warn!(%error, "transient consumer error, continuing");
                        continue;
                    }
                    ErrorClass::Fatal | ErrorClass::Fenced => {
                        tracing::warn!(%error, "fatal consumer error, membership lost");
                        self.shell.client_lost(&error)
                    }
                    ErrorClass::Permanent => return Err(error.into()),
                },
            };
            empty_polls = 0;
            self.apply(event)?;
            if !Arc::ptr_eq(&consumer, &self.shell.consumer) {
                // The event made the program rejoin. Dropping the last handle leaves the group and blocks on
                // the brokers, so it must not happen on the loop.
                tokio::task::spawn_blocking(move || drop(consumer));
                return Ok(true);
            }
            if self.shell.is_finished || self.shell.is_fenced {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Takes in that the partitions' positions have passed transaction markers, if it is time to look. Nothing that was
    /// fetched is left to be handled.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(super) fn pass_markers(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if self.shell.is_fenced || self.markers_due.is_some_and(|due| now < due) {
            return Ok(());
        }
        self.markers_due = Some(now + MARKERS_INTERVAL);
        let passed = self.shell.consumer.passed_markers();
        passed
            .into_iter()
            // Such a partition has returned a record that is still to come.
            .filter(|(partition, _)| !self.shell.awaits_schema(*partition))
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|(partition, next)| self.apply(Event::ReachedEnd { partition, next }))
    }

    /// Returns the event of the delivery; `None` for a record that comes again once its schema is known.
    fn event_of(&mut self, event: ConsumerEvent<'_>) -> anyhow::Result<Option<Event<PendingCall>>> {
        Ok(Some(match event {
            ConsumerEvent::Record(record) => {
                let Some(document) = self.shell.order_document(&record) else {
                    return Ok(None);
                };
                let shell = &self.shell;
                let group = &shell.config.kafka.group_id;
                Event::Pending(PendingCall::read(
                    &record,
                    document,
                    group,
                    &shell.api,
                    &shell.policies,
                    shell.spans.as_ref(),
                ))
            }
            // The metadata is taken with the event and nowhere else: read later it could be that of a newer
            // generation, and a deferral would then not be fenced.
            ConsumerEvent::Assigned {
                partitions,
                metadata,
                member_id,
            } => {
                self.shell.member.set_id(&member_id);
                self.shell.group_metadata = Some(Arc::new(metadata));
                Event::Assigned(partitions)
            }
            ConsumerEvent::Revoked {
                partitions,
                metadata,
                member_id,
            } => {
                self.shell.member.set_id(&member_id);
                self.shell.group_metadata = Some(Arc::new(metadata));
                tracing::info!(partitions = ?numbers(&partitions), "partitions revoked, draining");
                Event::Revoked(partitions)
            }
            ConsumerEvent::Lost { partitions } => {
                self.shell.group_metadata = None;
                tracing::warn!(
                    partitions = ?numbers(&partitions),
                    "partitions lost, committing nothing of them"
                );
                Event::Lost(partitions)
            }
        }))
    }
}
