//! Copies of deferred calls in transit: written to the outbox's tail, and not yet read from there.

use std::collections::{BTreeSet, HashMap};

use records::{IdempotencyKey, Offset};

/// Maximum number of copies of one partition in transit.
// Reached only if as many calls are deferred at once; each copy in transit costs memory until it is read
// again.
const COPIES_MAX: usize = 10_000;

/// Deferred calls of one partition whose copies have not been read yet, by the offset where each call stood
/// first. Lives as long as the partition stays with this owner: the next one does not know what lies ahead in
/// the outbox.
#[derive(Debug, Default)]
pub(super) struct CopiesInTransit {
    origins: HashMap<IdempotencyKey, BTreeSet<Offset>>,
    count: usize,
}

impl CopiesInTransit {
    /// Adds a copy that was written.
    pub(super) fn sent(&mut self, key: &IdempotencyKey, origin: Offset) {
        let origins = self.origins.entry(key.clone()).or_default();
        // An origin counts once, because `arrived` removes it once.
        self.count += usize::from(origins.insert(origin));
    }

    /// Removes a copy that was read.
    pub(super) fn arrived(&mut self, key: &IdempotencyKey, origin: Offset) {
        let Some(origins) = self.origins.get_mut(key) else {
            // Another owner wrote it.
            return;
        };
        self.count -= usize::from(origins.remove(&origin));
        if origins.is_empty() {
            self.origins.remove(key);
        }
    }

    /// Returns `true` if an earlier call of this key, one that stood before `origin`, is in transit.
    pub(super) fn has_before(&self, key: &IdempotencyKey, origin: Offset) -> bool {
        let origins = self.origins.get(key);
        origins.is_some_and(|origins| origins.first().is_some_and(|first| *first < origin))
    }

    /// Returns `true` if one more call may be deferred.
    pub(super) fn has_room(&self) -> bool {
        self.count < COPIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_copies_of_the_same_key_are_awaited() {
        let key = |text: &str| IdempotencyKey::new(text).expect("a key");
        let (a, b) = (key("a"), key("b"));
        let mut copies = CopiesInTransit::default();
        copies.sent(&a, Offset(10));
        copies.sent(&a, Offset(10));
        copies.sent(&a, Offset(20));
        assert_eq!(copies.count, 2);
        assert!(copies.has_before(&a, Offset(11)));
        assert!(
            !copies.has_before(&a, Offset(10)),
            "a call does not wait for itself"
        );
        assert!(!copies.has_before(&b, Offset(11)));
        copies.arrived(&a, Offset(10));
        copies.arrived(&b, Offset(20));
        assert!(!copies.has_before(&a, Offset(20)));
        assert!(copies.has_before(&a, Offset(21)));
        copies.arrived(&a, Offset(20));
        assert_eq!(copies.count, 0);
    }
}
