//! Commits of offsets and call notes, off the loop, and the meaning of a failed one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::ClientError;
use kafka::consumer::{CommitOffset, CommitResponse};
use kafka::error::ErrorClass;
use pipeline::delivery::{Commit, CommitResult};
use rdkafka::types::RDKafkaErrorCode;
use records::{CallNote, LeaderEpoch, OffsetSet};
use service::failpoint::{guard_removed, kill_at};

use crate::effects::Shell;
use crate::effects::completion::Completion;

impl Shell {
    /// Commits offsets with their notes, on a blocking thread: the coordinator may take long to respond.
    pub(crate) fn commit(&mut self, commits: &[Commit]) {
        let offsets: Vec<CommitOffset> = self.offsets_of(commits);
        self.metrics
            .notes_committed(commits.iter().map(|commit| commit.note.as_str()));
        kill_at!("before-commit");
        self.commits_sent += 1;
        let number = self.commits_sent;
        let (consumer, completions) = (Arc::clone(&self.consumer), self.completions.clone());
        if guard_removed!("guard-await-commit") {
            // A test removes the guard: calls are then sent before their intents are committed.
            completions.send(Completion::Committed {
                number,
                response: CommitResponse {
                    result: Ok(()),
                    request_in_flight: None,
                },
                took: Duration::ZERO,
            });
            tokio::task::spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(300));
                drop(consumer.commit_and_wait(&offsets));
            });
            return;
        }
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let response = consumer.commit_and_wait(&offsets);
            let took = started.elapsed();
            // Before the result is sent: the loop may then replace the consumer, and this thread must not be
            // the one that keeps the old one in the group.
            drop(consumer);
            completions.send(Completion::Committed {
                number,
                response,
                took,
            });
        });
    }

    /// Returns commits in the consumer's terms.
    pub(crate) fn offsets_of(&self, commits: &[Commit]) -> Vec<CommitOffset> {
        let offset_of = |commit: &Commit| CommitOffset {
            partition: commit.partition,
            offset: commit.offset,
            metadata: metadata_of(commit),
            leader_epoch: self.leader_epoch(commit),
        };
        commits.iter().map(offset_of).collect()
    }

    fn leader_epoch(&self, commit: &Commit) -> Option<LeaderEpoch> {
        // A test removes the guard: the calls of an outbox that has lost its end and has grown again are then
        // skipped up to the committed offset.
        let epoch = self.consumer.leader_epoch(commit.partition, commit.offset);
        epoch.filter(|_| !guard_removed!("guard-leader-epoch"))
    }

    /// Interprets the response to a commit. Returns `None` for one of an earlier membership.
    ///
    /// # Errors
    /// The commit cannot succeed until an operator acts.
    pub(crate) fn committed(
        &mut self,
        number: u64,
        response: CommitResponse,
        took: Duration,
    ) -> anyhow::Result<Option<CommitResult>> {
        // The delivery has dropped that membership; to it the result would be the one of the next commit.
        if number != self.commits_sent {
            return Ok(None);
        }
        // A test removes the guard: the commit is then trusted although an earlier copy of it may still land,
        // over those that follow.
        let request_in_flight = response
            .request_in_flight
            .filter(|_| !guard_removed!("guard-commit-in-flight"));
        let (result, label) = match response.result {
            Ok(()) => match request_in_flight {
                None => {
                    kill_at!("after-commit");
                    (CommitResult::Committed, "committed")
                }
                Some(why) => (unknown(&why), label_of(CommitResult::Unknown)),
            },
            Err(error) if error.class == ErrorClass::Fenced => {
                self.set_fenced(&error);
                (CommitResult::Fenced, label_of(CommitResult::Fenced))
            }
            Err(error) => {
                let (mut result, error) = commit_result(error)?;
                // A refusal of the last copy says nothing about an earlier one.
                if let (CommitResult::Rejected, Some(why)) = (result, request_in_flight) {
                    result = unknown(&why);
                }
                match result {
                    CommitResult::Rejected => tracing::info!(%error, "commit rejected, retrying"),
                    CommitResult::Committed | CommitResult::Fenced | CommitResult::Unknown => {
                        tracing::warn!(%error, result = label_of(result), "commit failed");
                    }
                }
                (result, label_of(result))
            }
        };
        self.metrics.commit_finished(label, took);
        Ok(Some(result))
    }
}

/// Logs that an earlier request of a commit may still land.
fn unknown(why: &str) -> CommitResult {
    tracing::warn!(
        why,
        "commit repeated and an earlier request may still be in flight, leaving the group and joining again"
    );
    CommitResult::Unknown
}

fn metadata_of(commit: &Commit) -> String {
    // A test removes the guard: the note then has no intents, so a crash leaves calls that the next owner does
    // not know of.
    if guard_removed!("guard-intents")
        && let Ok(mut note) = CallNote::decode(commit.offset, &commit.note)
    {
        note.intents = OffsetSet::new();
        return note.encode(commit.offset).unwrap_or_default();
    }
    commit.note.clone()
}

/// Interprets a failed commit. Only a response of the coordinator that says so proves that it was not taken.
fn commit_result(error: ClientError) -> anyhow::Result<(CommitResult, ClientError)> {
    use RDKafkaErrorCode::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, IllegalGeneration, NotCoordinator,
        RebalanceInProgress, UnknownMemberId,
    };
    let result = match (error.class, error.code()) {
        (ErrorClass::Permanent, _) => return Err(error.into()),
        (_, Some(UnknownMemberId)) => CommitResult::Fenced,
        // A live member sees an old generation whenever others join or leave, so this does not end the
        // membership. If it is over, the group says so; until a commit is taken, the lease is not extended
        // and nothing is sent.
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
            // Retrying cannot help: intake lets the notes grow to 4096 bytes again.
            let why = "the broker's offset.metadata.max.bytes must be 4096 or more, or the call notes do not \
                       fit: raise it, then restart the caller";
            return Err(anyhow::Error::new(error).context(why));
        }
        // Timeouts and broken connections: the coordinator may have taken it.
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
