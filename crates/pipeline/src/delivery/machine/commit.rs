//! Commits are made, one at a time: they tell the group what is final, and prove that the partitions are ours.

use std::time::{Duration, Instant};

use records::Partition;

use crate::delivery::event::{Action, Commit, CommitResult, HaltReason, Rejoin};
use crate::delivery::machine::{CommitInFlight, Delivery};
use crate::delivery::partition::{OwnedPartition, Phase};

/// How long a commit that was surely not taken waits to be made again: the group is in a rebalance.
const COMMIT_AGAIN: Duration = Duration::from_millis(100);

impl<P> Delivery<P> {
    /// When the next commit is due; `None` if there is nothing to tell and no proof wanted.
    pub(super) fn commit_at(&self, now: Instant) -> Option<Instant> {
        let again = self.commit_again.unwrap_or(now);
        let after = self.commit_after.unwrap_or(now).max(again);
        // The group waits for the last commit of a partition that goes, and calls for their beginnings.
        let is_last = |held: &OwnedPartition<P>| held.phase == Phase::Draining && held.calls_open() == 0;
        let is_begun = !self.beginning.is_empty() || self.may_begin(now) > 0;
        let is_hurried = is_begun || self.with_news().any(|partition| is_last(&self.held[&partition]));
        let has_news = is_begun || self.with_news().next().is_some();
        let news = has_news.then_some(if is_hurried { again } else { after });
        let wants_proof = self.requests.count() > 0 || self.has_ready();
        let is_active = |held: &OwnedPartition<P>| held.phase == Phase::Active;
        let proof = (wants_proof && self.held.values().any(is_active))
            .then(|| self.ownership.renew_at().unwrap_or(now).max(after));
        news.into_iter().chain(proof).min()
    }

    pub(super) fn commit_if_due(&mut self, now: Instant) {
        if self.in_flight.is_some() || self.commit_at(now).is_none_or(|at| now < at) {
            return;
        }
        self.begin_ready(now);
        let mut content: Vec<Partition> = self.with_news().collect();
        if content.is_empty() {
            // Proof is all that is wanted: the same offset once more.
            let active = self.held.iter().find(|(_, held)| held.phase == Phase::Active);
            content.extend(active.map(|(partition, _)| *partition));
        }
        let mut commits = Vec::new();
        let mut in_flight = CommitInFlight {
            sent_at: now,
            content: Vec::new(),
            proves: true,
            deferred: Vec::new(),
        };
        for partition in content {
            let Some(held) = self.held.get_mut(&partition) else {
                continue;
            };
            match held.to_commit() {
                Some((offset, Ok(note))) => {
                    in_flight
                        .content
                        .push((partition, held.assignment, held.changes()));
                    commits.push(Commit {
                        partition,
                        offset,
                        note,
                    });
                }
                Some((_, Err(too_long))) => {
                    debug_assert!(false, "has_room() lets no note grow too long: {too_long}");
                    self.bytes_open -= held.let_all_go();
                    held.phase = Phase::Refused;
                    let why = HaltReason::NoteTooLong(too_long);
                    self.actions.push(Action::Withhold(vec![partition]));
                    self.actions.push(Action::Halt { partition, why });
                }
                None => {}
            }
        }
        if !commits.is_empty() {
            self.ended_since_commit = 0;
            self.in_flight = Some(in_flight);
            self.actions.push(Action::Commit(commits));
        }
    }

    fn with_news(&self) -> impl Iterator<Item = Partition> + '_ {
        self.held
            .iter()
            .filter(|(_, held)| match held.phase {
                Phase::Active | Phase::Draining => held.is_dirty(),
                Phase::Loading | Phase::Refused => false,
            })
            .map(|(partition, _)| *partition)
    }

    pub(super) fn committed(&mut self, result: CommitResult, now: Instant) {
        let Some(commit) = self.in_flight.take() else {
            return;
        };
        match result {
            CommitResult::Committed => {
                for (partition, assignment, changes) in commit.content {
                    if let Some(held) = self.held.get_mut(&partition)
                        && held.assignment == assignment
                    {
                        held.committed(changes);
                    }
                }
                if !commit.deferred.is_empty() {
                    return self.deferred(commit.deferred, now);
                }
                self.commit_after = Some(commit.sent_at + self.limits.commit_interval);
                self.freed_by_commit = self.ended_since_commit;
                self.begun(now);
                if commit.proves {
                    self.ownership.prove(commit.sent_at);
                    self.actions
                        .extend(self.ownership.until().map(Action::ExtendLease));
                }
            }
            CommitResult::Rejected if !commit.deferred.is_empty() => {
                self.defer_next = Some(now + COMMIT_AGAIN);
                self.not_deferred(commit.deferred, now);
            }
            CommitResult::Rejected => self.commit_again = Some(now + COMMIT_AGAIN),
            // What was lost is known to be over.
            CommitResult::Fenced if self.held.is_empty() => self.beginning.clear(),
            CommitResult::Fenced => self.rejoin(Rejoin::Fenced),
            CommitResult::Unknown => self.rejoin(Rejoin::CommitUnknown),
        }
    }

    pub(super) fn end_late_commit(&mut self, now: Instant) {
        let is_late = |commit: &CommitInFlight| now >= commit.sent_at + self.limits.commit_max;
        if self.in_flight.as_ref().is_some_and(is_late) {
            self.rejoin(Rejoin::CommitLate);
        }
    }
}
