//! Publication of terminal records, and their acknowledgement by Kafka.

use std::sync::Arc;

use kafka::ClientError;
use kafka::producer::SendError;
use pipeline::delivery::{CallId, Event, FinalState, History};
use records::call_dead_letter::Reason;
use records::{Offset, parked};
use service::failpoint::kill_at;

use crate::effects::Shell;
use crate::outbox::call_span;
use crate::outbox::pending_call::PendingCall;
use crate::outbox::terminal_records::DeadLetterCause;

/// Terminal record that Kafka has not acknowledged yet.
pub(crate) struct Publication {
    call: CallId,
    pending: Arc<PendingCall>,
    kind: FinalKind,
}

/// Kind of a terminal record, for metrics and logs.
#[derive(Clone, Copy, Debug)]
enum FinalKind {
    Outcome,
    DeadLetter(Reason),
    Parked(parked::Reason),
}

impl Shell {
    /// Sends a call's terminal record to Kafka. Returns an event if the producer did not take it.
    pub(crate) fn publish(
        &mut self,
        call: CallId,
        state: &FinalState,
        history: &History,
        pending: &Arc<PendingCall>,
    ) -> Option<Event<PendingCall>> {
        // A token per record, not per call: a call may be published again, and a late report of its first
        // record must not count for the second.
        self.publications_started += 1;
        let (token, topics, clock) = (self.publications_started, &self.config.topics, self.wall_clock);
        let group = self.config.kafka.group_id.as_str();
        let json;
        let dead_letter = |cause: DeadLetterCause<'_>| {
            let (reason, outgoing) = pending.dead_letter(topics, cause, history, group, clock);
            (FinalKind::DeadLetter(reason), outgoing)
        };
        let (kind, outgoing) = match state {
            FinalState::Accepted(response) | FinalState::Found(response) => {
                let found = matches!(state, FinalState::Found(_));
                json = pending.outcome(response, found, history, group, clock);
                (FinalKind::Outcome, pending.outcome_record(topics, &json))
            }
            FinalState::Rejected(response) => dead_letter(DeadLetterCause::Rejected(response)),
            FinalState::Abandoned(last) => dead_letter(DeadLetterCause::Abandoned(last.as_ref())),
            FinalState::Parked(evidence) => {
                let by = (group, self.config.caller.instance_id.as_str());
                let (reason, outgoing) = pending.parked(topics, evidence, history, by, clock);
                (FinalKind::Parked(reason), outgoing)
            }
            FinalState::NotACall => dead_letter(DeadLetterCause::NotACall),
        };
        match self.producer.send(outgoing, token) {
            Ok(()) => {
                let publication = Publication {
                    call,
                    pending: Arc::clone(pending),
                    kind,
                };
                self.publications.insert(token, publication);
                None
            }
            Err(error) => {
                self.metrics.publications_failed.inc();
                let position = &pending.position;
                match error {
                    SendError::QueueFull => {
                        tracing::warn!(%position, "producer queue full, terminal record will be sent again");
                    }
                    SendError::Client(error) => {
                        tracing::error!(%position, %error, "terminal record not sent, retrying");
                    }
                }
                // No delivery report follows for a record that was not queued, so the delivery learns it
                // here.
                Some(Event::Published {
                    call,
                    acknowledged: false,
                })
            }
        }
    }

    /// Handles a delivery report. The call is final only if Kafka acknowledged its record.
    pub(crate) fn published(
        &mut self,
        token: usize,
        result: Result<Offset, ClientError>,
    ) -> Option<Event<PendingCall>> {
        let Publication { call, pending, kind } = self.publications.remove(&token)?;
        let (key, position) = (pending.key_text(), &pending.position);
        match &result {
            Ok(offset) => {
                kill_at!("after-outcome-ack");
                match kind {
                    FinalKind::Outcome => {
                        self.metrics.outcomes.inc();
                        pending.ended(call_span::ACCEPTED);
                        tracing::debug!(%key, %position, %offset, "outcome published");
                    }
                    FinalKind::DeadLetter(reason) => {
                        self.metrics.dead_letter(reason);
                        pending.ended(reason.as_str());
                        tracing::warn!(%key, %position, %offset, %reason, "dead letter published");
                    }
                    FinalKind::Parked(reason) => {
                        self.metrics.parked(reason);
                        pending.ended("parked");
                        tracing::warn!(
                            %key, %position, %offset, %reason,
                            "call parked, its outcome is unknown, operator action required"
                        );
                    }
                }
            }
            Err(error) => {
                self.metrics.publications_failed.inc();
                // The record may be in the topic all the same. A second copy names the same call, so readers can
                // drop it; a missing record would look like a call that was never made.
                tracing::error!(
                    %key, %position, %error,
                    "terminal record not acknowledged, sending it again; the call is not final"
                );
            }
        }
        Some(Event::Published {
            call,
            acknowledged: result.is_ok(),
        })
    }
}
