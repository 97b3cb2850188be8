//! A set of offsets, kept as runs: a million finished calls in a row cost as much as one.

use std::collections::BTreeMap;

use crate::Offset;

/// A set of offsets of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetSet {
    /// The first offset of each run, and the offset behind its last. Runs neither touch nor overlap.
    runs: BTreeMap<i64, i64>,
    count: u64,
}

impl OffsetSet {
    /// A set without offsets.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
            count: 0,
        }
    }

    /// Takes one offset into the set.
    pub fn insert(&mut self, offset: Offset) {
        self.insert_run(offset, offset.next());
    }

    /// Takes all offsets from `from` up to, but without, `until` into the set.
    pub fn insert_run(&mut self, from: Offset, until: Offset) {
        let (mut from, mut until) = (from.0, until.0);
        if from >= until {
            return;
        }
        // At most one run begins before and reaches in; the others begin inside, or right behind.
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

    /// Takes the first run out if it begins at or before `offset`, and returns the offset behind it.
    pub fn take_run_at(&mut self, offset: Offset) -> Option<Offset> {
        let (&start, &end) = self.runs.first_key_value()?;
        (start <= offset.0).then(|| {
            self.remove(start, end);
            Offset(end)
        })
    }

    /// Whether `offset` is in the set.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.runs
            .range(..=offset.0)
            .next_back()
            .is_some_and(|(_, &end)| offset.0 < end)
    }

    /// Whether the set has no offsets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The offset behind the last one of the set.
    #[must_use]
    pub fn end(&self) -> Option<Offset> {
        self.runs.last_key_value().map(|(_, &end)| Offset(end))
    }

    /// How many offsets the set holds.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The runs in order, each as its first offset and the offset behind its last.
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
        fn a_set_of_runs_holds_what_a_set_of_offsets_holds(runs in prop::collection::vec((0_i64..200, 0_i64..20), 0..40)) {
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
    fn a_run_is_taken_only_where_it_begins() {
        let mut set: OffsetSet = [5, 6, 9].into_iter().map(Offset).collect();
        assert_eq!(set.take_run_at(Offset(4)), None);
        assert_eq!(set.take_run_at(Offset(5)), Some(Offset(7)));
        assert_eq!(set.take_run_at(Offset(7)), None);
        assert_eq!(set.count(), 1);
    }
}
