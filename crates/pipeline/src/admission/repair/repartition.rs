//! Growth of the topics: which changelog entries are needed on another partition, and what the offsets remember then.
//!
//! A key is looked up on the partition of its order. With more partitions most keys have another one, where nothing
//! knows them, and their orders would be admitted again. So each entry is appended to the partition that its key has
//! now. That is enough if the validators refuse an order on any other partition: a key is then admitted only where its
//! entry is, whatever partitioner the producers use. The entry stays on its former partition too, where it does no
//! harm.

use records::{Entry, Forgotten, Offset, Partition, Timestamp, TopicsNote};

use crate::admission::partitioner::Partitioner;

/// Distribution of the keys over more partitions. Takes every record of the changelog first, and then says where each
/// entry is needed.
// Memory: nothing for a key or a partition.
#[derive(Clone, Copy, Debug)]
pub struct Repartition {
    partitioner: Partitioner,
    was: u32,
    is: u32,
    counts: RepartitionCounts,
    newest: Option<Timestamp>,
}

/// What a changelog has, of which some is needed elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepartitionCounts {
    /// Entries; a key that was recorded again counts each time.
    pub entries: u64,
    /// Entries that are needed on another partition.
    pub moved: u64,
    /// Entries of orders that were on another partition than the partitioner says.
    pub misplaced: u64,
    /// Entries that were moved before, by an earlier growth or an earlier run.
    pub moved_before: u64,
}

/// Entry that is needed on another partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedEntry {
    /// Partition of its key.
    pub to: Partition,
    /// Entry, without the offset of its order, which is of the partition before.
    pub entry: Entry,
    /// Time to record it at; `None` if no record has a time.
    pub recorded: Option<Timestamp>,
}

/// The producers have used another partitioner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{misplaced} of {entries} entries are of orders on another partition than {partitioner:?} gives their keys among the \
     former {was}: validator.partitioner is not that of the producers, whose orders the validators would then refuse \
     (wrong-partition)"
)]
pub struct WrongPartitioner {
    misplaced: u64,
    entries: u64,
    partitioner: Partitioner,
    was: u32,
}

impl Repartition {
    /// Creates the distribution of the keys of `was` partitions over `is`. `None` for a partitioner that leaves the
    /// partition of a key open.
    #[must_use]
    pub fn new(partitioner: Partitioner, was: u32, is: u32) -> Option<Self> {
        (partitioner != Partitioner::Any).then_some(Self {
            partitioner,
            was,
            is,
            counts: RepartitionCounts::default(),
            newest: None,
        })
    }

    /// Takes a record of the changelog. Without an entry it is a tombstone.
    pub fn take(&mut self, on: Partition, key: &[u8], entry: Option<&Entry>, at: Option<Timestamp>) {
        self.newest = self.newest.max(at);
        let Some(entry) = entry else { return };
        self.counts.entries += 1;
        self.counts.moved += u64::from(self.partition(key, self.is).is_some_and(|home| home != on));
        // One that was moved before is on a partition of the partitioner's own choice.
        if entry.source == Entry::MOVED {
            self.counts.moved_before += 1;
            return;
        }
        let is_misplaced = self.partition(key, self.was).is_some_and(|was| was != on);
        self.counts.misplaced += u64::from(is_misplaced);
    }

    /// Returns the partition that a key has now.
    #[must_use]
    pub fn home(&self, key: &[u8]) -> Option<Partition> {
        self.partition(key, self.is)
    }

    /// Returns what was taken.
    #[must_use]
    pub const fn counts(&self) -> RepartitionCounts {
        self.counts
    }

    /// Checks that the orders were on the partitions of this partitioner.
    ///
    /// # Errors
    /// More than a tenth of them were not.
    // Not each of them: one of many producers may be wrong, and what grew before has left an entry behind for each that
    // was moved. None of these is admitted twice: the validators refuse an order on another partition than its key's.
    pub const fn check_partitioner(&self) -> Result<(), WrongPartitioner> {
        let RepartitionCounts {
            entries,
            misplaced,
            moved_before,
            ..
        } = self.counts;
        if misplaced > moved_before + entries / 10 {
            return Err(WrongPartitioner {
                misplaced,
                entries,
                partitioner: self.partitioner,
                was: self.was,
            });
        }
        Ok(())
    }

    /// Returns the entry that the partition of a key needs; `None` if the key is on it.
    #[must_use]
    pub fn moved(&self, on: Partition, key: &[u8], entry: &Entry) -> Option<MovedEntry> {
        let to = self.home(key).filter(|to| *to != on)?;
        Some(MovedEntry {
            to,
            entry: Entry {
                source: Entry::MOVED,
                ..*entry
            },
            // That of the newest record of all partitions: the times of a partition never fall, since keys are
            // forgotten by them. So it is remembered for longer, and never for less.
            recorded: self.newest,
        })
    }

    fn partition(&self, key: &[u8], partitions: u32) -> Option<Partition> {
        let number = self.partitioner.partition(key, partitions)?;
        i32::try_from(number).ok().map(Partition)
    }
}

/// Returns the notes of all partitions once their keys are where they are needed: with this partition count, and
/// with what any partition has forgotten. A partition without a committed offset has no note.
// A key that its former partition has forgotten is unknown to its new one, and its order must stay refused there.
#[must_use]
pub fn grown_notes(notes: &[Option<TopicsNote>], now: &TopicsNote) -> Vec<TopicsNote> {
    let forgotten = |note: &Option<TopicsNote>| note.as_ref().and_then(|note| note.forgotten);
    let before = notes.iter().filter_map(forgotten).map(|of| of.before).max();
    notes
        .iter()
        .map(|note| TopicsNote {
            forgotten: before.map(|before| Forgotten {
                // An offset of the partition's own changelog, which is still the same.
                below: forgotten(note).map_or(Offset(0), |of| of.below),
                before,
            }),
            ..now.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use records::Fingerprint;
    use records::TopicId;
    use records::entry::Status;
    use records::fingerprint::SelectionId;

    use super::*;

    const WAS: u32 = 3;
    const IS: u32 = 8;

    fn entry(source: i64) -> Entry {
        Entry {
            status: Status::Pending,
            selection: SelectionId::Order,
            fingerprint: Fingerprint::of(b"order"),
            admitted_at: Timestamp(5),
            source: Offset(source),
        }
    }

    fn home(key: &str, partitions: u32) -> Partition {
        let number = Partitioner::Crc32.partition(key.as_bytes(), partitions);
        Partition(i32::try_from(number.expect("a partition")).expect("few"))
    }

    fn repartition() -> Repartition {
        Repartition::new(Partitioner::Crc32, WAS, IS).expect("a partitioner")
    }

    #[test]
    fn each_key_is_known_where_its_orders_are_admitted() {
        let keys: Vec<String> = (0..200).map(|n| format!("order-{n}")).collect();
        let mut repartition = repartition();
        for (key, at) in keys.iter().zip(100..) {
            repartition.take(
                home(key, WAS),
                key.as_bytes(),
                Some(&entry(at)),
                Some(Timestamp(at)),
            );
        }
        let mut moved = 0;
        for (key, source) in keys.iter().zip(0..) {
            match repartition.moved(home(key, WAS), key.as_bytes(), &entry(source)) {
                None => assert_eq!(home(key, WAS), home(key, IS), "{key}"),
                Some(found) => {
                    moved += 1;
                    let expected = MovedEntry {
                        to: home(key, IS),
                        entry: entry(Entry::MOVED.0),
                        recorded: Some(Timestamp(299)),
                    };
                    assert_eq!(found, expected, "{key}");
                }
            }
        }
        let counts = repartition.counts();
        assert_eq!((counts.entries, counts.moved, counts.misplaced), (200, moved, 0));
        assert!((100..200).contains(&moved), "{moved}");
        assert_eq!(repartition.check_partitioner(), Ok(()));
    }

    #[test]
    fn second_run_finds_the_moved_entries_in_place() {
        let key = (0..)
            .map(|n| format!("order-{n}"))
            .find(|key| home(key, WAS) != home(key, IS));
        let key = key.expect("one moves");
        let mut repartition = repartition();
        let moved = repartition
            .moved(home(&key, WAS), key.as_bytes(), &entry(7))
            .expect("it moves");
        repartition.take(moved.to, key.as_bytes(), Some(&moved.entry), None);
        assert_eq!(repartition.moved(moved.to, key.as_bytes(), &moved.entry), None);
        let counts = repartition.counts();
        assert_eq!((counts.moved, counts.misplaced), (0, 0));
    }

    #[test]
    fn another_partitioner_is_found() {
        // With two partitions half of the keys are right by chance.
        let mut repartition = Repartition::new(Partitioner::Murmur2, 2, IS).expect("a partitioner");
        for n in 0..200 {
            let key = format!("order-{n}");
            repartition.take(home(&key, 2), key.as_bytes(), Some(&entry(n)), None);
        }
        let error = repartition.check_partitioner().expect_err("of the other clients");
        assert!(
            error.to_string().contains("is not that of the producers"),
            "{error}"
        );
        assert!(Repartition::new(Partitioner::Any, WAS, IS).is_none());
    }

    /// A key of one partition has left an entry behind on it, and has one where it was moved to.
    #[test]
    fn second_growth_finds_the_first_ones_partitioner() {
        let mut repartition = repartition();
        for n in 0..200 {
            let key = format!("order-{n}");
            repartition.take(Partition(0), key.as_bytes(), Some(&entry(n)), None);
            if home(&key, WAS) != Partition(0) {
                repartition.take(
                    home(&key, WAS),
                    key.as_bytes(),
                    Some(&entry(Entry::MOVED.0)),
                    None,
                );
            }
        }
        assert!(repartition.counts().misplaced > 100, "{:?}", repartition.counts());
        assert_eq!(repartition.check_partitioner(), Ok(()));
    }

    #[test]
    fn removed_key_is_not_moved() {
        let mut repartition = repartition();
        repartition.take(Partition(0), b"removed", None, Some(Timestamp(9)));
        assert_eq!(repartition.counts(), RepartitionCounts::default());
    }

    #[test]
    fn each_partition_has_forgotten_what_any_has() {
        let note = |partitions, forgotten: Option<(i64, i64)>| TopicsNote {
            partitions,
            orders: TopicId::new("o"),
            pending: None,
            changelog: TopicId::new("c"),
            forgotten: forgotten.map(|(below, before)| Forgotten {
                below: Offset(below),
                before: Timestamp(before),
            }),
        };
        let now = note(4, None);
        let notes = [Some(note(2, Some((10, 70)))), Some(note(2, Some((20, 50)))), None];
        let expected = [(10, 70), (20, 70), (0, 70)].map(|forgotten| note(4, Some(forgotten)));
        assert_eq!(grown_notes(&notes, &now), expected);
        assert_eq!(
            grown_notes(&[Some(note(2, None)), None], &now),
            [now.clone(), now]
        );
    }
}
