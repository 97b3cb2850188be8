//! Fingerprint of an order's bytes. One key with two fingerprints is a conflict.
//!
//! Part of each [`Entry`](crate::Entry). It has no version of its own: the algorithm never changes, or every
//! redelivered order would be a conflict.

use std::fmt;

/// First 128 bits of the payload's BLAKE3 hash.
// A cryptographic hash: a producer that can make two payments collide can have one of them dropped as a
// duplicate. 128 bits: forging a second payload for a given one still costs 2^128 attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; Self::BYTES]);

impl Fingerprint {
    /// Length of a fingerprint, in bytes.
    pub const BYTES: usize = 16;

    /// Computes the fingerprint of an order's bytes, as received.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let mut first = [0; Self::BYTES];
        // No keyed hash and no normalization: every instance and version must compute the same value.
        first.copy_from_slice(&blake3::hash(payload).as_bytes()[..Self::BYTES]);
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
