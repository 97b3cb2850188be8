//! Calls are deferred: their copies, and the note that they are final at their old places, go to Kafka in one
//! transaction.
//!
//! That transaction takes the place of a commit: it is the one in flight. A commit beside it would overwrite
//! its note, or be overwritten by it, and a call that is final and open at once is called twice. What it came
//! to is told as of a commit, too: if nobody can know, the group is joined anew, and the notes are read once
//! the transaction has ended one way or the other.
//!
//! Calls of the same key that wait behind a deferred one go with it, in their order. One that arrives before
//! the copy goes after it, untried (`CopiesInTransit`); only when the partition changes hands in
//! between is it made before the copy, since the next owner cannot know what lies further up in the outbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use records::{Offset, Partition};

use crate::delivery::call::CallState;
use crate::delivery::call::Policy;
use crate::delivery::event::{Action, CallId, Commit, DeferredCopy, WaitReason};
use crate::delivery::machine::{CommitInFlight, Delivery};
use crate::delivery::partition::{Phase, owned_in};

/// The shortest time from one of these transactions to the next: what turns out deferral meanwhile goes
/// together, and commits go between.
const DEFER_INTERVAL: Duration = Duration::from_millis(100);

/// So many copies go into one transaction, so that it is a short one; one more key's may come on top.
const COPIES_MAX: usize = 500;

impl<P> Delivery<P> {
    /// When the next deferral is due.
    pub(super) fn defer_at(&self, now: Instant) -> Option<Instant> {
        let is_waiting = self.in_flight.is_none() && !self.deferral.is_empty();
        let again = self.commit_again.unwrap_or(now);
        is_waiting.then(|| self.defer_next.unwrap_or(now).max(again))
    }

    pub(super) fn defer_if_due(&mut self, now: Instant) {
        if self.defer_at(now).is_none_or(|at| now < at) {
            return;
        }
        // By turns, so that beginnings and proofs do not wait behind many deferrals.
        if std::mem::take(&mut self.has_deferred_last) && self.commit_at(now).is_some_and(|at| at <= now) {
            return;
        }
        let mut chosen: BTreeMap<Partition, Vec<CallId>> = BTreeMap::new();
        let mut count = 0;
        while count < COPIES_MAX
            && let Some(first) = self.deferral.pop_front()
        {
            let calls = self.with_followers(first);
            count += calls.len();
            chosen.entry(first.partition).or_default().extend(calls);
        }
        let (mut copies, mut commits) = (Vec::new(), Vec::new());
        let mut in_flight = CommitInFlight {
            sent_at: now,
            content: Vec::new(),
            proves: false,
            deferred: Vec::new(),
        };
        for (partition, calls) in chosen {
            let copied: Vec<DeferredCopy<P>> = calls.iter().filter_map(|id| self.copied(*id, now)).collect();
            let offsets: Vec<Offset> = copied.iter().map(|copy| copy.call.offset).collect();
            let Some(held) = self.held.get_mut(&partition).filter(|_| !copied.is_empty()) else {
                continue;
            };
            let (assignment, changes) = (held.assignment, held.changes());
            // With fewer open calls it is no longer than the note that has_room() allows for.
            let Some((offset, Ok(note))) = held.to_commit_without(&offsets) else {
                debug_assert!(false, "a note without {offsets:?} is too long");
                self.not_deferred(calls, now);
                continue;
            };
            in_flight.content.push((partition, assignment, changes));
            in_flight.deferred.extend(calls);
            commits.push(Commit {
                partition,
                offset,
                note,
            });
            copies.extend(copied);
        }
        if !copies.is_empty() {
            self.has_deferred_last = true;
            self.defer_next = Some(now + DEFER_INTERVAL);
            self.in_flight = Some(in_flight);
            self.actions.push(Action::Defer { copies, commits });
        }
    }

    /// A deferral call, and those behind it that can go with it.
    fn with_followers(&mut self, first: CallId) -> Vec<CallId> {
        let Some(held) = owned_in(&mut self.held, first).filter(|held| held.phase == Phase::Active) else {
            return Vec::new();
        };
        if held
            .call(first.offset)
            .is_none_or(|call| call.state != CallState::AwaitingDeferral)
        {
            return Vec::new();
        }
        let behind = held.behind(first.offset);
        let mut calls = vec![first];
        for offset in behind {
            let id = CallId { offset, ..first };
            if !self.may_defer(id) {
                break;
            }
            calls.push(id);
        }
        calls
    }

    fn copied(&mut self, id: CallId, now: Instant) -> Option<DeferredCopy<P>> {
        let call = owned_in(&mut self.held, id)?.call(id.offset)?;
        debug_assert!(call.ambiguity.is_none() || call.policy != Policy::Park, "{id:?}");
        call.enter(CallState::Deferring, now);
        Some(DeferredCopy {
            call: id,
            history: call.history,
            lookups: call.lookups,
            ambiguity: call.ambiguity,
            payload: Arc::clone(&call.payload),
        })
    }

    /// The transaction is committed: the calls are final at their places.
    pub(super) fn deferred(&mut self, calls: Vec<CallId>, now: Instant) {
        for id in &calls {
            if let Some(held) = owned_in(&mut self.held, *id) {
                held.copied(id.offset);
            }
        }
        for id in calls {
            self.finish(id, now);
        }
    }

    /// The transaction was aborted: the calls go on here, and may be deferred when they have failed again.
    pub(super) fn not_deferred(&mut self, calls: Vec<CallId>, now: Instant) {
        for id in calls {
            let Some(held) = owned_in(&mut self.held, id) else {
                continue;
            };
            if held.phase == Phase::Draining {
                self.bytes_open -= held.release(id.offset);
                continue;
            }
            let is_first = held.is_first(id.offset);
            let Some(call) = held
                .call(id.offset)
                .filter(|call| call.state == CallState::Deferring)
            else {
                continue;
            };
            if !is_first {
                call.enter(CallState::BlockedByKey, now);
                continue;
            }
            let (stage, what) = match (call.policy, call.ambiguity) {
                (Policy::Verify, Some(_)) => (CallState::AwaitingQuiescence(now), WaitReason::LookUp),
                (Policy::Retry | Policy::Park | Policy::Verify, _) => {
                    (CallState::BackingOff, WaitReason::Attempt)
                }
            };
            let tries = call.history.attempts.max(call.lookups).max(1);
            call.enter(stage, now);
            self.actions.push(Action::Wait {
                call: id,
                what,
                tries,
                at_least: Duration::ZERO,
            });
        }
    }
}
