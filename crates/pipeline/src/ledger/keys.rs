//! Keys of terminal records, as a bounded sample.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

use records::Offset;

/// Maximum number of keys that are kept for a partition. Up to here each key is compared; beyond, a sample of them.
const KEYS_MAX: usize = 1 << 15;

/// Hashes of keys by offset. The more there are, the smaller the part of the offsets that is kept.
#[derive(Debug, Default)]
pub(super) struct KeySample {
    kept: BTreeMap<Offset, u64>,
    /// Offsets are kept whose hash ends in this many zero bits.
    zero_bits: u32,
}

impl KeySample {
    /// Keeps a key. Returns `false` if another key is kept for the offset.
    pub(super) fn insert(&mut self, offset: Offset, key: &[u8]) -> bool {
        if !is_kept(offset, self.zero_bits) {
            return true;
        }
        let hash = hash(key);
        if *self.kept.entry(offset).or_insert(hash) != hash {
            return false;
        }
        while self.kept.len() > KEYS_MAX {
            self.zero_bits += 1;
            self.kept.retain(|offset, _| is_kept(*offset, self.zero_bits));
        }
        true
    }

    /// Returns `false` if another key is kept for the offset.
    pub(super) fn matches(&self, offset: Offset, key: &[u8]) -> bool {
        self.kept.get(&offset).is_none_or(|kept| *kept == hash(key))
    }
}

fn is_kept(offset: Offset, zero_bits: u32) -> bool {
    hash(&offset.0.to_be_bytes()).trailing_zeros() >= zero_bits
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_is_bounded_and_still_compares() {
        let mut sample = KeySample::default();
        for offset in 0..300_000_i64 {
            assert!(sample.insert(Offset(offset), b"a"));
        }
        assert!(sample.kept.len() <= KEYS_MAX && sample.kept.len() > KEYS_MAX / 4);
        let differing = (0..1_000).filter(|offset| !sample.matches(Offset(*offset), b"b"));
        assert!(differing.count() > 20);
        assert!((0..1_000).all(|offset| sample.matches(Offset(offset), b"a")));
    }
}
