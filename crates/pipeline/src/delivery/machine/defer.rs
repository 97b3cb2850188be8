//! Deferral transactions: the copies of calls, and the note that they are final at their old offsets, go to
//! Kafka in one transaction.
//!
//! The transaction takes the slot of a commit. A commit beside it would overwrite its note, or be overwritten
//! by it, and a call that is final and open at once is called twice. An unknown result is treated as for a
//! commit: leave the group, join again, and read the notes once the transaction has ended one way or the
//! other.
//!
//! Calls of the same key that wait behind a deferred one go with it, in their order. One that arrives before
//! the copy is deferred after it, untried. Only if the partition changes hands in between it is made before
//! the copy: the next owner cannot know what lies ahead in the outbox.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use records::{Offset, Partition};

use super::Delivery;
use crate::delivery::call::{CallState, Policy};
use crate::delivery::event::{Action, CallId, Commit, DeferredCopy, WaitReason};
use crate::delivery::partition::Phase;
use crate::delivery::schedule::CommitInFlight;

/// Maximum number of copies in one transaction, beside the last key's followers.
// Nothing is committed while it is open, so it must be short.
const COPIES_MAX: usize = 500;

impl<P> Delivery<P> {
    pub(super) fn defer_if_due(&mut self, now: Instant) {
        let due_at = self.deferrals.due_at(&self.commits, now);
        if due_at.is_none_or(|at| now < at) {
            return;
        }
        // By turns, so that intents and the lease do not wait behind many deferrals.
        if self.deferrals.take_commits_turn() && self.commit_due_at(now).is_some_and(|at| at <= now) {
            return;
        }
        let mut chosen: BTreeMap<Partition, Vec<CallId>> = BTreeMap::new();
        let mut count = 0;
        while count < COPIES_MAX
            && let Some(first) = self.deferrals.pop()
        {
            let calls = self.with_followers(first);
            count += calls.len();
            chosen.entry(first.partition).or_default().extend(calls);
        }
        let (mut copies, mut commits) = (Vec::new(), Vec::new());
        let mut in_flight = CommitInFlight {
            sent_at: now,
            content: Vec::new(),
            // Offsets in a transaction are fenced by the generation, but only a plain commit restarts the
            // session.
            proves_ownership: false,
            deferred: Vec::new(),
        };
        for (partition, calls) in chosen {
            let copied: Vec<DeferredCopy<P>> = calls.iter().filter_map(|id| self.copy(*id, now)).collect();
            let offsets: Vec<Offset> = copied.iter().map(|copy| copy.call.offset).collect();
            let Some(owned) = self.partitions.get(partition).filter(|_| !copied.is_empty()) else {
                continue;
            };
            // With fewer open calls the note is no longer than the one that intake allowed for.
            let Some((offset, Ok(note))) = owned.to_commit(&offsets) else {
                debug_assert!(false, "a note without {offsets:?} is too long");
                self.not_deferred(calls, now);
                continue;
            };
            in_flight
                .content
                .push((partition, owned.assignment(), owned.changes()));
            in_flight.deferred.extend(calls);
            commits.push(Commit {
                partition,
                offset,
                note,
            });
            copies.extend(copied);
        }
        if !copies.is_empty() {
            self.deferrals.sent(now);
            self.commits.sent(in_flight);
            self.actions.push(Action::Defer { copies, commits });
        }
    }

    /// A call to be deferred, and those of its key that go with it.
    fn with_followers(&mut self, first: CallId) -> Vec<CallId> {
        let Some(owned) = self.partitions.active(first) else {
            return Vec::new();
        };
        let call = owned.call(first.offset);
        if call.is_none_or(|call| !call.is(&CallState::AwaitingDeferral)) {
            return Vec::new();
        }
        let mut calls = vec![first];
        for offset in owned.followers(first.offset) {
            let id = CallId { offset, ..first };
            // Those behind it cannot go either, or the order of the key would break.
            if !self.may_defer(id) {
                break;
            }
            calls.push(id);
        }
        calls
    }

    fn copy(&mut self, id: CallId, now: Instant) -> Option<DeferredCopy<P>> {
        let call = self.partitions.call(id)?;
        debug_assert!(
            call.ambiguity().is_none() || call.policy() != Policy::Park,
            "{id:?}"
        );
        call.enter(CallState::Deferring, now);
        Some(DeferredCopy {
            call: id,
            history: *call.history(),
            lookups: call.lookups(),
            ambiguity: call.ambiguity(),
            payload: call.payload(),
        })
    }

    /// Makes calls final whose deferral is committed.
    pub(super) fn deferred(&mut self, calls: Vec<CallId>, now: Instant) {
        // All copies are recorded before the first call is finished: that unblocks calls of the same key,
        // which must follow the copies.
        for id in &calls {
            if let Some(owned) = self.partitions.of(*id) {
                owned.copy_sent(id.offset);
            }
        }
        for id in calls {
            self.finish(id, now);
        }
    }

    /// Retries calls here whose deferral was aborted. They are deferred once they have failed again.
    pub(super) fn not_deferred(&mut self, calls: Vec<CallId>, now: Instant) {
        for id in calls {
            let Some(owned) = self.partitions.of(id) else {
                continue;
            };
            if owned.phase() == Phase::Draining {
                self.partitions.release(id);
                continue;
            }
            let is_first = owned.is_first_of_key(id.offset);
            let call = owned.call(id.offset);
            let Some(call) = call.filter(|call| call.is(&CallState::Deferring)) else {
                continue;
            };
            if !is_first {
                call.enter(CallState::BlockedByKey, now);
                continue;
            }
            match (call.policy(), call.ambiguity()) {
                // From now on, because the look-up that led to the deferral may have found the API unresponsive.
                (Policy::Verify, Some(_)) => {
                    self.await_quiescence(id, now + self.verify.quiescence(), now);
                }
                (Policy::Retry | Policy::Park | Policy::Verify, _) => {
                    let tries = call.history().attempts.max(call.lookups()).max(1);
                    call.enter(CallState::BackingOff, now);
                    self.wait(id, WaitReason::Attempt, tries, Duration::ZERO);
                }
            }
        }
    }
}
