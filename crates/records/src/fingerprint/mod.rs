//! Fingerprint of an order. One key with two fingerprints is a conflict.
//!
//! Part of each [`Entry`](crate::Entry), next to the [`Selection`] that it was computed over. It has no version
//! of its own: the algorithm of a selection never changes, or every redelivered order would be a conflict.

mod fields;
mod number;
mod selection;

use std::fmt;

pub use selection::{InvalidSelection, Selection, SelectionId};

/// First 128 bits of a BLAKE3 hash.
// A cryptographic hash: a producer that can make two payments collide can have one of them dropped as a
// duplicate. 128 bits: forging a second payload for a given one still costs 2^128 attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; Self::BYTES]);

impl Fingerprint {
    /// Length of a fingerprint, in bytes.
    pub const BYTES: usize = 16;

    /// Computes the fingerprint of bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // No keyed hash and no normalization: every instance and version must compute the same value.
        Self::first_of(&blake3::hash(bytes))
    }

    fn first_of(hash: &blake3::Hash) -> Self {
        let mut first = [0; Self::BYTES];
        first.copy_from_slice(&hash.as_bytes()[..Self::BYTES]);
        Self(first)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changelogs hold fingerprints, so every later version must compute the same ones.
    #[test]
    fn fingerprint_algorithm_never_changes() {
        assert_eq!(
            Fingerprint::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc949"
        );
        assert_ne!(
            Fingerprint::of(b"{\"amount\":1}"),
            Fingerprint::of(b"{\"amount\":1.0}")
        );
    }
}
