//! Time of the next commit, and the one in flight.

use std::time::{Duration, Instant};

use records::Partition;

use crate::delivery::event::{Assignment, CallId};

/// Delay before a rejected commit is made again.
// The group rejects commits while it rebalances; this paces the retries until that is over.
const REJECTED_DELAY: Duration = Duration::from_millis(100);

/// A commit, or a deferral transaction, that is not acknowledged yet.
#[derive(Debug)]
pub(crate) struct CommitInFlight {
    pub(crate) sent_at: Instant,
    /// Partitions with the number of changes that the commit contains.
    pub(crate) content: Vec<(Partition, Assignment, u64)>,
    /// The acknowledgement extends the ownership lease.
    pub(crate) proves_ownership: bool,
    /// Calls that are deferred with it; empty for a plain commit.
    pub(crate) deferred: Vec<CallId>,
}

/// Commits, one in flight at a time: a second one could overtake the first and move the commit position back.
#[derive(Debug, Default)]
pub(crate) struct CommitSchedule {
    in_flight: Option<CommitInFlight>,
    /// End of the interval since the last commit.
    interval_ends_at: Option<Instant>,
    /// End of the delay after a rejected commit.
    retry_at: Option<Instant>,
}

impl CommitSchedule {
    /// Returns `true` if a commit may be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Records a commit that is sent.
    pub(crate) fn sent(&mut self, commit: CommitInFlight) {
        debug_assert!(self.is_idle(), "two commits in flight");
        self.in_flight = Some(commit);
    }

    /// Takes the commit in flight, whose result has come.
    pub(crate) fn take(&mut self) -> Option<CommitInFlight> {
        self.in_flight.take()
    }

    /// Keeps the commit in flight from extending the lease, because partitions were lost meanwhile.
    pub(crate) fn void_proof(&mut self) {
        if let Some(commit) = &mut self.in_flight {
            commit.proves_ownership = false;
        }
    }

    /// Starts the interval to the next commit.
    pub(crate) fn acknowledged(&mut self, sent_at: Instant, interval: Duration) {
        // From the sending on, so that a slow acknowledgement does not stretch the interval.
        self.interval_ends_at = Some(sent_at + interval);
    }

    /// Delays the next commit after a rejected one.
    pub(crate) fn rejected(&mut self, now: Instant) {
        self.retry_at = Some(Self::rejected_until(now));
    }

    /// Earliest time for a commit that something waits for.
    pub(crate) fn urgent_at(&self, now: Instant) -> Instant {
        // After a rejection even these wait: the group is rebalancing.
        self.retry_at.unwrap_or(now)
    }

    /// Earliest time for a commit that nothing waits for.
    pub(crate) fn routine_at(&self, now: Instant) -> Instant {
        self.interval_ends_at.unwrap_or(now).max(self.urgent_at(now))
    }

    /// Time at which the result of the commit in flight counts as unknown.
    pub(crate) fn times_out_at(&self, commit_max: Duration) -> Option<Instant> {
        // Without a timeout one lost acknowledgement would stop all commits for good.
        self.in_flight.as_ref().map(|commit| commit.sent_at + commit_max)
    }

    /// Forgets everything, because the membership is over.
    pub(crate) fn reset(&mut self) {
        // The result of a commit in flight belongs to the old membership, and is ignored when it comes.
        *self = Self::default();
    }

    /// Time until which a deferral waits that was rejected now.
    pub(crate) fn rejected_until(now: Instant) -> Instant {
        now + REJECTED_DELAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn commit(sent_at: Instant) -> CommitInFlight {
        CommitInFlight {
            sent_at,
            content: Vec::new(),
            proves_ownership: true,
            deferred: Vec::new(),
        }
    }

    #[test]
    fn urgent_commits_skip_the_interval_but_not_the_delay() {
        let start = Instant::now();
        let mut schedule = CommitSchedule::default();
        assert_eq!(schedule.routine_at(start), start);
        schedule.acknowledged(start, 10 * MS);
        assert_eq!(schedule.routine_at(start), start + 10 * MS);
        assert_eq!(schedule.urgent_at(start), start);
        schedule.rejected(start);
        assert_eq!(schedule.urgent_at(start), start + REJECTED_DELAY);
        assert_eq!(schedule.routine_at(start), start + REJECTED_DELAY);
    }

    #[test]
    fn lost_partitions_void_the_proof_in_flight() {
        let start = Instant::now();
        let mut schedule = CommitSchedule::default();
        schedule.sent(commit(start));
        assert_eq!(schedule.times_out_at(MS), Some(start + MS));
        schedule.void_proof();
        assert!(schedule.take().is_some_and(|commit| !commit.proves_ownership));
        assert!(schedule.is_idle() && schedule.times_out_at(MS).is_none());
    }
}
