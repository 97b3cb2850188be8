//! Commits go to the coordinator, off the loop, and what a failed one means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::ClientError;
use kafka::consumer::CommitOffset;
use kafka::error::ErrorClass;
use pipeline::delivery::{Commit, CommitResult};
use rdkafka::types::RDKafkaErrorCode;
use records::{CallNote, OffsetSet};
use service::failpoint::{guard_removed, kill_at};

use crate::effects::Shell;
use crate::effects::completion::Arrived;

impl Shell {
    /// Off the loop, because it waits for the coordinator. There is one at a time.
    pub(crate) fn commit(&mut self, commits: &[Commit]) {
        let offsets: Vec<CommitOffset> = commits.iter().map(offset_of).collect();
        kill_at!("before-commit");
        self.commits_sent += 1;
        let number = self.commits_sent;
        let (consumer, inbox) = (Arc::clone(&self.consumer), self.inbox.clone());
        if guard_removed!("guard-note-awaited") {
            // The calls are sent before anybody could know of them; the commit follows.
            let told = inbox.send(Arrived::Committed {
                number,
                result: Ok(()),
                took: Duration::ZERO,
            });
            drop(told);
            tokio::task::spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(300));
                drop(consumer.commit_and_wait(&offsets));
            });
            return;
        }
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let result = consumer.commit_and_wait(&offsets);
            drop(consumer);
            let took = began.elapsed();
            // The loop is gone only when the program ends.
            let _ = inbox.send(Arrived::Committed { number, result, took });
        });
    }

    /// A commit has come to something.
    ///
    /// # Errors
    /// It cannot be made until a person acts.
    pub(crate) fn committed(
        &mut self,
        number: u64,
        result: Result<(), ClientError>,
        took: Duration,
    ) -> anyhow::Result<Option<CommitResult>> {
        if number != self.commits_sent {
            // Of an earlier membership, which nobody waits for any more.
            return Ok(None);
        }
        let (result, label) = match result {
            Ok(()) => {
                kill_at!("after-commit");
                (CommitResult::Committed, "committed")
            }
            Err(error) if error.class == ErrorClass::Fenced => {
                self.replaced_by(&error);
                (CommitResult::Fenced, label_of(CommitResult::Fenced))
            }
            Err(error) => {
                let result = commit_result(error)?;
                match result.0 {
                    CommitResult::Rejected => tracing::info!(error = %result.1, "commit is made again"),
                    CommitResult::Committed | CommitResult::Fenced | CommitResult::Unknown => {
                        tracing::warn!(error = %result.1, "commit failed");
                    }
                }
                (result.0, label_of(result.0))
            }
        };
        self.metrics.committed(label, took);
        Ok(Some(result))
    }
}

/// A commit, as it is sent.
pub(crate) fn offset_of(commit: &Commit) -> CommitOffset {
    CommitOffset {
        partition: commit.partition,
        offset: commit.offset,
        metadata: noted(commit),
    }
}

/// The note of a commit.
fn noted(commit: &Commit) -> String {
    if guard_removed!("guard-beginnings")
        && let Ok(mut note) = CallNote::decode(commit.offset, &commit.note)
    {
        note.begun = OffsetSet::new();
        return note.encode(commit.offset).unwrap_or_default();
    }
    commit.note.clone()
}

/// What a failed commit means. Only an answer of the coordinator's that says so proves that it was not taken.
fn commit_result(error: ClientError) -> anyhow::Result<(CommitResult, ClientError)> {
    use RDKafkaErrorCode::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, IllegalGeneration, NotCoordinator,
        RebalanceInProgress, UnknownMemberId,
    };
    let result = match (error.class, error.code()) {
        (ErrorClass::Permanent, _) => return Err(error.into()),
        (_, Some(UnknownMemberId)) => CommitResult::Fenced,
        // An old generation is normal for a sound member while others join or leave. If ours is over, the
        // group says so; until a commit is taken, nothing proves that calls may be sent.
        (
            _,
            Some(
                IllegalGeneration
                | RebalanceInProgress
                | CoordinatorLoadInProgress
                | CoordinatorNotAvailable
                | NotCoordinator,
            ),
        ) => CommitResult::Rejected,
        (_, Some(RDKafkaErrorCode::OffsetMetadataTooLarge)) => {
            let why =
                "the broker's offset.metadata.max.bytes must be 4096 or more, or the call notes do not fit";
            return Err(anyhow::Error::new(error).context(why));
        }
        _ => CommitResult::Unknown,
    };
    Ok((result, error))
}

fn label_of(result: CommitResult) -> &'static str {
    match result {
        CommitResult::Committed => "committed",
        CommitResult::Rejected => "rejected",
        CommitResult::Fenced => "fenced",
        CommitResult::Unknown => "unknown",
    }
}
