//! Ledger: the current state of each pending call, folded from the records that Kafka has.
//!
//! First come the terminal records (outcomes, dead letters, parked records), in any order and as often as they
//! were written. Then come the records of the outbox, in the order of their offsets. One call is one chain: its
//! first record and its deferred copies. An accepted call stays accepted, whichever of its records the outcome
//! names; any other terminal record ends the record that it names, and not a later copy. A call that may have been
//! processed stays ambiguous, also if an operator has it sent again once it is parked: a copy that is rejected later says
//! nothing of the requests before it. So is one that repeats an accepted call: it is a call of its own, of the same order.
//!
//! The notes of the callers' group tell which of the records without a terminal record may still be sent. They come
//! before the terminal records: a caller notes that a call is final after Kafka has acknowledged its outcome, so none
//! of a call that is noted is missed.
//!
//! What is kept grows with the calls that are open and with the runs of sets of offsets, not with the length of
//! the topics.

mod backlog;
mod charge_again_limit;
mod kept_outcomes;
mod keys;
mod named_orders;
mod parked_calls;
mod plan;
mod recovery;
mod replay;
mod replayable;

use std::collections::BTreeMap;

use records::{Bounds, CallNote, Offset, OffsetSet, Partition, Position, TopicId};

pub use self::backlog::Backlog;
pub use self::charge_again_limit::NotAsPlanned;
pub use self::kept_outcomes::KeptOutcomes;
use self::keys::KeySample;
pub use self::named_orders::{Lineage, NamedOrders, NamedRecord};
pub use self::parked_calls::{ParkedCalls, Unsettled, Waiting};
pub use self::plan::{Contents, Planner, Selected};
pub use self::recovery::{CannotRecover, Recovery};
pub use self::replay::{Replays, RunningReplay, Stage, Step};
pub use self::replayable::{AskedFor, CannotPlanUnknown, LeftOut, Replayable, UnknownState};

/// Kind of a terminal record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// Outcome of an accepted call.
    Accepted,
    /// Dead letter.
    DeadLetter(Rejection),
    /// Parked record.
    Parked,
}

/// Evidence of a dead letter. Of two for one record the later one in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// No request of the call was processed, as far as its caller knows.
    Definite,
    /// A request of the call had an unknown outcome: the API may have processed it before it rejected the next one. So it is
    /// if the call was parked before, or repeats one that was accepted.
    Ambiguous,
    /// An operator has settled the parked call as rejected.
    Settled,
    /// The record is no pending call that a caller can read.
    NotACall,
}

impl Rejection {
    const ALL: [Self; 4] = [Self::Definite, Self::Ambiguous, Self::Settled, Self::NotACall];
}

/// State of a record of the outbox, with what the callers' group has noted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotedState {
    /// The group has not noted that it is final: a caller will make the call, or makes it now.
    Pending,
    /// As `Pending`, and with an intent: the call was sent, or is about to be.
    PerhapsSent,
    /// A terminal record ends it, and no caller makes it again.
    Final(Terminal),
    /// The group has noted that it is final, and the topics do not have its terminal record: the retention of that has
    /// passed, or the group was begun behind the record.
    Unknown,
}

/// State of a record of the outbox, at the time at which it is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// A terminal record ends it.
    Final(Terminal),
    /// Neither a terminal record nor, so far, a later copy. It may have been sent.
    Open,
}

/// Two records that cannot belong to the same call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the outcomes, dead letters or parked records name {call}, which has another key in the outbox: the outbox \
     was deleted and created again, or two pipelines share these topics, so that it is unknown which calls are \
     final"
)]
pub struct ForeignRecord {
    /// Position of the call.
    pub call: Position,
}

/// Calls of one outbox, with their states.
#[derive(Debug)]
pub struct Ledger {
    topic: String,
    partitions: BTreeMap<Partition, Calls>,
}

/// Calls of one partition.
#[derive(Debug, Default)]
struct Calls {
    accepted: OffsetSet,
    /// Dead letters, by the order of their evidence.
    dead_letters: [OffsetSet; Rejection::ALL.len()],
    parked: OffsetSet,
    /// Parked records whose callers had sent a request with an unknown outcome.
    parked_ambiguous: OffsetSet,
    /// Offset and call note of the callers' group; `None` if they are not known, or it has none.
    note: Option<(Offset, CallNote)>,
    /// Keys of terminal records, to be compared with those of the outbox.
    keys: KeySample,
    /// First records of the calls of which a copy was accepted.
    accepted_copies: OffsetSet,
    /// First records of the calls of which a record is parked, or has a dead letter that is not definite, and of those that
    /// repeat one that was accepted.
    ambiguous: OffsetSet,
    /// Last record of each open call, by its first record.
    open: BTreeMap<Offset, Offset>,
    counts: Counts,
}

/// Number of records of an outbox partition, by their states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All records.
    pub records: u64,
    /// Records of accepted calls.
    pub accepted: u64,
    /// Records with a dead letter.
    pub dead_letters: u64,
    /// Records with a parked record.
    pub parked: u64,
    /// Records that a later copy continues.
    pub deferred: u64,
}

impl Ledger {
    /// Creates the ledger of an outbox.
    #[must_use]
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            partitions: BTreeMap::new(),
        }
    }

    /// Takes in what the callers' group has committed for a partition, before all terminal records.
    pub fn noted(&mut self, partition: Partition, offset: Offset, note: CallNote) {
        self.partitions.entry(partition).or_default().note = Some((offset, note));
    }

    /// Takes in a terminal record, with its key and the record of the outbox that it names. One that names
    /// another topic is ignored.
    ///
    /// # Errors
    /// Another terminal record names the same record with another key.
    pub fn terminal(&mut self, kind: Terminal, call: &Position, key: &[u8]) -> Result<(), ForeignRecord> {
        if call.topic != self.topic {
            return Ok(());
        }
        let calls = self.partitions.entry(call.partition).or_default();
        if !calls.keys.insert(call.offset, key) {
            return Err(ForeignRecord { call: call.clone() });
        }
        let set = match kind {
            Terminal::Accepted => &mut calls.accepted,
            Terminal::DeadLetter(rejection) => &mut calls.dead_letters[rejection as usize],
            Terminal::Parked => &mut calls.parked,
        };
        set.insert(call.offset);
        Ok(())
    }

    /// Takes in, beside the parked record of a call, that its caller had sent a request with an unknown outcome.
    pub fn parked_ambiguous(&mut self, call: &Position) {
        if call.topic == self.topic {
            let calls = self.partitions.entry(call.partition).or_default();
            calls.parked_ambiguous.insert(call.offset);
        }
    }

    /// Takes in, before a record of the outbox, that it repeats a call that was accepted. Its order was charged, so that it is
    /// ambiguous if it is rejected.
    pub fn repeated(&mut self, partition: Partition, offset: Offset) {
        let calls = self.partitions.entry(partition).or_default();
        calls.ambiguous.insert(offset);
    }

    /// Takes in a record of the outbox, after all terminal records. `continues` is the call's first record, if
    /// this one is a copy.
    ///
    /// # Errors
    /// A terminal record names this record with another key.
    pub fn pending(
        &mut self,
        partition: Partition,
        offset: Offset,
        key: &[u8],
        continues: Option<&Position>,
    ) -> Result<RecordState, ForeignRecord> {
        // A copy on another partition does not end the call's earlier records: callers of two partitions know
        // nothing of each other.
        let first = continues
            .filter(|call| call.topic == self.topic && call.partition == partition && call.offset < offset)
            .map_or(offset, |call| call.offset);
        let calls = self.partitions.entry(partition).or_default();
        if !calls.keys.matches(offset, key) {
            let topic = self.topic.clone();
            return Err(ForeignRecord {
                call: Position {
                    topic,
                    partition,
                    offset,
                },
            });
        }
        calls.counts.records += 1;
        // The copy is the open record from now on.
        if calls.open.remove(&first).is_some() {
            calls.counts.deferred += 1;
        }
        let state = calls.state(first, offset);
        match state {
            RecordState::Final(Terminal::Accepted) => {
                calls.counts.accepted += 1;
                // A caller may die after the outcome and before its notes are committed; the next one may defer
                // the call again.
                if first != offset {
                    calls.accepted_copies.insert(first);
                }
            }
            RecordState::Final(Terminal::DeadLetter(rejection)) => {
                calls.counts.dead_letters += 1;
                if matches!(rejection, Rejection::Ambiguous | Rejection::Settled) {
                    calls.ambiguous.insert(first);
                }
            }
            RecordState::Final(Terminal::Parked) => {
                calls.counts.parked += 1;
                // Whoever sends it again takes it for unprocessed, and may be wrong.
                calls.ambiguous.insert(first);
            }
            RecordState::Open => drop(calls.open.insert(first, offset)),
        }
        Ok(state)
    }

    /// Returns the state that [`Self::pending`] has returned for a record, with what the group has noted of it.
    #[must_use]
    pub fn noted_state(&self, partition: Partition, offset: Offset, state: RecordState) -> NotedState {
        // An outcome counts at once: its caller has the response.
        if state == RecordState::Final(Terminal::Accepted) {
            return NotedState::Final(Terminal::Accepted);
        }
        match state {
            // A dead letter or parked record whose call is not noted leaves the call open: the next owner looks it
            // up, or sends it.
            _ if !self.is_noted_final(partition, offset) => {
                let note = self.note(partition);
                match note.is_some_and(|(_, note)| note.intents.contains(offset)) {
                    true => NotedState::PerhapsSent,
                    false => NotedState::Pending,
                }
            }
            RecordState::Final(terminal) => NotedState::Final(terminal),
            RecordState::Open => NotedState::Unknown,
        }
    }

    /// Returns whether the group has noted that the call of a record is final, so that no caller makes it again.
    #[must_use]
    pub fn is_noted_final(&self, partition: Partition, offset: Offset) -> bool {
        // Without a note no caller has dealt with the record, as far as is known.
        self.note(partition)
            .is_some_and(|(committed, note)| offset < *committed || note.finals.contains(offset))
    }

    fn note(&self, partition: Partition) -> Option<&(Offset, CallNote)> {
        self.partitions.get(&partition)?.note.as_ref()
    }

    /// Returns the open calls of a partition in the order of their first records: each with its first record
    /// and its last one.
    pub fn open(&self, partition: Partition) -> impl Iterator<Item = (Offset, Offset)> + '_ {
        let calls = self.partitions.get(&partition);
        calls
            .into_iter()
            .flat_map(|calls| calls.open.iter().map(|(first, last)| (*first, *last)))
    }

    /// Returns the number of records of a partition by their states.
    #[must_use]
    pub fn counts(&self, partition: Partition) -> Counts {
        self.partitions
            .get(&partition)
            .map_or(Counts::default(), |calls| calls.counts)
    }

    /// Returns what a group that lost its offsets continues with on a partition, all records of which within
    /// the bounds were taken in. `outbox` is the id of the outbox, if the brokers report it. `final_unknown` are records
    /// that count as final although no terminal record ends them.
    ///
    /// # Errors
    /// The call note would be too long.
    pub fn recover(
        &self,
        partition: Partition,
        bounds: Bounds,
        outbox: Option<TopicId>,
        final_unknown: &OffsetSet,
    ) -> Result<Recovery, CannotRecover> {
        let open = self.open(partition).map(|(_, last)| last);
        let open = open.filter(|last| !final_unknown.contains(*last)).collect();
        Recovery::of(open, bounds, outbox)
    }
}

impl Calls {
    fn state(&self, first: Offset, offset: Offset) -> RecordState {
        let is_accepted = |at| self.accepted.contains(at);
        if is_accepted(offset) || is_accepted(first) || self.accepted_copies.contains(first) {
            RecordState::Final(Terminal::Accepted)
        } else if let Some(rejection) = self.rejection(first, offset) {
            RecordState::Final(Terminal::DeadLetter(rejection))
        } else if self.parked.contains(offset) {
            RecordState::Final(Terminal::Parked)
        } else {
            RecordState::Open
        }
    }

    fn rejection(&self, first: Offset, offset: Offset) -> Option<Rejection> {
        let rejection = self.dead_letter(offset)?;
        // That a later copy was rejected says nothing of the requests before. Copies say so themselves; those of
        // earlier versions do not.
        // Nor does a dead letter of the requests of the next owner, which sends again if the first one dies before it
        // notes the dead letter.
        let is_ambiguous =
            || self.ambiguous.contains(first) || [first, offset].into_iter().any(|at| self.is_ambiguous(at));
        Some(match rejection {
            Rejection::Definite if is_ambiguous() => Rejection::Ambiguous,
            _ => rejection,
        })
    }

    /// Returns whether the terminal records of a record leave it open whether the API has processed its order.
    fn is_ambiguous(&self, offset: Offset) -> bool {
        match self.dead_letter(offset) {
            Some(Rejection::Ambiguous | Rejection::Settled) => true,
            // The next owner may have parked it after a request of its own.
            Some(Rejection::Definite | Rejection::NotACall) => self.parked_ambiguous.contains(offset),
            None => self.parked.contains(offset),
        }
    }

    fn dead_letter(&self, offset: Offset) -> Option<Rejection> {
        Rejection::ALL
            .into_iter()
            .rev()
            .find(|rejection| self.dead_letters[*rejection as usize].contains(offset))
    }
}

#[cfg(test)]
mod tests;
