//! All partitions that this process owns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use records::{Offset, Partition};

use super::{FillLevel, OwnedPartition, Phase, Taken};
use crate::delivery::call::{Call, Pending};
use crate::delivery::event::{Assignment, CallId};
use crate::delivery::limits::Limits;

/// Owned partitions, and the memory that their open calls take. Each way in and out of a call leads through
/// here, so that `bytes_open` is always the sum over the open calls.
#[derive(Debug)]
pub(crate) struct OwnedPartitions<P> {
    // Sorted, so that actions come in the same order in each run, and a seed replays.
    by_number: BTreeMap<Partition, OwnedPartition<P>>,
    /// Number of the last assignment.
    assignments: u64,
    bytes_open: usize,
}

impl<P> OwnedPartitions<P> {
    pub(crate) fn new() -> Self {
        Self {
            by_number: BTreeMap::new(),
            assignments: 0,
            bytes_open: 0,
        }
    }

    /// Adds newly assigned partitions, under a number that distinguishes them from earlier ones.
    pub(crate) fn assign(&mut self, partitions: &[Partition]) -> Assignment {
        self.assignments += 1;
        let assignment = Assignment(self.assignments);
        for partition in partitions {
            debug_assert!(
                !self.by_number.contains_key(partition),
                "partition {partition} is assigned twice"
            );
            // The later assignment wins, and the bytes of the earlier one are given back.
            self.remove(*partition);
            self.by_number.insert(*partition, OwnedPartition::new(assignment));
        }
        assignment
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = Partition> + '_ {
        self.by_number.keys().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Partition, &OwnedPartition<P>)> {
        self.by_number.iter().map(|(number, owned)| (*number, owned))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Partition, &mut OwnedPartition<P>)> {
        self.by_number.iter_mut().map(|(number, owned)| (*number, owned))
    }

    /// Partitions that a commit would change.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = (Partition, &OwnedPartition<P>)> {
        self.iter().filter(|(_, owned)| match owned.phase() {
            Phase::Active | Phase::Draining => owned.is_dirty(),
            // Before the notes are read there is nothing to commit, and a halted partition must not be
            // committed.
            Phase::Loading | Phase::Halted => false,
        })
    }

    /// Open calls, partition by partition, in the order of the outbox.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (CallId, &Call<P>)> {
        self.iter().flat_map(|(partition, owned)| {
            let assignment = owned.assignment();
            owned.calls().map(move |(offset, call)| {
                let id = CallId {
                    assignment,
                    partition,
                    offset,
                };
                (id, call)
            })
        })
    }

    pub(crate) fn get(&self, partition: Partition) -> Option<&OwnedPartition<P>> {
        self.by_number.get(&partition)
    }

    pub(crate) fn get_mut(&mut self, partition: Partition) -> Option<&mut OwnedPartition<P>> {
        self.by_number.get_mut(&partition)
    }

    /// Partition of a call, if it is still in the same assignment.
    pub(crate) fn of(&mut self, id: CallId) -> Option<&mut OwnedPartition<P>> {
        let owned = self.by_number.get_mut(&id.partition);
        // A call of an earlier assignment is void: another owner may have finished it meanwhile.
        owned.filter(|owned| owned.assignment() == id.assignment)
    }

    /// Partition of a call, if it is still in the same assignment, and active.
    pub(crate) fn active(&mut self, id: CallId) -> Option<&mut OwnedPartition<P>> {
        self.of(id).filter(|owned| owned.is_active())
    }

    /// Returns `true` if the partition of a call is still in the same assignment, and active.
    pub(crate) fn is_active(&self, id: CallId) -> bool {
        let owned = self.by_number.get(&id.partition);
        owned.is_some_and(|owned| owned.assignment() == id.assignment && owned.is_active())
    }

    /// An open call of the same assignment.
    pub(crate) fn call(&mut self, id: CallId) -> Option<&mut Call<P>> {
        self.of(id).and_then(|owned| owned.call(id.offset))
    }

    /// Takes a record in. Returns `None` if there is nothing to do for it.
    pub(crate) fn take(
        &mut self,
        pending: Pending<P>,
        lease: Duration,
        now: Instant,
    ) -> Option<(CallId, Taken)> {
        let (partition, offset, bytes) = (pending.partition, pending.offset, pending.bytes);
        // Records that were fetched before the partition left are dropped.
        let owned = self.by_number.get_mut(&partition)?;
        let id = CallId {
            assignment: owned.assignment(),
            partition,
            offset,
        };
        let taken = owned.take(pending, lease, now)?;
        if taken != Taken::OfOtherGroup {
            self.bytes_open += bytes;
        }
        Some((id, taken))
    }

    /// Removes a call whose final state Kafka has acknowledged. Returns the call of its key that may be sent
    /// now.
    pub(crate) fn finish(&mut self, id: CallId, now: Instant) -> Option<CallId> {
        let (bytes, next) = self.of(id)?.finish(id.offset, now)?;
        self.bytes_open -= bytes;
        next.map(|offset: Offset| CallId { offset, ..id })
    }

    /// Releases a call that is not final; the next owner makes it.
    pub(crate) fn release(&mut self, id: CallId) {
        let bytes = self.of(id).map_or(0, |owned| owned.release(id.offset));
        self.bytes_open -= bytes;
    }

    /// Starts to drain a partition.
    pub(crate) fn drain(&mut self, partition: Partition) {
        self.release_by(partition, OwnedPartition::drain);
    }

    /// Releases what has not finished in time.
    pub(crate) fn release_overdue(&mut self, partition: Partition) {
        self.release_by(partition, OwnedPartition::release_overdue);
    }

    /// Releases all calls of a partition and stops it until an operator acts.
    pub(crate) fn halt(&mut self, partition: Partition) {
        self.release_by(partition, |owned| {
            owned.halt();
            owned.release_all()
        });
    }

    /// Removes a partition that is not ours any longer, with its calls.
    pub(crate) fn remove(&mut self, partition: Partition) {
        self.release_by(partition, OwnedPartition::release_all);
        self.by_number.remove(&partition);
    }

    fn release_by(&mut self, partition: Partition, release: impl FnOnce(&mut OwnedPartition<P>) -> usize) {
        let bytes = self.by_number.get_mut(&partition).map_or(0, release);
        self.bytes_open -= bytes;
    }

    pub(crate) fn bytes_open(&self) -> usize {
        self.bytes_open
    }

    /// Fill level by the limit on the memory of all open calls.
    pub(crate) fn bytes_level(&self, limits: &Limits) -> FillLevel {
        if self.bytes_open >= limits.bytes_open_max {
            FillLevel::Full
        } else if self.bytes_open <= limits.bytes_open_max / 2 {
            FillLevel::HalfEmpty
        } else {
            FillLevel::Between
        }
    }
}

#[cfg(test)]
mod tests {
    use records::IdempotencyKey;
    use records::call_note::CallNote;

    use super::super::Progress;
    use super::*;
    use crate::delivery::call::Policy;

    const P: Partition = Partition(3);
    const LEASE: Duration = Duration::from_secs(5);

    fn take(owned: &mut OwnedPartitions<()>, offset: i64, key: &str) -> CallId {
        let pending = Pending {
            partition: P,
            offset: Offset(offset),
            key: IdempotencyKey::new(key).ok(),
            bytes: 10,
            policy: Policy::Retry,
            is_of_other_group: false,
            deferral_context: None,
            payload: (),
        };
        owned.take(pending, LEASE, Instant::now()).expect("a new call").0
    }

    fn started() -> OwnedPartitions<()> {
        let mut owned = OwnedPartitions::new();
        owned.assign(&[P]);
        let progress = Progress::new(Offset(0), CallNote::default());
        let partition = owned.get_mut(P).expect("it is assigned");
        partition.activate(progress, false, Instant::now() + LEASE);
        owned
    }

    #[test]
    fn bytes_follow_the_open_calls() {
        let now = Instant::now();
        let mut owned = started();
        let ids: Vec<CallId> = (0..4).map(|n| take(&mut owned, n, &n.to_string())).collect();
        assert_eq!(owned.bytes_open(), 40);
        owned.finish(ids[0], now);
        owned.finish(ids[0], now);
        owned.release(ids[1]);
        assert_eq!(owned.bytes_open(), 20);
        owned.drain(P);
        assert_eq!((owned.bytes_open(), owned.calls().count()), (0, 0));
        owned.remove(P);
        assert!(owned.is_empty());
    }

    #[test]
    fn calls_of_an_earlier_assignment_are_void() {
        let mut owned = started();
        let id = take(&mut owned, 0, "a");
        assert!(owned.is_active(id));
        owned.remove(P);
        owned.assign(&[P]);
        assert!(owned.call(id).is_none() && owned.of(id).is_none());
        assert_eq!(owned.bytes_open(), 0);
    }

    #[test]
    fn finished_call_unblocks_the_next_of_its_key() {
        let mut owned = started();
        let (first, second) = (take(&mut owned, 0, "a"), take(&mut owned, 1, "a"));
        assert_eq!(owned.finish(first, Instant::now()), Some(second));
        assert_eq!(owned.finish(second, Instant::now()), None);
    }
}
