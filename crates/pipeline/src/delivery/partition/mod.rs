//! One owned partition: its open calls, their order, and what is committed of it.
//!
//! ```text
//! Loading ─▶ Active ─▶ Draining ─▶ released
//!    └─▶ Halted ─────────────────────┘
//! ```

mod copies_in_transit;
mod intake_gate;
mod key_queues;
mod owned_partitions;
mod ownership_lease;
mod progress;
mod uncommitted;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use records::call_note::NoteTooLong;
use records::{IdempotencyKey, Offset, OffsetSet};

use crate::delivery::call::{Call, CallState, Pending};
use crate::delivery::event::Assignment;
use crate::delivery::limits::Limits;

pub(super) use intake_gate::{FillLevel, IntakeChange};
pub(super) use owned_partitions::OwnedPartitions;
pub(super) use ownership_lease::OwnershipLease;
pub(super) use progress::Progress;

use copies_in_transit::CopiesInTransit;
use intake_gate::IntakeGate;
use key_queues::KeyQueues;
use progress::Arrival;
use uncommitted::Uncommitted;

/// A partition of the outbox that this process owns.
#[derive(Debug)]
pub(super) struct OwnedPartition<P> {
    assignment: Assignment,
    phase: Phase,
    intake: IntakeGate,
    /// Copies of deferred calls that the consumer has not read yet.
    copies: CopiesInTransit,
    /// A call was deferred here, or a copy arrived. Most partitions have none, and skip the search for
    /// earlier calls.
    has_copies: bool,
    /// Time until which requests of an earlier owner may be sent.
    inherited_until: Option<Instant>,
    progress: Option<Progress>,
    calls: BTreeMap<Offset, Call<P>>,
    key_queues: KeyQueues,
    /// Calls that were released although their outcome is unknown.
    released_ambiguous: OffsetSet,
    uncommitted: Uncommitted,
}

/// Phase of an owned partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its committed offset and call note are being read.
    Loading,
    /// Nothing is done: operator action required.
    Halted,
    /// Its calls are made.
    Active,
    /// Calls in flight finish, and no more are taken in.
    Draining,
}

/// Result of taking in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The call is the first of its key.
    First,
    /// The call waits for an earlier one of its key.
    BlockedByKey,
    /// The record is no call: its dead letter is to be published.
    NotACall,
    /// The record is a copy for another group: it is final, and nothing is to be done.
    OfOtherGroup,
}

impl<P> OwnedPartition<P> {
    /// A partition that was just assigned.
    fn new(assignment: Assignment) -> Self {
        Self {
            assignment,
            phase: Phase::Loading,
            intake: IntakeGate::default(),
            copies: CopiesInTransit::default(),
            has_copies: false,
            inherited_until: None,
            progress: None,
            calls: BTreeMap::new(),
            key_queues: KeyQueues::default(),
            released_ambiguous: OffsetSet::new(),
            uncommitted: Uncommitted::default(),
        }
    }

    pub(super) fn assignment(&self) -> Assignment {
        self.assignment
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    pub(super) fn inherited_until(&self) -> Option<Instant> {
        self.inherited_until
    }

    /// Starts the calls, once the committed notes are read.
    pub(super) fn activate(&mut self, progress: Progress, is_first: bool, inherited_until: Instant) {
        self.phase = Phase::Active;
        self.inherited_until = Some(inherited_until);
        self.progress = Some(progress);
        if is_first {
            // Committed at once: without an offset of its own the group would depend on the start of the log,
            // which retention moves.
            self.uncommitted.changed();
        }
    }

    /// Number of final calls that no acknowledged commit has: another owner would make them again.
    pub(super) fn finals_uncommitted(&self) -> usize {
        self.uncommitted.finals()
    }

    /// Stops everything until an operator acts.
    pub(super) fn halt(&mut self) {
        self.phase = Phase::Halted;
    }

    /// Takes a record in. Returns `None` if there is nothing to do for it.
    fn take(&mut self, pending: Pending<P>, lease: Duration, now: Instant) -> Option<Taken> {
        // What was fetched before a drain began is the next owner's.
        let (Phase::Active, Some(progress)) = (self.phase, &mut self.progress) else {
            return None;
        };
        let commit_position = progress.commit_position();
        let arrival = progress.arrived(pending.offset);
        if progress.commit_position() != commit_position {
            self.uncommitted.changed();
        }
        let Arrival::New { maybe_called } = arrival else {
            return None;
        };
        let offset = pending.offset;
        if pending.is_of_other_group {
            // It says nothing of this group's call of the same key, which is made, or was, at its own offsets.
            progress.finish(offset);
            self.uncommitted.changed();
            return Some(Taken::OfOtherGroup);
        }
        let taken = match &pending.key {
            None => Taken::NotACall,
            Some(key) => {
                if let Some(deferral_context) = &pending.deferral_context {
                    self.has_copies = true;
                    self.copies.arrived(key, deferral_context.origin);
                }
                match self.key_queues.push(key, offset) {
                    true => Taken::First,
                    false => Taken::BlockedByKey,
                }
            }
        };
        let call = Call::new(pending, taken == Taken::BlockedByKey, maybe_called, lease, now);
        self.calls.insert(offset, call);
        Some(taken)
    }

    /// Takes note that no record below `next` is still to come.
    pub(super) fn reached_end(&mut self, next: Offset) {
        let (Phase::Active, Some(progress)) = (self.phase, &mut self.progress) else {
            return;
        };
        let commit_position = progress.commit_position();
        progress.reached_end(next);
        // Committed, so that the group's lag is 0 when all calls are made: autoscalers go by it.
        if progress.commit_position() != commit_position {
            self.uncommitted.changed();
        }
    }

    /// Removes a call whose final state Kafka has acknowledged. Returns its size in bytes, and the call of
    /// its key that may be sent now.
    fn finish(&mut self, offset: Offset, now: Instant) -> Option<(usize, Option<Offset>)> {
        let call = self.calls.remove(&offset)?;
        if let Some(progress) = &mut self.progress {
            progress.finish(offset);
        }
        let bytes = call.bytes();
        let key = call.into_key();
        let next = key.as_ref().and_then(|key| self.unblock_next(key, offset, now));
        self.uncommitted.finished(offset, key);
        Some((bytes, next))
    }

    fn unblock_next(&mut self, key: &IdempotencyKey, finished: Offset, now: Instant) -> Option<Offset> {
        let next = self.key_queues.pop(key, finished)?;
        let call = self.calls.get_mut(&next)?;
        if *call.state().0 == CallState::Deferring {
            // It is in the same transaction as the finished one, and becomes final with it.
            return None;
        }
        call.enter(CallState::Ready, now);
        Some(next)
    }

    pub(super) fn call(&mut self, offset: Offset) -> Option<&mut Call<P>> {
        self.calls.get_mut(&offset)
    }

    /// Returns `true` if a call waits for the response to its request.
    pub(super) fn is_in_flight(&self, offset: Offset) -> bool {
        let call = self.calls.get(&offset);
        call.is_some_and(|call| *call.state().0 == CallState::InFlight)
    }

    /// Open calls, in the order of the outbox.
    pub(super) fn calls(&self) -> impl Iterator<Item = (Offset, &Call<P>)> {
        self.calls.iter().map(|(offset, call)| (*offset, call))
    }

    pub(super) fn calls_open(&self) -> usize {
        self.calls.len()
    }

    /// Returns `true` if everything is final and committed.
    pub(super) fn is_drained(&self) -> bool {
        self.calls.is_empty() && !self.is_dirty()
    }

    /// Returns `true` if a call may be tried and never was.
    fn has_untried(&self) -> bool {
        // From the end: the newest calls are the likeliest.
        self.calls.values().rev().any(Call::is_untried)
    }

    /// Fill level by the limits of one partition.
    fn fill_level(&self, limits: &Limits) -> FillLevel {
        let (open, span) = (
            self.calls_open(),
            self.progress.as_ref().map_or(0, Progress::span),
        );
        // A note that could grow too long would halt the partition, so intake stops before.
        let has_room = self.progress.as_ref().is_none_or(Progress::has_room);
        let window_max = limits.deferral.window_max;
        if open >= limits.calls_open_max || span >= window_max || !has_room {
            FillLevel::Full
        } else if open <= limits.calls_open_max / 2 && span <= window_max / 2 {
            FillLevel::HalfEmpty
        } else {
            FillLevel::Between
        }
    }

    /// Updates the intake. `bytes` is the level of the whole process.
    pub(super) fn update_intake(
        &mut self,
        limits: &Limits,
        bytes: FillLevel,
        is_breaker_open: bool,
    ) -> Option<IntakeChange> {
        let level = self.fill_level(limits).max(bytes);
        // While the breaker is open only the next probe's call is taken in. It must be one that was never
        // tried: if all open calls fail by their own fault, only another one shows that the API is healthy.
        let has_probe = is_breaker_open && self.has_untried();
        self.intake.update(level, has_probe)
    }

    /// Stops intake for good. Returns `true` if it was running.
    pub(super) fn stop_intake(&mut self) -> bool {
        self.intake.close()
    }

    /// Returns `true` while a limit of the partition, or of the process, holds up its intake.
    pub(super) fn is_full(&self) -> bool {
        self.intake.is_full()
    }

    /// Starts to drain: keeps only calls on their way to a final state. Returns the bytes released.
    fn drain(&mut self) -> usize {
        self.phase = Phase::Draining;
        // No call is unblocked any more: the next owner makes those that wait.
        self.key_queues.clear();
        self.release_unless(|state| match state {
            CallState::InFlight
            | CallState::Deferring
            | CallState::Publishing(_)
            | CallState::Unpublished(_) => true,
            CallState::BlockedByKey
            | CallState::Ready
            | CallState::RecordingIntent
            | CallState::IntentCommitted
            | CallState::BackingOff
            | CallState::AwaitingDeferral
            | CallState::AwaitingQuiescence(_)
            | CallState::LookingUp => false,
        })
    }

    /// Releases a call that is not final; the next owner makes it. Returns its bytes.
    fn release(&mut self, offset: Offset) -> usize {
        let Some(mut call) = self.calls.remove(&offset) else {
            return 0;
        };
        // A recorded intent of a call that was never sent is void, and must leave the note, or the next owner
        // would park the call or look it up.
        let had_intent = call.void_intent();
        if call.is_ambiguous() {
            self.released_ambiguous.insert(offset);
        }
        if had_intent || call.is_ambiguous() {
            self.uncommitted.changed();
        }
        call.bytes()
    }

    /// Releases what has not finished in time.
    fn release_overdue(&mut self) -> usize {
        // A call whose deferral is in flight stays: if that transaction commits, no later note may call it
        // open.
        self.release_unless(|state| *state == CallState::Deferring)
    }

    fn release_all(&mut self) -> usize {
        self.release_unless(|_| false)
    }

    fn release_unless(&mut self, keep: impl Fn(&CallState) -> bool) -> usize {
        let released: Vec<Offset> = (self.calls())
            .filter(|(_, call)| !keep(call.state().0))
            .map(|(offset, _)| offset)
            .collect();
        released.into_iter().map(|offset| self.release(offset)).sum()
    }

    /// Counts a change of the note, such as a recorded intent.
    pub(super) fn note_changed(&mut self) {
        self.uncommitted.changed();
    }

    /// Returns `true` if a commit would change anything.
    pub(super) fn is_dirty(&self) -> bool {
        self.uncommitted.is_dirty()
    }

    /// Number of changes that a commit sent now contains.
    pub(super) fn changes(&self) -> u64 {
        self.uncommitted.changes()
    }

    /// Takes in the acknowledgement of a commit that contained this many changes.
    pub(super) fn committed(&mut self, changes: u64) {
        self.uncommitted.committed(changes);
    }

    /// Takes the final calls that are not known to be committed.
    pub(super) fn take_uncommitted_finals(
        &mut self,
    ) -> impl Iterator<Item = (Offset, Option<IdempotencyKey>)> {
        self.uncommitted.take_finals()
    }

    /// Offset and call note to commit, as if `deferred` were final already; `None` before the notes are read.
    ///
    /// # Errors
    /// The note is too long.
    pub(super) fn to_commit(&self, deferred: &[Offset]) -> Option<(Offset, Result<String, NoteTooLong>)> {
        // They become final with the very transaction that commits this note.
        let mut with_deferred;
        let progress = match deferred {
            [] => self.progress.as_ref()?,
            [..] => {
                with_deferred = self.progress.clone()?;
                deferred.iter().for_each(|offset| with_deferred.finish(*offset));
                &with_deferred
            }
        };
        // Released calls stay in the note until this owner leaves: their outcome is still unknown.
        let mut intents = self.released_ambiguous.clone();
        self.calls()
            .filter(|(offset, call)| call.is_ambiguous() && !deferred.contains(offset))
            .for_each(|(offset, _)| intents.insert(offset));
        Some((progress.commit_position(), progress.note(intents)))
    }

    /// Calls of the same key that are deferred along with `first`, in their order.
    pub(super) fn followers(&self, first: Offset) -> Vec<Offset> {
        let Some(key) = self.calls.get(&first).and_then(Call::key) else {
            return Vec::new();
        };
        debug_assert!(
            self.key_queues
                .of(key)
                .next()
                .is_none_or(|offset| offset == first)
        );
        let behind = self.key_queues.of(key).skip(1);
        // Up to one that stood before it: that one stays, or the two would defer each other for ever.
        behind
            .take_while(|offset| self.origin_of(*offset) > self.origin_of(first))
            .collect()
    }

    pub(super) fn is_first_of_key(&self, offset: Offset) -> bool {
        let key = self.calls.get(&offset).and_then(Call::key);
        key.is_some_and(|key| self.key_queues.is_first(key, offset))
    }

    /// Records that a call's copy is written.
    pub(super) fn copy_sent(&mut self, offset: Offset) {
        let Some((call, key)) = self.calls.get(&offset).and_then(|c| Some((c, c.key()?))) else {
            return;
        };
        let origin = call.origin();
        // The copy may be read before its transaction's result is known: then it is not in transit any more.
        let has_arrived =
            (self.key_queues.of(key)).any(|at| at != offset && self.origin_of(at) == Some(origin));
        if !has_arrived {
            self.copies.sent(key, origin);
            self.has_copies = true;
        }
    }

    /// Returns `true` if one more copy may be in transit.
    pub(super) fn has_copy_room(&self) -> bool {
        self.copies.has_room()
    }

    /// Returns `true` if an earlier call of the same key was deferred: its copy is in transit, or stands
    /// behind.
    pub(super) fn must_follow_deferred(&self, offset: Offset) -> bool {
        // Asked for each call, and almost never needed.
        if !self.has_copies {
            return false;
        }
        let Some((call, key)) = self.calls.get(&offset).and_then(|c| Some((c, c.key()?))) else {
            return false;
        };
        let is_earlier = |at: Offset| self.origin_of(at).is_some_and(|at| at < call.origin());
        self.copies.has_before(key, call.origin()) || self.key_queues.of(key).any(is_earlier)
    }

    fn origin_of(&self, offset: Offset) -> Option<Offset> {
        self.calls.get(&offset).map(Call::origin)
    }
}
