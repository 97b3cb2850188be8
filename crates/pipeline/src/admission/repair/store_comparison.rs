//! Comparison of a store with its partition of the changelog, in bounded memory.
//!
//! First a sketch of each: a sum over the entries of each of many buckets of keys. Equal sums are equal entries.
//! Then, of the keys in buckets that differ, the entries themselves, some buckets at a time.

use std::collections::{BTreeMap, HashMap, HashSet};

use records::{Fingerprint, KeyHash};

/// Number of buckets: one for each value of two bytes.
const BUCKETS: usize = 1 << 16;

/// Sums over the entries of a store, or of a changelog up to the store's checkpoint.
#[derive(Clone, Debug)]
pub struct Sketch {
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    entries: u64,
    /// Sum of the entries' hashes, which has no order.
    sum: u128,
    /// True if a key of it was removed, so that the sum proves nothing.
    is_unclear: bool,
}

/// Buckets whose entries are compared at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets(HashSet<u16>);

impl Default for Sketch {
    fn default() -> Self {
        Self {
            buckets: vec![Bucket::default(); BUCKETS],
        }
    }
}

impl Sketch {
    /// Takes in the entry of a key; `None` is a tombstone of the changelog.
    pub fn add(&mut self, key: KeyHash, entry: Option<&[u8]>) {
        let bucket = &mut self.buckets[usize::from(bucket_of(key))];
        let Some(entry) = entry else {
            bucket.is_unclear = true;
            return;
        };
        // Of both hashes: of the bytes one after the other, two entries could have one.
        let mut both = [0; KeyHash::BYTES + Fingerprint::BYTES];
        both[..KeyHash::BYTES].copy_from_slice(&key.to_bytes());
        both[KeyHash::BYTES..].copy_from_slice(&Fingerprint::of(entry).0);
        bucket.entries += 1;
        // A changelog may have an entry twice. Then the sums differ, and the entries themselves are compared.
        bucket.sum = bucket
            .sum
            .wrapping_add(u128::from_be_bytes(Fingerprint::of(&both).0));
    }

    /// Returns the number of entries, also of those that later ones replace.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.entries).sum()
    }

    /// Returns the buckets in which the two differ, in groups of at most `keys_max` keys, or of one bucket.
    #[must_use]
    pub fn differing(&self, other: &Self, keys_max: u64) -> Vec<Buckets> {
        let (mut groups, mut group, mut keys) = (Vec::new(), Buckets::default(), 0);
        for ((number, one), two) in (0..=u16::MAX).zip(&self.buckets).zip(&other.buckets) {
            let is_clear = !one.is_unclear && !two.is_unclear;
            if is_clear && (one.entries, one.sum) == (two.entries, two.sum) {
                continue;
            }
            let more = one.entries + two.entries;
            if !group.0.is_empty() && keys + more > keys_max {
                groups.push(std::mem::take(&mut group));
                keys = 0;
            }
            group.0.insert(number);
            keys += more;
        }
        if !group.0.is_empty() {
            groups.push(group);
        }
        groups
    }
}

fn bucket_of(key: KeyHash) -> u16 {
    let [first, second, ..] = key.to_bytes();
    u16::from_be_bytes([first, second])
}

/// Comparison of the entries of some buckets.
#[derive(Debug)]
pub struct Comparison<'a> {
    buckets: &'a Buckets,
    // One for each key of the store, and of the changelog up to the checkpoint.
    keys: HashMap<KeyHash, Compared>,
}

#[derive(Clone, Debug, Default)]
struct Compared {
    /// Bytes of the key, if the changelog has it; the store has its hash alone.
    key: Option<Box<[u8]>>,
    store: Option<Fingerprint>,
    changelog: Option<Fingerprint>,
    /// True if the changelog has a record of the key behind the checkpoint.
    is_written_later: bool,
}

/// Difference between a store and the changelog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The store lacks the key: its order would be admitted again.
    Missing,
    /// The changelog lacks the key.
    Extra,
    /// The entries differ.
    Other,
}

/// Name of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyName {
    /// Bytes of the key.
    Key(Box<[u8]>),
    /// Hash of a key that the store alone has.
    Hash(KeyHash),
}

/// Differences of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Number of keys that the store lacks.
    pub missing: u64,
    /// Number of keys that the changelog lacks.
    pub extra: u64,
    /// Number of keys whose entries differ.
    pub other: u64,
    /// First of them, by name.
    pub named: BTreeMap<KeyName, Difference>,
    named_max: usize,
}

impl<'a> Comparison<'a> {
    /// Begins the comparison of some buckets.
    #[must_use]
    pub fn new(buckets: &'a Buckets) -> Self {
        Self {
            buckets,
            keys: HashMap::new(),
        }
    }

    /// Takes in an entry of the store.
    pub fn store_entry(&mut self, key: KeyHash, entry: &[u8]) {
        if let Some(compared) = self.compared(key) {
            compared.store = Some(Fingerprint::of(entry));
        }
    }

    /// Takes in a record of the changelog below the store's checkpoint, after the whole store.
    pub fn changelog_record(&mut self, key: &[u8], entry: Option<&[u8]>) {
        if let Some(compared) = self.compared(KeyHash::of(key)) {
            compared.key.get_or_insert_with(|| key.into());
            compared.changelog = entry.map(Fingerprint::of);
        }
    }

    /// Takes in a record of the changelog at the store's checkpoint or behind it.
    pub fn later_record(&mut self, key: &[u8]) {
        // No key is added: a store that lags has none of what comes then.
        if let Some(compared) = self.keys.get_mut(&KeyHash::of(key)) {
            compared.is_written_later = true;
        }
    }

    /// Adds the differences.
    pub fn finish(self, differences: &mut Differences) {
        for (hash, compared) in self.keys {
            let difference = match (compared.store, compared.changelog) {
                (Some(store), Some(changelog)) if store == changelog => continue,
                (Some(_), Some(_)) => Difference::Other,
                (None, Some(_)) => Difference::Missing,
                // Compaction has removed the record that the store has, in favour of the later one.
                (Some(_), None) if compared.is_written_later => continue,
                (Some(_), None) => Difference::Extra,
                (None, None) => continue,
            };
            let name = compared.key.map_or(KeyName::Hash(hash), KeyName::Key);
            differences.add(name, difference);
        }
    }

    fn compared(&mut self, key: KeyHash) -> Option<&mut Compared> {
        self.buckets
            .0
            .contains(&bucket_of(key))
            .then(|| self.keys.entry(key).or_default())
    }
}

impl Differences {
    /// Begins to count; at most `named_max` keys are named.
    #[must_use]
    pub fn new(named_max: usize) -> Self {
        Self {
            named_max,
            ..Self::default()
        }
    }

    /// Returns the number of keys that differ.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.missing + self.extra + self.other
    }

    fn add(&mut self, name: KeyName, difference: Difference) {
        match difference {
            Difference::Missing => self.missing += 1,
            Difference::Extra => self.extra += 1,
            Difference::Other => self.other += 1,
        }
        self.named.insert(name, difference);
        if self.named.len() > self.named_max {
            self.named.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entries<'a> = &'a [(&'a str, &'a str)];
    /// Record of a changelog; without an entry it is a tombstone.
    type Log<'a> = &'a [(&'a str, Option<&'a str>)];

    /// Compares as the command does, and returns the differences with the number of groups.
    fn compare(store: Entries<'_>, log: Log<'_>, later: &[&str], keys_max: u64) -> (Differences, usize) {
        let (mut of_store, mut of_log) = (Sketch::default(), Sketch::default());
        for (key, entry) in store {
            of_store.add(KeyHash::of(key.as_bytes()), Some(entry.as_bytes()));
        }
        for (key, entry) in log {
            of_log.add(KeyHash::of(key.as_bytes()), entry.map(str::as_bytes));
        }
        let groups = of_store.differing(&of_log, keys_max);
        let mut differences = Differences::new(2);
        for buckets in &groups {
            let mut comparison = Comparison::new(buckets);
            for (key, entry) in store {
                comparison.store_entry(KeyHash::of(key.as_bytes()), entry.as_bytes());
            }
            for (key, entry) in log {
                comparison.changelog_record(key.as_bytes(), entry.map(str::as_bytes));
            }
            for key in later {
                comparison.later_record(key.as_bytes());
            }
            comparison.finish(&mut differences);
        }
        (differences, groups.len())
    }

    #[test]
    fn equal_entries_differ_in_no_bucket() {
        let (differences, groups) = compare(
            &[("a", "1"), ("b", "2")],
            &[("b", Some("2")), ("a", Some("1"))],
            &[],
            100,
        );
        assert_eq!((differences.count(), groups), (0, 0));
    }

    #[test]
    fn each_kind_of_difference_is_counted() {
        let (differences, _) = compare(
            &[("a", "1"), ("b", "2"), ("c", "3")],
            &[("a", Some("1")), ("b", Some("other")), ("d", Some("4"))],
            &[],
            100,
        );
        let Differences {
            missing,
            extra,
            other,
            ..
        } = differences;
        assert_eq!((missing, extra, other), (1, 1, 1));
        // The first two by name: the store does not have the key itself.
        let named: Vec<_> = differences.named.into_iter().collect();
        let key = |text: &str| KeyName::Key(text.as_bytes().into());
        let expected = [(key("b"), Difference::Other), (key("d"), Difference::Missing)];
        assert_eq!(named, expected);
        let (extra, _) = compare(&[("c", "3")], &[], &[], 100);
        let named: Vec<_> = extra.named.into_iter().collect();
        assert_eq!(named, [(KeyName::Hash(KeyHash::of(b"c")), Difference::Extra)]);
    }

    #[test]
    fn last_record_of_a_key_counts() {
        // Appended twice, replaced, removed, and removed and written again.
        let log: Log<'_> = &[
            ("a", Some("1")),
            ("a", Some("1")),
            ("b", Some("old")),
            ("b", Some("2")),
            ("c", Some("3")),
            ("c", None),
            ("d", Some("4")),
            ("d", None),
            ("d", Some("4")),
        ];
        let (differences, groups) = compare(&[("a", "1"), ("b", "2"), ("d", "4")], log, &[], 100);
        assert_eq!((differences.count(), groups), (0, 1));
        let (differences, _) = compare(&[("c", "3")], log, &[], 100);
        assert_eq!((differences.missing, differences.extra), (3, 1));
    }

    #[test]
    fn key_that_is_written_later_may_be_compacted() {
        let (differences, _) = compare(&[("a", "1"), ("b", "2")], &[("b", Some("2"))], &["a"], 100);
        assert_eq!(differences.count(), 0);
        let (differences, _) = compare(&[("a", "1")], &[], &["c"], 100);
        assert_eq!(differences.extra, 1);
    }

    #[test]
    fn groups_bound_the_keys_in_memory() {
        let keys: Vec<String> = (0..100).map(|number| format!("k{number}")).collect();
        let store: Vec<_> = keys.iter().map(|key| (key.as_str(), "1")).collect();
        let (differences, groups) = compare(&store, &[], &[], 10);
        assert_eq!((differences.extra, differences.named.len()), (100, 2));
        assert!((10..=12).contains(&groups), "{groups}");
        // One bucket is never divided.
        let (differences, groups) = compare(&store, &[], &[], 0);
        assert_eq!(differences.extra, 100);
        assert!((90..=100).contains(&groups), "{groups}");
    }

    #[test]
    fn split_of_key_and_entry_matters() {
        let (differences, _) = compare(&[("ab", "c")], &[("a", Some("bc"))], &[], 100);
        assert_eq!((differences.missing, differences.extra), (1, 1));
    }
}
