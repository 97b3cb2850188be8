//! Commits, one in flight at a time: they record what is final, and extend the ownership lease.

use std::time::Instant;

use records::Partition;

use super::Delivery;
use crate::delivery::event::{Action, Commit, CommitResult, Rejoin};
use crate::delivery::halt_reason::HaltReason;
use crate::delivery::partition::Phase;
use crate::delivery::schedule::{CommitInFlight, CommitSchedule};

impl<P> Delivery<P> {
    /// Time of the next commit; `None` if nothing changed and no lease is needed.
    pub(super) fn commit_due_at(&self, now: Instant) -> Option<Instant> {
        let (urgent_at, routine_at) = (self.commits.urgent_at(now), self.commits.routine_at(now));
        let has_intents = self.has_intents(now);
        // Calls wait for their intents, and the group waits for the last commit of a draining partition.
        let is_last_commit = || {
            let mut dirty = self.partitions.dirty();
            dirty.any(|(_, owned)| owned.phase() == Phase::Draining && owned.calls_open() == 0)
        };
        let is_urgent = has_intents || is_last_commit();
        let is_wanted = has_intents || self.partitions.dirty().next().is_some();
        let changes = is_wanted.then_some(if is_urgent { urgent_at } else { routine_at });
        // The lease matters while a request is in flight, or waits to be sent.
        let needs_lease = (self.requests.in_flight() > 0 || self.has_ready()) && self.has_active_partition();
        let renewal = needs_lease.then(|| self.lease.renew_at().unwrap_or(now).max(routine_at));
        changes.into_iter().chain(renewal).min()
    }

    pub(super) fn commit_if_due(&mut self, now: Instant) {
        if !self.commits.is_idle() || self.commit_due_at(now).is_none_or(|at| now < at) {
            return;
        }
        self.record_intents(now);
        let mut content: Vec<Partition> = self.partitions.dirty().map(|(partition, _)| partition).collect();
        if content.is_empty() {
            // Only the lease is wanted. The same offset and note again extend it.
            let active = self.partitions.iter().find(|(_, owned)| owned.is_active());
            content.extend(active.map(|(partition, _)| partition));
        }
        let mut commits = Vec::new();
        let mut in_flight = CommitInFlight {
            sent_at: now,
            content: Vec::new(),
            proves_ownership: true,
            deferred: Vec::new(),
        };
        for partition in content {
            let Some(owned) = self.partitions.get(partition) else {
                continue;
            };
            match owned.to_commit(&[]) {
                Some((offset, Ok(note))) => {
                    in_flight
                        .content
                        .push((partition, owned.assignment(), owned.changes()));
                    commits.push(Commit {
                        partition,
                        offset,
                        note,
                    });
                }
                Some((_, Err(too_long))) => {
                    // Without its note the next owner would call again what is final, so nothing is
                    // committed.
                    debug_assert!(false, "intake lets no note grow too long: {too_long}");
                    self.partitions.halt(partition);
                    let why = HaltReason::NoteTooLong(too_long);
                    self.actions.push(Action::Withhold(vec![partition]));
                    self.actions.push(Action::Halt { partition, why });
                }
                None => {}
            }
        }
        // Without an active partition there is nothing to commit, and no lease to extend.
        if !commits.is_empty() {
            self.intents.commit_sent();
            self.commits.sent(in_flight);
            self.actions.push(Action::Commit(commits));
        }
    }

    /// Takes in the result of the commit in flight. Each result has exactly one next step.
    pub(super) fn committed(&mut self, result: CommitResult, now: Instant) {
        let Some(commit) = self.commits.take() else {
            return;
        };
        match result {
            CommitResult::Committed => self.commit_acknowledged(commit, now),
            CommitResult::Rejected if !commit.deferred.is_empty() => {
                self.deferrals.rejected(CommitSchedule::rejected_until(now));
                self.not_deferred(commit.deferred, now);
            }
            CommitResult::Rejected => self.commits.rejected(now),
            // The partitions were lost before: the membership is known to be over, and librdkafka joins
            // again.
            CommitResult::Fenced if self.partitions.is_empty() => self.intents.clear(),
            CommitResult::Fenced => self.rejoin(Rejoin::Fenced),
            CommitResult::Unknown => self.rejoin(Rejoin::CommitUnknown),
        }
    }

    fn commit_acknowledged(&mut self, commit: CommitInFlight, now: Instant) {
        for (partition, assignment, changes) in commit.content {
            if let Some(owned) = self.partitions.get_mut(partition)
                // The partition may have come back in a later assignment, with other changes.
                && owned.assignment() == assignment
            {
                owned.committed(changes);
            }
        }
        if !commit.deferred.is_empty() {
            return self.deferred(commit.deferred, now);
        }
        self.commits
            .acknowledged(commit.sent_at, self.limits.commit_interval);
        self.intents.commit_acknowledged();
        self.intents_committed(now);
        if commit.proves_ownership {
            self.lease.extend(commit.sent_at);
            self.actions.extend(self.lease.until().map(Action::ExtendLease));
        }
    }

    /// Treats a commit without a result in time as unknown.
    pub(super) fn expire_commit(&mut self, now: Instant) {
        let times_out_at = self.commits.times_out_at(self.limits.commit_max);
        if times_out_at.is_some_and(|at| now >= at) {
            self.rejoin(Rejoin::CommitLate);
        }
    }
}
