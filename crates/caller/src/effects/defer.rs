//! Deferrals go to Kafka, off the loop, and what they came to.

use std::time::{Duration, Instant};

use kafka::consumer::CommitOffset;
use kafka::error::ErrorClass;
use pipeline::delivery::{Commit, CommitResult, DeferredCopy};
use rdkafka::types::RDKafkaErrorCode;
use service::failpoint::kill_at;

use crate::effects::Shell;
use crate::effects::commit::offset_of;
use crate::effects::completion::Arrived;
use crate::outbox::deferral_txn::Deferred;
use crate::outbox::pending_call::Job;

impl Shell {
    /// Off the loop, because transactions block. It is the one commit in flight.
    pub(crate) fn defer(&mut self, copies: Vec<DeferredCopy<Job>>, commits: &[Commit]) {
        self.commits_sent += 1;
        let (number, calls) = (self.commits_sent, copies.len());
        let inbox = self.inbox.clone();
        let tell = move |deferred, took| {
            // The loop is gone only when the program ends.
            let _ = inbox.send(Arrived::Deferred {
                number,
                deferred,
                calls,
                took,
            });
        };
        let Some(metadata) = self.group_metadata.clone() else {
            return tell(Deferred::PreflightError, Duration::ZERO);
        };
        let Some(producer) = self.deferrals.take() else {
            self.deferrals.open_if_closed();
            return tell(Deferred::PreflightError, Duration::ZERO);
        };
        for copied in &copies {
            tracing::warn!(
                key = %copied.payload.key_text(), position = %copied.payload.position,
                attempts = copied.history.attempts, ambiguity = copied.ambiguity.map(|ambiguity| ambiguity.as_str()),
                "call is deferred to the end of the outbox, so that it does not hold up its partition"
            );
        }
        let offsets: Vec<CommitOffset> = commits.iter().map(offset_of).collect();
        let deferrals = self.deferrals.clone();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let deferred = deferrals.defer(producer, &copies, &offsets, &metadata);
            // Until one that was not committed has ended, nobody reads the notes of these partitions.
            deferrals.open_if_closed();
            tell(deferred, began.elapsed());
        });
    }

    /// A deferral has come to something.
    ///
    /// # Errors
    /// Another process has taken our place.
    pub(crate) fn deferred(
        &mut self,
        number: u64,
        deferred: Deferred,
        calls: usize,
        took: Duration,
    ) -> anyhow::Result<Option<CommitResult>> {
        if number != self.commits_sent {
            // Of an earlier membership, which nobody waits for any more.
            return Ok(None);
        }
        let (result, label) = match deferred {
            Deferred::Done => {
                kill_at!("after-deferral");
                (CommitResult::Committed, "committed")
            }
            Deferred::PreflightError => {
                tracing::debug!("calls are deferred when the transactional producer is open");
                return Ok(Some(CommitResult::Rejected));
            }
            Deferred::NotDone(fault) if fault.class == ErrorClass::Fenced => {
                self.replaced_by(&fault);
                (CommitResult::Fenced, "fenced")
            }
            Deferred::NotDone(fault) => {
                let is_fenced = fault.code() == Some(RDKafkaErrorCode::UnknownMemberId);
                match fault.class {
                    ErrorClass::Permanent => tracing::error!(
                        error = %fault,
                        "calls cannot be deferred, and are tried again where they are; the caller needs the right to \
                         write to the outbox and to use its transactional id"
                    ),
                    _ => tracing::warn!(error = %fault, "calls were not deferred; they are tried again"),
                }
                match is_fenced {
                    true => (CommitResult::Fenced, "fenced"),
                    false => (CommitResult::Rejected, "rejected"),
                }
            }
            Deferred::Unknown(fault) => {
                tracing::warn!(error = %fault, "whether calls were deferred is unknown; Kafka is asked");
                (CommitResult::Unknown, "unknown")
            }
        };
        self.metrics.deferred(label, calls, took);
        Ok(Some(result))
    }
}
