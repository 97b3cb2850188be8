//! The ends of calls go to Kafka, and their acknowledgements come back.

use std::sync::Arc;

use kafka::ClientError;
use kafka::producer::SendError;
use pipeline::delivery::{CallId, Event, FinalState, History};
use records::Offset;
use service::failpoint::kill_at;

use crate::effects::{Publication, Shell, ToldEnd};
use crate::outbox::pending_call::Job;
use crate::outbox::terminal_records::Why;

impl Shell {
    pub(crate) fn publish(
        &mut self,
        call: CallId,
        ending: &FinalState,
        history: &History,
        job: &Arc<Job>,
    ) -> Option<Event<Job>> {
        self.publications_begun += 1;
        let (token, topics) = (self.publications_begun, &self.config.topics);
        let json;
        let dead_letter = |why: Why<'_>| {
            let (reason, outgoing) = job.dead_letter(topics, why, history, self.calendar, token);
            (ToldEnd::DeadLetter(reason), outgoing)
        };
        let (told, outgoing) = match ending {
            FinalState::Accepted(reply) | FinalState::Found(reply) => {
                let found = matches!(ending, FinalState::Found(_));
                json = job.outcome(reply, found, history, self.calendar);
                (ToldEnd::Outcome, job.outcome_record(topics, &json, token))
            }
            FinalState::Rejected(reply) => dead_letter(Why::Rejected(reply)),
            FinalState::Abandoned(last) => dead_letter(Why::GivenUp(last.as_ref())),
            FinalState::Parked(evidence) => {
                let by = &self.config.caller.instance_id;
                let (reason, outgoing) = job.parked(topics, evidence, history, self.calendar, (by, token));
                (ToldEnd::Parked(reason), outgoing)
            }
            FinalState::NotACall => dead_letter(Why::NotACall),
        };
        match self.producer.send(&outgoing) {
            Ok(()) => {
                let publication = Publication {
                    call,
                    job: Arc::clone(job),
                    told,
                };
                self.publications.insert(token, publication);
                None
            }
            Err(error) => {
                self.metrics.publications_failed.inc();
                let position = &job.position;
                match error {
                    SendError::QueueFull => tracing::warn!(%position, "the producer's queue is full"),
                    SendError::ClientError(error) => tracing::error!(
                        %position, %error, "the end of a call cannot be sent to kafka; tried again"
                    ),
                }
                Some(Event::Published {
                    call,
                    acknowledged: false,
                })
            }
        }
    }

    /// A record was delivered or was not.
    pub(crate) fn published(
        &mut self,
        token: usize,
        result: Result<Offset, ClientError>,
    ) -> Option<Event<Job>> {
        let Publication { call, job, told } = self.publications.remove(&token)?;
        let (key, position) = (job.key_text(), &job.position);
        match &result {
            Ok(offset) => {
                kill_at!("after-outcome-ack");
                match told {
                    ToldEnd::Outcome => {
                        self.metrics.outcomes.inc();
                        tracing::debug!(%key, %position, %offset, "outcome published");
                    }
                    ToldEnd::DeadLetter(reason) => {
                        self.metrics.dead_letter(reason);
                        tracing::warn!(%key, %position, %offset, %reason, "call is a dead letter");
                    }
                    ToldEnd::Parked(reason) => {
                        self.metrics.parked(reason);
                        tracing::warn!(
                            %key, %position, %offset, %reason,
                            "call is parked: nobody can know whether it was processed"
                        );
                    }
                }
            }
            Err(error) => {
                self.metrics.publications_failed.inc();
                tracing::error!(
                    %key, %position, %error,
                    "the end of a call was not acknowledged by kafka; it is sent again, and the call is not final"
                );
            }
        }
        Some(Event::Published {
            call,
            acknowledged: result.is_ok(),
        })
    }
}
