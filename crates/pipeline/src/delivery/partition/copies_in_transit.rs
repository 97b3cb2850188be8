//! Copies of deferred calls that are on their way: written to the outbox's tail, and not yet read from there.

use std::collections::{BTreeSet, HashMap};

use records::{IdempotencyKey, Offset};

/// The deferred calls of one partition whose copies have not arrived, by their first places. Known to the
/// owner that has deferred them, as long as the partition stays with it.
#[derive(Debug, Default)]
pub(crate) struct CopiesInTransit {
    origins: HashMap<IdempotencyKey, BTreeSet<Offset>>,
    count: usize,
}

impl CopiesInTransit {
    /// A copy was written.
    pub(super) fn left(&mut self, key: &IdempotencyKey, origin: Offset) {
        let origins = self.origins.entry(key.clone()).or_default();
        self.count += usize::from(origins.insert(origin));
    }

    /// A copy was read.
    pub(super) fn arrived(&mut self, key: &IdempotencyKey, origin: Offset) {
        if self.count == 0 {
            return;
        }
        let Some(origins) = self.origins.get_mut(key) else {
            return;
        };
        self.count -= usize::from(origins.remove(&origin));
        if origins.is_empty() {
            self.origins.remove(key);
        }
    }

    /// Whether a call of this key that lay before `origin` is away.
    pub(super) fn has_before(&self, key: &IdempotencyKey, origin: Offset) -> bool {
        let origins = self.origins.get(key);
        origins.is_some_and(|origins| origins.first().is_some_and(|first| *first < origin))
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_the_same_key_wait_and_only_for_earlier_ones() {
        let key = |text: &str| IdempotencyKey::new(text).expect("a key");
        let (a, b) = (key("a"), key("b"));
        let mut away = CopiesInTransit::default();
        away.left(&a, Offset(10));
        away.left(&a, Offset(10));
        away.left(&a, Offset(20));
        assert_eq!(away.len(), 2);
        assert!(away.has_before(&a, Offset(11)));
        assert!(
            !away.has_before(&a, Offset(10)),
            "a call does not wait for itself"
        );
        assert!(!away.has_before(&b, Offset(11)));
        away.arrived(&a, Offset(10));
        away.arrived(&b, Offset(20));
        assert!(!away.has_before(&a, Offset(20)));
        assert!(away.has_before(&a, Offset(21)));
        away.arrived(&a, Offset(20));
        assert_eq!(away.len(), 0);
    }
}
