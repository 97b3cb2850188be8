//! One partition in our hands: loading, active, or draining.
//!
//! ```text
//! Loading ─▶ Active ─▶ Draining ─▶ gone
//!    └─▶ Refused ────────────────────┘
//! ```

mod copies_in_transit;
mod ownership_lease;
mod progress;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use records::call_note::NoteTooLong;
use records::{IdempotencyKey, Offset, OffsetSet, Partition};

use crate::delivery::call::{Ambiguity, Call, CallState, FinalState};
use crate::delivery::event::{Assignment, CallId, Pending};

pub(super) use ownership_lease::Ownership;
pub(super) use progress::Progress;

use copies_in_transit::CopiesInTransit;
use progress::Arrival;

/// A partition in our hands.
#[derive(Debug)]
pub(super) struct OwnedPartition<P> {
    pub(super) assignment: Assignment,
    pub(super) phase: Phase,
    pub(super) is_paused: bool,
    /// There are as many calls, or the consumer is as far ahead of the watermark, as may be.
    pub(super) is_full: bool,
    /// Deferred calls of which the consumer has not read the copies yet.
    pub(super) away: CopiesInTransit,
    /// Whether there ever was a deferred call here: most partitions have none, and need not look for any.
    has_copies: bool,
    /// Until then requests of an earlier owner may leave.
    pub(super) inherited_until: Option<Instant>,
    progress: Option<Progress>,
    calls: BTreeMap<Offset, Call<P>>,
    /// The calls of each key in their order; only the first may be sent.
    key_queues: HashMap<IdempotencyKey, VecDeque<Offset>>,
    /// Calls that were let go although nobody can know whether they were processed.
    doubts: OffsetSet,
    /// Calls that ended since, with the change that their end is, until that is committed.
    ended: VecDeque<(u64, Offset, Option<IdempotencyKey>)>,
    /// Counts what a commit would tell anew, and how much of it was committed.
    changes: u64,
    changes_committed: u64,
}

/// Where in its time with us a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its offset and note are being read.
    Loading,
    /// A person must look; nothing is done with it.
    Refused,
    /// Its calls are made.
    Active,
    /// It takes no more calls, and those in flight finish.
    Draining,
}

/// What became of a record that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It can be sent.
    Ready,
    /// It waits for an earlier call of its key.
    Behind,
    /// It is no call, and its end is to be published.
    Publish,
    /// There is nothing to do for it.
    Nothing,
}

/// So many ends are remembered until they are committed; while commits come through there are a few.
const ENDED_MAX: usize = 10_000;

impl<P> OwnedPartition<P> {
    pub(super) fn new(assignment: Assignment) -> Self {
        Self {
            assignment,
            phase: Phase::Loading,
            is_paused: false,
            is_full: false,
            away: CopiesInTransit::default(),
            has_copies: false,
            inherited_until: None,
            progress: None,
            calls: BTreeMap::new(),
            key_queues: HashMap::new(),
            doubts: OffsetSet::new(),
            ended: VecDeque::new(),
            changes: 0,
            changes_committed: 0,
        }
    }

    /// Its notes are read. What was never committed is committed at once, so that the group's position
    /// does not hang on the log's beginning any longer.
    pub(super) fn activate(&mut self, progress: Progress, is_first: bool, inherited_until: Instant) {
        self.phase = Phase::Active;
        self.inherited_until = Some(inherited_until);
        self.progress = Some(progress);
        self.changes += u64::from(is_first);
    }

    /// Takes a record in. Requests of an earlier owner may leave for `ownership_lease` after it has lost its
    /// ownership.
    pub(super) fn take(&mut self, pending: Pending<P>, ownership_lease: Duration, now: Instant) -> Taken {
        let (Phase::Active, Some(progress)) = (self.phase, &mut self.progress) else {
            return Taken::Nothing;
        };
        let watermark = progress.watermark();
        let arrival = progress.arrived(pending.offset);
        self.changes += u64::from(progress.watermark() != watermark);
        let Arrival::New { maybe_called } = arrival else {
            return Taken::Nothing;
        };
        let taken = match &pending.key {
            None => Taken::Publish,
            Some(key) => {
                if let Some(continued) = &pending.continued {
                    self.has_copies = true;
                    self.away.arrived(key, continued.origin);
                }
                let queue = self.key_queues.entry(key.clone()).or_default();
                queue.push_back(pending.offset);
                if queue.len() == 1 {
                    Taken::Ready
                } else {
                    Taken::Behind
                }
            }
        };
        let continued = pending.continued;
        let doubt_before = continued.and_then(|c| c.ambiguity);
        let call = Call {
            key: pending.key,
            payload: Arc::new(pending.payload),
            bytes: pending.bytes,
            policy: pending.policy,
            state: match taken {
                Taken::Ready | Taken::Nothing => CallState::Ready,
                Taken::Behind => CallState::BlockedByKey,
                Taken::Publish => CallState::Publishing(Arc::new(FinalState::NotACall)),
            },
            history: continued.map(|c| c.history()).unwrap_or_default(),
            ambiguity: maybe_called.then_some(Ambiguity::Redelivered).or(doubt_before),
            unclear: None,
            lookups: continued.map_or(0, |c| c.lookups),
            looked_up_first_at: None,
            origin: continued.map_or(pending.offset, |c| c.origin),
            inherited_until: doubt_before.map(|_| now + ownership_lease),
            taken_at: now,
            seen_before: continued.map_or(Duration::ZERO, |c| c.seen_before),
            failed_at: None,
            publications_failed: 0,
            since: now,
        };
        self.calls.insert(pending.offset, call);
        taken
    }

    /// A call's end is acknowledged by Kafka. Returns its size in bytes, and the call of its key that may
    /// now be sent.
    pub(super) fn finish(&mut self, offset: Offset, now: Instant) -> Option<(usize, Option<Offset>)> {
        let call = self.calls.remove(&offset)?;
        if let Some(progress) = &mut self.progress {
            progress.finish(offset);
        }
        self.changes += 1;
        let next = call.key.as_ref().and_then(|key| self.next_of(key, offset, now));
        if self.ended.len() < ENDED_MAX {
            self.ended.push_back((self.changes, offset, call.key));
        }
        Some((call.bytes, next))
    }

    pub(super) fn call(&mut self, offset: Offset) -> Option<&mut Call<P>> {
        self.calls.get_mut(&offset)
    }

    /// Whether a call waits for the report of its request.
    pub(super) fn is_calling(&self, offset: Offset) -> bool {
        let call = self.calls.get(&offset);
        call.is_some_and(|call| call.state == CallState::InFlight)
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = (Offset, &Call<P>)> {
        self.calls.iter().map(|(offset, call)| (*offset, call))
    }

    pub(super) fn calls_open(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is a call that may be tried and never was.
    pub(super) fn has_untried(&self) -> bool {
        let is_untried = |call: &Call<P>| match call.state {
            CallState::Ready | CallState::RecordingIntent | CallState::IntentCommitted => {
                call.history.attempts == 0
            }
            CallState::BlockedByKey
            | CallState::InFlight
            | CallState::BackingOff
            | CallState::AwaitingQuiescence(_)
            | CallState::LookingUp
            | CallState::AwaitingDeferral
            | CallState::Deferring
            | CallState::Unpublished(_)
            | CallState::Publishing(_) => false,
        };
        // The newest are the likeliest.
        self.calls.values().rev().any(is_untried)
    }

    /// Keeps only what is on its way to an end: requests under way, and ends to be published. Returns how
    /// many bytes are let go.
    pub(super) fn drain(&mut self) -> usize {
        self.phase = Phase::Draining;
        self.key_queues.clear();
        self.release_unless(|stage| match stage {
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

    /// Lets one call go without an end; it will be called by the next owner. Returns its bytes.
    pub(super) fn release(&mut self, offset: Offset) -> usize {
        let Some(mut call) = self.calls.remove(&offset) else {
            return 0;
        };
        // The note may tell of a beginning that was none.
        let was_beginning = call.void_intent();
        if call.is_ambiguous() {
            self.doubts.insert(offset);
        }
        self.changes += u64::from(was_beginning || call.is_ambiguous());
        call.bytes
    }

    /// Lets all calls go without an end, but those whose end is in the transaction in flight: should it be
    /// committed, no later note may say otherwise.
    pub(super) fn let_go_late(&mut self) -> usize {
        self.release_unless(|stage| *stage == CallState::Deferring)
    }

    /// Lets all calls go without an end.
    pub(super) fn let_all_go(&mut self) -> usize {
        self.release_unless(|_| false)
    }

    /// What a commit would tell has changed, as by a call's beginning.
    pub(super) fn changed(&mut self) {
        self.changes += 1;
    }

    /// Whether a commit would tell something new.
    pub(super) fn is_dirty(&self) -> bool {
        self.changes != self.changes_committed
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn committed(&mut self, changes: u64) {
        self.changes_committed = self.changes_committed.max(changes);
        while self.ended.front().is_some_and(|(change, ..)| *change <= changes) {
            self.ended.pop_front();
        }
    }

    /// The calls that ended and whose end is not known to be committed.
    pub(super) fn take_ended(&mut self) -> impl Iterator<Item = (Offset, Option<IdempotencyKey>)> {
        std::mem::take(&mut self.ended)
            .into_iter()
            .map(|(_, offset, key)| (offset, key))
    }

    /// The offset and note to commit.
    pub(super) fn to_commit(&self) -> Option<(Offset, Result<String, NoteTooLong>)> {
        let progress = self.progress.as_ref()?;
        let mut begun = self.doubts.clone();
        self.calls()
            .filter(|(_, call)| call.is_ambiguous())
            .for_each(|(offset, _)| begun.insert(offset));
        Some((progress.watermark(), progress.note(begun)))
    }

    /// The offset and note to commit once these calls are final.
    pub(super) fn to_commit_without(
        &self,
        deferred: &[Offset],
    ) -> Option<(Offset, Result<String, NoteTooLong>)> {
        let mut progress = self.progress.clone()?;
        deferred.iter().for_each(|offset| progress.finish(*offset));
        let mut begun = self.doubts.clone();
        self.calls()
            .filter(|(offset, call)| call.is_ambiguous() && !deferred.contains(offset))
            .for_each(|(offset, _)| begun.insert(offset));
        Some((progress.watermark(), progress.note(begun)))
    }

    /// The calls of the same key behind a call, in their order, up to one that lay before it: that one stays, or the
    /// two would go round for ever.
    pub(super) fn behind(&self, first: Offset) -> Vec<Offset> {
        let key = self.calls.get(&first).and_then(|call| call.key.as_ref());
        let queue = key.and_then(|key| self.key_queues.get(key));
        debug_assert!(queue.is_none_or(|queue| queue.front() == Some(&first)));
        let goes_with_it = |offset: &Offset| self.origin_of(*offset) > self.origin_of(first);
        let behind = queue.into_iter().flat_map(|queue| queue.iter().skip(1).copied());
        behind.take_while(goes_with_it).collect()
    }

    /// Whether a call is the first of its key.
    pub(super) fn is_first(&self, offset: Offset) -> bool {
        let key = self.calls.get(&offset).and_then(|call| call.key.as_ref());
        let queue = key.and_then(|key| self.key_queues.get(key));
        queue.is_some_and(|queue| queue.front() == Some(&offset))
    }

    /// A call is deferred: its copy is on its way, unless it has arrived already.
    pub(super) fn copied(&mut self, offset: Offset) {
        let Some((call, key)) = self.calls.get(&offset).and_then(|c| Some((c, c.key.as_ref()?))) else {
            return;
        };
        let is_copy = |at: &Offset| *at != offset && self.origin_of(*at) == Some(call.origin);
        let queue = self.key_queues.get(key);
        if !queue.is_some_and(|queue| queue.iter().any(is_copy)) {
            self.away.left(key, call.origin);
            self.has_copies = true;
        }
    }

    /// Whether a deferred call of the same key that lay before this one is away, or has arrived behind it.
    pub(super) fn must_follow(&self, offset: Offset) -> bool {
        if !self.has_copies {
            return false;
        }
        let Some((call, key)) = self.calls.get(&offset).and_then(|c| Some((c, c.key.as_ref()?))) else {
            return false;
        };
        let is_earlier = |at: &Offset| self.origin_of(*at).is_some_and(|at| at < call.origin);
        let queue = self.key_queues.get(key);
        self.away.has_before(key, call.origin) || queue.is_some_and(|queue| queue.iter().any(is_earlier))
    }

    fn origin_of(&self, offset: Offset) -> Option<Offset> {
        self.calls.get(&offset).map(|call| call.origin)
    }

    /// How far the consumer is ahead of the watermark, in offsets.
    pub(super) fn span(&self) -> u64 {
        self.progress.as_ref().map_or(0, Progress::span)
    }

    /// Whether one more call would leave the note short enough.
    pub(super) fn has_room(&self) -> bool {
        self.progress.as_ref().is_none_or(Progress::has_room)
    }

    fn next_of(&mut self, key: &IdempotencyKey, finished: Offset, now: Instant) -> Option<Offset> {
        let queue = self.key_queues.get_mut(key)?;
        debug_assert_eq!(
            queue.front(),
            Some(&finished),
            "a later call of a key ended first"
        );
        queue.pop_front();
        let Some(next) = queue.front().copied() else {
            self.key_queues.remove(key);
            return None;
        };
        let call = self.calls.get_mut(&next)?;
        if call.state == CallState::Deferring {
            // It goes with the one that has ended.
            return None;
        }
        call.enter(CallState::Ready, now);
        Some(next)
    }

    fn release_unless(&mut self, keep: impl Fn(&CallState) -> bool) -> usize {
        let goes = |(offset, call): (&Offset, &Call<P>)| (!keep(&call.state)).then_some(*offset);
        let gone: Vec<Offset> = self.calls.iter().filter_map(goes).collect();
        gone.into_iter().map(|offset| self.release(offset)).sum()
    }
}

/// The partition of a call, if it is still in the same assignment.
pub(super) fn owned_in<P>(
    held: &mut BTreeMap<Partition, OwnedPartition<P>>,
    id: CallId,
) -> Option<&mut OwnedPartition<P>> {
    held.get_mut(&id.partition)
        .filter(|held| held.assignment == id.assignment)
}
