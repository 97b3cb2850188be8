//! Calls to be deferred, and the time of the next deferral transaction.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::CommitSchedule;
use crate::delivery::event::CallId;

/// Minimum interval between two deferral transactions.
// Calls that fail meanwhile go together, and plain commits get their turn.
const INTERVAL: Duration = Duration::from_millis(100);

/// Calls that wait for the next deferral transaction. Entries may be stale: whoever takes one checks its
/// state.
#[derive(Debug, Default)]
pub(crate) struct DeferralQueue {
    waiting: VecDeque<CallId>,
    next_at: Option<Instant>,
    /// The last transaction was a deferral, so a commit that is due goes first.
    is_commits_turn: bool,
    /// Time of the last definite response of the API.
    last_success_at: Option<Instant>,
}

impl DeferralQueue {
    pub(crate) fn push(&mut self, id: CallId) {
        self.waiting.push_back(id);
    }

    pub(crate) fn pop(&mut self) -> Option<CallId> {
        self.waiting.pop_front()
    }

    pub(crate) fn clear(&mut self) {
        // The interval stays: it paces the transactions of the process, whatever its membership.
        self.waiting.clear();
    }

    /// Time of the next deferral; `None` if there is none to make, or a commit is in flight.
    pub(crate) fn due_at(&self, commits: &CommitSchedule, now: Instant) -> Option<Instant> {
        // One commit or transaction at a time, or they would overwrite each other's notes.
        let is_waiting = commits.is_idle() && !self.waiting.is_empty();
        is_waiting.then(|| self.next_at.unwrap_or(now).max(commits.urgent_at(now)))
    }

    /// Returns `true` once after each deferral.
    pub(crate) fn take_commits_turn(&mut self) -> bool {
        std::mem::take(&mut self.is_commits_turn)
    }

    /// Records a deferral that is sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.is_commits_turn = true;
        self.next_at = Some(now + INTERVAL);
    }

    /// Delays the next deferral after an aborted one.
    pub(crate) fn rejected(&mut self, until: Instant) {
        self.next_at = Some(until);
    }

    /// Records that the API gave a definite response.
    pub(crate) fn api_succeeded(&mut self, now: Instant) {
        self.last_success_at = Some(now);
    }

    /// Returns `true` if the API gave a definite response after `at`.
    pub(crate) fn has_success_since(&self, at: Instant) -> bool {
        // Strictly later: a success at the same instant may have come before the failure.
        self.last_success_at > Some(at)
    }
}

#[cfg(test)]
mod tests {
    use records::{Offset, Partition};

    use super::*;
    use crate::delivery::event::Assignment;

    #[test]
    fn deferrals_keep_their_interval_and_yield_to_commits() {
        let start = Instant::now();
        let commits = CommitSchedule::default();
        let mut queue = DeferralQueue::default();
        assert_eq!(queue.due_at(&commits, start), None);
        queue.push(CallId {
            assignment: Assignment(1),
            partition: Partition(0),
            offset: Offset(0),
        });
        assert_eq!(queue.due_at(&commits, start), Some(start));
        queue.sent(start);
        assert_eq!(queue.due_at(&commits, start), Some(start + INTERVAL));
        assert!(queue.take_commits_turn());
        assert!(!queue.take_commits_turn());
    }

    #[test]
    fn only_a_later_success_counts() {
        let start = Instant::now();
        let mut queue = DeferralQueue::default();
        assert!(!queue.has_success_since(start));
        queue.api_succeeded(start);
        assert!(!queue.has_success_since(start));
        queue.api_succeeded(start + Duration::from_millis(1));
        assert!(queue.has_success_since(start));
    }
}
