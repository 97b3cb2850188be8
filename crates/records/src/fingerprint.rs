//! The fingerprint of a payload: same key with another fingerprint is a conflict.

use std::fmt;

/// The first 128 bits of the payload's BLAKE3 hash.
///
/// A cryptographic hash, because who can make two payments collide can have one of them dropped as a
/// duplicate; 128 bits, because forging a second payload for a given one then still costs 2^128 tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; Self::BYTES]);

impl Fingerprint {
    /// The length of a fingerprint, in bytes.
    pub const BYTES: usize = 16;

    /// The fingerprint of an order's bytes, exactly as they arrived.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let mut first = [0; Self::BYTES];
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

    /// The fingerprints that stand in changelogs must mean the same in every later version.
    #[test]
    fn the_fingerprint_of_a_payload_never_changes() {
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
