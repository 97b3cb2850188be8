//! What the topic of the outcomes still has. Its retention passes, while parked records are kept: that it has no outcome
//! of a call then says nothing of a call that is older than what it has.
//!
//! An outcome comes after the admission of its order, whichever record of the call it names and whenever its caller was
//! replaced. Brokers delete the first records of a partition, and nothing behind them. So each outcome of a call is still
//! there if the order was admitted after the first record was written that the partition still has.
//!
//! Outcomes are partitioned by the hash of their key. As long as it is not known that the topic had all of its partitions
//! when the order was admitted, an outcome may be on any of them.

use records::{Offset, Timestamp};

use super::{NotedState, Rejection, Terminal};
use crate::admission::Partitioner;

/// Time by which the record times of two programs are compared with caution: 5 minutes for their clocks, and 5 for an
/// outcome that waits to be acknowledged, or whose writer has not learned of new partitions (librdkafka's
/// `topic.metadata.refresh.interval.ms`).
const CAUTION_MS: i64 = 10 * 60 * 1000;

/// What the topic of the outcomes still has. Without a partition it has nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptOutcomes {
    partitions: Vec<Kept>,
}

/// What one partition still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// Nothing of it was ever deleted.
    is_whole: bool,
    /// Time of its first record; `None` if it has none, or that has no time.
    first_at: Option<Timestamp>,
}

impl KeptOutcomes {
    /// Takes in a partition, in the order of their numbers: its first offset, and the time of the first record that was
    /// read from there on.
    pub fn partition(&mut self, start: Offset, first_at: Option<Timestamp>) {
        self.partitions.push(Kept {
            is_whole: start.0 == 0,
            first_at,
        });
    }

    /// Returns whether each outcome is still there that an order with this key can have, if it was admitted then: without
    /// one, its call was not accepted as far as any caller has said.
    #[must_use]
    pub fn has_all_of(&self, key: &[u8], admitted_at: Option<Timestamp>) -> bool {
        let has_all = |partition: &Kept| partition.has_all_since(admitted_at);
        if self.partitions.is_empty() {
            return false;
        }
        self.partitions.iter().all(has_all) || self.only_partition_of(key, admitted_at).is_some_and(has_all)
    }

    /// Returns the state of a call; if it was rejected, and an outcome of it may be gone, it may have been processed: a caller
    /// that dies between an outcome and its commit leaves the call to the next owner, whose request the API may reject as
    /// a duplicate.
    #[must_use]
    pub fn doubted(&self, noted: NotedState, key: &[u8], admitted_at: Option<Timestamp>) -> NotedState {
        match noted {
            NotedState::Final(Terminal::DeadLetter(Rejection::Definite))
                if !self.has_all_of(key, admitted_at) =>
            {
                NotedState::Final(Terminal::DeadLetter(Rejection::Ambiguous))
            }
            noted => noted,
        }
    }

    /// Returns the partition that has all outcomes of an order; `None` unless it is known that the topic has not grown
    /// since the order was admitted.
    fn only_partition_of(&self, key: &[u8], admitted_at: Option<Timestamp>) -> Option<&Kept> {
        // The last partition is the one that came last.
        let had_last = self.partitions.last()?.is_first_before(admitted_at);
        // librdkafka spreads records without a key.
        if !had_last || key.is_empty() {
            return None;
        }
        let count = u32::try_from(self.partitions.len()).ok()?;
        let partition = Partitioner::Crc32.partition(key, count)?;
        self.partitions.get(usize::try_from(partition).ok()?)
    }
}

impl Kept {
    fn has_all_since(&self, admitted_at: Option<Timestamp>) -> bool {
        self.is_whole || self.is_first_before(admitted_at)
    }

    /// Returns whether the first record was surely written before this time.
    fn is_first_before(&self, at: Option<Timestamp>) -> bool {
        let (Some(first_at), Some(at)) = (self.first_at, at) else {
            return false;
        };
        first_at.0.saturating_add(CAUTION_MS) <= at.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * 60 * 1000;

    /// Partitions with these first offsets and times of their first records.
    fn kept(partitions: &[(i64, Option<i64>)]) -> KeptOutcomes {
        let mut kept = KeptOutcomes::default();
        for (start, first_at) in partitions {
            kept.partition(Offset(*start), first_at.map(Timestamp));
        }
        kept
    }

    /// Returns a key whose outcomes are on this partition of so many.
    fn key_on(partition: u32, count: u32) -> String {
        (0..)
            .map(|number| format!("order-{number}"))
            .find(|key| Partitioner::Crc32.partition(key.as_bytes(), count) == Some(partition))
            .expect("a hash spreads keys")
    }

    fn has_all(kept: &KeptOutcomes, key: &str, admitted_at: i64) -> bool {
        kept.has_all_of(key.as_bytes(), Some(Timestamp(admitted_at)))
    }

    #[test]
    fn whole_topic_has_each_outcome() {
        for kept in [kept(&[(0, None)]), kept(&[(0, Some(5 * HOUR)), (0, None)])] {
            assert!(has_all(&kept, "a", 0));
            assert!(kept.has_all_of(b"a", None));
        }
        assert!(!has_all(&KeptOutcomes::default(), "a", 0));
    }

    #[test]
    fn call_is_newer_than_the_first_record_that_is_kept() {
        let kept = kept(&[(7, Some(5 * HOUR))]);
        assert!(has_all(&kept, "a", 5 * HOUR + CAUTION_MS));
        // Its outcome may have come just before, by another clock.
        assert!(!has_all(&kept, "a", 5 * HOUR + CAUTION_MS - 1));
        assert!(!has_all(&kept, "a", 0));
        assert!(!kept.has_all_of(b"a", None), "nobody knows when it was admitted");
    }

    #[test]
    fn rejected_call_may_have_been_accepted_if_its_outcome_may_be_gone() {
        let kept = kept(&[(7, Some(5 * HOUR))]);
        let rejected = |rejection| NotedState::Final(Terminal::DeadLetter(rejection));
        let doubted = |noted, at| kept.doubted(noted, b"a", Some(Timestamp(at)));
        let (definite, ambiguous) = (rejected(Rejection::Definite), rejected(Rejection::Ambiguous));
        assert_eq!(doubted(definite, 5 * HOUR), ambiguous);
        assert_eq!(doubted(definite, 6 * HOUR), definite);
        for other in [
            NotedState::Pending,
            NotedState::Final(Terminal::Accepted),
            rejected(Rejection::NotACall),
        ] {
            assert_eq!(doubted(other, 5 * HOUR), other);
        }
    }

    #[test]
    fn partition_without_a_record_shows_nothing() {
        for first_at in [None, Some(i64::MAX)] {
            assert!(!has_all(&kept(&[(7, first_at)]), "a", i64::MAX - 1));
        }
    }

    #[test]
    fn other_partitions_count_unless_the_topic_had_all() {
        let keys = [key_on(0, 2), key_on(1, 2)];
        let of = |kept: &KeptOutcomes| [&keys[0], &keys[1]].map(|key| has_all(kept, key, 9 * HOUR));
        // Nothing is left on partition 0.
        assert_eq!(of(&kept(&[(7, None), (7, Some(HOUR))])), [false, true]);
        assert_eq!(of(&kept(&[(7, None), (0, Some(HOUR))])), [false, true]);
        assert_eq!(of(&kept(&[(7, Some(HOUR)), (7, Some(HOUR))])), [true, true]);
        // Partition 1 may have come after the order was admitted, whose outcome is then on partition 0.
        assert_eq!(of(&kept(&[(7, None), (0, None)])), [false, false]);
        assert_eq!(of(&kept(&[(7, None), (0, Some(9 * HOUR))])), [false, false]);
        assert_eq!(of(&kept(&[(7, Some(HOUR)), (0, None)])), [true, true]);
        // Without a key it may be on any.
        let middle_is_empty = kept(&[(7, Some(HOUR)), (7, None), (7, Some(HOUR))]);
        assert!(has_all(&middle_is_empty, &key_on(0, 3), 9 * HOUR));
        assert!(!has_all(&middle_is_empty, "", 9 * HOUR));
    }
}
