//! Set of offsets, stored as runs: a million consecutive offsets take as much memory as one.

use std::collections::BTreeMap;

use crate::Offset;

/// Set of offsets of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetSet {
    /// First offset of each run, and the offset after its last. Runs neither touch nor overlap.
    runs: BTreeMap<i64, i64>,
    // Kept beside the runs, since it is needed for each call that is read.
    count: u64,
}

impl OffsetSet {
    /// Creates an empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
            count: 0,
        }
    }

    /// Inserts an offset.
    pub fn insert(&mut self, offset: Offset) {
        self.insert_run(offset, offset.next());
    }

    /// Inserts all offsets from `from` up to, but excluding, `until`.
    pub fn insert_run(&mut self, from: Offset, until: Offset) {
        let (mut from, mut until) = (from.0, until.0);
        // An empty run would break the invariant that runs do not touch.
        if from >= until {
            return;
        }
        // At most one run starts before `from` and overlaps or touches. It is merged, as are all runs that start
        // inside or directly after the new one.
        if let Some((&start, &end)) = self.runs.range(..from).next_back()
            && end >= from
        {
            self.remove(start, end);
            from = start;
            until = until.max(end);
        }
        while let Some((&start, &end)) = self.runs.range(from..=until).next() {
            self.remove(start, end);
            until = until.max(end);
        }
        self.runs.insert(from, until);
        self.count += until.abs_diff(from);
    }

    /// Removes the first run if it starts at or before `offset`, and returns the offset after it.
    pub fn take_run_at(&mut self, offset: Offset) -> Option<Offset> {
        let (&start, &end) = self.runs.first_key_value()?;
        (start <= offset.0).then(|| {
            self.remove(start, end);
            Offset(end)
        })
    }

    /// Returns `true` if `offset` is in the set.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.runs
            .range(..=offset.0)
            .next_back()
            .is_some_and(|(_, &end)| offset.0 < end)
    }

    /// Returns `true` if the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the offset after the last one of the set; `None` if the set is empty.
    #[must_use]
    pub fn end(&self) -> Option<Offset> {
        self.runs.last_key_value().map(|(_, &end)| Offset(end))
    }

    /// Returns the number of offsets in the set.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the runs in order, each as its first offset and the offset after its last.
    pub fn runs(&self) -> impl Iterator<Item = (Offset, Offset)> + '_ {
        self.runs
            .iter()
            .map(|(&from, &until)| (Offset(from), Offset(until)))
    }

    fn remove(&mut self, start: i64, end: i64) {
        self.runs.remove(&start);
        self.count -= end.abs_diff(start);
    }
}

impl FromIterator<Offset> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = Offset>>(offsets: I) -> Self {
        let mut set = Self::new();
        offsets.into_iter().for_each(|offset| set.insert(offset));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_the_same_offsets_as_a_plain_set(runs in prop::collection::vec((0_i64..200, 0_i64..20), 0..40)) {
            let mut set = OffsetSet::new();
            let mut plain = BTreeSet::new();
            for (from, length) in runs {
                set.insert_run(Offset(from), Offset(from + length));
                plain.extend(from..from + length);
                prop_assert_eq!(set.count(), plain.len() as u64);
                prop_assert_eq!(set.end(), plain.last().map(|last| Offset(last + 1)));
            }
            for offset in 0..230 {
                prop_assert_eq!(set.contains(Offset(offset)), plain.contains(&offset));
            }
            let runs: Vec<_> = set.runs().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "runs touch: {:?}", runs);
        }
    }

    #[test]
    fn run_is_taken_only_at_its_start() {
        let mut set: OffsetSet = [5, 6, 9].into_iter().map(Offset).collect();
        assert_eq!(set.take_run_at(Offset(4)), None);
        assert_eq!(set.take_run_at(Offset(5)), Some(Offset(7)));
        assert_eq!(set.take_run_at(Offset(7)), None);
        assert_eq!(set.count(), 1);
    }
}
