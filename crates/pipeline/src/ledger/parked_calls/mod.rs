//! Parked calls: which of them wait for an operator, and whether one may be settled.
//!
//! First come the parked records and the settlements, then the outcomes and the dead letters, then the notes of the
//! callers' group. What is kept grows with the calls that wait, and with the runs of sets of offsets for those
//! that are settled.
//!
//! Parked records are kept for longer than outcomes. A call whose outcome was deleted waits as if it had none: it may be
//! settled as accepted or as rejected, and is not sent again.
//!
//! A call that operators have sent again and that is parked again is one chain: a copy names its first record. Each
//! time is told by what ended the record before: a settlement, or the dead letter that a replay has made again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use records::settlement::Decision;
use records::{CallNote, Offset, OffsetSet, Partition, Position, Timestamp};

/// Parked calls of one outbox.
#[derive(Debug)]
pub struct ParkedCalls<T> {
    topic: String,
    partitions: BTreeMap<Partition, Calls<T>>,
}

#[derive(Debug)]
struct Calls<T> {
    waiting: BTreeMap<Offset, Waiting<T>>,
    /// First records of the calls that were ever in `waiting`.
    firsts: OffsetSet,
    settled: OffsetSet,
    /// First records of the calls that operators have sent again: those of more than `n` times are in the set `n`.
    sent_again: Vec<OffsetSet>,
    /// Records with a dead letter whose calls were parked before or later, each counted once.
    replayed: OffsetSet,
    /// First records of calls in `waiting` that were accepted.
    accepted: BTreeSet<Offset>,
    /// Calls in `waiting` that have a dead letter.
    dead_letters: BTreeSet<Offset>,
    /// Calls in `waiting` each outcome of which is still in its topic, if they have one.
    with_kept_outcomes: BTreeSet<Offset>,
    /// Offset and call note of the callers' group; `None` if it has committed no offset.
    note: Option<(Offset, CallNote)>,
}

/// Parked call without a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting<T> {
    /// First record of the call, which it continues if it is a deferred copy.
    pub first: Offset,
    /// Time at which it was parked; the last one if it was parked twice.
    pub parked_at: Timestamp,
    /// What the shell keeps of its parked record.
    pub record: T,
}

/// Reason for which a parked call cannot be settled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsettled {
    /// No parked record names the call, or it was settled before.
    #[error("it is not parked, or was settled before")]
    NotWaiting,
    /// The call has an outcome.
    #[error(
        "it was accepted: an outcome names it, so there is nothing to settle, and it must not be sent again"
    )]
    Accepted,
    /// The call has a dead letter.
    #[error(
        "a dead letter names it, so there is nothing to settle: `outbox order` tells whether it may be called again"
    )]
    DeadLetter,
    /// The call may have an outcome that its topic no longer has.
    #[error(
        "its outcome may be gone: the topic of the outcomes has none of it, but no longer has all that came after its \
         order was admitted, so that it may have been accepted, and would be charged a second time. Look for it in the \
         API's own records: settle it with --accepted if it was charged, and with --rejected if it was not. The latter \
         is made again by `outbox replay plan KEY --state settled`, or, if the outbox no longer has it, as an order with \
         a new key"
    )]
    OutcomeMayBeGone,
    /// No call note says that the call is final.
    #[error(
        "the callers have not committed that it is final, so one of them may still look it up or send it: wait \
         until they have, or start one; `outbox notes` shows it"
    )]
    Open,
    /// An earlier request of the call may still be processed.
    #[error(
        "an earlier request of it may be processed until {until} (ms since 1970 UTC): it may be sent again then"
    )]
    TooEarly {
        /// Time from which on it may be sent again.
        until: Timestamp,
    },
}

impl<T> ParkedCalls<T> {
    /// Creates the parked calls of an outbox.
    #[must_use]
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            partitions: BTreeMap::new(),
        }
    }

    /// Takes in, before the parked record of a call, that it repeats a call that was accepted: an operator has asked
    /// for that.
    pub fn repeated(&mut self, call: &Position) {
        if let Some(calls) = self.calls(call)
            // Its record may be written twice.
            && !calls.firsts.contains(call.offset)
        {
            calls.count_sent_again(call.offset);
        }
    }

    /// Takes in a parked record: the call, its first record if it is a copy, and the time. A call that was
    /// settled before stays settled. Returns whether it waits.
    pub fn parked(
        &mut self,
        call: &Position,
        first: Option<&Position>,
        parked_at: Timestamp,
        record: T,
    ) -> bool {
        let first = self.first(call, first);
        let Some(calls) = self.calls(call) else {
            return false;
        };
        if calls.settled.contains(call.offset) {
            return false;
        }
        // The next owner parks a call again whose note was not committed.
        let parked_at = calls
            .waiting
            .get(&call.offset)
            .map_or(parked_at, |before| before.parked_at.max(parked_at));
        let waiting = Waiting {
            first,
            parked_at,
            record,
        };
        calls.firsts.insert(first);
        calls.waiting.insert(call.offset, waiting);
        true
    }

    /// Takes in a settlement, after the parked record of the call.
    pub fn settled(&mut self, call: &Position, decision: Decision) {
        if let Some(calls) = self.calls(call) {
            calls.settled.insert(call.offset);
            if let Some(waited) = calls.waiting.remove(&call.offset)
                && decision == Decision::SendAgain
            {
                calls.count_sent_again(waited.first);
            }
        }
    }

    /// Takes in an outcome: the call that it names, and the call's first record if that is a copy.
    pub fn accepted(&mut self, call: &Position, first: Option<&Position>) {
        let first = self.first(call, first);
        if let Some(calls) = self.calls(call) {
            // An outcome of any record of the call ends them all.
            if calls.firsts.contains(first) {
                calls.accepted.insert(first);
            }
        }
    }

    /// Takes in a dead letter: the call that it names, and the call's first record if that is a copy.
    pub fn dead_letter(&mut self, call: &Position, first: Option<&Position>) {
        let first = self.first(call, first);
        let Some(calls) = self.calls(call) else { return };
        if calls.waiting.contains_key(&call.offset) {
            calls.dead_letters.insert(call.offset);
        } else if calls.firsts.contains(first) && !calls.replayed.contains(call.offset) {
            // Only a replay makes a rejected call again.
            calls.replayed.insert(call.offset);
            calls.count_sent_again(first);
        }
    }

    /// Takes in, after the outcomes, of which calls each outcome is still in its topic, if they have one: without that a
    /// call may have an outcome that was deleted.
    pub fn kept_outcomes(&mut self, has_all: impl Fn(&T) -> bool) {
        for calls in self.partitions.values_mut() {
            let kept = calls
                .waiting
                .iter()
                .filter(|(_, waiting)| has_all(&waiting.record));
            calls.with_kept_outcomes = kept.map(|(offset, _)| *offset).collect();
        }
    }

    /// Returns whether a call that waits may have an outcome that its topic no longer has.
    #[must_use]
    pub fn outcome_may_be_gone(&self, call: &Position) -> bool {
        let calls = self.partitions.get(&call.partition);
        !calls.is_some_and(|calls| calls.with_kept_outcomes.contains(&call.offset))
    }

    /// Returns the number of parked calls without a settlement, also of those that have an outcome or a dead letter.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.partitions.values().map(|calls| calls.waiting.len()).sum()
    }

    /// Takes in what the callers' group has committed for a partition.
    pub fn noted(&mut self, partition: Partition, committed: Offset, note: CallNote) {
        self.partitions.entry(partition).or_default().note = Some((committed, note));
    }

    /// Returns the calls that wait for an operator, in the order of their positions: neither settled nor accepted
    /// nor rejected.
    pub fn waiting(&self) -> impl Iterator<Item = (Position, &Waiting<T>)> {
        self.partitions.iter().flat_map(|(partition, calls)| {
            calls
                .waiting
                .iter()
                .filter(|(offset, waiting)| {
                    !calls.accepted.contains(&waiting.first) && !calls.dead_letters.contains(offset)
                })
                .map(|(offset, waiting)| {
                    let call = Position {
                        topic: self.topic.clone(),
                        partition: *partition,
                        offset: *offset,
                    };
                    (call, waiting)
                })
        })
    }

    /// Returns how often operators have sent a call that waits again, by settlements and by replays.
    #[must_use]
    pub fn sent_again(&self, call: &Position) -> usize {
        let calls = self.partitions.get(&call.partition);
        let waiting = calls.and_then(|calls| Some((calls, calls.waiting.get(&call.offset)?)));
        waiting.map_or(0, |(calls, waiting)| {
            let of_it = |set: &&OffsetSet| set.contains(waiting.first);
            calls.sent_again.iter().take_while(of_it).count()
        })
    }

    /// Returns the parked call, if it may be settled like this now. `quiescence` is the time after which no earlier
    /// request of a parked call can be sent or processed.
    ///
    /// # Errors
    /// The reason for which it may not.
    pub fn settle(
        &self,
        call: &Position,
        decision: Decision,
        now: Timestamp,
        quiescence: Duration,
    ) -> Result<&Waiting<T>, Unsettled> {
        let calls = self
            .partitions
            .get(&call.partition)
            .filter(|_| call.topic == self.topic)
            .ok_or(Unsettled::NotWaiting)?;
        let waiting = calls.waiting.get(&call.offset).ok_or(Unsettled::NotWaiting)?;
        if calls.accepted.contains(&waiting.first) {
            return Err(Unsettled::Accepted);
        }
        if calls.dead_letters.contains(&call.offset) {
            return Err(Unsettled::DeadLetter);
        }
        // A caller that dies after the parked record leaves the call open: the next owner looks it up, and sends
        // it under another policy.
        let is_final = calls
            .note
            .as_ref()
            .is_some_and(|(committed, note)| call.offset < *committed || note.finals.contains(call.offset));
        if !is_final {
            return Err(Unsettled::Open);
        }
        if decision == Decision::SendAgain && self.outcome_may_be_gone(call) {
            return Err(Unsettled::OutcomeMayBeGone);
        }
        let quiescence = i64::try_from(quiescence.as_millis()).unwrap_or(i64::MAX);
        let until = Timestamp(waiting.parked_at.0.saturating_add(quiescence));
        if decision == Decision::SendAgain && now < until {
            return Err(Unsettled::TooEarly { until });
        }
        Ok(waiting)
    }

    /// Returns the offset of a call's first record.
    fn first(&self, call: &Position, first: Option<&Position>) -> Offset {
        // As in the ledger: a copy on another partition is a call of its own.
        first
            .filter(|first| first.topic == self.topic && first.partition == call.partition)
            .map_or(call.offset, |first| first.offset)
    }

    /// Returns the calls of the partition; `None` for a call of another outbox.
    fn calls(&mut self, call: &Position) -> Option<&mut Calls<T>> {
        (call.topic == self.topic).then(|| self.partitions.entry(call.partition).or_default())
    }
}

impl<T> Calls<T> {
    fn count_sent_again(&mut self, first: Offset) {
        let next = self.sent_again.iter_mut().find(|set| !set.contains(first));
        match next {
            Some(set) => set.insert(first),
            None => self.sent_again.push([first].into_iter().collect()),
        }
    }
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            firsts: OffsetSet::new(),
            settled: OffsetSet::new(),
            sent_again: Vec::new(),
            replayed: OffsetSet::new(),
            accepted: BTreeSet::new(),
            dead_letters: BTreeSet::new(),
            with_kept_outcomes: BTreeSet::new(),
            note: None,
        }
    }
}

#[cfg(test)]
mod tests;
