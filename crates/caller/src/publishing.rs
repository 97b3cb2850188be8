//! The ends of calls go to Kafka, and their acknowledgements come back.

use std::sync::Arc;

use kafka::Fault;
use kafka::producer::NotTaken;
use pipeline::delivery::{CallId, Ending, Event, History};
use records::Offset;
use records::call_dead_letter::Reason;
use service::failpoint::kill_at;

use crate::job::Job;
use crate::shell::{Publication, Shell};

impl Shell {
    pub(crate) fn publish(
        &mut self,
        call: CallId,
        ending: &Ending,
        history: &History,
        job: &Arc<Job>,
    ) -> Option<Event<Job>> {
        self.publications_begun += 1;
        let (token, topics) = (self.publications_begun, &self.config.topics);
        let json;
        let (dead_letter, outgoing) = match ending {
            Ending::Accepted(reply) => {
                json = job.outcome(reply, history, self.calendar);
                (None, job.outcome_record(topics, &json, token))
            }
            Ending::Rejected(reply) => (
                Some(Reason::Rejected),
                job.dead_letter(topics, Some(reply), history, self.calendar, token),
            ),
            Ending::NotACall => (
                Some(job.no_call_reason()),
                job.dead_letter(topics, None, history, self.calendar, token),
            ),
        };
        match self.producer.send(&outgoing) {
            Ok(()) => {
                let publication = Publication {
                    call,
                    job: Arc::clone(job),
                    dead_letter,
                };
                self.publications.insert(token, publication);
                None
            }
            Err(error) => {
                self.metrics.publications_failed.inc();
                let position = &job.position;
                match error {
                    NotTaken::QueueFull => tracing::warn!(%position, "the producer's queue is full"),
                    NotTaken::Fault(error) => tracing::error!(
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
    pub(crate) fn published(&mut self, token: usize, result: Result<Offset, Fault>) -> Option<Event<Job>> {
        let Publication {
            call,
            job,
            dead_letter,
        } = self.publications.remove(&token)?;
        let (key, position) = (job.key_text(), &job.position);
        match &result {
            Ok(offset) => {
                kill_at!("after-outcome-ack");
                match dead_letter {
                    None => {
                        self.metrics.outcomes.inc();
                        tracing::debug!(%key, %position, %offset, "outcome published");
                    }
                    Some(reason) => {
                        self.metrics.dead_letter(reason);
                        tracing::warn!(%key, %position, %offset, %reason, "call is a dead letter");
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
