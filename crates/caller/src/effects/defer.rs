//! Deferrals: moving calls to the tail of the outbox in one transaction, off the loop.

use std::time::{Duration, Instant};

use kafka::error::ErrorClass;
use pipeline::delivery::{Commit, CommitResult, DeferredCopy, Event};
use rdkafka::types::RDKafkaErrorCode;
use service::failpoint::kill_at;

use crate::effects::Shell;
use crate::effects::completion::Completion;
use crate::outbox::deferral_txn::DeferralResult;
use crate::outbox::pending_call::PendingCall;

/// Readiness condition that a refused deferral producer breaks.
const DEFERRALS: &str = "deferrals";

impl Shell {
    /// Reports that the deferral producer can never be opened. The returned event drains the program, which then ends with
    /// the error: calls that fail would fill their partitions and block all others, and a new process may do better.
    pub(crate) fn deferrals_refused(&mut self) -> Option<Event<PendingCall>> {
        let error = self.deferral_producer.take_refusal()?;
        tracing::error!(
            %error,
            "failing calls cannot be deferred and would block their partitions, draining to end with this error; \
             operator action required"
        );
        let reason = format!("failing calls cannot be deferred, the caller drains and ends: {error}");
        self.health.set_unready(DEFERRALS, reason);
        self.failure = Some(error);
        Some(Event::Stop)
    }

    /// Runs a deferral transaction on a blocking thread. It takes the place of the one commit in flight.
    pub(crate) fn defer(&mut self, copies: Vec<DeferredCopy<PendingCall>>, commits: &[Commit]) {
        self.commits_sent += 1;
        let (number, calls) = (self.commits_sent, copies.len());
        let completions = self.completions.clone();
        let complete = move |result, took| {
            completions.send(Completion::Deferred {
                number,
                result,
                calls,
                took,
            });
        };
        // Without the metadata of a joined member the transaction would commit offsets unfenced.
        let Some(metadata) = self.group_metadata.clone() else {
            return complete(DeferralResult::NotStarted, Duration::ZERO);
        };
        // Opening it takes seconds while it fences an earlier one; commits must not wait for that.
        let Some(producer) = self.deferral_producer.take() else {
            self.deferral_producer.open_if_closed();
            return complete(DeferralResult::NotStarted, Duration::ZERO);
        };
        for copy in &copies {
            tracing::warn!(
                key = %copy.payload.key_text(), position = %copy.payload.position,
                attempts = copy.history.attempts,
                ambiguity = copy.ambiguity.map(|ambiguity| ambiguity.as_str()),
                "call deferred to the tail of the outbox, so that it does not block its partition"
            );
        }
        let offsets = self.offsets_of(commits);
        let deferral_producer = self.deferral_producer.clone();
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let result = deferral_producer.defer(producer, &copies, &offsets, &metadata);
            // At once: the next deferral needs it, and a transaction with an unknown outcome withholds the
            // offsets of its partitions from their next owner until a new producer ends it.
            deferral_producer.open_if_closed();
            complete(result, started.elapsed());
        });
    }

    /// Interprets the result of a deferral. Returns `None` for one of an earlier membership.
    pub(crate) fn deferred(
        &mut self,
        number: u64,
        result: DeferralResult,
        calls: usize,
        took: Duration,
    ) -> Option<CommitResult> {
        // As for commits: the delivery has dropped that membership.
        if number != self.commits_sent {
            return None;
        }
        let (result, label) = match result {
            DeferralResult::Committed => {
                kill_at!("after-deferral");
                (CommitResult::Committed, "committed")
            }
            DeferralResult::NotStarted => {
                tracing::debug!("deferral postponed until the transactional producer is open");
                return Some(CommitResult::Rejected);
            }
            DeferralResult::Aborted(error) if error.class == ErrorClass::Fenced => {
                self.set_fenced(&error);
                (CommitResult::Fenced, "fenced")
            }
            DeferralResult::Aborted(error) => {
                match error.class {
                    ErrorClass::Permanent => tracing::error!(
                        %error,
                        "deferral failed, calls stay in place and are retried; operator action required: \
                         allow the caller to write to the outbox and to use its transactional id"
                    ),
                    ErrorClass::Retriable
                    | ErrorClass::Abortable
                    | ErrorClass::Fatal
                    | ErrorClass::Fenced => {
                        tracing::warn!(%error, "deferral aborted, retrying");
                    }
                }
                match error.code() {
                    // The coordinator no longer knows this member, so another may own the partitions.
                    Some(RDKafkaErrorCode::UnknownMemberId) => (CommitResult::Fenced, "fenced"),
                    _ => (CommitResult::Rejected, "rejected"),
                }
            }
            DeferralResult::Unknown(error) => {
                tracing::warn!(%error, "deferral outcome unknown, reading it from Kafka");
                (CommitResult::Unknown, "unknown")
            }
        };
        self.metrics.deferral_finished(label, calls, took);
        Some(result)
    }
}
